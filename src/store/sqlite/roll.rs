//! Hosts that enter themselves, and what they are asked: in a file of one host, this one alone.

use std::collections::HashMap;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::domain::id::SubnetId;
use crate::domain::roll::{Answer, HostEntry, KnownHost, Request};

use super::super::clock::AHEAD;
use super::super::raw;
use super::trouble::Trouble;
use super::write::NOW;

pub(super) fn enter(file: &mut Connection, host: &HostEntry, open: Duration) -> Result<Vec<Request>, Trouble> {
    let change = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let HostEntry { instance, enis, version, journal, told } = host;
    change.execute(
        "INSERT INTO host (instance, enis, version, journal, told, seen) VALUES (?1, ?2, ?3, ?4, ?5, unixepoch()) \
         ON CONFLICT (instance) DO UPDATE SET enis = ?2, version = ?3, journal = ?4, told = ?5, seen = unixepoch()",
        params![instance, raw::enis(enis), raw::at_most(version, raw::VERSION), journal, raw::told(told.as_ref())],
    )?;
    let asked = {
        let read = format!(
            "SELECT subnet, token FROM recycle WHERE instance = ?1 AND freed IS NULL AND asked BETWEEN {NOW} - ?2 \
             AND {NOW} + {AHEAD} * 1000"
        );
        let mut read = change.prepare_cached(&read)?;
        let open = i64::try_from(open.as_millis()).unwrap_or(i64::MAX / 2);
        let asked = read.query_map(params![instance, open], |row| {
            Ok(Request { subnet: SubnetId::stored(row.get(0)?), token: row.get(1)? })
        })?;
        asked.collect::<Result<_, _>>()?
    };
    change.commit()?;
    Ok(asked)
}

pub(super) fn host_seen(file: &Connection, instance: &str) -> Result<Option<Duration>, Trouble> {
    let mut read = file.prepare_cached("SELECT max(0, unixepoch() - seen) FROM host WHERE instance = ?1")?;
    let seen = read.query_row([instance], |row| row.get::<_, u32>(0)).optional()?;
    Ok(seen.map(|seconds| Duration::from_secs(u64::from(seconds))))
}

pub(super) fn hosts(file: &Connection) -> Result<Vec<KnownHost>, Trouble> {
    let mut read =
        file.prepare_cached("SELECT instance, enis, version, journal, max(0, unixepoch() - seen), told FROM host")?;
    let hosts = read.query_map([], |row| {
        let enis = raw::enis_of(&row.get::<_, String>(1)?);
        let version: String = row.get(2)?;
        let told = raw::told_of(row.get::<_, Option<String>>(5)?.as_deref(), &version);
        let entry = HostEntry { instance: row.get(0)?, enis, version, journal: row.get(3)?, told };
        Ok(KnownHost { entry, seen: Duration::from_secs(u64::from(row.get::<_, u32>(4)?)) })
    })?;
    Ok(hosts.collect::<Result<_, _>>()?)
}

pub(super) fn forget(file: &mut Connection, hosts: &[String], unseen: Duration) -> Result<(), Trouble> {
    let change = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let unseen = i64::try_from(unseen.as_secs()).unwrap_or(i64::MAX);
    for host in hosts {
        change.execute("DELETE FROM recycle WHERE instance = ?1", [host])?;
        change.execute("DELETE FROM host WHERE instance = ?1 AND seen <= unixepoch() - ?2", params![host, unseen])?;
    }
    change.commit()?;
    Ok(())
}

pub(super) fn ask(file: &mut Connection, hosts: &[String], request: &Request) -> Result<(), Trouble> {
    let change = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let ask = format!(
        "INSERT INTO recycle (instance, subnet, token, asked) VALUES (?1, ?2, ?3, {NOW}) ON CONFLICT (instance, subnet) \
         DO UPDATE SET token = ?3, asked = {NOW}, freed = NULL, pending = NULL, trouble = NULL"
    );
    for host in hosts {
        change.execute(&ask, params![host, request.subnet.as_str(), request.token])?;
    }
    change.commit()?;
    Ok(())
}

pub(super) fn answer(file: &Connection, instance: &str, request: &Request, answer: &Answer) -> Result<(), Trouble> {
    let trouble = answer.trouble.as_deref().map(|why| raw::at_most(why, raw::TROUBLE));
    file.execute(
        "UPDATE recycle SET freed = ?1, pending = ?2, trouble = ?3 WHERE instance = ?4 AND subnet = ?5 AND token = ?6",
        params![answer.freed, answer.pending, trouble, instance, request.subnet.as_str(), request.token],
    )?;
    Ok(())
}

pub(super) fn answers(
    file: &Connection,
    hosts: &[String],
    subnet: &SubnetId,
) -> Result<HashMap<String, Answer>, Trouble> {
    let mut read = file.prepare_cached(
        "SELECT freed, coalesce(pending, 0), trouble FROM recycle WHERE instance = ?1 AND subnet = ?2 AND freed IS NOT NULL",
    )?;
    let mut answers = HashMap::new();
    for host in hosts {
        let answer = read.query_row(params![host, subnet.as_str()], |row| {
            Ok(Answer { freed: row.get(0)?, pending: row.get(1)?, trouble: row.get(2)? })
        });
        answers.extend(answer.optional()?.map(|answer| (host.clone(), answer)));
    }
    Ok(answers)
}
