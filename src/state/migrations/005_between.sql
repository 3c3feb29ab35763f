-- Copies from one site to another. They are tasks like the others, of jobs that have a kind from now on.
CREATE TABLE job_of_kind (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  root        INTEGER NOT NULL,
  source      TEXT NOT NULL,
  target      TEXT NOT NULL,
  kind        INTEGER NOT NULL,            -- 0 publish, 1 push, 2 pull, 3 sync
  day         INTEGER NOT NULL,            -- days since 1970; publishes by UTC, the others by the machine's time zone
  created_ms  INTEGER NOT NULL,
  done_tasks  INTEGER NOT NULL DEFAULT 0,
  done_bytes  INTEGER NOT NULL DEFAULT 0,
  same_tasks  INTEGER NOT NULL DEFAULT 0,  -- files that were at the target already
  left_out    INTEGER NOT NULL DEFAULT 0,  -- entries that are neither files nor folders
  UNIQUE (root, source, target, kind, day)
) STRICT;
INSERT INTO job_of_kind (id, root, source, target, kind, day, created_ms, done_tasks, done_bytes)
  SELECT id, root, source, target, 0, day, created_ms, done_tasks, done_bytes FROM job ORDER BY id;
DROP TABLE job;
ALTER TABLE job_of_kind RENAME TO job;

-- what: 3 copy a file, 4 copy what is in a folder; state: 4 left out because a person said so.
ALTER TABLE task ADD COLUMN target TEXT;                         -- copies: the site they go to
ALTER TABLE task ADD COLUMN replaces INTEGER NOT NULL DEFAULT 0; -- copies: 0 by the usual rule, 1 nothing, 2 `replaced`, 3 whatever is there
ALTER TABLE task ADD COLUMN replaced TEXT;
ALTER TABLE task ADD COLUMN seen TEXT;                           -- copies: the file as a listing of its folder showed it

-- Queues of 200,000 copies cost publishes nothing: neither is in the other's index.
DROP INDEX task_path;
CREATE UNIQUE INDEX task_path ON task (root, path) WHERE what IN (1, 2);
DROP INDEX task_next;
CREATE INDEX task_next ON task (root, state, priority DESC, due_ms, id) WHERE what < 3;
CREATE INDEX task_copy_next ON task (job, state, priority DESC, due_ms, id) WHERE what >= 3;
CREATE UNIQUE INDEX task_copy ON task (root, path, target) WHERE what >= 3;

-- What was put where by copies: a file that is still that version is known without a look at times, and is ours to replace.
CREATE TABLE copied (
  root           INTEGER NOT NULL,
  path           BLOB NOT NULL,            -- below the project's folder
  target         TEXT NOT NULL,
  source         TEXT NOT NULL,
  source_version TEXT NOT NULL,
  version        TEXT NOT NULL,            -- at the target
  at_ms          INTEGER NOT NULL,
  PRIMARY KEY (root, path, target)
) STRICT, WITHOUT ROWID;
