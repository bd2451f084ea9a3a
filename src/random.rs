//! Chance, from the operating system.
//!
//! `fastrand` seeds each of its threads from the clock and the thread's number: hosts of one image that boot alike may draw
//! the same there. It is good enough for pauses and draws once it is seeded from here, and for nothing that must be unique.

/// The operating system has none: there is no doing without.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random numbers ({0}): is getrandom(2) forbidden to the driver?")]
pub struct NoRandomness(String);

/// 64 bits that no other host draws. At boot it waits until the kernel has gathered enough.
///
/// # Errors
/// The kernel refuses.
pub fn number() -> Result<u64, NoRandomness> {
    getrandom::u64().map_err(|why| NoRandomness(why.to_string()))
}

/// From now on the pauses and draws of the calling thread are its own: for each thread of a process, as it starts.
pub fn seed_this_thread() {
    // Who cannot do without it asks for it, and says so.
    if let Ok(seed) = number() {
        fastrand::seed(seed);
    }
}
