-- Where files stand at sites, by their paths inside the project: what lies at a site lies there under a path, and a rename
-- here moves nothing there. In place of a table by inode that nothing was ever written to.
DROP TABLE site_state;
-- What copies put where is in these rows too.
DROP TABLE copied;

-- Folders that rows of site_file lie in.
CREATE TABLE site_folder (
  id   INTEGER PRIMARY KEY,
  root INTEGER NOT NULL,                   -- of the project
  path BLOB NOT NULL,                      -- below the project's folder; empty: that folder itself
  UNIQUE (root, path)
) STRICT;

-- What differs from "nothing is known". The project's remote site has no rows: it is what the tree shows.
CREATE TABLE site_file (
  folder         INTEGER NOT NULL,
  name           BLOB NOT NULL,
  site           TEXT NOT NULL,
  state          INTEGER NOT NULL,         -- -1 n/a, 0 in progress, 1 queued, 2 failed, 3 paused, 4 synced
  version        TEXT,                     -- of what lies there; NULL: nothing, as far as is known
  source         TEXT,                     -- the site that the same bytes are known to be at, and
  source_version TEXT,                     -- their version there
  size           INTEGER NOT NULL DEFAULT 0,
  retries        INTEGER NOT NULL DEFAULT 0,
  error          TEXT,
  at_ms          INTEGER NOT NULL,
  PRIMARY KEY (folder, name, site)
) STRICT, WITHOUT ROWID;
