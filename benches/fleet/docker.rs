//! `docker run` on a real Engine: with this driver, and with Docker's own IPAM on the same network driver, in turn.

use std::time::Instant;

use serde_json::json;

use super::figures::{Report, Times, ms, quantile};
use crate::support::engine::IMAGE;
use crate::support::plugin::{BACK, Bed, FRONT, PLUGIN, Setup};

const PAIRS: usize = 30;

pub fn run(report: &mut Report) {
    let bed = Bed::new(Setup { settings: "EC2_IPAM_COOLDOWN=1s EC2_IPAM_WARM_TARGET=8", ..Setup::default() });
    bed.docker(&format!("plugin enable {PLUGIN}"));
    bed.network("ours", &FRONT, &format!("--subnet {}", FRONT.cidr)).unwrap();
    let (driver, parent) = (bed.driver, BACK.name);
    bed.docker(&format!("network create -d {driver} -o parent={parent} --subnet {} builtin", BACK.cidr));
    let run = |network: &str| {
        let began = Instant::now();
        bed.docker(&format!("run --rm --network {network} {IMAGE} sh -c true"));
        began.elapsed()
    };
    bed.wait_for_warmth(0);
    let (mut ours, mut builtin) = (Times::default(), Times::default());
    for pair in 0..PAIRS + 2 {
        // Who comes first changes, so that neither has the advantage of it.
        let one = |network, times: &mut Times| {
            let time = run(network);
            if pair >= 2 {
                times.push(time);
            }
        };
        if pair % 2 == 0 {
            one("ours", &mut ours);
            one("builtin", &mut builtin);
        } else {
            one("builtin", &mut builtin);
            one("ours", &mut ours);
        }
    }
    let differences: Vec<f64> = ours.all().iter().zip(builtin.all()).map(|(ours, builtin)| ours - builtin).collect();
    let (low, high) = interval(&differences);
    report.add(
        "docker run, warm, SQLite",
        format!("p50 {}", ms(ours.median())),
        format!(
            "Docker's own IPAM, {driver} too: p50 {}; difference {:.1} ms, 95 % between {low:.1} and {high:.1} ms ({PAIRS} pairs)",
            ms(builtin.median()),
            quantile(&differences, 0.5)
        ),
        "the interval reaches zero, or under 10 ms",
        json!({ "ours": ours.json(), "builtin": builtin.json(), "differences_ms": differences, "low_ms": low, "high_ms": high }),
    );
    bed.docker("network rm ours builtin");
    bed.docker(&format!("plugin disable {PLUGIN}"));
}

/// Between which values the median lies with 95 % confidence, by resampling.
fn interval(values: &[f64]) -> (f64, f64) {
    let median = |_| {
        let drawn: Vec<f64> = values.iter().map(|_| values[fastrand::usize(..values.len())]).collect();
        quantile(&drawn, 0.5)
    };
    let medians: Vec<f64> = (0..5000).map(median).collect();
    (quantile(&medians, 0.025), quantile(&medians, 0.975))
}
