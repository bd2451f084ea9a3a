//! The real binary is killed at every step boundary and at random moments, and started again: rows, EC2 and Docker agree
//! within two reconciles begun after the settle age (I6), no address is given twice (I1), what is given is on the ENI (I2),
//! and nothing live is released.
//!
//! - `bed` a host, and the test as its Docker Engine; `agreement` what must hold, and how many reconciles it may take
//! - `ways` what leads to each point; `points` every point on every way, once, twice, and with EC2 unclear
//! - `random` kills at any moment while containers come and go

mod agreement;
mod bed;
mod points;
mod random;
mod ways;
