//! The wall clock is set between two lives: no cool-down is shorter for it.

use ec2_ipam::driver::status::Status;

use super::fill;
use crate::support::clock::Clock;
use crate::support::host::{Fleet, Host, Kind, eventually};

async fn bed(fleet: &Fleet) -> (Host, String, Clock) {
    let (mut host, clock) = (fleet.host(1), Clock::new());
    for (name, value) in clock.environment() {
        host.set(&[(name, &value)]);
    }
    host.set(&[("EC2_IPAM_COOLDOWN", "1h")]);
    host.start().await;
    let pool = host.pool().await;
    (host, pool, clock)
}

async fn warm(host: &Host) -> usize {
    let status: Status = host.tell_json(&["status"]).await;
    status.enis.iter().map(|eni| eni.warm).sum()
}

#[tokio::test]
async fn no_cool_down_ends_because_the_clock_was_set_between_two_lives() {
    for hours in [6, -6] {
        let fleet = Fleet::new(Kind::Mariadb).await;
        let (mut host, pool, clock) = bed(&fleet).await;
        let hot = *fill(&host, &pool, 1).await.first().unwrap();
        host.kill();
        clock.set(hours * 3600);
        host.start().await;
        assert_ne!(host.lease(&pool).await, hot, "I10, {hours} h: it was let go a moment ago");
        assert_eq!(warm(&host).await, 0, "{hours} h");
        host.age(3601).await;
        eventually("it cools all the same", async || warm(&host).await == 1).await;
        // Once more, with the clock right again.
        host.kill();
        clock.set(0);
        host.start().await;
        assert_eq!(host.lease(&pool).await, hot, "{hours} h: an hour has passed by the clock that nobody sets");
    }
}
