//! What a session must be like for our statements, whatever the server's defaults are.
//!
//! Most variables are known to every server and may be set by every user: they are simply set. The others are looked at, and
//! set only where they are not right already, so that a server that does not know one of them, or a user who may not set
//! it, is no trouble where nothing is wrong.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::trouble::Trouble;

/// Known to all servers. Rows of other hosts are locked for milliseconds; a call tries again until its deadline anyway.
/// MariaDB reads the first of the comments, MySQL the second. `wait_timeout` outlasts the looks at an idle connection, and a host that vanished does not hold its connections for the
/// usual eight hours.
pub(super) const SESSION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;\
    SET time_zone='+00:00',sql_mode='STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION',autocommit=1,completion_type='NO_CHAIN',\
    innodb_lock_wait_timeout=3,lock_wait_timeout=3,wait_timeout=600,net_read_timeout=30,net_write_timeout=60,\
    sql_select_limit=18446744073709551615,sql_big_selects=1,sql_safe_updates=0,sql_auto_is_null=0,\
    foreign_key_checks=1,unique_checks=1,group_concat_max_len=1048576,max_sort_length=1024,optimizer_switch='default'\
    /*M!100600,max_statement_time=0*//*!80001,max_execution_time=0*/;\
    SET NAMES utf8mb4";

/// A variable, the values that are right, and how the first of them is written in a SET.
type Variable = (&'static str, &'static [&'static str], &'static str);

/// Known to some servers.
const SOME_KNOW: [Variable; 8] = [
    ("idle_transaction_timeout", &["0"], "0"),
    ("idle_write_transaction_timeout", &["0"], "0"),
    ("idle_readonly_transaction_timeout", &["0"], "0"),
    ("max_session_mem_used", &["9223372036854775807"], "9223372036854775807"),
    // It answers reads from memory, on a Galera node without waiting for what other nodes have committed.
    ("query_cache_type", &["OFF"], "'OFF'"),
    // A list of addresses is looked up by key, not joined.
    ("in_predicate_conversion_threshold", &["1000"], "1000"),
    // It may hold IGNORE_INDEX_ONLY_FOR_JOIN.
    ("old_mode", &["", "UTF8_IS_UTF8MB3"], "''"),
    ("alter_algorithm", &["DEFAULT"], "'DEFAULT'"),
];

/// On a node of a Galera cluster: reads wait for what other nodes have committed, and only a node that is in its cluster
/// answers; new tables are made on all of them.
const OF_A_NODE: [Variable; 3] = [
    ("wsrep_sync_wait", &["7"], "7"),
    ("wsrep_dirty_reads", &["OFF"], "'OFF'"),
    ("wsrep_osu_method", &["TOI"], "'TOI'"),
];

/// The largest packet that we send is below this (`change`, `insert`).
const PACKET: u64 = 1 << 20;

/// What `variable_name IN (...)` has to name.
pub(super) fn looked_at() -> String {
    let names = SOME_KNOW.iter().chain(&OF_A_NODE).map(|(name, ..)| *name);
    let names = names.chain(["log_bin", "binlog_format", "max_allowed_packet"]);
    names.map(|name| format!("'{name}'")).collect::<Vec<_>>().join(",")
}

/// Sets what is not right; or says what the server must change.
pub(super) async fn settle(conn: &mut Conn, told: &[(String, String)], is_node: bool) -> Result<(), Trouble> {
    if let Some(size) = value(told, "max_allowed_packet").and_then(|size| size.parse::<u64>().ok())
        && size < PACKET
    {
        return Err(Trouble::Refused(format!(
            "its max_allowed_packet is {size}, and the driver's statements need {PACKET}: SET GLOBAL \
             max_allowed_packet=16777216, and in the server's configuration"
        )));
    }
    if let Some(set) = lacking(told, is_node) {
        conn.query_drop(set).await?;
    }
    if needs_rows_in_log(told, is_node) && conn.query_drop("SET SESSION binlog_format='ROW'").await.is_err() {
        return Err(Trouble::Refused(
            "its binlog_format is STATEMENT, which cannot replicate claims that skip locked rows, and the database user may not \
             change it for itself: SET GLOBAL binlog_format='ROW', and in the server's configuration"
                .to_owned(),
        ));
    }
    Ok(())
}

/// The statement that sets what is not right.
fn lacking(told: &[(String, String)], is_node: bool) -> Option<String> {
    let of_a_node: &[Variable] = if is_node { &OF_A_NODE } else { &[] };
    let wrong = SOME_KNOW.iter().chain(of_a_node).filter(|(name, right, _)| {
        value(told, name).is_some_and(|found| !right.iter().any(|right| right.eq_ignore_ascii_case(found)))
    });
    let set: Vec<_> = wrong.map(|(name, _, set)| format!("SESSION {name}={set}")).collect();
    (!set.is_empty()).then(|| format!("SET {}", set.join(",")))
}

/// MIXED will do: what cannot be replicated as a statement goes as rows. A Galera node writes one whether it keeps it or not.
fn needs_rows_in_log(told: &[(String, String)], is_node: bool) -> bool {
    let keeps_log = is_node || value(told, "log_bin").is_some_and(|logs| logs != "OFF" && logs != "0");
    keeps_log && value(told, "binlog_format") == Some("STATEMENT")
}

fn value<'a>(told: &'a [(String, String)], name: &str) -> Option<&'a str> {
    told.iter().find(|(told, _)| told.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(words: &[(&str, &str)]) -> Vec<(String, String)> {
        words.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn only_what_is_not_right_is_set() {
        let usual = told(&[
            ("idle_transaction_timeout", "0"),
            ("old_mode", "UTF8_IS_UTF8MB3"),
            ("alter_algorithm", "DEFAULT"),
            ("wsrep_sync_wait", "0"),
        ]);
        assert_eq!(lacking(&usual, false), None, "one round trip less to each new connection");
        assert_eq!(lacking(&usual, true).unwrap(), "SET SESSION wsrep_sync_wait=7");
        assert_eq!(
            lacking(&told(&[("idle_transaction_timeout", "5")]), false).unwrap(),
            "SET SESSION idle_transaction_timeout=0"
        );
        let odd = told(&[("query_cache_type", "ON"), ("wsrep_OSU_method", "RSU"), ("wsrep_sync_wait", "7")]);
        let set = "SET SESSION query_cache_type='OFF',SESSION wsrep_osu_method='TOI'";
        assert_eq!(lacking(&odd, true).unwrap(), set);
    }

    #[test]
    fn a_binary_log_of_statements_is_in_the_way_where_there_is_one() {
        for (log, format, is_node, needs) in [
            ("OFF", "STATEMENT", false, false),
            ("ON", "STATEMENT", false, true),
            ("OFF", "STATEMENT", true, true),
            ("ON", "MIXED", false, false),
            ("ON", "ROW", true, false),
        ] {
            let told = told(&[("log_bin", log), ("binlog_format", format)]);
            assert_eq!(needs_rows_in_log(&told, is_node), needs, "{log} {format} {is_node}");
        }
        assert!(!needs_rows_in_log(&[], false), "a server of tomorrow knows no format but rows");
    }
}
