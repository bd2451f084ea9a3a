//! Whether rows were taken: those that carry a claim's token now.
//!
//! It also tells whether a packet whose answer was lost took effect, so it is looked up before anything else. A packet that was
//! given up may not have come to its end yet (a Galera cluster that loses a node holds commits back for seconds): as long as the
//! server has it in hand there is nothing to look up, and a second one would take twice.

use crate::domain::address::Row;
use crate::domain::id::{Claim, EniId};

use super::pool::{Answer, Checkout};
use super::read::{self, ROWS};
use super::tries::Before;
use super::trouble::{By, Trouble};
use super::{column, text};

pub(super) struct Token {
    token: String,
    /// What becomes of a row of the table `a` that is taken, but for `in_block`.
    pub(super) becomes: String,
    /// Reads the rows that carry it.
    pub(super) look: String,
}

impl Token {
    pub(super) fn new(eni: &EniId, claim: &Claim) -> Self {
        let token = claim.to_string();
        let (eni, claim) = (text(eni.as_str()), text(claim.as_str()));
        let becomes = format!(
            "a.status='allocated',a.iface={eni},a.claim={claim},a.claimed=NOW(3),a.holder=NULL,a.ts=a.ts,a.in_block"
        );
        let carries = format!("iface={eni} AND status='allocated' AND claim={claim}");
        Self { token, becomes, look: format!("{ROWS} FORCE INDEX (mine) WHERE {carries}") }
    }

    /// What earlier attempts have taken.
    pub(super) async fn taken(&self, conn: &mut Checkout, before: Before) -> Result<Vec<Row>, Trouble> {
        if before.unclear && self.in_hand(conn).await? {
            return Err(Trouble::Conflict(By::Calls));
        }
        // Several statements: the first ones may have taken some before others were in the way.
        if !before.unclear && !before.contended {
            return Ok(Vec::new());
        }
        read::rows(conn.rows(&self.look).await?, conn.pool())
    }

    /// Sends these statements and says what has been taken by now.
    pub(super) async fn take(&self, conn: &mut Checkout, statements: &[String]) -> Result<Vec<Row>, Trouble> {
        let packet = format!("{};{}", statements.join(";"), self.look);
        match conn.send(&packet, statements.len() + 1).await?.pop() {
            // All that it took is left out: on to others.
            Some(Answer { rows, .. }) if !rows.is_empty() => match read::rows(rows, conn.pool())? {
                none if none.is_empty() => Err(Trouble::Conflict(By::Rows)),
                taken => Ok(taken),
            },
            Some(_) | None => Ok(Vec::new()),
        }
    }

    /// Whether the server is still at a packet of an earlier attempt. A user without privileges sees its own.
    async fn in_hand(&self, conn: &mut Checkout) -> Result<bool, Trouble> {
        const INFO: usize = 7;
        let token = self.token.as_bytes();
        let mut found = false;
        for mut row in conn.rows("SHOW FULL PROCESSLIST").await? {
            let info: Option<Vec<u8>> = column(&mut row, INFO)?;
            found |= info.is_some_and(|info| info.windows(token.len()).any(|part| part == token));
        }
        Ok(found)
    }
}
