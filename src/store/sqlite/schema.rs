//! The tables in an SQLite file: the same as on a server.

/// A step for each `user_version`; repeating them adds what is lacking. `ts`, `until`, `seen` and
/// `told` are Unix seconds, `claimed`, `asked`, `begun` and `ended` are Unix milliseconds.
pub(super) const STEPS: [&str; 3] = [
    "\
CREATE TABLE IF NOT EXISTS allocation (
  ip TEXT NOT NULL PRIMARY KEY, subnet TEXT NOT NULL,
  status TEXT NOT NULL DEFAULT 'free' CHECK (status IN ('free','ready','allocated','occupied','reserved')),
  iface TEXT, \"primary\" INTEGER NOT NULL, ts INTEGER NOT NULL DEFAULT (unixepoch()),
  claim TEXT, claimed INTEGER, holder TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS cold ON allocation (subnet, status, ts);
CREATE INDEX IF NOT EXISTS mine ON allocation (iface, status, ts);
CREATE TABLE IF NOT EXISTS task (name TEXT NOT NULL PRIMARY KEY, holder TEXT, until INTEGER) STRICT;
",
    "\
CREATE TABLE IF NOT EXISTS host (
  instance TEXT NOT NULL PRIMARY KEY, enis TEXT NOT NULL, version TEXT NOT NULL, journal TEXT, seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS recycle (
  instance TEXT NOT NULL, subnet TEXT NOT NULL, token TEXT NOT NULL, asked INTEGER NOT NULL,
  freed INTEGER, pending INTEGER, trouble TEXT, PRIMARY KEY (instance, subnet)
) STRICT, WITHOUT ROWID;
",
    "\
CREATE TABLE IF NOT EXISTS history (
  token TEXT NOT NULL PRIMARY KEY, ip TEXT NOT NULL, eni TEXT NOT NULL, instance TEXT, name TEXT, renamed TEXT, container TEXT,
  network TEXT, named INTEGER NOT NULL, begun INTEGER NOT NULL, found INTEGER NOT NULL, ended INTEGER, how TEXT,
  told INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS history_of ON history (ip, begun);
CREATE INDEX IF NOT EXISTS history_over ON history (told);
CREATE INDEX IF NOT EXISTS history_open ON history (ended) WHERE ended IS NULL;
",
];

/// Their columns, and the type of those that can be added to a table that has lost them.
pub(super) const COLUMNS: [(&str, &str, Option<&str>); 40] = [
    ("allocation", "ip", None),
    ("allocation", "subnet", None),
    ("allocation", "status", None),
    ("allocation", "iface", Some("TEXT")),
    ("allocation", "primary", None),
    ("allocation", "ts", None),
    ("allocation", "claim", Some("TEXT")),
    ("allocation", "claimed", Some("INTEGER")),
    ("allocation", "holder", Some("TEXT")),
    ("allocation", "in_block", Some("INTEGER NOT NULL DEFAULT 0")),
    ("task", "name", None),
    ("task", "holder", Some("TEXT")),
    ("task", "until", Some("INTEGER")),
    ("host", "instance", None),
    ("host", "enis", None),
    ("host", "version", None),
    ("host", "journal", Some("TEXT")),
    ("host", "seen", None),
    ("host", "told", Some("TEXT")),
    ("recycle", "instance", None),
    ("recycle", "subnet", None),
    ("recycle", "token", None),
    ("recycle", "asked", None),
    ("recycle", "freed", Some("INTEGER")),
    ("recycle", "pending", Some("INTEGER")),
    ("recycle", "trouble", Some("TEXT")),
    ("history", "token", None),
    ("history", "ip", None),
    ("history", "eni", None),
    ("history", "instance", Some("TEXT")),
    ("history", "name", Some("TEXT")),
    ("history", "renamed", Some("TEXT")),
    ("history", "container", Some("TEXT")),
    ("history", "network", Some("TEXT")),
    ("history", "named", None),
    ("history", "begun", None),
    ("history", "found", None),
    ("history", "ended", Some("INTEGER")),
    ("history", "how", Some("TEXT")),
    ("history", "told", None),
];
