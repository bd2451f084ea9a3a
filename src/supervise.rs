//! Work in the background must not die alone.
//!
//! A panic ends the task that it happens in, and nothing else notices: rows would not be compared any more, an ENI not be
//! served, an address not be let go (I6). So whatever nobody would begin anew takes the process along. Docker or systemd
//! starts a new life at once, and a crash loses nothing. Only what one caller asked for ends alone: the caller is told.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use crate::fail_point::panic_at;

/// The same work; a panic in it ends the process.
pub async fn supervised<T>(what: &'static str, work: impl Future<Output = T>) -> T {
    let work = async {
        panic_at(what);
        work.await
    };
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(done) => done,
        Err(_) => {
            tracing::error!("a fault in the driver ({what}): it ends, to begin anew");
            std::process::abort();
        }
    }
}
