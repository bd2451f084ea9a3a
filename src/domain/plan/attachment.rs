//! Whose an ENI is, by what IMDS and EC2 say of it.
//!
//! Either may be behind: IMDS leaves out for a while what is attached, and lists for hours what is not any more; EC2's lists
//! lag by seconds. EC2's word decides, and without it IMDS's, once it has stood for a while. An ENI that went to another
//! instance has that one's containers on its addresses, so nothing is given up on one source's word against the other's.

use std::fmt;
use std::time::Duration;

use super::settle_age;

/// What an ENI is attached to, by EC2's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attachment {
    /// This instance.
    Here,
    /// Another one, `i-...`.
    Elsewhere(String),
    /// Nothing; it keeps its addresses.
    Nothing,
    /// It was deleted.
    Deleted,
}

/// What was said of an ENI. Who did not answer, or was not asked, said nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// Whether IMDS lists it.
    pub imds: Option<bool>,
    /// What EC2 says.
    pub ec2: Option<Attachment>,
}

/// Whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// This instance's.
    Ours,
    /// Perhaps not this instance's any more: nothing may be concluded from what is seen of it.
    Doubtful,
    /// Not this instance's.
    NotOurs,
}

impl Attachment {
    /// From the instance that EC2 names, beside this one's id.
    pub fn of(instance: Option<&str>, own: &str) -> Self {
        match instance {
            Some(instance) if instance == own => Self::Here,
            Some(instance) => Self::Elsewhere(instance.to_owned()),
            None => Self::Nothing,
        }
    }
}

impl Word {
    /// Whose the ENI is, which has been doubted for so long.
    pub fn whose(&self, doubted: Duration) -> Whose {
        match (&self.ec2, self.imds) {
            (Some(Attachment::Here), _) | (None, None | Some(true)) => Whose::Ours,
            (Some(_), _) => Whose::NotOurs,
            (None, Some(false)) if doubted < settle_age() => Whose::Doubtful,
            (None, Some(false)) => Whose::NotOurs,
        }
    }

    /// What was said of another host's ENI, which was attached to that instance.
    pub fn of(&self, instance: &str) -> String {
        match &self.ec2 {
            Some(Attachment::Here) => format!("it is attached to {instance}"),
            Some(Attachment::Elsewhere(other)) => format!("it is attached to {other} and not to {instance} any more"),
            Some(Attachment::Nothing) => format!("it is not attached to {instance} any more, nor to another one"),
            Some(Attachment::Deleted) => "EC2 does not know it any more".to_owned(),
            None => "EC2 does not answer".to_owned(),
        }
    }

    /// Whether an address of it may be given up: one says that the ENI is here, and the other one does not deny it.
    pub fn may_give_up(&self) -> bool {
        let is_here = self.ec2.as_ref().map(|attachment| *attachment == Attachment::Here);
        let words = [self.imds, is_here];
        words.contains(&Some(true)) && !words.contains(&Some(false))
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ec2 {
            Some(Attachment::Here) => f.write_str("attached to this instance"),
            Some(Attachment::Elsewhere(instance)) => write!(f, "attached to {instance} and not to this instance"),
            Some(Attachment::Nothing) => f.write_str("attached to no instance"),
            Some(Attachment::Deleted) => f.write_str("not known to EC2 any more"),
            None => f.write_str("not attached to this instance, as far as IMDS knows, while EC2 does not answer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ec2_decides_and_without_it_what_imds_says_for_long() {
        use Attachment::{Deleted, Elsewhere, Here, Nothing};
        use Whose::{Doubtful, NotOurs, Ours};
        let other = || Some(Elsewhere("i-2".to_owned()));
        // IMDS, EC2; whose it is at first, after a settle age, and whether its addresses may be given up.
        let table = [
            (Some(true), Some(Here), Ours, Ours, true),
            (None, Some(Here), Ours, Ours, true),
            (Some(false), Some(Here), Ours, Ours, false),
            (Some(true), None, Ours, Ours, true),
            (None, None, Ours, Ours, false),
            (Some(false), None, Doubtful, NotOurs, false),
            (Some(true), other(), NotOurs, NotOurs, false),
            (Some(false), other(), NotOurs, NotOurs, false),
            (None, other(), NotOurs, NotOurs, false),
            (Some(true), Some(Nothing), NotOurs, NotOurs, false),
            (Some(false), Some(Nothing), NotOurs, NotOurs, false),
            (Some(true), Some(Deleted), NotOurs, NotOurs, false),
            (None, Some(Deleted), NotOurs, NotOurs, false),
        ];
        for (imds, ec2, at_first, later, may_give_up) in table {
            let word = Word { imds, ec2 };
            let whose = [Duration::ZERO, settle_age()].map(|doubted| word.whose(doubted));
            assert_eq!((whose, word.may_give_up()), ([at_first, later], may_give_up), "{word:?}");
        }
    }

    #[test]
    fn what_became_of_another_hosts_is_said_of_that_host() {
        use Attachment::{Deleted, Elsewhere, Nothing};
        for (attachment, said) in [
            (Elsewhere("i-2".to_owned()), "it is attached to i-2 and not to i-1 any more"),
            (Nothing, "it is not attached to i-1 any more, nor to another one"),
            (Deleted, "EC2 does not know it any more"),
        ] {
            assert_eq!(Word { imds: None, ec2: Some(attachment) }.of("i-1"), said);
        }
    }

    #[test]
    fn an_attachment_is_read_from_the_instance_that_is_named() {
        assert_eq!(Attachment::of(Some("i-1"), "i-1"), Attachment::Here);
        assert_eq!(Attachment::of(Some("i-2"), "i-1"), Attachment::Elsewhere("i-2".into()));
        assert_eq!(Attachment::of(None, "i-1"), Attachment::Nothing);
    }
}
