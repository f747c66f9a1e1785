-- Of the settled attempts, those that both ends' witnesses agree on.
ALTER TABLE findings ADD COLUMN witnessed INTEGER NOT NULL DEFAULT 0;
-- When it was noticed that the finding has ended, and by what; null while it stands.
ALTER TABLE findings ADD COLUMN recovered_at INTEGER;
ALTER TABLE findings ADD COLUMN recovered_cause INTEGER;

ALTER TABLE nodes ADD COLUMN denied_stopped INTEGER NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN denied_in_grace INTEGER NOT NULL DEFAULT 0;
-- Sum of the times behind `exposure`, in milliseconds.
ALTER TABLE nodes ADD COLUMN exposure_sum_ms INTEGER NOT NULL DEFAULT 0;

-- Denied attempts that were proved stopped, by the 10 s in which they were reported.
ALTER TABLE activity ADD COLUMN stopped INTEGER NOT NULL DEFAULT 0;

-- For how long connections still got through after a change to a denial: changes by place in the histogram of the wire.
CREATE TABLE exposure (
    node  TEXT    NOT NULL,
    place INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (node, place)
) STRICT, WITHOUT ROWID;
