-- Telling people what became of a job.
--
-- A *round* is what a job did from the first task that was put in until nothing was left to do. One row a job: number counts
-- its rounds.
CREATE TABLE round (
  job      INTEGER PRIMARY KEY,
  number   INTEGER NOT NULL,
  state    INTEGER NOT NULL,               -- 0 something is left to do, 1 nothing is, 2 and that was told
  began_ms INTEGER NOT NULL,
  ended_ms INTEGER NOT NULL,               -- when the last task ended; state 0: of no meaning
  files    INTEGER NOT NULL DEFAULT 0,     -- that arrived
  bytes    INTEGER NOT NULL DEFAULT 0,
  removed  INTEGER NOT NULL DEFAULT 0,     -- that were removed at the site
  shown    INTEGER NOT NULL DEFAULT 0      -- rows of round_path
) STRICT;
CREATE INDEX round_ended ON round (ended_ms) WHERE state = 1;

-- A few of a round's files, as paths of the drive.
CREATE TABLE round_path (
  job  INTEGER NOT NULL,
  at   INTEGER NOT NULL,
  path BLOB NOT NULL,
  PRIMARY KEY (job, at)
) STRICT, WITHOUT ROWID;

-- Whether a job has something left to do, and what of it failed.
CREATE INDEX task_job ON task (job, state, tries);

-- What is to be told to whom. A row is written where a round is closed, and kept for a while once it is done with.
CREATE TABLE outbox (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  job      INTEGER NOT NULL,
  round    INTEGER NOT NULL,
  receiver TEXT NOT NULL,                  -- of the settings
  address  TEXT NOT NULL,                  -- mail: to whom; '' elsewhere
  facts    TEXT NOT NULL,                  -- JSON
  made_ms  INTEGER NOT NULL,
  state    INTEGER NOT NULL DEFAULT 0,     -- 0 waiting, 1 being handed over, 2 told, 3 given up
  due_ms   INTEGER NOT NULL,               -- waiting: not before; else: since when it is so
  tries    INTEGER NOT NULL DEFAULT 0,
  lost     INTEGER NOT NULL DEFAULT 0,     -- tries of which no answer came: the message may have arrived
  error    TEXT
) STRICT;
CREATE UNIQUE INDEX outbox_once ON outbox (job, round, receiver, address);
CREATE INDEX outbox_next ON outbox (state, receiver, due_ms);
