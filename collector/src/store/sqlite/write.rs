//! Everything that changes the file.
//!
//! A connection on which anything failed is thrown away: after a full disk SQLite has rolled back by itself, and the
//! driver would still count an open transaction.

use sqlx::{Connection as _, SqliteConnection};

use super::{Sqlite, signed, unsigned};
use crate::finding::{Kind, Update, Wall};
use crate::store::{ACTIVITY_KEPT, Applied, Delivery, Heard, StoreError};

/// How many attempts of a finding are kept as examples.
const SAMPLES_KEPT: i64 = 10;
/// Width of a bucket of `activity`, nanoseconds.
pub(super) const BUCKET: i64 = 10 * Wall::SECOND;
/// A jump of the batch number beyond this is a broken agent, not a gap: a year's worth of batches.
const LARGEST_GAP: u64 = 100_000_000;
/// Rows deleted in one transaction, so that batches need not wait long.
const PURGE_STEP: i64 = 5_000;

impl Sqlite {
    pub(super) async fn write_delivery(&self, delivery: &Delivery) -> Result<Applied, StoreError> {
        let mut connection = self
            .writer
            .acquire()
            .await
            .map_err(self.failed("store a batch"))?;
        let applied = self.deliver(&mut connection, delivery).await;
        if matches!(applied, Err(StoreError::Database { .. })) {
            connection.close_on_drop();
        }
        applied
    }

    async fn deliver(
        &self,
        on: &mut SqliteConnection,
        delivery: &Delivery,
    ) -> Result<Applied, StoreError> {
        let what = "store a batch";
        // IMMEDIATE: what we read is what we build upon.
        let mut transaction = on
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(self.failed(what))?;
        let last = sqlx::query_scalar::<_, i64>(
            "SELECT last_sequence FROM agents WHERE node = ?1 AND instance = ?2",
        )
        .bind(&delivery.node)
        .bind(&delivery.instance)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(self.failed(what))?
        .map_or(0, unsigned);
        if delivery.sequence == 0 || delivery.sequence.saturating_sub(last) > LARGEST_GAP {
            return Err(StoreError::Sequence {
                got: delivery.sequence,
                last,
            });
        }
        if delivery.sequence <= last {
            return Ok(Applied {
                last_sequence: last,
                fresh: false,
                missing: 0,
            });
        }
        let missing = delivery.sequence - last - 1;
        write_batch(&mut transaction, delivery, missing, Wall::now())
            .await
            .map_err(self.failed(what))?;
        transaction.commit().await.map_err(self.failed(what))?;
        Ok(Applied {
            last_sequence: delivery.sequence,
            fresh: true,
            missing,
        })
    }

    pub(super) async fn write_skip(
        &self,
        node: &str,
        instance: &str,
        sequence: u64,
    ) -> Result<(), sqlx::Error> {
        let mut connection = self.writer.acquire().await?;
        let done = skip(&mut connection, node, instance, sequence).await;
        if done.is_err() {
            connection.close_on_drop();
        }
        done
    }

    pub(super) async fn write_heard(&self, news: &[Heard]) -> Result<(), sqlx::Error> {
        let mut connection = self.writer.acquire().await?;
        let done = hear(&mut connection, news).await;
        if done.is_err() {
            connection.close_on_drop();
        }
        done
    }

    pub(super) async fn write_purge(&self, before: Wall, keep: u64) -> Result<u64, sqlx::Error> {
        let mut purged = 0;
        loop {
            let gone = sqlx::query(
                "DELETE FROM findings WHERE rowid IN \
                 (SELECT rowid FROM findings WHERE last_seen < ?1 LIMIT ?2)",
            )
            .bind(before.0)
            .bind(PURGE_STEP)
            .execute(&self.writer)
            .await?
            .rows_affected();
            purged += gone;
            if gone == 0 {
                break;
            }
        }
        loop {
            let count: i64 = sqlx::query_scalar("SELECT count(*) FROM findings")
                .fetch_one(&self.readers)
                .await?;
            let excess = count.saturating_sub(signed(keep)).min(PURGE_STEP);
            if excess <= 0 {
                break;
            }
            purged += sqlx::query(
                "DELETE FROM findings WHERE rowid IN \
                 (SELECT rowid FROM findings ORDER BY last_seen LIMIT ?1)",
            )
            .bind(excess)
            .execute(&self.writer)
            .await?
            .rows_affected();
        }
        sqlx::query("DELETE FROM activity WHERE bucket < ?1")
            .bind(Wall::now().minus(ACTIVITY_KEPT).0)
            .execute(&self.writer)
            .await?;
        Ok(purged)
    }
}

async fn write_batch(
    on: &mut SqliteConnection,
    delivery: &Delivery,
    missing: u64,
    now: Wall,
) -> Result<(), sqlx::Error> {
    let clock: i64 = sqlx::query_scalar("UPDATE clock SET value = value + 1 RETURNING value")
        .fetch_one(&mut *on)
        .await?;
    sqlx::query(
        "INSERT INTO agents (node, instance, last_sequence) VALUES (?1, ?2, ?3) \
         ON CONFLICT (node, instance) DO UPDATE SET last_sequence = excluded.last_sequence",
    )
    .bind(&delivery.node)
    .bind(&delivery.instance)
    .bind(signed(delivery.sequence))
    .execute(&mut *on)
    .await?;
    for update in &delivery.updates {
        write_update(on, &delivery.node, update, clock).await?;
    }
    for (reason, count) in &delivery.inconclusive {
        sqlx::query(
            "INSERT INTO inconclusive (node, reason, count) VALUES (?1, ?2, ?3) \
             ON CONFLICT (node, reason) DO UPDATE SET count = count + excluded.count",
        )
        .bind(&delivery.node)
        .bind(reason)
        .bind(signed(*count))
        .execute(&mut *on)
        .await?;
    }
    // Within one batch nobody can say which came first, so unanswered attempts beside a violation count for nothing.
    let violated = delivery
        .updates
        .iter()
        .any(|update| update.key.kind == Kind::Unenforced && update.observed > 0);
    let judged = &delivery.judged;
    sqlx::query(
        "INSERT INTO nodes (node, first_heard, last_heard, batches_missing, findings_refused, allowed_delivered, \
         denied_delivered, denied_unanswered, denied_answered, allowed_answered, unanswered_since, denied_stopped, \
         denied_in_grace, exposure_sum_ms) \
         VALUES (?1, ?2, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, CASE WHEN ?10 THEN 0 ELSE ?7 END, ?11, ?12, ?13) \
         ON CONFLICT (node) DO UPDATE SET last_heard = max(last_heard, excluded.last_heard), \
         batches_missing = batches_missing + excluded.batches_missing, \
         findings_refused = findings_refused + excluded.findings_refused, \
         allowed_delivered = allowed_delivered + excluded.allowed_delivered, \
         denied_delivered = denied_delivered + excluded.denied_delivered, \
         denied_unanswered = denied_unanswered + excluded.denied_unanswered, \
         denied_answered = denied_answered + excluded.denied_answered, \
         allowed_answered = allowed_answered + excluded.allowed_answered, \
         denied_stopped = denied_stopped + excluded.denied_stopped, \
         denied_in_grace = denied_in_grace + excluded.denied_in_grace, \
         exposure_sum_ms = exposure_sum_ms + excluded.exposure_sum_ms, \
         unanswered_since = CASE WHEN ?10 THEN 0 ELSE unanswered_since + excluded.unanswered_since END",
    )
    .bind(&delivery.node)
    .bind(now.0)
    .bind(signed(missing))
    .bind(signed(delivery.refused))
    .bind(signed(judged.allowed_delivered))
    .bind(signed(judged.denied_delivered))
    .bind(signed(judged.denied_unanswered))
    .bind(signed(judged.denied_answered))
    .bind(signed(judged.allowed_answered))
    .bind(violated)
    .bind(signed(judged.denied_stopped))
    .bind(signed(judged.denied_in_grace))
    .bind(signed(delivery.exposure.sum_ms))
    .execute(&mut *on)
    .await?;
    for (place, count) in (0_i64..).zip(delivery.exposure.counts) {
        if count > 0 {
            sqlx::query(
                "INSERT INTO exposure (node, place, count) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (node, place) DO UPDATE SET count = count + excluded.count",
            )
            .bind(&delivery.node)
            .bind(place)
            .bind(signed(count))
            .execute(&mut *on)
            .await?;
        }
    }
    if judged.denied_unanswered > 0 || judged.denied_stopped > 0 {
        sqlx::query(
            "INSERT INTO activity (node, bucket, observed, retracted, unanswered, stopped) \
             VALUES (?1, ?2, 0, 0, ?3, ?4) ON CONFLICT (node, bucket) DO UPDATE SET \
             unanswered = unanswered + excluded.unanswered, stopped = stopped + excluded.stopped",
        )
        .bind(&delivery.node)
        .bind(delivery.made.0 - delivery.made.0.rem_euclid(BUCKET))
        .bind(signed(judged.denied_unanswered))
        .bind(signed(judged.denied_stopped))
        .execute(&mut *on)
        .await?;
    }
    Ok(())
}

async fn write_update(
    on: &mut SqliteConnection,
    node: &str,
    update: &Update,
    clock: i64,
) -> Result<(), sqlx::Error> {
    let key =
        serde_json::to_string(&update.key).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    // An end before the last attempt is none.
    let seen = update.observed > 0 || update.settled > 0;
    let recovered = update
        .recovered
        .filter(|recovered| !seen || recovered.at >= update.last);
    // An update that only takes back says nothing of when the finding was last seen. What has ended stands again when
    // it is seen after the end: the later of both decides.
    sqlx::query(
        "INSERT INTO findings (id, node, kind, source_namespace, destination_namespace, key, observed, settled, \
         retracted, first_seen, last_seen, evidence, changed, witnessed, recovered_at, recovered_cause) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16) \
         ON CONFLICT (id, node) DO UPDATE SET \
         recovered_cause = CASE WHEN excluded.recovered_at >= coalesce(recovered_at, excluded.recovered_at) \
         THEN excluded.recovered_cause ELSE recovered_cause END, \
         recovered_at = nullif(max(CASE WHEN excluded.observed + excluded.settled > 0 AND excluded.last_seen > coalesce(recovered_at, -1) \
         THEN -1 ELSE coalesce(recovered_at, -1) END, \
         CASE WHEN excluded.recovered_at >= last_seen THEN excluded.recovered_at ELSE -1 END), -1), \
         witnessed = witnessed + excluded.witnessed, \
         observed = observed + excluded.observed, settled = settled + excluded.settled, \
         retracted = retracted + excluded.retracted, first_seen = min(first_seen, excluded.first_seen), \
         last_seen = CASE WHEN excluded.observed + excluded.settled > 0 \
         THEN max(last_seen, excluded.last_seen) ELSE last_seen END, \
         evidence = max(evidence, excluded.evidence), changed = excluded.changed",
    )
    .bind(&update.id)
    .bind(node)
    .bind(update.key.kind.number())
    .bind(update.key.source.namespace())
    .bind(update.key.destination.namespace())
    .bind(key)
    .bind(signed(update.observed))
    .bind(signed(update.settled))
    .bind(signed(update.retracted))
    .bind(update.first.0)
    .bind(update.last.0)
    .bind(i64::from(update.evidence))
    .bind(clock)
    .bind(signed(update.witnessed))
    .bind(recovered.map(|recovered| recovered.at.0))
    .bind(recovered.map(|recovered| i64::from(recovered.cause)))
    .execute(&mut *on)
    .await?;
    for sample in &update.samples {
        sqlx::query(
            "INSERT INTO samples (id, node, at, source, destination, isn, answer) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )
        .bind(&update.id)
        .bind(node)
        .bind(sample.at.0)
        .bind(sample.source.to_string())
        .bind(sample.destination.to_string())
        .bind(i64::from(sample.isn))
        .bind(i64::from(sample.answer))
        .execute(&mut *on)
        .await?;
    }
    if !update.samples.is_empty() {
        sqlx::query(
            "DELETE FROM samples WHERE rowid IN (SELECT rowid FROM samples WHERE id = ?1 AND node = ?2 \
             ORDER BY at DESC, rowid DESC LIMIT -1 OFFSET ?3)",
        )
        .bind(&update.id)
        .bind(node)
        .bind(SAMPLES_KEPT)
        .execute(&mut *on)
        .await?;
    }
    if update.key.kind == Kind::Unenforced && update.observed + update.retracted > 0 {
        sqlx::query(
            "INSERT INTO activity (node, bucket, observed, retracted) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (node, bucket) DO UPDATE SET observed = observed + excluded.observed, \
             retracted = retracted + excluded.retracted",
        )
        .bind(node)
        .bind(update.last.0 - update.last.0.rem_euclid(BUCKET))
        .bind(signed(update.observed))
        .bind(signed(update.retracted))
        .execute(&mut *on)
        .await?;
    }
    Ok(())
}

async fn skip(
    on: &mut SqliteConnection,
    node: &str,
    instance: &str,
    sequence: u64,
) -> Result<(), sqlx::Error> {
    let mut transaction = on.begin_with("BEGIN IMMEDIATE").await?;
    let moved = sqlx::query(
        "INSERT INTO agents (node, instance, last_sequence) VALUES (?1, ?2, ?3) \
             ON CONFLICT (node, instance) DO UPDATE SET last_sequence = excluded.last_sequence \
             WHERE last_sequence = excluded.last_sequence - 1",
    )
    .bind(node)
    .bind(instance)
    .bind(signed(sequence))
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    let now = Wall::now();
    sqlx::query(
            "INSERT INTO nodes (node, first_heard, last_heard, batches_missing) VALUES (?1, ?2, ?2, ?3) \
             ON CONFLICT (node) DO UPDATE SET batches_missing = batches_missing + excluded.batches_missing",
        )
        .bind(node)
        .bind(now.0)
        .bind(signed(moved))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

async fn hear(on: &mut SqliteConnection, news: &[Heard]) -> Result<(), sqlx::Error> {
    let mut transaction = on.begin_with("BEGIN IMMEDIATE").await?;
    for heard in news {
        sqlx::query(
                "INSERT INTO nodes (node, agent_version, kernel_release, first_heard, last_heard, heartbeat) \
                 VALUES (?1, ?2, ?3, ?4, ?4, ?5) ON CONFLICT (node) DO UPDATE SET \
                 agent_version = excluded.agent_version, kernel_release = excluded.kernel_release, \
                 last_heard = max(last_heard, excluded.last_heard), \
                 heartbeat = coalesce(excluded.heartbeat, heartbeat)",
            )
            .bind(&heard.node)
            .bind(&heard.agent_version)
            .bind(&heard.kernel_release)
            .bind(heard.at.0)
            .bind(&heard.heartbeat)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await
}
