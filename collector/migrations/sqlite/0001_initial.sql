-- Times are nanoseconds since 1970 (UTC).

-- The spools whose batches are stored, and how far. One row for each spool ever heard of: forgetting one
-- would count its batches twice.
CREATE TABLE agents (
    node          TEXT    NOT NULL,
    instance      TEXT    NOT NULL,
    last_sequence INTEGER NOT NULL,
    PRIMARY KEY (node, instance)
) STRICT, WITHOUT ROWID;

-- One row for each node: who it is, and the totals of everything stored from it.
CREATE TABLE nodes (
    node                    TEXT    NOT NULL PRIMARY KEY,
    agent_version           TEXT    NOT NULL DEFAULT '',
    kernel_release          TEXT    NOT NULL DEFAULT '',
    first_heard             INTEGER NOT NULL,
    last_heard              INTEGER NOT NULL,
    -- The newest heartbeat as it came; written now and then.
    heartbeat               BLOB,
    batches_missing         INTEGER NOT NULL DEFAULT 0,
    findings_refused        INTEGER NOT NULL DEFAULT 0,
    allowed_delivered       INTEGER NOT NULL DEFAULT 0,
    denied_delivered        INTEGER NOT NULL DEFAULT 0,
    denied_unanswered       INTEGER NOT NULL DEFAULT 0,
    denied_answered         INTEGER NOT NULL DEFAULT 0,
    allowed_answered        INTEGER NOT NULL DEFAULT 0,
    -- denied_unanswered since the last batch that brought a violation.
    unanswered_since        INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE inconclusive (
    node   TEXT    NOT NULL,
    reason INTEGER NOT NULL,
    count  INTEGER NOT NULL,
    PRIMARY KEY (node, reason)
) STRICT, WITHOUT ROWID;

CREATE TABLE findings (
    id                    TEXT    NOT NULL,
    -- The witness. The same key from two nodes is two rows, so that the figures of a node are its own.
    node                  TEXT    NOT NULL,
    kind                  INTEGER NOT NULL,
    source_namespace      TEXT    NOT NULL,
    destination_namespace TEXT    NOT NULL,
    -- The key as JSON.
    key                   TEXT    NOT NULL,
    observed              INTEGER NOT NULL,
    settled               INTEGER NOT NULL,
    retracted             INTEGER NOT NULL,
    first_seen            INTEGER NOT NULL,
    last_seen             INTEGER NOT NULL,
    evidence              INTEGER NOT NULL,
    -- Value of `clock` when the row last changed: lets a reader catch up.
    changed               INTEGER NOT NULL,
    PRIMARY KEY (id, node)
) STRICT;
CREATE INDEX findings_newest ON findings (last_seen DESC, id, node);
CREATE INDEX findings_changed ON findings (changed);
CREATE INDEX findings_node ON findings (node, kind, last_seen);

-- The newest attempts of a finding.
CREATE TABLE samples (
    id               TEXT    NOT NULL,
    node             TEXT    NOT NULL,
    at               INTEGER NOT NULL,
    source           TEXT    NOT NULL,
    destination      TEXT    NOT NULL,
    isn              INTEGER NOT NULL,
    answer           INTEGER NOT NULL,
    FOREIGN KEY (id, node) REFERENCES findings (id, node) ON DELETE CASCADE
) STRICT;
CREATE INDEX samples_newest ON samples (id, node, at DESC);

-- Violations by the 10 s in which they were last seen; `bucket` is the start in nanoseconds.
CREATE TABLE activity (
    node      TEXT    NOT NULL,
    bucket    INTEGER NOT NULL,
    observed  INTEGER NOT NULL,
    retracted INTEGER NOT NULL,
    PRIMARY KEY (node, bucket)
) STRICT, WITHOUT ROWID;

-- Grows with every stored batch.
CREATE TABLE clock (value INTEGER NOT NULL) STRICT;
INSERT INTO clock (value) VALUES (0);
