//! What came of the rounds, for `status`.

use std::collections::BTreeMap;

use tokio::time::Instant;

/// What only a person can put right: one sentence for each thing that it is about.
pub type Problems = BTreeMap<String, String>;

/// What `status` shows.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// When the last round ended that read all there is to read.
    pub whole: Option<Instant>,
    /// What only a person can put right, as the last round saw it: a sentence for each thing that it is about.
    pub problems: Problems,
    /// Those of them that are Docker networks without a way into the VPC.
    misfits: Problems,
    /// How many such things there were in this life.
    pub conflicts: u64,
}

impl Outcome {
    /// Every problem is told once in the log, counted, and shown by `status` for as long as it lasts. `misfits`, `whole`:
    /// none if this round could not tell; what a look was blind to is not over.
    pub(super) fn note(&mut self, mut problems: Problems, misfits: Option<Problems>, whole: Option<Instant>) {
        if let Some(misfits) = misfits {
            self.misfits = misfits;
        }
        problems.extend(self.misfits.clone());
        for (_, problem) in problems.iter().filter(|(about, _)| !self.problems.contains_key(*about)) {
            tracing::error!("{problem}");
            self.conflicts += 1;
        }
        self.problems = problems;
        self.whole = whole.or(self.whole);
    }
}
