//! The store in one SQLite file: the default, for one collector.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::{Applied, Cursor, Delivery, Filter, Heard, Node, Page, Store, StoreError, Tried};
use crate::finding::Wall;

mod read;
mod write;

/// A database up to this size is checked as a whole at the start.
const QUICK_CHECK_BYTES: u64 = 256 * 1024 * 1024;

/// The store in a file.
#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    /// One connection: SQLite has one writer at a time anyhow, and so they queue in order.
    writer: SqlitePool,
    readers: SqlitePool,
    /// Held for as long as we live: see [`StoreError::InUse`].
    _lock: File,
}

impl Sqlite {
    /// Opens the file, or makes it; brings its tables up to date.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let lock = lock(path)?;
        // A commit is on the disk before its receipt goes out (FULL), else a power cut could lose what the agent
        // has already forgotten.
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5));
        let failed = |what| move |error| failure(path, what, &error);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(Duration::from_secs(30))
            .connect_with(options.clone())
            .await
            .map_err(failed("open the file"))?;
        let size = std::fs::metadata(path).map_or(0, |file| file.len());
        if size <= QUICK_CHECK_BYTES {
            let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)")
                .fetch_one(&writer)
                .await
                .map_err(failed("check the pages"))?;
            if verdict != "ok" {
                return Err(StoreError::Database {
                    what: "check the pages",
                    path: path.to_owned(),
                    problem: verdict,
                    remedy: CORRUPT,
                });
            }
        }
        sqlx::migrate!("migrations/sqlite")
            .run(&writer)
            .await
            .map_err(|error| match error {
                sqlx::migrate::MigrateError::Execute(error)
                | sqlx::migrate::MigrateError::ExecuteMigration(error, _) => {
                    failure(path, "bring the tables up to date", &error)
                }
                other => StoreError::Database {
                    what: "bring the tables up to date",
                    path: path.to_owned(),
                    problem: other.to_string(),
                    remedy: "the file was written by another version: use that version, or another file",
                },
            })?;
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(30))
            .connect_with(options.read_only(true).create_if_missing(false))
            .await
            .map_err(failed("open the file for reading"))?;
        Ok(Self {
            path: path.to_owned(),
            writer,
            readers,
            _lock: lock,
        })
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError + '_ {
        move |error| failure(&self.path, what, &error)
    }
}

/// Takes the lock file beside the database. The lock ends with the process, however that ends.
fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let cannot = |error: &std::io::Error| StoreError::Database {
        what: "make the lock file beside it",
        path: path.to_owned(),
        problem: error.to_string(),
        remedy: match error.kind() {
            std::io::ErrorKind::NotFound => {
                "the folder does not exist: make it, or give another path with --database sqlite:PATH"
            }
            std::io::ErrorKind::StorageFull => FULL,
            _ => READ_ONLY,
        },
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(PathBuf::from(name))
        .map_err(|error| cannot(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::InUse {
            path: path.to_owned(),
        }),
        Err(std::fs::TryLockError::Error(error)) => Err(cannot(&error)),
    }
}

const FULL: &str = "the disk is full: free space on it; nothing is lost meanwhile, the agents keep what is not \
                    receipted as long as their spools have room";
const READ_ONLY: &str = "the file or its folder cannot be written by this user: check owner, mode, and that the volume is not read-only";
const CORRUPT: &str = "the file is damaged or is no SQLite database: move it (and its -wal and -shm files) away and \
                       start again, or restore a backup; agents resend what they still hold";
const LOCKED: &str = "another program holds a lock on the file: end it (`fuser FILE` names it)";

/// Says what SQLite's code means for the person who runs this.
fn failure(path: &Path, what: &'static str, error: &sqlx::Error) -> StoreError {
    let code = match error {
        sqlx::Error::Database(database) => database
            .code()
            .and_then(|code| code.parse::<i32>().ok())
            .map(|code| code & 0xff),
        _ => None,
    };
    let remedy = match code {
        Some(5 | 6) => LOCKED,
        Some(8) => READ_ONLY,
        Some(11 | 26) => CORRUPT,
        Some(13) => FULL,
        Some(14) => {
            "the file cannot be opened: does the folder exist, and may this user write there? (--database)"
        }
        // An I/O error: a full disk also shows like this, when the shared-memory file cannot grow.
        Some(10) => "the disk fails or is full: look at `df` and the kernel's log",
        _ => "if this stays, start again with --log-level debug and look at what came before",
    };
    StoreError::Database {
        what,
        path: path.to_owned(),
        problem: match error {
            sqlx::Error::Database(database) => database.message().to_owned(),
            sqlx::Error::PoolTimedOut => {
                "no connection became free within 30 s (is the disk very slow?)".to_owned()
            }
            other => other.to_string(),
        },
        remedy,
    }
}

/// SQLite has signed integers only. No counter of ours comes near the end of them.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The way back.
fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[async_trait]
impl Store for Sqlite {
    async fn apply(&self, delivery: &Delivery) -> Result<Applied, StoreError> {
        self.write_delivery(delivery).await
    }

    async fn last_sequence(&self, node: &str, instance: &str) -> Result<u64, StoreError> {
        // Of the writer: what an earlier stream of the agent still has in the queue must be in it.
        let last: Option<i64> = sqlx::query_scalar(
            "SELECT last_sequence FROM agents WHERE node = ?1 AND instance = ?2",
        )
        .bind(node)
        .bind(instance)
        .fetch_optional(&self.writer)
        .await
        .map_err(self.failed("read how far an agent is stored"))?;
        Ok(last.map_or(0, unsigned))
    }

    async fn skip(&self, node: &str, instance: &str, sequence: u64) -> Result<(), StoreError> {
        self.write_skip(node, instance, sequence)
            .await
            .map_err(self.failed("note a batch that cannot be read"))
    }

    async fn heard(&self, news: &[Heard]) -> Result<(), StoreError> {
        self.write_heard(news)
            .await
            .map_err(self.failed("note when agents were heard"))
    }

    async fn nodes(&self, recent: Wall) -> Result<Vec<Node>, StoreError> {
        self.read_nodes(recent)
            .await
            .map_err(self.failed("read the nodes"))
    }

    async fn tried(&self, since: Wall) -> Result<Tried, StoreError> {
        self.read_tried(since)
            .await
            .map_err(self.failed("count denied attempts"))
    }

    async fn begin(&self) -> Result<Cursor, StoreError> {
        let began = sqlx::query_scalar("SELECT value FROM clock")
            .fetch_one(&self.readers)
            .await
            .map_err(self.failed("read the clock"))?;
        Ok(Cursor::Newest { began, after: None })
    }

    async fn list(&self, filter: &Filter, cursor: &Cursor, size: u32) -> Result<Page, StoreError> {
        self.read_page(filter, cursor, size).await
    }

    async fn count(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.read_count(filter)
            .await
            .map_err(self.failed("count findings"))
    }

    async fn purge(&self, before: Wall, keep: u64) -> Result<u64, StoreError> {
        self.write_purge(before, keep)
            .await
            .map_err(self.failed("forget old findings"))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT value FROM clock")
            .fetch_one(&self.readers)
            .await
            .map(|_| ())
            .map_err(self.failed("read"))
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
