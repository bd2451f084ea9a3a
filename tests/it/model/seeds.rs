//! Seeds that once found something; they run first.

use crate::support::host::Kind;

/// The kind of table, the seed, and what it found.
pub const FOUND: [(Kind, u64, &str); 13] = [
    (Kind::Mariadb, 9, "I2: an address just unassigned was given, as the database had lost both commits"),
    (Kind::Sqlite, 13, "I6: an idle address had the slot of one that was cut off from its container"),
    (
        Kind::Sqlite,
        47,
        "I1: a lease whose container and address were both gone was idle, and given, until the next look",
    ),
    (Kind::Mariadb, 71, "I1: a repeated release that waited for the table ended the next container's lease"),
    (Kind::Mariadb, 164, "I2: a row freed in an earlier life was idle again, as the database had lost it, and given"),
    (
        Kind::Mariadb,
        205,
        "I2: a look that began before an Unassign had the address on the interface when the database lost both",
    ),
    (Kind::Mariadb, 875, "I2: the same"),
    (Kind::Mariadb, 505, "I6: a lease that the database lost was leased again though its container had vanished"),
    (Kind::Mariadb, 508, "I6: an idle address had the slot of one that the database had lost"),
    (Kind::Mariadb, 147, "I3: an Assign landed after the repeated one was confirmed and its address freed"),
    (Kind::Sqlite, 124, "I3: the same with a file of each host's own"),
    (
        Kind::Mariadb,
        141,
        "I2: a describe that lagged had an address on the interface that an Unassign had taken off it",
    ),
    (Kind::Mariadb, 187, "this test itself: a row that the database lost named who had taken the address since"),
];
