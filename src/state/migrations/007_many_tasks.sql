-- What is asked of the queue all the time (how many, the oldest, what failed) is not worth reading 200,000 copies for.

-- How many tasks there are, of each job, by what they do, how they stand and whether they failed before. Triggers keep it:
-- whatever changes a task changes this, in the same write.
CREATE TABLE tally (
  job   INTEGER NOT NULL,
  what  INTEGER NOT NULL,
  state INTEGER NOT NULL,
  tried INTEGER NOT NULL,                  -- it failed since it was last put in
  tasks INTEGER NOT NULL,
  bytes ANY NOT NULL,                      -- exact, but for sums that no integer holds: a site may say anything of its files
  PRIMARY KEY (job, what, state, tried)
) STRICT, WITHOUT ROWID;
INSERT INTO tally SELECT job, what, state, tries > 0, count(*), CAST(total(size) AS INTEGER) FROM task
  GROUP BY 1, 2, 3, 4;

CREATE TRIGGER task_put_in AFTER INSERT ON task BEGIN
  INSERT INTO tally VALUES (new.job, new.what, new.state, new.tries > 0, 1, new.size)
    ON CONFLICT DO UPDATE SET tasks = tasks + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER task_gone AFTER DELETE ON task BEGIN
  UPDATE tally SET tasks = tasks - 1, bytes = iif(tasks = 1, 0, bytes - old.size)
    WHERE job = old.job AND what = old.what AND state = old.state AND tried = (old.tries > 0);
END;
CREATE TRIGGER task_changed AFTER UPDATE OF job, what, state, tries, size ON task
  WHEN new.job <> old.job OR new.what <> old.what OR new.state <> old.state OR new.size <> old.size
    OR (new.tries > 0) <> (old.tries > 0)
BEGIN
  UPDATE tally SET tasks = tasks - 1, bytes = iif(tasks = 1, 0, bytes - old.size)
    WHERE job = old.job AND what = old.what AND state = old.state AND tried = (old.tries > 0);
  INSERT INTO tally VALUES (new.job, new.what, new.state, new.tries > 0, 1, new.size)
    ON CONFLICT DO UPDATE SET tasks = tasks + 1, bytes = bytes + excluded.bytes;
END;

-- The send that was put in first.
CREATE INDEX task_send ON task (root, id) WHERE what = 0 AND parent IS NOT NULL;
-- What went wrong, by its kind; few tasks have one.
CREATE INDEX task_failed ON task (kind, id) WHERE kind IS NOT NULL;
-- What does not simply wait, by how it stands; few tasks do not.
CREATE INDEX task_state ON task (state, id) WHERE state > 0;
