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
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| end(what))
}

/// The same in a thread of its own, for work that blocks for as long as the process lives.
pub fn supervised_thread(what: &'static str, work: impl FnOnce() + Send + 'static) {
    let work = move || {
        panic_at(what);
        work();
    };
    std::thread::spawn(move || std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| end(what)));
}

fn end(what: &str) -> ! {
    tracing::error!("a fault in the driver ({what}): it ends, to begin anew");
    std::process::abort();
}
