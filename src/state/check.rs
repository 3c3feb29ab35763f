//! The whole database against its invariants: for `doctor`, and for tests after crashes. Reads everything.

use std::fmt;

use super::StateError;
use super::error::Db;
use super::read::ReadTxn;

/// Rows named for each broken invariant; the first ones tell enough.
const SHOWN: i64 = 20;

/// An invariant that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem(pub String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Each query returns what is wrong, as text.
const INVARIANTS: &[&str] = &[
    "SELECT 'name ' || quote(name) || ' in folder ' || parent || ' leads to ' || ino || ', which is not there'
     FROM dirent AS d WHERE NOT EXISTS (SELECT 1 FROM inode AS i WHERE i.ino = d.ino)",
    "SELECT 'name ' || quote(name) || ' lies in ' || parent || ', which is no folder'
     FROM dirent AS d WHERE NOT EXISTS (SELECT 1 FROM inode AS i WHERE i.ino = d.parent AND i.kind = 1)",
    "SELECT 'number ' || ino || ' has ' || nlink || ' names and ' || found || ' are there' FROM
       (SELECT ino, nlink, (SELECT count(*) FROM dirent AS d WHERE d.ino = i.ino) AS found FROM inode AS i WHERE ino > 2)
     WHERE found <> nlink",
    "SELECT 'folder ' || i.ino || ' has several names'
     FROM inode AS i WHERE kind = 1 AND (SELECT count(*) FROM dirent AS d WHERE d.ino = i.ino) > 1",
    "SELECT 'number ' || ino || ' has kind ' || kind || ' and size ' || size
     FROM inode WHERE kind NOT BETWEEN 0 AND 6 OR size < 0",
    "SELECT 'folder ' || ino || ' says that it has ' || subdirs || ' folders' FROM inode AS f WHERE kind = 1 AND subdirs <>
       (SELECT count(*) FROM dirent AS d JOIN inode AS i ON i.ino = d.ino WHERE d.parent = f.ino AND i.kind = 1)",
    "SELECT 'folder ' || ino || ' has no name' FROM inode WHERE kind = 1 AND nlink = 0",
    "SELECT 'number ' || ino || ' is a mirror and has bytes of its own'
     FROM inode WHERE own = 0 AND (object IS NOT NULL OR writing <> 0 OR origin_version IS NOT NULL)",
    "SELECT 'number ' || ino || ' is own and has a version at the site' FROM inode WHERE own = 1 AND version IS NOT NULL",
    "SELECT 'object ' || object || ' holds the bytes of ' || count(*) || ' files'
     FROM inode WHERE object IS NOT NULL GROUP BY object HAVING count(*) > 1",
    "SELECT 'object ' || object || ' holds the bytes of ' || ino || ' and is trash'
     FROM inode WHERE object IN (SELECT object FROM trash)",
    "SELECT 'mirror ' || quote(d.name) || ' lies in folder ' || d.parent || ', which is not at the site'
     FROM dirent AS d JOIN inode AS i ON i.ino = d.ino JOIN inode AS p ON p.ino = d.parent
     WHERE p.own = 1 AND i.own = 0",
    "SELECT 'a shadow ' || quote(name) || ' lies in ' || parent || ', which is no folder'
     FROM shadow AS s WHERE NOT EXISTS (SELECT 1 FROM inode AS i WHERE i.ino = s.parent AND i.kind = 1)",
    "SELECT 'mirror ' || quote(d.name) || ' in folder ' || d.parent || ' has a shadow'
     FROM dirent AS d JOIN inode AS i ON i.ino = d.ino JOIN shadow AS s ON s.parent = d.parent AND s.name = d.name
     WHERE i.own = 0",
    "SELECT 'an attribute ' || quote(name) || ' of ' || ino || ', which is not there'
     FROM xattr AS x WHERE NOT EXISTS (SELECT 1 FROM inode AS i WHERE i.ino = x.ino)",
    "SELECT 'task ' || t.id || ' sends ' || quote(t.name) || ' in ' || t.parent || ', which is another file'
     FROM task AS t JOIN dirent AS d ON d.parent = t.parent AND d.name = t.name WHERE t.what = 0 AND d.ino <> t.ino",
    "SELECT 'a conflict of ' || ino || ', which is not there'
     FROM conflict AS c WHERE NOT EXISTS (SELECT 1 FROM inode AS i WHERE i.ino = c.ino)",
    "SELECT 'folder ' || i.ino || ' belongs to project ' || ifnull(i.project, 'none') || ' and lies in one of ' ||
       ifnull(p.project, 'none')
     FROM inode AS i JOIN dirent AS d ON d.ino = i.ino JOIN inode AS p ON p.ino = d.parent
     WHERE i.kind = 1 AND i.project IS NOT iif(d.parent > 2, p.project, i.ino)",
    "SELECT 'number ' || ino || ' is no folder and bears a project' FROM inode WHERE kind <> 1 AND project IS NOT NULL",
    "SELECT 'project ' || quote(name) || ' has its folder elsewhere' FROM project AS p WHERE NOT EXISTS
       (SELECT 1 FROM dirent AS d WHERE d.ino = p.root AND d.parent = iif(p.hidden, 2, 1)
          AND d.name = iif(p.hidden, CAST(CAST(p.root AS TEXT) AS BLOB), p.folder))",
    "SELECT 'cookie ' || cookie || ' is used ' || count(*) || ' times' FROM dirent GROUP BY cookie HAVING count(*) > 1",
    "SELECT 'the next number is ' || value || ', and it is taken' FROM meta WHERE key = 'next_id' AND value <= max(
       (SELECT max(ino) FROM inode), (SELECT ifnull(max(cookie), 0) FROM dirent))",
    "SELECT 'counters say ' || group_concat(key || ' ' || value, ', ' ORDER BY key) || '; there are ' || bytes ||
       ' bytes in ' || files || ' files, ' || folders || ' folders, ' || symlinks || ' links'
     FROM meta, (SELECT total(kind = 0) AS files, total(kind = 1) - 2 AS folders, total(kind = 2) AS symlinks,
                   total(iif(kind = 0, size, 0)) AS bytes FROM inode)
     WHERE key IN ('files', 'folders', 'symlinks', 'bytes')
     HAVING sum(value = iif(key = 'files', files, iif(key = 'folders', folders,
                  iif(key = 'symlinks', symlinks, bytes)))) <> 4",
    "SELECT 'a state ' || state || ' at site ' || quote(site) || ' in folder ' || folder || ', of which nothing is known'
     FROM site_file WHERE state NOT BETWEEN -1 AND 4 OR folder NOT IN (SELECT id FROM site_folder)",
    "SELECT 'scan ' || epoch || ' of ' || root || ', which is no project'
     FROM scan WHERE root NOT IN (SELECT root FROM project)",
    "SELECT 'task ' || id || ' counts for job ' || job || ', which is not there'
     FROM task AS t WHERE NOT EXISTS (SELECT 1 FROM job AS j WHERE j.id = t.job)",
    "SELECT 'a round of job ' || job || ', which is not there' FROM round WHERE job NOT IN (SELECT id FROM job)",
    "SELECT 'the round of job ' || job || ' is not over, and nothing of it is left to do' FROM round AS r
     WHERE state = 0 AND NOT EXISTS (SELECT 1 FROM task AS t
       WHERE t.job = r.job AND t.state IN (0, 1) AND t.tries < 3 AND (t.what <> 0 OR t.parent IS NOT NULL))",
    "SELECT 'task ' || id || ' is about ' || what || ', in state ' || state || ', and lacks a part'
     FROM task WHERE what NOT IN (0, 1, 2, 3, 4, 5) OR state NOT IN (0, 1, 2, 3, 4) OR (what <> 0 AND path IS NULL)
       OR (what >= 3) <> (target IS NOT NULL) OR (state = 4 AND what < 3)
       OR (what = 0 AND ((parent IS NULL) <> (name IS NULL) OR (parent IS NULL) <> (ino IS NULL)
         OR (parent IS NULL AND upload IS NULL)))",
    "SELECT 'the tasks of job ' || job || ' are not as many as was counted' FROM
       (SELECT job, total(n) AS n, total(b) AS b, total(abs(b)) AS all_b FROM
         (SELECT job, what, state, tries > 0 AS tried, 1 AS n, size AS b FROM task
          UNION ALL SELECT job, what, state, tried, -tasks, -bytes FROM tally)
        GROUP BY job, what, state, tried)
     WHERE n <> 0 OR abs(b) > all_b / 1000000000000 GROUP BY job",
    // Each folder has one parent, so what can't be reached from the two roots runs in a circle.
    "WITH RECURSIVE seen (ino) AS (VALUES (1), (2) UNION
       SELECT d.ino FROM seen JOIN dirent AS d ON d.parent = seen.ino JOIN inode AS i ON i.ino = d.ino AND i.kind = 1)
     SELECT 'folder ' || ino || ' can''t be reached' FROM inode WHERE kind = 1 AND ino NOT IN (SELECT ino FROM seen)",
];

impl ReadTxn<'_> {
    /// Returns what is wrong with the database, at most a few rows of each kind. Takes seconds for a million entries.
    pub(super) fn check(&self) -> Result<Vec<Problem>, StateError> {
        let mut found = Vec::new();
        let integrity = format!("PRAGMA integrity_check({SHOWN})");
        let invariants = INVARIANTS
            .iter()
            .map(|invariant| format!("SELECT * FROM ({invariant}) LIMIT {SHOWN}"));
        for sql in std::iter::once(integrity).chain(invariants) {
            match self.many(&sql, [], |row| Ok(Problem(row.get(0).db()?))) {
                Ok(problems) => found.extend(problems),
                // A page that can't be read stops this question, not the others.
                Err(StateError::Damaged { detail, .. }) => found.push(Problem(detail)),
                Err(e) => return Err(e),
            }
        }
        found.retain(|problem| problem.0 != "ok");
        Ok(found)
    }
}
