//! Jobs that one host does at a time: a lease row each, by the server's clock.
//!
//! Not GET_LOCK: two nodes of a Galera cluster grant the same one at once. A row has one writer there too, since the
//! second one fails at its commit.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::{StoreError, raw};
use super::pool::{Checkout, Pool};
use super::tries::Tries;
use super::trouble::Trouble;
use super::{column, text};

pub(super) async fn hold(
    pool: &Arc<Pool>,
    name: &str,
    holder: &str,
    span: Duration,
    until: Instant,
) -> Result<bool, StoreError> {
    let (name, holder, seconds) = (text(name), text(holder), raw::lease_seconds(span));
    Tries::new(pool, until).run(|conn, _| once(conn, &name, &holder, seconds)).await
}

/// Again after a lost answer is a renewal. Two hosts that insert the first row at once: one is told of a duplicate, and
/// looks again.
async fn once(mut conn: Checkout, name: &str, holder: &str, seconds: u64) -> Result<bool, Trouble> {
    // By primary key: locks its own row alone.
    let update = format!(
        "UPDATE task SET holder={holder},`until`=NOW()+INTERVAL {seconds} SECOND \
         WHERE name={name} AND (holder={holder} OR holder IS NULL OR `until` IS NULL OR `until`<NOW());\
         SELECT 1 FROM task WHERE name={name}"
    );
    let answers = conn.send(&update, 2).await?;
    let mut held = answers.first().is_some_and(|update| update.found > 0);
    if answers.last().is_some_and(|look| look.rows.is_empty()) {
        let insert =
            format!("INSERT INTO task (name,holder,`until`) VALUES ({name},{holder},NOW()+INTERVAL {seconds} SECOND)");
        conn.send(&insert, 1).await?;
        held = true;
    }
    conn.keep();
    Ok(held)
}

/// Whose names begin so, and whose time has run out within the last so long.
pub(super) async fn over(
    pool: &Arc<Pool>,
    prefix: &str,
    within: Duration,
    until: Instant,
) -> Result<Vec<String>, StoreError> {
    let read = format!(
        "SELECT name FROM task WHERE name LIKE {} AND `until` BETWEEN NOW()-INTERVAL {} SECOND AND NOW()",
        text(&format!("{prefix}%")),
        within.as_secs()
    );
    let attempt = async |mut conn: Checkout, _| {
        let rows = conn.rows(&read).await?.into_iter();
        conn.keep();
        rows.map(|mut row| column(&mut row, 0)).collect()
    };
    Tries::new(pool, until).run(attempt).await
}

/// Who is named there.
pub(super) async fn spoke(pool: &Arc<Pool>, name: &str, until: Instant) -> Result<Option<String>, StoreError> {
    let name = text(name);
    Tries::new(pool, until).run(|conn, _| look(conn, &name)).await
}

/// Names another. One host alone does.
pub(super) async fn speaks(pool: &Arc<Pool>, name: &str, mark: &str, until: Instant) -> Result<(), StoreError> {
    let (name, mark) = (text(name), text(mark));
    Tries::new(pool, until).run(|conn, _| name_now(conn, &name, &mark)).await
}

async fn look(mut conn: Checkout, name: &str) -> Result<Option<String>, Trouble> {
    let rows = conn.rows(&format!("SELECT holder FROM task WHERE name={name}")).await?;
    conn.keep();
    let holder = rows.into_iter().next().map(|mut row| column::<Option<String>>(&mut row, 0)).transpose()?;
    Ok(holder.flatten())
}

async fn name_now(mut conn: Checkout, name: &str, mark: &str) -> Result<(), Trouble> {
    let put = format!("INSERT INTO task (name,holder) VALUES ({name},{mark}) ON DUPLICATE KEY UPDATE holder={mark}");
    conn.send(&put, 1).await?;
    conn.keep();
    Ok(())
}
