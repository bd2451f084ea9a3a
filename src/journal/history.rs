//! History as the journal keeps it: what it is asked, and what is known of uses beside.

use std::time::{Duration, Instant};

use super::line::{Line, Number};
use super::{Journal, Kept, Untold, use_row};
use crate::domain::history::{KEPT_FOR, Shown, Use, millis};

/// So many uses are shown at most, the last ones.
const MOST: usize = 10_000;

impl Journal {
    /// What there is of history. None is older than it is kept for.
    pub fn kept(&self) -> Kept {
        let kept = self.pen.kept();
        let oldest = millis(self.now().wall.saturating_sub(KEPT_FOR));
        Kept { since: kept.since.max(oldest), ..kept }
    }

    /// Docker shows these; it was asked then.
    pub fn shown(&self, all: Vec<Shown>, asked: Instant) {
        if !all.is_empty() {
            self.pen.write_sometime(vec![Line::Shown(all, asked)]);
        }
    }

    /// The uses that are wanted, the last first. They are read a page at a time, so that grants are written in between.
    ///
    /// # Errors
    /// The disk's.
    pub async fn uses(&self, is_wanted: impl Fn(&Use) -> bool + Clone + Send + 'static) -> Result<Vec<Use>, String> {
        let (mut found, mut before) = (Vec::new(), Some(Number::MAX));
        while let Some(number) = before.filter(|_| found.len() < MOST) {
            let is_wanted = is_wanted.clone();
            let page = self.pen.look(move |file, uses| {
                let Some(file) = file else { return Ok((uses.all_in_memory(), None)) };
                let page = file.look(|file| use_row::page(file, number))?;
                let next = page.last().map(|(number, _)| *number);
                Ok((page.into_iter().map(|(_, of)| of).filter(is_wanted).collect(), next))
            });
            let (page, next): (Vec<Use>, _) = page.await.unwrap_or_else(|| Err("it is closed".to_owned()))?;
            found.extend(page);
            before = next;
        }
        found.retain(is_wanted);
        found.truncate(MOST);
        Ok(found)
    }

    /// From now on the table is told of uses: of those that it was not, or `again` of all, but for what was over for longer than
    /// that.
    ///
    /// # Errors
    /// The disk's.
    pub async fn tells_of_uses(&self, within: Duration, again: bool) -> Result<(), String> {
        let since = millis(self.now().wall.saturating_sub(within));
        let look = self.pen.look(move |file, uses| {
            let numbers = file.map_or(Ok(Vec::new()), |file| file.look(|file| use_row::untold(file, since, again)))?;
            uses.is_to_tell(numbers);
            Ok(())
        });
        look.await.unwrap_or(Ok(()))
    }

    /// The last one that the table has, as it was told it.
    ///
    /// # Errors
    /// The disk's.
    pub async fn last_told(&self) -> Result<Option<Use>, String> {
        let look = self.pen.look(|file, _| file.map_or(Ok(None), |file| file.look(use_row::last_told)));
        look.await.unwrap_or(Ok(None))
    }

    /// The first so many that the table is to be told of.
    ///
    /// # Errors
    /// The disk's.
    pub async fn untold(&self, most: usize) -> Result<Vec<Untold>, String> {
        let look = self.pen.look(move |file, uses| {
            let mut untold = Vec::new();
            let mut gone = Vec::new();
            for (number, change) in uses.untold(most) {
                let of = match (uses.in_memory(number), file) {
                    (Some(of), _) => Some(of.clone()),
                    (None, Some(file)) => file.look(|file| use_row::at(file, number))?,
                    (None, None) => None,
                };
                match of {
                    Some(of) => untold.push(Untold::new(number, change, of)),
                    None => gone.push(number),
                }
            }
            uses.are_gone(&gone);
            Ok(untold)
        });
        look.await.unwrap_or(Ok(Vec::new()))
    }

    /// The table has them; what has changed since is still to be told.
    pub fn was_told(&self, told: Vec<Untold>) {
        self.pen.write_sometime(vec![Line::Told(told)]);
    }
}
