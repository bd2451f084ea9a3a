//! What an address is to whoever looks at a picture of its subnet.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::address::{AWS, EC2, Row, State};

/// What one address is: a state, and whose, seen from one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "`means` says it")]
pub enum Square {
    Lease,
    LeaseElsewhere,
    Idle,
    IdleElsewhere,
    Moving,
    Primary,
    Foreign,
    Reserved,
    Aws,
    Free,
    Absent,
}

impl Square {
    /// In the order of a legend.
    pub const ALL: [Self; 11] = [
        Self::Lease,
        Self::LeaseElsewhere,
        Self::Idle,
        Self::IdleElsewhere,
        Self::Moving,
        Self::Primary,
        Self::Foreign,
        Self::Reserved,
        Self::Aws,
        Self::Free,
        Self::Absent,
    ];

    /// What a row means; `is_here`: its ENI is one of the host that looks.
    pub fn of(row: &Row, is_here: bool) -> Self {
        let is_nobodys = || row.holder.as_deref().is_some_and(|by| by == AWS || by.starts_with(EC2));
        match (row.state(), is_here) {
            (State::Free, _) => Self::Free,
            (State::Reserved, _) if is_nobodys() => Self::Aws,
            (State::Reserved, _) => Self::Reserved,
            (State::On | State::Off | State::Ready | State::Lease | State::Foreign, _) if row.primary => Self::Primary,
            (State::On | State::Off, _) => Self::Moving,
            (State::Ready, true) => Self::Idle,
            (State::Ready, false) => Self::IdleElsewhere,
            (State::Lease, true) => Self::Lease,
            (State::Lease, false) => Self::LeaseElsewhere,
            (State::Foreign, _) => Self::Foreign,
        }
    }

    /// How it is written.
    pub fn letter(self) -> char {
        match self {
            Self::Lease => 'L',
            Self::LeaseElsewhere => 'l',
            Self::Idle => 'I',
            Self::IdleElsewhere => 'i',
            Self::Moving => '~',
            Self::Primary => 'p',
            Self::Foreign => 'x',
            Self::Reserved => 'R',
            Self::Aws => 'A',
            Self::Free => '.',
            Self::Absent => '?',
        }
    }

    /// From its letter.
    pub fn read(letter: char) -> Option<Self> {
        Self::ALL.into_iter().find(|square| square.letter() == letter)
    }

    /// For a legend.
    pub fn means(self) -> &'static str {
        match self {
            Self::Lease => "lease, this host",
            Self::LeaseElsewhere => "lease, another host",
            Self::Idle => "idle, this host",
            Self::IdleElsewhere => "idle, another host",
            Self::Moving => "on its way to or off an interface",
            Self::Primary => "primary address of an interface",
            Self::Foreign => "used by something else",
            Self::Reserved => "reserved",
            Self::Aws => "kept back by AWS",
            Self::Free => "free",
            Self::Absent => "not in the table",
        }
    }

    /// Whether somebody or something has it.
    pub fn is_taken(self) -> bool {
        !matches!(self, Self::Free | Self::Absent)
    }
}

/// As JSON has it.
impl fmt::Display for Square {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::address::Status;
    use crate::domain::id::{Boot, EniId, Kind, SubnetId};

    fn row(status: Status, kind: Option<Kind>) -> Row {
        Row {
            ip: "10.0.0.9".parse().unwrap(),
            subnet: SubnetId::stored("subnet-0123456789abcdef0".into()),
            status,
            iface: Some(EniId::stored("eni-0123456789abcdef0".into())),
            primary: false,
            in_block: false,
            claim: kind.map(|kind| Boot::random().unwrap().claim(1, kind)),
            holder: None,
            idle: Duration::from_secs(100),
            claimed: None,
        }
    }

    fn held(row: Row, holder: &str) -> Row {
        Row { holder: Some(holder.to_owned()), ..row }
    }

    #[test]
    fn each_row_has_its_square() {
        for (row, here, elsewhere) in [
            (row(Status::Free, None), '.', '.'),
            (row(Status::Allocated, Some(Kind::On)), '~', '~'),
            (row(Status::Allocated, Some(Kind::Off)), '~', '~'),
            (row(Status::Ready, None), 'I', 'i'),
            (row(Status::Occupied, Some(Kind::Lease)), 'L', 'l'),
            (row(Status::Occupied, None), 'x', 'x'),
            (Row { primary: true, ..row(Status::Occupied, None) }, 'p', 'p'),
            (Row { primary: true, ..row(Status::Ready, None) }, 'p', 'p'),
            (row(Status::Reserved, None), 'R', 'R'),
            (held(row(Status::Reserved, None), "printer"), 'R', 'R'),
            (held(row(Status::Reserved, None), "AWS"), 'A', 'A'),
            (held(row(Status::Reserved, None), "EC2: it is in a reservation"), 'A', 'A'),
            // A name that looks like it, of a container.
            (held(row(Status::Ready, None), "AWS"), 'I', 'i'),
        ] {
            assert_eq!([true, false].map(|is_here| Square::of(&row, is_here).letter()), [here, elsewhere], "{row:?}");
        }
    }

    #[test]
    fn letters_are_read_as_they_are_written() {
        for square in Square::ALL {
            assert_eq!(Square::read(square.letter()), Some(square));
            assert_eq!(serde_json::to_string(&square).unwrap(), format!("\"{square}\""));
        }
        assert_eq!(Square::read('#'), None);
    }
}
