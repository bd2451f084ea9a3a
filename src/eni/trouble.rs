//! What is in the way of an ENI's task, as `status` shows it: each thing until what it is about goes right again.

use std::sync::Mutex;

use super::locked;
use super::task::Task;
use crate::outside::ec2::{Action, Ec2Error};

/// What went wrong, and has not gone right since.
#[derive(Debug, Default)]
pub(super) struct Trouble(Mutex<Standing>);

#[derive(Debug, Default)]
struct Standing {
    /// EC2's last refusal, and of what.
    ec2: Option<(Action, Ec2Error)>,
    /// Why the task's last step came to nothing: the table, or whatever else it needs.
    step: Option<String>,
    /// Why the step that is under way will have to be made again.
    pause: Option<String>,
}

impl Trouble {
    /// What EC2 said to a call.
    pub(super) fn answered(&self, action: Action, refusal: Option<&Ec2Error>) {
        let mut standing = locked(&self.0);
        match refusal {
            Some(why) => standing.ec2 = Some((action, why.clone())),
            None => {
                standing.ec2.take_if(|(refused, why)| *refused == action || is_over(why, action));
            }
        }
    }

    /// How a step of the task ended.
    pub(super) fn stepped(&self, failure: Option<String>) {
        let mut standing = locked(&self.0);
        standing.step = failure.or(standing.pause.take());
    }

    /// The step under way goes no further now, for those who wait to know.
    pub(super) fn pauses(&self, why: String) {
        locked(&self.0).pause = Some(why);
    }

    /// What EC2 refuses until somebody gives the driver other rights or credentials.
    pub(super) fn denied(&self) -> Option<String> {
        let standing = locked(&self.0);
        standing.ec2.as_ref().filter(|(_, why)| why.is_for_a_person()).map(|(_, why)| why.to_string())
    }

    /// One sentence.
    pub(super) fn last(&self) -> Option<String> {
        let standing = locked(&self.0);
        standing.step.clone().or_else(|| standing.ec2.as_ref().map(|(_, why)| why.to_string()))
    }
}

impl Task {
    /// What `status` shows of EC2's last word.
    pub(super) fn note(&self, action: Action, trouble: Option<&Ec2Error>) {
        if trouble.is_some_and(Ec2Error::is_unclear) {
            self.outside.poke.notify_one();
        }
        self.shared.trouble.answered(action, trouble);
    }
}

/// Whether a call that went right shows that this refusal of another one stands no more.
fn is_over(why: &Ec2Error, done: Action) -> bool {
    // That makes room.
    if matches!(why, Ec2Error::EniFull { .. } | Ec2Error::SubnetFull { .. } | Ec2Error::NoBlock { .. }) {
        return done == Action::Unassign;
    }
    // EC2 answers, and takes the credentials.
    why.is_transient() || matches!(why, Ec2Error::BadCredentials { .. } | Ec2Error::NoRegion)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied() -> Ec2Error {
        Ec2Error::Denied { action: Action::Assign, resource: "*".into(), why: String::new() }
    }

    #[test]
    fn a_refusal_stands_until_what_it_is_about_goes_right() {
        let eni = "eni-0123456789abcdef0".parse().unwrap();
        let full = || Ec2Error::EniFull { eni: std::clone::Clone::clone(&eni) };
        let throttled = || Ec2Error::Throttled { action: Action::Assign };
        for (why, done, stands) in [
            (denied(), Action::DescribeInterfaces, true),
            (denied(), Action::Unassign, true),
            (denied(), Action::Assign, false),
            (full(), Action::DescribeInterfaces, true),
            (full(), Action::Unassign, false),
            (throttled(), Action::DescribeInterfaces, false),
            (Ec2Error::BadCredentials { why: "x".into() }, Action::DescribeInterfaces, false),
        ] {
            let trouble = Trouble::default();
            trouble.answered(Action::Assign, Some(&why));
            assert_eq!(trouble.last(), Some(why.to_string()));
            trouble.answered(done, None);
            assert_eq!(trouble.last().is_some(), stands, "{why} after {done}");
        }
    }

    #[test]
    fn what_stopped_a_step_is_over_with_the_next_one_that_ends() {
        let trouble = Trouble::default();
        trouble.stepped(Some("the database is away".into()));
        trouble.answered(Action::Assign, Some(&denied()));
        assert_eq!(trouble.last().as_deref(), Some("the database is away"));
        trouble.answered(Action::Assign, None);
        assert!(trouble.last().is_some(), "EC2 has nothing to do with it");
        trouble.stepped(None);
        assert_eq!(trouble.last(), None);
    }
}
