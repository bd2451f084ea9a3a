//! What a test turns and reads while the driver runs: faults, lag, limits, and the logs.

use std::time::Duration;

use crate::Vpc;
use crate::calls::{Call, Outcome};
use crate::faults::{CallClass, Fault, TokenBucket};
use crate::imds::{ImdsMode, ImdsRead, ROLE_SECRET, ROLE_TOKEN};

impl Vpc {
    /// Queues a fault.
    pub fn fail(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// Drops all faults that have not struck, and says how many there were.
    pub fn forget_faults(&self) -> usize {
        std::mem::take(&mut self.lock().faults).len()
    }

    /// Refuses, or permits again, an action for lack of permission, its dry runs included.
    pub fn deny(&self, action: &str, is_denied: bool) {
        let mut state = self.lock();
        if is_denied {
            state.denied.insert(action.to_owned());
        } else {
            state.denied.remove(action);
        }
    }

    /// Gives a class of calls a token bucket, or frees it from its own.
    pub fn throttle(&self, class: CallClass, bucket: Option<TokenBucket>) {
        let mut state = self.lock();
        match bucket {
            Some(bucket) => drop(state.buckets.insert(class, bucket)),
            None => drop(state.buckets.remove(&class)),
        }
    }

    /// How long every EC2 call takes; it takes effect after half of that.
    pub fn latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// How long the calls of one action take.
    pub fn latency_of(&self, action: &str, latency: Duration) {
        self.lock().latency_of.insert(action.to_owned(), latency);
    }

    /// Describes show the state as it was this long ago.
    pub fn describe_lag(&self, lag: Duration) {
        self.lock().describe_lag = lag;
    }

    /// The most entries on a page, for calls that ask for pages at all.
    pub fn page_size(&self, size: usize) {
        self.lock().page_size = Some(size);
    }

    /// Hangs up on every EC2 call, without effect and without a line in the log.
    pub fn ec2_down(&self, is_down: bool) {
        self.lock().ec2_down = is_down;
    }

    /// How late IMDS shows what came and what went.
    pub fn imds_lag(&self, assign: Duration, unassign: Duration) {
        let mut state = self.lock();
        state.imds_assign_lag = assign;
        state.imds_unassign_lag = unassign;
    }

    /// How the metadata service of every instance is doing.
    pub fn imds_mode(&self, mode: ImdsMode) {
        let mut state = self.lock();
        state.imds_mode = mode;
        state.imds_modes.clear();
    }

    /// How the metadata service of one instance is doing.
    pub fn imds_mode_of(&self, instance: &str, mode: ImdsMode) {
        self.lock().imds_modes.insert(instance.to_owned(), mode);
    }

    /// Closes every IMDS connection without an answer.
    pub fn imds_down(&self, is_down: bool) {
        self.imds_mode(if is_down { ImdsMode::Down } else { ImdsMode::Up });
    }

    /// How long every IMDS request takes.
    pub fn imds_latency(&self, latency: Duration) {
        self.lock().imds_latency = latency;
    }

    /// Answers 404, or not any more, to paths that end with `item`.
    pub fn imds_absent(&self, item: &str, is_absent: bool) {
        let mut state = self.lock();
        if is_absent {
            state.imds_absent.insert(item.to_owned());
        } else {
            state.imds_absent.remove(item);
        }
    }

    /// Leaves an attached ENI out of what IMDS lists, or not any more.
    pub fn imds_omits(&self, eni: &str, is_left_out: bool) {
        let mut state = self.lock();
        if is_left_out {
            state.imds_omits.insert(eni.to_owned());
        } else {
            state.imds_omits.remove(eni);
        }
    }

    /// Answers paths that end with `item` with nothing, or not any more.
    pub fn imds_blank(&self, item: &str, is_blank: bool) {
        let mut state = self.lock();
        if is_blank {
            state.imds_blank.insert(item.to_owned());
        } else {
            state.imds_blank.remove(item);
        }
    }

    /// Whether the instances have an IAM role, hence credentials.
    pub fn imds_role(&self, has_role: bool) {
        self.lock().imds_has_role = has_role;
    }

    /// What the auto-scaling group of an instance wants of it, such as `Terminated`; before, it has no group.
    pub fn lifecycle(&self, instance: &str, wanted: &str) {
        self.lock().lifecycle.insert(instance.to_owned(), wanted.to_owned());
    }

    /// Makes all tokens handed out so far invalid.
    pub fn imds_forget_tokens(&self) {
        self.lock().imds_tokens.clear();
    }

    /// What the metadata services handed out and nobody else may learn.
    pub fn secrets(&self) -> Vec<String> {
        let tokens = self.lock().imds_secrets.clone();
        tokens.into_iter().chain([ROLE_SECRET.to_owned(), ROLE_TOKEN.to_owned()]).collect()
    }

    /// The requests that the metadata services saw.
    pub fn imds_reads(&self) -> Vec<ImdsRead> {
        self.lock().imds_log.clone()
    }

    /// The calls since the start, or since they were forgotten, as they arrived.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().log.calls.values().cloned().collect()
    }

    /// How many calls of `action` arrived, whatever became of them.
    pub fn count(&self, action: &str) -> usize {
        self.lock().log.calls.values().filter(|call| call.action == action).count()
    }

    /// How many calls of `action` were answered with success.
    pub fn count_ok(&self, action: &str) -> usize {
        self.lock().log.calls.values().filter(|call| call.action == action && call.outcome == Outcome::Ok).count()
    }

    /// Empties the logs of EC2 and IMDS.
    pub fn forget_calls(&self) {
        let mut state = self.lock();
        state.log.calls.clear();
        state.imds_log.clear();
    }
}
