//! Everything that only reads.

use std::collections::BTreeMap;

use polproof_flow::finding::{Exposure, JudgedCounts};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite as Dialect};

use super::write::BUCKET;
use super::{Sqlite, signed, unsigned};
use crate::finding::{Finding, Key, Kind, Recovery, Sample, Wall};
use crate::store::{Cursor, Filter, KindCount, MARGIN, Node, Page, StoreError, Tried};

/// Attempts of a row that are not taken back; [`Finding::standing`] in SQL.
const STANDING: &str = "max(observed - retracted, settled, 0)";

impl Sqlite {
    pub(super) async fn read_nodes(&self, recent: Wall) -> Result<Vec<Node>, sqlx::Error> {
        // One transaction: the figures belong together.
        let mut transaction = self.readers.begin().await?;
        let mut nodes = BTreeMap::new();
        for row in sqlx::query("SELECT * FROM nodes")
            .fetch_all(&mut *transaction)
            .await?
        {
            let count = |name| row.try_get(name).map(unsigned);
            let node = Node {
                node: row.try_get("node")?,
                agent_version: row.try_get("agent_version")?,
                kernel_release: row.try_get("kernel_release")?,
                first_heard: Wall(row.try_get("first_heard")?),
                last_heard: Wall(row.try_get("last_heard")?),
                heartbeat: row.try_get("heartbeat")?,
                batches_missing: count("batches_missing")?,
                findings_refused: count("findings_refused")?,
                judged: JudgedCounts {
                    allowed_delivered: count("allowed_delivered")?,
                    denied_delivered: count("denied_delivered")?,
                    denied_unanswered: count("denied_unanswered")?,
                    denied_answered: count("denied_answered")?,
                    allowed_answered: count("allowed_answered")?,
                    denied_stopped: count("denied_stopped")?,
                    denied_in_grace: count("denied_in_grace")?,
                },
                exposure: Exposure {
                    sum_ms: count("exposure_sum_ms")?,
                    ..Exposure::default()
                },
                unanswered_since: count("unanswered_since")?,
                ..Node::default()
            };
            nodes.insert(node.node.clone(), node);
        }
        for row in sqlx::query("SELECT node, reason, count FROM inconclusive ORDER BY node, reason")
            .fetch_all(&mut *transaction)
            .await?
        {
            if let Some(node) = nodes.get_mut(row.try_get::<&str, _>("node")?) {
                let count: i64 = row.try_get("count")?;
                node.inconclusive
                    .push((row.try_get("reason")?, unsigned(count)));
            }
        }
        for row in sqlx::query("SELECT node, place, count FROM exposure")
            .fetch_all(&mut *transaction)
            .await?
        {
            let place: i64 = row.try_get("place")?;
            if let Some(node) = nodes.get_mut(row.try_get::<&str, _>("node")?)
                && let Some(count) = usize::try_from(place)
                    .ok()
                    .and_then(|place| node.exposure.counts.get_mut(place))
            {
                *count = unsigned(row.try_get("count")?);
            }
        }
        let mut sums = QueryBuilder::<Dialect>::new("SELECT node, kind, count(*) AS findings, ");
        sums.push(format_args!(
            "sum({STANDING}) AS attempts, sum(recovered_at IS NULL) AS standing, max(last_seen) AS last FROM findings \
             WHERE {STANDING} > 0 GROUP BY node, kind"
        ));
        for row in sums.build().fetch_all(&mut *transaction).await? {
            let Some(node) = nodes.get_mut(row.try_get::<&str, _>("node")?) else {
                continue;
            };
            let count = |name| row.try_get(name).map(unsigned);
            let of = KindCount {
                kind: row.try_get("kind")?,
                findings: count("findings")?,
                attempts: count("attempts")?,
                standing: count("standing")?,
                last: Wall(row.try_get("last")?),
            };
            node.findings += of.findings;
            if i64::from(of.kind) == Kind::Unenforced.number() {
                node.violations = of.attempts;
                node.violations_standing = of.standing;
                node.last_violation = Some(of.last);
            }
            node.kinds.push(of);
        }
        for row in sqlx::query(
            "SELECT node, max(sum(observed) - sum(retracted), 0) AS recent, sum(stopped) AS stopped FROM activity \
             WHERE bucket > ?1 GROUP BY node",
        )
        .bind(recent.0.saturating_sub(BUCKET))
        .fetch_all(&mut *transaction)
        .await?
        {
            if let Some(node) = nodes.get_mut(row.try_get::<&str, _>("node")?) {
                node.violations_recent = unsigned(row.try_get("recent")?);
                node.stopped_recent = unsigned(row.try_get("stopped")?);
            }
        }
        let mut stopped = QueryBuilder::<Dialect>::new(
            "WITH violated AS (SELECT node, max(last_seen) AS at FROM findings WHERE kind = ",
        );
        stopped
            .push_bind(Kind::Unenforced.number())
            .push(format_args!(
                " AND {STANDING} > 0 GROUP BY node) SELECT activity.node AS node, sum(stopped) AS stopped \
                 FROM activity LEFT JOIN violated ON violated.node = activity.node \
                 WHERE stopped > 0 AND bucket >= coalesce(violated.at + {}, 0) GROUP BY activity.node",
                signed(MARGIN.as_secs()) * Wall::SECOND
            ));
        for row in stopped.build().fetch_all(&mut *transaction).await? {
            if let Some(node) = nodes.get_mut(row.try_get::<&str, _>("node")?) {
                node.stopped_since = unsigned(row.try_get("stopped")?);
            }
        }
        Ok(nodes.into_values().collect())
    }

    pub(super) async fn read_tried(&self, since: Wall) -> Result<Tried, sqlx::Error> {
        // Whole buckets after the moment: rather too few than too many.
        let row = sqlx::query(
            "SELECT coalesce(sum(unanswered), 0) AS unanswered, coalesce(sum(stopped), 0) AS stopped FROM activity \
             WHERE bucket >= ?1",
        )
        .bind(since.0)
        .fetch_one(&self.readers)
        .await?;
        Ok(Tried {
            unanswered: unsigned(row.try_get("unanswered")?),
            stopped: unsigned(row.try_get("stopped")?),
        })
    }

    pub(super) async fn read_count(&self, filter: &Filter) -> Result<u64, sqlx::Error> {
        let mut query = QueryBuilder::<Dialect>::new("SELECT count(*) FROM findings WHERE ");
        push_filter(&mut query, filter);
        let count: i64 = query.build_query_scalar().fetch_one(&self.readers).await?;
        Ok(unsigned(count))
    }

    pub(super) async fn read_page(
        &self,
        filter: &Filter,
        cursor: &Cursor,
        size: u32,
    ) -> Result<Page, StoreError> {
        let what = "list findings";
        let mut query = QueryBuilder::<Dialect>::new("SELECT * FROM findings WHERE ");
        push_filter(&mut query, filter);
        match cursor {
            Cursor::Newest { after, .. } => {
                if let Some((last, id, node)) = after {
                    query
                        .push(" AND (last_seen < ")
                        .push_bind(*last)
                        .push(" OR (last_seen = ")
                        .push_bind(*last)
                        .push(" AND (id, node) > (")
                        .push_bind(id)
                        .push(", ")
                        .push_bind(node)
                        .push(")))");
                }
                query.push(" ORDER BY last_seen DESC, id, node");
            }
            Cursor::Changed { after, id, node } => {
                query
                    .push(" AND (changed, id, node) > (")
                    .push_bind(*after)
                    .push(", ")
                    .push_bind(id)
                    .push(", ")
                    .push_bind(node)
                    .push(") ORDER BY changed, id, node");
            }
        }
        query.push(" LIMIT ").push_bind(i64::from(size));
        let mut transaction = self.readers.begin().await.map_err(self.failed(what))?;
        let rows = query
            .build()
            .fetch_all(&mut *transaction)
            .await
            .map_err(self.failed(what))?;
        let mut findings = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut finding = self.finding(row)?;
            finding.samples = sqlx::query(
                "SELECT at, source, destination, isn, answer FROM samples WHERE id = ?1 AND node = ?2 \
                 ORDER BY at DESC, rowid DESC",
            )
            .bind(&finding.id)
            .bind(&finding.node)
            .fetch_all(&mut *transaction)
            .await
            .and_then(|rows| rows.iter().map(sample).collect())
            .map_err(self.failed("read samples"))?;
            findings.push(finding);
        }
        let full = findings.len() == usize::try_from(size).unwrap_or(usize::MAX);
        let next = match (cursor, findings.last()) {
            (Cursor::Newest { began, .. }, Some(last)) if full => Some(Cursor::Newest {
                began: *began,
                after: Some((last.last.0, last.id.clone(), last.node.clone())),
            }),
            (Cursor::Newest { began, .. }, _) => {
                let now: i64 = sqlx::query_scalar("SELECT value FROM clock")
                    .fetch_one(&mut *transaction)
                    .await
                    .map_err(self.failed(what))?;
                // A walk of one page read one consistent state. Later pages may have missed what moved to the front.
                let one_page = matches!(cursor, Cursor::Newest { after: None, .. });
                (!one_page && now > *began).then(|| Cursor::Changed {
                    after: *began,
                    // Greater than every id: rows of the clock value itself are in the walk already.
                    id: "~".to_owned(),
                    node: String::new(),
                })
            }
            (Cursor::Changed { .. }, Some(last)) if full => Some(Cursor::Changed {
                after: last.changed,
                id: last.id.clone(),
                node: last.node.clone(),
            }),
            (Cursor::Changed { .. }, _) => None,
        };
        Ok(Page { findings, next })
    }

    fn finding(&self, row: &SqliteRow) -> Result<Finding, StoreError> {
        let id: String = row.try_get("id").map_err(self.failed("read a finding"))?;
        let read = || -> Result<Finding, sqlx::Error> {
            let key: &str = row.try_get("key")?;
            let key: Key =
                serde_json::from_str(key).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
            let evidence: i64 = row.try_get("evidence")?;
            Ok(Finding {
                id: id.clone(),
                node: row.try_get("node")?,
                key,
                observed: unsigned(row.try_get("observed")?),
                settled: unsigned(row.try_get("settled")?),
                retracted: unsigned(row.try_get("retracted")?),
                first: Wall(row.try_get("first_seen")?),
                last: Wall(row.try_get("last_seen")?),
                evidence: u8::try_from(evidence).unwrap_or(0),
                witnessed: unsigned(row.try_get("witnessed")?),
                recovered: match (
                    row.try_get::<Option<i64>, _>("recovered_at")?,
                    row.try_get::<Option<i64>, _>("recovered_cause")?,
                ) {
                    (Some(at), cause) => Some(Recovery {
                        at: Wall(at),
                        cause: cause
                            .and_then(|cause| u8::try_from(cause).ok())
                            .unwrap_or(0),
                    }),
                    (None, _) => None,
                },
                changed: row.try_get("changed")?,
                samples: Vec::new(),
            })
        };
        read().map_err(|error| StoreError::Row {
            path: self.path.clone(),
            id: id.clone(),
            problem: error.to_string(),
        })
    }
}

fn sample(row: &SqliteRow) -> Result<Sample, sqlx::Error> {
    let address = |name| -> Result<std::net::SocketAddr, sqlx::Error> {
        let text: &str = row.try_get(name)?;
        text.parse()
            .map_err(|error: std::net::AddrParseError| sqlx::Error::Decode(Box::new(error)))
    };
    let (isn, answer): (i64, i64) = (row.try_get("isn")?, row.try_get("answer")?);
    Ok(Sample {
        at: Wall(row.try_get("at")?),
        source: address("source")?,
        destination: address("destination")?,
        isn: u32::try_from(isn).unwrap_or(0),
        answer: u8::try_from(answer).unwrap_or(0),
    })
}

fn push_filter(query: &mut QueryBuilder<Dialect>, filter: &Filter) {
    query.push("1");
    if !filter.namespace.is_empty() {
        query
            .push(" AND (source_namespace = ")
            .push_bind(filter.namespace.clone())
            .push(" OR destination_namespace = ")
            .push_bind(filter.namespace.clone())
            .push(")");
    }
    if !filter.node.is_empty() {
        query.push(" AND node = ").push_bind(filter.node.clone());
    }
    if let Some(since) = filter.since {
        query.push(" AND last_seen >= ").push_bind(since.0);
    }
    if !filter.kinds.is_empty() {
        query.push(" AND kind IN (");
        let mut kinds = query.separated(", ");
        for kind in &filter.kinds {
            kinds.push_bind(kind.number());
        }
        query.push(")");
    }
    if filter.standing_only {
        query.push(" AND recovered_at IS NULL");
    }
    if !filter.include_retracted {
        query.push(format_args!(" AND {STANDING} > 0"));
    }
}
