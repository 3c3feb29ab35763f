-- What this machine makes and changes.
--
-- A row of inode is a *mirror* (own = 0: it is what the project's remote site shows) or this machine's *own* (own = 1: made
-- or changed here; a listing of the site leaves it alone). What the site has under a name where the drive shows something
-- of its own, or nothing, is a row of shadow.
ALTER TABLE inode ADD COLUMN own INTEGER NOT NULL DEFAULT 0;
ALTER TABLE inode ADD COLUMN uid INTEGER;                        -- NULL: the daemon's user
ALTER TABLE inode ADD COLUMN gid INTEGER;
ALTER TABLE inode ADD COLUMN atime_ns INTEGER;                   -- NULL: mtime_ns
ALTER TABLE inode ADD COLUMN btime_ns INTEGER;                   -- NULL: ctime_ns
ALTER TABLE inode ADD COLUMN rdev INTEGER NOT NULL DEFAULT 0;    -- of device nodes
ALTER TABLE inode ADD COLUMN attrs_own INTEGER NOT NULL DEFAULT 0; -- mirrors: 1 perm, 2 mtime were set here and stay
-- A number from meta.next_id, taken when this machine last changed the row: a listing that began before it says nothing
-- about the row.
ALTER TABLE inode ADD COLUMN changed_id INTEGER NOT NULL DEFAULT 0;
-- Own files. Bytes are in the object of that number in local/; NULL: empty, or still at the site (origin).
ALTER TABLE inode ADD COLUMN object INTEGER;
ALTER TABLE inode ADD COLUMN gen INTEGER NOT NULL DEFAULT 0;     -- counts the times that writing began
ALTER TABLE inode ADD COLUMN writing INTEGER NOT NULL DEFAULT 0; -- size and mtime are those of the object's file
ALTER TABLE inode ADD COLUMN origin BLOB;                        -- path under the project's remote path
ALTER TABLE inode ADD COLUMN origin_version TEXT;

-- Folders: how many folders are in it, kept by the triggers below.
ALTER TABLE inode ADD COLUMN subdirs INTEGER NOT NULL DEFAULT 0;
UPDATE inode SET subdirs = (SELECT count(*) FROM dirent AS d CROSS JOIN inode AS i ON i.ino = d.ino
                            WHERE d.parent = inode.ino AND i.kind = 1) WHERE kind = 1;
CREATE TRIGGER subdir_comes AFTER INSERT ON dirent WHEN (SELECT kind FROM inode WHERE ino = NEW.ino) = 1
  BEGIN UPDATE inode SET subdirs = subdirs + 1 WHERE ino = NEW.parent; END;
CREATE TRIGGER subdir_goes AFTER DELETE ON dirent WHEN (SELECT kind FROM inode WHERE ino = OLD.ino) = 1
  BEGIN UPDATE inode SET subdirs = subdirs - 1 WHERE ino = OLD.parent; END;
CREATE TRIGGER subdir_moves AFTER UPDATE OF parent, ino ON dirent
  BEGIN
    UPDATE inode SET subdirs = subdirs - 1 WHERE ino = OLD.parent AND (SELECT kind FROM inode WHERE ino = OLD.ino) = 1;
    UPDATE inode SET subdirs = subdirs + 1 WHERE ino = NEW.parent AND (SELECT kind FROM inode WHERE ino = NEW.ino) = 1;
  END;

CREATE INDEX inode_own ON inode (own) WHERE own = 1;
CREATE INDEX inode_object ON inode (object) WHERE object IS NOT NULL;
CREATE INDEX inode_origin ON inode (origin) WHERE origin IS NOT NULL;
CREATE INDEX inode_writing ON inode (ino) WHERE writing = 1;
-- Removed while open: dropped at the last close, or at the next start.
CREATE INDEX inode_nameless ON inode (ino) WHERE nlink = 0;

CREATE TABLE shadow (
  parent     INTEGER NOT NULL,
  name       BLOB NOT NULL,
  kind       INTEGER NOT NULL,             -- as in inode
  version    TEXT NOT NULL,                -- '' for folders, and for what we have removed there: equal to no file's
  changed_id INTEGER NOT NULL,
  sent_ino   INTEGER,                      -- the own file, and its generation, whose bytes these are
  sent_gen   INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE xattr (
  ino   INTEGER NOT NULL,
  name  BLOB NOT NULL,
  value BLOB NOT NULL,
  PRIMARY KEY (ino, name)
) STRICT, WITHOUT ROWID;

-- Objects that nothing needs any more: their files may be deleted.
CREATE TABLE trash (object INTEGER PRIMARY KEY) STRICT;

-- One queue a project; without a row it has the priority of the settings and runs.
CREATE TABLE queue (
  root     INTEGER PRIMARY KEY,            -- of the project
  priority INTEGER,                        -- 0 to 1000; NULL: as in the settings
  paused   INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What was asked for, together, on one day.
CREATE TABLE job (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  root        INTEGER NOT NULL,
  source      TEXT NOT NULL,
  target      TEXT NOT NULL,
  day         INTEGER NOT NULL,            -- days since 1970, UTC
  created_ms  INTEGER NOT NULL,
  done_tasks  INTEGER NOT NULL DEFAULT 0,
  done_bytes  INTEGER NOT NULL DEFAULT 0,
  UNIQUE (root, source, target, day)
) STRICT;

CREATE TABLE task (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  root       INTEGER NOT NULL,
  job        INTEGER NOT NULL,
  what       INTEGER NOT NULL,             -- 0 send a file, 1 delete a file at the site, 2 delete a folder there
  parent     INTEGER,                      -- sends: the name whose file is sent
  name       BLOB,
  ino        INTEGER,
  path       BLOB,                         -- deletes: path under the project's remote path
  version    TEXT,                         -- deletes: what may be deleted
  gen        INTEGER NOT NULL DEFAULT 0,   -- sends: the generation that was closed last
  size       INTEGER NOT NULL DEFAULT 0,
  priority   INTEGER NOT NULL DEFAULT 500,
  state      INTEGER NOT NULL,             -- 0 waiting, 1 running, 2 blocked (needs a person), 3 held
  due_ms     INTEGER NOT NULL,
  tries      INTEGER NOT NULL DEFAULT 0,   -- failed ones since it was last put in
  kind       TEXT,                         -- of the last error, for programs
  error      TEXT,
  lease_ms   INTEGER NOT NULL DEFAULT 0,   -- running: until when
  done_bytes INTEGER NOT NULL DEFAULT 0,
  upload     TEXT                          -- an upload under way, so that it survives a restart
) STRICT;
CREATE UNIQUE INDEX task_name ON task (parent, name) WHERE what = 0;
CREATE UNIQUE INDEX task_path ON task (root, path) WHERE what <> 0;
CREATE INDEX task_ino ON task (ino) WHERE ino IS NOT NULL;
CREATE INDEX task_next ON task (root, state, priority DESC, due_ms, id);

-- Files that moved on at the site while they were changed here; both are kept.
CREATE TABLE conflict (
  ino    INTEGER PRIMARY KEY,              -- ours, under its conflict name
  parent INTEGER NOT NULL,
  name   BLOB NOT NULL,                    -- the name that both want
  theirs TEXT NOT NULL,                    -- version at the site when it was noticed
  at_ms  INTEGER NOT NULL
) STRICT;
