//! What the tables look like and how an older one becomes so.
//!
//! Columns and meanings are those of the original ec2-ipam, whose tables are taken over as they stand. Steps only add:
//! the original goes on working beside us, and a table with more in it than we know is none of our business.

use std::collections::BTreeMap;

/// What a table of a MySQL server looks like, as `information_schema` tells it.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Of `allocation`; none if there is no such table.
    pub(super) engine: Option<String>,
    pub(super) columns: Vec<Column>,
    pub(super) keys: Vec<Key>,
    /// Of the other tables that are there.
    pub(super) beside: BTreeMap<String, Vec<Column>>,
}

#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    /// `varchar(32)`, `enum('free',…)`, …
    pub(super) kind: String,
    pub(super) nullable: bool,
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: String,
    /// In order, joined by commas.
    pub(super) columns: String,
}

/// One addition to the schema.
#[derive(Debug)]
pub(super) struct Step {
    adds: Adds,
    /// What it adds, in words.
    pub(super) what: &'static str,
    pub(super) sql: &'static str,
}

#[derive(Debug)]
enum Adds {
    Allocation,
    Column(&'static str),
    Key(&'static str, &'static str),
    /// A table beside that of addresses.
    Beside(&'static str),
    /// A column of such a one.
    BesideColumn(&'static str, &'static str),
}

/// The steps in order; their numbers are their places.
const STEPS: [Step; 14] = [
    // 1: exactly the original's table.
    Step {
        adds: Adds::Allocation,
        what: "the table `allocation`",
        sql: "CREATE TABLE IF NOT EXISTS `allocation` (\
              `ip` varchar(32) NOT NULL, `subnet` varchar(32) NOT NULL, \
              `status` enum('free','ready','allocated','occupied','reserved') NOT NULL DEFAULT 'free', \
              `iface` varchar(32) DEFAULT NULL, `primary` tinyint(1) NOT NULL, \
              `ts` timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, \
              PRIMARY KEY (`ip`), KEY `free` (`subnet`,`status`) USING BTREE\
              ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    },
    Step {
        adds: Adds::Column("claim"),
        what: "column claim",
        sql: "ALTER TABLE `allocation` ADD COLUMN `claim` varchar(64) NULL",
    },
    Step {
        adds: Adds::Column("claimed"),
        what: "column claimed",
        sql: "ALTER TABLE `allocation` ADD COLUMN `claimed` timestamp(3) NULL DEFAULT NULL",
    },
    Step {
        adds: Adds::Column("holder"),
        what: "column holder",
        sql: "ALTER TABLE `allocation` ADD COLUMN `holder` varchar(255) NULL",
    },
    // Without it a claim locks the whole free list, and SKIP LOCKED sees none of it.
    Step {
        adds: Adds::Key("cold", "subnet,status,ts"),
        what: "key cold",
        sql: "ALTER TABLE `allocation` ADD KEY `cold` (`subnet`,`status`,`ts`)",
    },
    // The rows of an ENI, and those that a claim has just taken. Drivers of before the journal, which may go on beside, also give
    // the coldest idle row by it.
    Step {
        adds: Adds::Key("mine", "iface,status,ts"),
        what: "key mine",
        sql: "ALTER TABLE `allocation` ADD KEY `mine` (`iface`,`status`,`ts`)",
    },
    Step {
        adds: Adds::Beside("task"),
        what: "the table `task`",
        sql: "CREATE TABLE IF NOT EXISTS `task` (\
              `name` varchar(64) NOT NULL PRIMARY KEY, `holder` varchar(64) DEFAULT NULL, \
              `until` timestamp NULL DEFAULT NULL) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    },
    Step {
        adds: Adds::Beside("host"),
        what: "the table `host`",
        sql: "CREATE TABLE IF NOT EXISTS `host` (\
              `instance` varchar(64) NOT NULL PRIMARY KEY, `enis` text NOT NULL, `version` varchar(64) NOT NULL, \
              `journal` varchar(64) DEFAULT NULL, `seen` timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP\
              ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    },
    Step {
        adds: Adds::Beside("recycle"),
        what: "the table `recycle`",
        sql: "CREATE TABLE IF NOT EXISTS `recycle` (\
              `instance` varchar(64) NOT NULL, `subnet` varchar(32) NOT NULL, `token` varchar(64) NOT NULL, \
              `asked` timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3), `freed` int DEFAULT NULL, \
              `pending` int DEFAULT NULL, `trouble` varchar(255) DEFAULT NULL, PRIMARY KEY (`instance`,`subnet`)\
              ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    },
    // What a host tells of itself, as JSON. Older drivers leave it as it is.
    Step {
        adds: Adds::BesideColumn("host", "told"),
        what: "column host.told",
        sql: "ALTER TABLE `host` ADD COLUMN `told` text NULL",
    },
    // `begun` and `ended` are Unix milliseconds of the hosts' own clocks; by `told`, the server's, old rows go. Empty unless
    // hosts are set to fill it.
    Step {
        adds: Adds::Beside("history"),
        what: "the table `history`",
        sql: "CREATE TABLE IF NOT EXISTS `history` (\
              `token` varchar(64) NOT NULL PRIMARY KEY, `ip` varchar(32) NOT NULL, `eni` varchar(32) NOT NULL, \
              `instance` varchar(64) DEFAULT NULL, `name` varchar(255) DEFAULT NULL, `renamed` varchar(255) DEFAULT NULL, \
              `container` varchar(255) DEFAULT NULL, `network` varchar(255) DEFAULT NULL, `named` tinyint(1) NOT NULL, \
              `begun` bigint NOT NULL, `found` tinyint(1) NOT NULL, `ended` bigint DEFAULT NULL, `how` varchar(32) DEFAULT NULL, \
              `told` timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, \
              KEY `of` (`ip`,`begun`), KEY `who` (`name`), KEY `now` (`renamed`), KEY `id` (`container`), \
              KEY `over` (`told`), KEY `open` (`ended`)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
    },
    // The /28 that the address lies in, as its number; NULL: nobody has written it yet. No generated column: with a virtual one
    // in a key MariaDB copies the table for each later column, MySQL refuses the key over a single odd `ip`, and a stored one
    // copies the table while the original waits.
    Step {
        adds: Adds::Column("net"),
        what: "column net",
        sql: "ALTER TABLE `allocation` ADD COLUMN `net` int unsigned NULL",
    },
    Step {
        adds: Adds::Column("in_block"),
        what: "column in_block",
        sql: "ALTER TABLE `allocation` ADD COLUMN `in_block` tinyint(1) NOT NULL DEFAULT 0",
    },
    // Whole and broken blocks are counted by it alone, a few at a time.
    Step {
        adds: Adds::Key("whole", "subnet,status,net"),
        what: "key whole",
        sql: "ALTER TABLE `allocation` ADD KEY `whole` (`subnet`,`status`,`net`)",
    },
];

/// Column, least length of its text (0: not a text), what its type begins with, whether NULL must be possible.
type Must = (&'static str, u32, &'static str, bool);

const COLUMNS: [Must; 11] = [
    ("ip", 15, "varchar(", false),
    ("subnet", 24, "varchar(", false),
    ("status", 0, "enum(", false),
    ("iface", 21, "varchar(", true),
    ("primary", 0, "tinyint", false),
    ("ts", 0, "timestamp", false),
    ("claim", 64, "varchar(", true),
    ("claimed", 0, "timestamp", true),
    ("holder", 255, "varchar(", true),
    ("net", 0, "int", true),
    ("in_block", 0, "tinyint", false),
];

/// Those of the other tables.
const BESIDE: [(&str, &[Must]); 4] = [
    ("task", &[("name", 64, "varchar(", false), ("holder", 64, "varchar(", true), ("until", 0, "timestamp", true)]),
    (
        "host",
        &[
            ("instance", 64, "varchar(", false),
            ("enis", 0, "text", false),
            ("version", 64, "varchar(", false),
            ("journal", 64, "varchar(", true),
            ("seen", 0, "timestamp", false),
            ("told", 0, "text", true),
        ],
    ),
    (
        "recycle",
        &[
            ("instance", 64, "varchar(", false),
            ("subnet", 24, "varchar(", false),
            ("token", 64, "varchar(", false),
            ("asked", 0, "timestamp(3)", false),
            ("freed", 0, "int", true),
            ("pending", 0, "int", true),
            ("trouble", 255, "varchar(", true),
        ],
    ),
    (
        "history",
        &[
            ("token", 64, "varchar(", false),
            ("ip", 15, "varchar(", false),
            ("eni", 21, "varchar(", false),
            ("instance", 64, "varchar(", true),
            ("name", 255, "varchar(", true),
            ("renamed", 255, "varchar(", true),
            ("container", 255, "varchar(", true),
            ("network", 255, "varchar(", true),
            ("named", 0, "tinyint", false),
            ("begun", 0, "bigint", false),
            ("found", 0, "tinyint", false),
            ("ended", 0, "bigint", true),
            ("how", 32, "varchar(", true),
            ("told", 0, "timestamp", false),
        ],
    ),
];

/// The steps that are still to be taken; or why this can never become our table.
pub(super) fn lacking(found: &Found) -> Result<Vec<&'static Step>, String> {
    if found.engine.is_some() {
        check(found)?;
    }
    for (table, columns) in BESIDE {
        if let Some(found) = found.beside.get(table) {
            check_columns(columns, found, Some(table))?;
        }
    }
    let column = |name: &str| found.columns.iter().any(|column| column.name == name);
    let key = |name: &str| found.keys.iter().any(|key| key.name == name);
    Ok(STEPS
        .iter()
        .filter(|step| match step.adds {
            Adds::Allocation => found.engine.is_none(),
            Adds::Column(name) => !column(name),
            Adds::Key(name, _) => !key(name),
            Adds::Beside(table) => !found.beside.contains_key(table),
            Adds::BesideColumn(table, name) => {
                !found.beside.get(table).is_some_and(|columns| columns.iter().any(|column| column.name == name))
            }
        })
        .collect())
}

/// All statements, for an empty database of a MySQL server.
pub fn whole() -> impl Iterator<Item = &'static str> {
    STEPS.iter().map(|step| step.sql)
}

/// What works and could be better.
pub(super) fn advice(found: &Found) -> Option<String> {
    let engine = found.engine.as_deref()?;
    (!engine.eq_ignore_ascii_case("InnoDB"))
        .then(|| format!("engine InnoDB, it is {engine} (ALTER TABLE `allocation` ENGINE=InnoDB)"))
}

/// `beside`: the table that it is, where it is not that of addresses.
fn check_columns(columns: &[Must], found: &[Column], beside: Option<&str>) -> Result<(), String> {
    let of = beside.map(|table| format!("{table}.")).unwrap_or_default();
    for &(name, length, kind, nullable) in columns {
        let Some(column) = found.iter().find(|column| column.name == name) else {
            let added = |step: &Step| match step.adds {
                Adds::Column(added) => beside.is_none() && added == name,
                Adds::BesideColumn(table, added) => beside == Some(table) && added == name,
                Adds::Allocation | Adds::Key(..) | Adds::Beside(_) => false,
            };
            if STEPS.iter().any(added) {
                continue;
            }
            return Err(format!("it has no column {of}{name}"));
        };
        let long_enough = column
            .kind
            .strip_prefix("varchar(")
            .and_then(|rest| rest.strip_suffix(')'))
            .is_none_or(|n| n.parse::<u32>().is_ok_and(|n| n >= length));
        let knows_all = name != "status"
            || ["free", "ready", "allocated", "occupied", "reserved"]
                .iter()
                .all(|status| column.kind.contains(&format!("'{status}'")));
        let fits = column.kind.starts_with(kind) && long_enough && knows_all && (column.nullable || !nullable);
        if !fits {
            let null = if column.nullable { "NULL" } else { "NOT NULL" };
            return Err(format!("its column {of}{name} is {} {null}", column.kind));
        }
    }
    Ok(())
}

fn check(found: &Found) -> Result<(), String> {
    check_columns(&COLUMNS, &found.columns, None)?;
    let key = |name: &str| found.keys.iter().find(|key| key.name == name).map(|key| key.columns.as_str());
    if key("PRIMARY") != Some("ip") {
        return Err("its primary key is not the column ip alone".to_owned());
    }
    for step in &STEPS {
        if let Adds::Key(name, columns) = step.adds
            && key(name).is_some_and(|found| found != columns)
        {
            return Err(format!("its key {name} is not on {columns}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn original() -> Found {
        let column = |name: &str, kind: &str, nullable| Column { name: name.into(), kind: kind.into(), nullable };
        Found {
            engine: Some("InnoDB".into()),
            columns: vec![
                column("ip", "varchar(32)", false),
                column("subnet", "varchar(32)", false),
                column("status", "enum('free','ready','allocated','occupied','reserved')", false),
                column("iface", "varchar(32)", true),
                column("primary", "tinyint(1)", false),
                column("ts", "timestamp", false),
            ],
            keys: vec![Key { name: "PRIMARY".into(), columns: "ip".into() }],
            beside: BTreeMap::new(),
        }
    }

    fn task() -> Vec<Column> {
        let column = |name: &str, kind: &str, nullable| Column { name: name.into(), kind: kind.into(), nullable };
        vec![
            column("name", "varchar(64)", false),
            column("holder", "varchar(64)", true),
            column("until", "timestamp", true),
        ]
    }

    fn what(found: &Found) -> Vec<&'static str> {
        lacking(found).unwrap().iter().map(|step| step.what).collect()
    }

    #[test]
    fn each_lack_has_its_step() {
        assert_eq!(lacking(&Found::default()).unwrap().len(), STEPS.len());
        let mut found = original();
        assert_eq!(
            what(&found),
            [
                "column claim",
                "column claimed",
                "column holder",
                "key cold",
                "key mine",
                "the table `task`",
                "the table `host`",
                "the table `recycle`",
                "column host.told",
                "the table `history`",
                "column net",
                "column in_block",
                "key whole"
            ]
        );
        found.columns.push(Column { name: "claim".into(), kind: "varchar(64)".into(), nullable: true });
        found.columns.push(Column { name: "note".into(), kind: "text".into(), nullable: true });
        found.keys.push(Key { name: "cold".into(), columns: "subnet,status,ts".into() });
        found.keys.push(Key { name: "theirs".into(), columns: "ts".into() });
        found.beside.insert("task".into(), task());
        assert_eq!(
            what(&found),
            [
                "column claimed",
                "column holder",
                "key mine",
                "the table `host`",
                "the table `recycle`",
                "column host.told",
                "the table `history`",
                "column net",
                "column in_block",
                "key whole"
            ]
        );
    }

    #[test]
    fn a_table_of_somebody_else_is_refused() {
        let mut found = original();
        found.columns.retain(|column| column.name != "subnet");
        assert_eq!(lacking(&found).unwrap_err(), "it has no column subnet");
        let mut found = original();
        found.columns.last_mut().unwrap().kind = "datetime".into();
        assert_eq!(lacking(&found).unwrap_err(), "its column ts is datetime NOT NULL");
        let mut found = original();
        found.columns.push(Column { name: "claim".into(), kind: "varchar(20)".into(), nullable: true });
        assert_eq!(lacking(&found).unwrap_err(), "its column claim is varchar(20) NULL");
        let mut found = original();
        found.keys.clear();
        assert!(lacking(&found).unwrap_err().contains("primary key"));
        let mut found = original();
        found.keys.push(Key { name: "cold".into(), columns: "ts".into() });
        assert_eq!(lacking(&found).unwrap_err(), "its key cold is not on subnet,status,ts");
        let mut found = Found { beside: [("task".to_owned(), task())].into(), ..original() };
        assert!(lacking(&found).is_ok());
        found.beside.values_mut().for_each(|columns| drop(columns.pop()));
        assert_eq!(lacking(&found).unwrap_err(), "it has no column task.until");
    }
}
