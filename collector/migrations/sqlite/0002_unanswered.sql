-- Denied attempts that left pods of the node unanswered, by the 10 s in which they were reported.
ALTER TABLE activity ADD COLUMN unanswered INTEGER NOT NULL DEFAULT 0;
