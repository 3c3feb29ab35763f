-- Rules by which files are kept resident. A number is never used twice.
CREATE TABLE pin (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  root    INTEGER NOT NULL,                -- of the project
  is_glob INTEGER NOT NULL,
  what    BLOB NOT NULL,                   -- a path below the project's folder (empty: all of it), or a pattern of such
  note    TEXT,
  who     TEXT NOT NULL,
  at_ms   INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX pin_what ON pin (root, is_glob, what);
