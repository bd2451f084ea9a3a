//! Brings the tables of a server up to date, while other hosts do the same and the original goes on working.

use super::super::schema::{self, Column, Found, Key, Step};
use super::super::{Connections, Description};
use super::column;
use super::pool::{Checkout, Pool};
use super::trouble::Trouble;

/// Our tables as they are.
const LOOK: &str = "\
    SELECT engine FROM information_schema.tables WHERE table_schema=DATABASE() AND table_name='allocation';\
    SELECT column_name,column_type,is_nullable,table_name FROM information_schema.columns \
    WHERE table_schema=DATABASE() AND table_name IN ('allocation','task','host','recycle','history');\
    SELECT index_name,GROUP_CONCAT(IF(sub_part IS NULL,column_name,'part of a column') ORDER BY seq_in_index SEPARATOR ',') \
    FROM information_schema.statistics WHERE table_schema=DATABASE() AND table_name='allocation' GROUP BY index_name";

/// A step that waits for the table's metadata lock makes every other host wait behind it, so it gives up soon and
/// leaves them a gap.
const SHORT: &str = "SET lock_wait_timeout=1";
const USUAL: &str = "SET lock_wait_timeout=3";

/// What a look, and a step if one was lacking, came to.
pub(super) enum Progress {
    Whole,
    Stepped,
    MayNot(Vec<&'static Step>),
}

/// Takes the first step that is lacking.
pub(super) async fn step(mut conn: Checkout) -> Result<Progress, Trouble> {
    let steps = lacking(&look(&mut conn).await?)?;
    let Some(next) = steps.first() else {
        conn.keep();
        return Ok(Progress::Whole);
    };
    conn.send(SHORT, 1).await?;
    match conn.send(next.sql, 1).await {
        Ok(_) => {
            conn.send(USUAL, 1).await?;
            conn.keep();
            Ok(Progress::Stepped)
        }
        // Another host was quicker; the connection is dropped, as after any error.
        Err(Trouble::There) => Ok(Progress::Stepped),
        Err(Trouble::MayNot(_)) => Ok(Progress::MayNot(steps)),
        Err(other) => Err(other),
    }
}

fn lacking(found: &Found) -> Result<Vec<&'static Step>, Trouble> {
    schema::lacking(found).map_err(|why| {
        Trouble::Strange(format!(
            "it has a table that is not ec2-ipam's, or that somebody changed ({why}); change it back, or give the driver a database of its own"
        ))
    })
}

async fn look(conn: &mut Checkout) -> Result<Found, Trouble> {
    let mut found = Found::default();
    let mut answers = conn.send(LOOK, 3).await?.into_iter().map(|answer| answer.rows);
    for mut row in answers.next().unwrap_or_default() {
        found.engine = Some(column::<Option<String>>(&mut row, 0)?.unwrap_or_default());
    }
    for mut row in answers.next().unwrap_or_default() {
        let of = match column::<String>(&mut row, 3)?.to_lowercase() {
            table if table == "allocation" => &mut found.columns,
            table => found.beside.entry(table).or_default(),
        };
        of.push(Column {
            name: column::<String>(&mut row, 0)?.to_lowercase(),
            kind: column::<String>(&mut row, 1)?.to_lowercase(),
            nullable: column::<String>(&mut row, 2)? == "YES",
        });
    }
    for mut row in answers.next().unwrap_or_default() {
        let columns = column::<String>(&mut row, 1)?.to_lowercase();
        found.keys.push(Key { name: column(&mut row, 0)?, columns });
    }
    Ok(found)
}

/// The steps that are lacking, none of them taken.
pub(super) async fn wanted(mut conn: Checkout) -> Result<Vec<&'static str>, Trouble> {
    let steps = lacking(&look(&mut conn).await?)?;
    conn.keep();
    Ok(steps.iter().map(|step| step.sql).collect())
}

pub(super) async fn description(mut conn: Checkout, pool: &Pool) -> Result<Description, Trouble> {
    let found = look(&mut conn).await?;
    let mut version = String::new();
    for mut row in conn.rows("SELECT VERSION()").await? {
        version = column(&mut row, 0)?;
    }
    let (mut logs, mut format) = (false, None);
    for mut row in conn.rows("SHOW VARIABLES WHERE variable_name IN ('log_bin','binlog_format')").await? {
        match column::<String>(&mut row, 0)?.as_str() {
            "log_bin" => logs = column::<String>(&mut row, 1)? == "ON",
            _ => format = Some(column(&mut row, 1)?),
        }
    }
    let mut connections = Connections { limit: 0, now: 0, most: 0 };
    let asked = "SHOW VARIABLES LIKE 'max\\_connections'; SHOW GLOBAL STATUS WHERE variable_name IN \
                 ('Threads_connected','Max_used_connections')";
    for mut row in conn.send(asked, 2).await?.into_iter().flat_map(|answer| answer.rows) {
        let count = column(&mut row, 1)?;
        match column::<String>(&mut row, 0)?.as_str() {
            "max_connections" => connections.limit = count,
            "Threads_connected" => connections.now = count,
            _ => connections.most = count,
        }
    }
    conn.keep();
    let steps = lacking(&found)?;
    let lacking =
        steps.iter().map(|step| format!("{} ({})", step.what, step.sql)).chain(schema::advice(&found)).collect();
    let binlog_format = format.filter(|_| logs);
    Ok(Description {
        kind: "mysql",
        at: pool.at.clone(),
        version,
        binlog_format,
        connections: Some(connections),
        lacking,
        left_out: pool.left_out.told(),
    })
}
