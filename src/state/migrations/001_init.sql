-- Inodes and names apart, so that a rename moves one row and a hard link adds one.
-- One sequence (meta.next_id) numbers both inodes and cookies: neither is ever used again.
CREATE TABLE inode (
  ino          INTEGER PRIMARY KEY,
  kind         INTEGER NOT NULL,           -- 0 file, 1 folder, 2 symbolic link
  size         INTEGER NOT NULL,
  mtime_ns     INTEGER NOT NULL,
  ctime_ns     INTEGER NOT NULL,
  perm         INTEGER,
  nlink        INTEGER NOT NULL DEFAULT 1, -- names that lead here; 1 for folders
  version      TEXT,                       -- at the project's remote site; NULL for folders
  target       BLOB,
  project      INTEGER,                    -- folders inside a project: the ino of its root; NULL for all else
  listed_at_ms INTEGER,                    -- folders: last listed whole
  listed_epoch INTEGER NOT NULL DEFAULT 0  -- folders: the scan that has dealt with it last
) STRICT;

-- What a scan has still to do is a range of this index.
CREATE INDEX inode_to_scan ON inode (project, listed_epoch) WHERE project IS NOT NULL;

-- A cookie is a place in the folder's listing: it grows in the order of insertion and survives changes around it.
CREATE TABLE dirent (
  parent INTEGER NOT NULL,
  cookie INTEGER NOT NULL,
  name   BLOB NOT NULL,
  ino    INTEGER NOT NULL,
  PRIMARY KEY (parent, cookie)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX dirent_name ON dirent (parent, name);
CREATE INDEX dirent_ino ON dirent (ino);

CREATE TABLE project (
  root        INTEGER PRIMARY KEY,         -- ino of its folder
  name        TEXT NOT NULL UNIQUE,
  folder      BLOB NOT NULL,
  remote_site TEXT NOT NULL,
  remote_path BLOB NOT NULL,
  hidden      INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What differs from "present at the project's remote site in inode.version", and all other sites.
CREATE TABLE site_state (
  ino        INTEGER NOT NULL,
  site       TEXT NOT NULL,
  state      INTEGER NOT NULL,             -- -1 n/a, 0 in progress, 1 queued, 2 failed, 3 paused, 4 synced
  version    TEXT,
  done_bytes INTEGER NOT NULL DEFAULT 0,
  retries    INTEGER NOT NULL DEFAULT 0,
  error      TEXT,
  at_ms      INTEGER NOT NULL,
  PRIMARY KEY (ino, site)
) STRICT, WITHOUT ROWID;

CREATE TABLE change_log (
  seq    INTEGER PRIMARY KEY AUTOINCREMENT,
  at_ms  INTEGER NOT NULL,
  what   INTEGER NOT NULL,                 -- 0 listed first, 1 added, 2 content, 3 attributes, 4 removed, 5 moved
  ino    INTEGER NOT NULL,
  parent INTEGER NOT NULL,
  name   BLOB NOT NULL
) STRICT;

CREATE TABLE scan (
  epoch       INTEGER PRIMARY KEY AUTOINCREMENT,
  root        INTEGER NOT NULL,            -- of the project
  started_ms  INTEGER NOT NULL,
  finished_ms INTEGER,
  folders     INTEGER NOT NULL DEFAULT 0,
  entries     INTEGER NOT NULL DEFAULT 0,
  skipped     INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX scan_root ON scan (root, epoch);

CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;

-- 1 is the drive's root; 2 holds the folders of projects that the configuration no longer names, out of sight.
INSERT INTO inode (ino, kind, size, mtime_ns, ctime_ns, listed_at_ms)
  SELECT ino, 1, 0, ms * 1000000, ms * 1000000, ms
  FROM (SELECT 1 AS ino UNION ALL SELECT 2), (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS ms);
INSERT INTO meta VALUES ('next_id', 3), ('files', 0), ('folders', 0), ('symlinks', 0), ('bytes', 0);
