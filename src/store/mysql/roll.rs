//! Hosts that enter themselves, and what they are asked. A host writes its own row of `host` alone; a row of `recycle` has its
//! asker and the one host that answers. Only what is of hosts that are no more is deleted: the driver's user need not have that
//! right, and without it they stay.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::id::SubnetId;
use crate::domain::roll::{Answer, HostEntry, KnownHost, Request};

use super::super::clock::AHEAD;
use super::super::{StoreError, raw};
use super::pool::{Checkout, Pool};
use super::tries::{Before, Tries};
use super::{column, maybe, text};

type Result<T> = std::result::Result<T, StoreError>;

/// Hosts to a statement: below the smallest `max_allowed_packet` in use.
const CHUNK: usize = 1000;

/// One packet: two statements by primary key.
pub(super) async fn enter(pool: &Arc<Pool>, host: &HostEntry, open: Duration, until: Instant) -> Result<Vec<Request>> {
    let instance = text(&host.instance);
    let (enis, version) = (text(&raw::enis(&host.enis)), text(&raw::at_most(&host.version, raw::VERSION)));
    let (journal, told) = (maybe(host.journal.as_deref()), maybe(raw::told(host.told.as_ref()).as_deref()));
    let packet = format!(
        "INSERT INTO host (instance,enis,version,journal,told,seen) VALUES ({instance},{enis},{version},{journal},{told},NOW()) \
         ON DUPLICATE KEY UPDATE enis={enis},version={version},journal={journal},told={told},seen=NOW();\
         SELECT subnet,token FROM recycle WHERE instance={instance} AND freed IS NULL \
         AND asked BETWEEN NOW(3)-INTERVAL {} MICROSECOND AND NOW(3)+INTERVAL {AHEAD} SECOND",
        open.as_micros()
    );
    let attempt = async |mut conn: Checkout, _: Before| {
        let answer = conn.send(&packet, 2).await?.pop();
        conn.keep();
        let rows = answer.map_or_else(Vec::new, |answer| answer.rows).into_iter();
        rows.map(|mut row| Ok(Request { subnet: SubnetId::stored(column(&mut row, 0)?), token: column(&mut row, 1)? }))
            .collect()
    };
    Tries::new(pool, until).run(attempt).await
}

pub(super) async fn host_seen(pool: &Arc<Pool>, instance: &str, until: Instant) -> Result<Option<Duration>> {
    let read =
        format!("SELECT GREATEST(0,TIMESTAMPDIFF(SECOND,seen,NOW())) FROM host WHERE instance={}", text(instance));
    let attempt = async |mut conn: Checkout, _: Before| {
        let rows = conn.rows(&read).await?;
        conn.keep();
        rows.into_iter().next().map(|mut row| Ok(Duration::from_secs(column(&mut row, 0)?))).transpose()
    };
    Tries::new(pool, until).run(attempt).await
}

pub(super) async fn hosts(pool: &Arc<Pool>, until: Instant) -> Result<Vec<KnownHost>> {
    const READ: &str =
        "SELECT instance,enis,version,journal,GREATEST(0,TIMESTAMPDIFF(SECOND,seen,NOW())),told FROM host";
    let attempt = async |mut conn: Checkout, _: Before| {
        let rows = conn.rows(READ).await?.into_iter();
        conn.keep();
        rows.map(|mut row| {
            let version: String = column(&mut row, 2)?;
            let entry = HostEntry {
                instance: column(&mut row, 0)?,
                enis: raw::enis_of(&column::<String>(&mut row, 1)?),
                journal: column(&mut row, 3)?,
                told: raw::told_of(column::<Option<String>>(&mut row, 5)?.as_deref(), &version),
                version,
            };
            Ok(KnownHost { entry, seen: Duration::from_secs(column(&mut row, 4)?) })
        })
        .collect()
    };
    Tries::new(pool, until).run(attempt).await
}

/// Those of these hosts that were not seen for so long, and what they were asked.
pub(super) async fn forget(pool: &Arc<Pool>, hosts: &[String], unseen: Duration, until: Instant) -> Result<()> {
    for some in hosts.chunks(CHUNK) {
        let names = some.iter().map(|host| text(host)).collect::<Vec<_>>().join(",");
        let packet = format!(
            "DELETE FROM recycle WHERE instance IN ({names});\
             DELETE FROM host WHERE instance IN ({names}) AND seen<=NOW()-INTERVAL {} SECOND",
            unseen.as_secs()
        );
        let attempt = async |mut conn: Checkout, _: Before| {
            conn.send(&packet, 2).await?;
            conn.keep();
            Ok(())
        };
        Tries::new(pool, until).run(attempt).await?;
    }
    Ok(())
}

/// Again after a lost answer asks the same. Rows in order of their key, so that two who ask cannot deadlock.
pub(super) async fn ask(pool: &Arc<Pool>, hosts: &[String], request: &Request, until: Instant) -> Result<()> {
    let (subnet, token) = (text(request.subnet.as_str()), text(&request.token));
    for some in hosts.chunks(CHUNK) {
        let values: Vec<String> = some.iter().map(|host| format!("({},{subnet},{token},NOW(3))", text(host))).collect();
        let insert = format!(
            "INSERT INTO recycle (instance,subnet,token,asked) VALUES {} ON DUPLICATE KEY UPDATE \
             token={token},asked=NOW(3),freed=NULL,pending=NULL,trouble=NULL",
            values.join(",")
        );
        let attempt = async |mut conn: Checkout, _: Before| {
            conn.send(&insert, 1).await?;
            conn.keep();
            Ok(())
        };
        Tries::new(pool, until).run(attempt).await?;
    }
    Ok(())
}

pub(super) async fn answer(
    pool: &Arc<Pool>,
    instance: &str,
    request: &Request,
    answer: &Answer,
    until: Instant,
) -> Result<()> {
    let trouble = answer.trouble.as_deref().map(|why| raw::at_most(why, raw::TROUBLE));
    let update = format!(
        "UPDATE recycle SET freed={},pending={},trouble={} WHERE instance={} AND subnet={} AND token={}",
        answer.freed,
        answer.pending,
        maybe(trouble.as_deref()),
        text(instance),
        text(request.subnet.as_str()),
        text(&request.token),
    );
    let attempt = async |mut conn: Checkout, _: Before| {
        conn.send(&update, 1).await?;
        conn.keep();
        Ok(())
    };
    Tries::new(pool, until).run(attempt).await
}

pub(super) async fn answers(
    pool: &Arc<Pool>,
    hosts: &[String],
    subnet: &SubnetId,
    until: Instant,
) -> Result<HashMap<String, Answer>> {
    let mut answers = HashMap::new();
    for some in hosts.chunks(CHUNK) {
        let names: Vec<String> = some.iter().map(|host| text(host)).collect();
        let read = format!(
            "SELECT instance,freed,pending,trouble FROM recycle \
             WHERE instance IN ({}) AND subnet={} AND freed IS NOT NULL",
            names.join(","),
            text(subnet.as_str())
        );
        let attempt = async |mut conn: Checkout, _: Before| {
            let rows = conn.rows(&read).await?.into_iter();
            conn.keep();
            rows.map(|mut row| {
                let pending = column::<Option<u32>>(&mut row, 2)?.unwrap_or_default();
                let answer = Answer { freed: column(&mut row, 1)?, pending, trouble: column(&mut row, 3)? };
                Ok((column::<String>(&mut row, 0)?, answer))
            })
            .collect::<std::result::Result<Vec<_>, _>>()
        };
        answers.extend(Tries::new(pool, until).run(attempt).await?);
    }
    Ok(answers)
}
