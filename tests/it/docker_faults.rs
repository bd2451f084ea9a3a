//! Docker and the plugin die, hang and come back at the worst moments, in a real Docker Engine.
//!
//! Meanwhile live containers keep what they have; afterwards rows, EC2 and Docker agree again without anybody's help. The
//! settle age is shortened, which only a build with fail points allows, and warm target and cool-down keep addresses on
//! the move. A release that Docker repeats for 15 s must not meet another container's lease: where the plugin is down for
//! that long, settle age and cool-down together are longer, as they are in a plugin as it is shipped.

use std::net::Ipv4Addr;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use ec2_ipam::domain::address::State;
use nix::sys::signal::Signal;

use crate::support::engine::{IMAGE, PATIENCE, until};
use crate::support::host::ASSIGN;
use crate::support::plugin::{Bed, FRONT, PLUGIN, Setup};
use live::Live;

mod live;

const SETTLE_AGE: &[(&str, &str)] = &[("EC2_IPAM_SETTLE_AGE", "2s")];
const BRISK: &str = "EC2_IPAM_RECONCILE_INTERVAL=1s EC2_IPAM_WARM_TARGET=2 EC2_IPAM_WARM_MAX=4 EC2_IPAM_COOLDOWN=3s";
const PATIENT: &str = "EC2_IPAM_RECONCILE_INTERVAL=1s EC2_IPAM_WARM_TARGET=2 EC2_IPAM_WARM_MAX=4 EC2_IPAM_COOLDOWN=16s";

/// An Engine with the plugin enabled and a network.
fn bed(dockerd: &'static str, settings: &'static str) -> Bed {
    let bed = Bed::new(Setup { dockerd, settings, undeclared: SETTLE_AGE });
    bed.docker(&format!("plugin enable {PLUGIN}"));
    bed.network("front", &FRONT, &format!("--subnet {}", FRONT.cidr)).unwrap();
    bed
}

/// Runs idle containers on the network.
fn run(bed: &Bed, names: &[&str], options: &str) {
    for name in names {
        bed.run(name, &format!("--network front {options}"));
    }
}

/// Does it while these containers live, and holds all against the invariants.
fn fault(bed: &Bed, what: &str, live: &[&str], fault: impl FnOnce()) {
    let live = Live::watch(bed, live);
    bed.step(&format!("I6: {what}"), fault);
    // Agreement might be a moment's: the driver must have nothing left that it would change.
    until(&format!("I6: nothing is left to find after: {what}"), || {
        let found = bed.engine.cli("reconcile --dry-run --json")?;
        let (problems, wrong) = (bed.status()?.problems, bed.disagreement()?);
        if found == "[]" && problems.is_empty() && wrong.is_empty() {
            return Ok(());
        }
        Err(format!("to be found: {found}\nproblems: {problems:?}\n{}", wrong.join("\n")))
    });
    live.end(what);
    let status = bed.engine.cli("status").unwrap();
    assert!(!status.contains("PROBLEM"), "{what}: {status}");
    assert_eq!(bed.status().unwrap().conflicts, 0, "{what}: something was called hopeless for a while");
}

/// Removes the last containers, and the network once the Engine has let go of their endpoints, a moment later.
fn end(bed: &Bed, names: &str) {
    bed.step("I6: rm -f of all", || bed.docker(&format!("rm -f {names}")));
    bed.step("I6: network rm", || {
        until("the Engine knows that they are gone", || bed.engine.docker("network rm front"))
    });
}

/// Runs commands of the Docker CLI at once, whatever comes of them.
fn at_once(bed: &Bed, commands: &[String]) -> Vec<Result<String, String>> {
    scope(|scope| {
        let running: Vec<_> = commands.iter().map(|words| scope.spawn(|| bed.engine.docker(words))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Waits for a moment that is over in milliseconds.
fn at_the_moment(what: &str, mut is_now: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_now() {
        assert!(Instant::now() < end, "never: {what}");
        sleep(Duration::from_millis(1));
    }
}

fn grants(bed: &Bed) -> usize {
    bed.engine.plugin_log().iter().filter(|line| line.contains("granted ")).count()
}

fn is_up(bed: &Bed) -> Result<(), String> {
    let status = bed.status()?;
    let is_granting = !status.enis.is_empty() && status.enis.iter().all(|eni| eni.not_ready.is_none());
    if status.docker.is_some() && is_granting { Ok(()) } else { Err(format!("{:?}", status.docker)) }
}

/// Kills dockerd so long after the driver has granted an address to a new container, and starts it again.
fn kill_dockerd_after_a_grant(bed: &Bed, pause: Duration) {
    let before = grants(bed);
    scope(|scope| {
        let starting = scope.spawn(|| bed.engine.docker(&format!("run -d --name victim --network front {IMAGE} idle")));
        at_the_moment("a grant", || grants(bed) > before);
        sleep(pause);
        bed.engine.down(Signal::SIGKILL);
        let _ = starting.join().unwrap();
    });
    bed.engine.up();
    until("the driver grants again", || is_up(bed));
    let _ = bed.engine.docker("rm -f victim");
}

/// Kills dockerd while EC2 is at the address that a new container has asked for.
fn kill_dockerd_between_request_and_grant(bed: &Bed, ip: Ipv4Addr) {
    bed.vpc.latency_of(ASSIGN, Duration::from_secs(2));
    let is_asked = || bed.vpc.calls().iter().any(|call| call.action == ASSIGN && call.addresses.contains(&ip));
    scope(|scope| {
        let words = format!("run -d --name victim --network front --ip {ip} {IMAGE} idle");
        let starting = scope.spawn(move || bed.engine.docker(&words));
        at_the_moment("EC2 is asked", is_asked);
        bed.engine.down(Signal::SIGKILL);
        let _ = starting.join().unwrap();
    });
    bed.vpc.latency_of(ASSIGN, Duration::ZERO);
    bed.engine.up();
    until("the driver grants again", || is_up(bed));
    let _ = bed.engine.docker("rm -f victim");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dockerd_is_killed_restarted_and_hung_beneath_live_containers() {
    let bed = bed("--live-restore", BRISK);
    let live = ["k1", "k2"];
    run(&bed, &live, "");
    for pause in [0, 5, 20, 80, 200] {
        fault(&bed, &format!("kill -9 of dockerd {pause} ms after a grant, live-restore"), &live, || {
            kill_dockerd_after_a_grant(&bed, Duration::from_millis(pause));
        });
    }
    fault(&bed, "kill -9 of dockerd between request and grant, live-restore", &live, || {
        kill_dockerd_between_request_and_grant(&bed, FRONT.ip(150));
    });
    until("the address that nobody got is free", || match bed.state(&FRONT, FRONT.ip(150)) {
        State::Free => Ok(()),
        state => Err(format!("I6: {state:?}")),
    });

    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        run(&bed, &["d1", "d2"], "");
        fault(&bed, &format!("two containers die while dockerd is down by {signal}, live-restore"), &live, || {
            let pids = bed.docker("inspect --format {{.State.Pid}} d1 d2");
            bed.engine.down(signal);
            for pid in pids.lines() {
                bed.engine.signal(pid, Signal::SIGKILL);
            }
            // Rounds that cannot read Docker, for longer than the settle age.
            until("rounds without Docker", || match bed.status()?.reconciled_seconds {
                Some(4..) => Ok(()),
                seconds => Err(format!("{seconds:?}")),
            });
            bed.engine.up();
            assert!(!bed.is_running("d1") && !bed.is_running("d2"));
        });
        bed.docker("rm d1 d2");
    }

    fault(&bed, "dockerd hangs for rounds after a grant", &live, || {
        let before = grants(&bed);
        scope(|scope| {
            let starting =
                scope.spawn(|| bed.engine.docker(&format!("run -d --name late --network front {IMAGE} idle")));
            at_the_moment("a grant", || grants(&bed) > before);
            bed.engine.hang();
            until("rounds without Docker", || match bed.status()?.reconciled_seconds {
                Some(4..) => Ok(()),
                seconds => Err(format!("{seconds:?}")),
            });
            bed.engine.go_on();
            starting.join().unwrap().unwrap();
        });
        assert!(bed.is_running("late"));
    });
    bed.ping("k1", bed.address("late").unwrap());
    end(&bed, "late k1 k2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_that_always_restart_come_back_after_plugin_and_dockerd() {
    let bed = bed("", PATIENT);
    let always = ["a1", "a2", "a3", "a4"];
    run(&bed, &always, "--restart always");
    fault(&bed, "plugin disable -f, enable, beneath containers that always restart", &always, || {
        bed.docker(&format!("plugin disable -f {PLUGIN}"));
        bed.docker(&format!("plugin enable {PLUGIN}"));
        until("the driver grants again", || is_up(&bed));
    });
    fault(&bed, "one of them dies while the plugin is disabled", &always[1..], || {
        let pid = bed.json("inspect a1")[0]["State"]["Pid"].as_u64().unwrap();
        bed.docker(&format!("plugin disable -f {PLUGIN}"));
        bed.engine.signal(&pid.to_string(), Signal::SIGKILL);
        bed.docker(&format!("plugin enable {PLUGIN}"));
        until("the driver grants again", || is_up(&bed));
        // The Engine gives up on one whose address it could not get in 15 s.
        until("it runs again, or is given up", || {
            let state = bed.json("inspect a1")[0]["State"].clone();
            match state["Status"].as_str() {
                Some("running" | "exited") if state["Pid"].as_u64() != Some(pid) => Ok(()),
                _ => Err(state.to_string()),
            }
        });
        bed.docker("start a1");
    });
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        fault(&bed, &format!("{signal} to dockerd, start, with containers that always restart"), &[], || {
            bed.engine.down(signal);
            bed.engine.up();
            until("the restart policy", || match always.iter().find(|name| !bed.is_running(name)) {
                Some(name) => Err(format!("{name} does not run")),
                None => Ok(()),
            });
        });
    }
    for pause in [0, 50] {
        fault(&bed, &format!("kill -9 of dockerd {pause} ms after a grant"), &[], || {
            kill_dockerd_after_a_grant(&bed, Duration::from_millis(pause));
        });
    }
    fault(&bed, "kill -9 of dockerd between request and grant", &[], || {
        kill_dockerd_between_request_and_grant(&bed, FRONT.ip(151));
    });
    // They died with dockerd, and show the addresses that they had.
    run(&bed, &["dead1", "dead2"], "");
    fault(&bed, "kill -9 of dockerd, and containers that stay dead", &[], || {
        bed.engine.down(Signal::SIGKILL);
        bed.engine.up();
        until("the driver grants again", || is_up(&bed));
        assert!(!bed.is_running("dead1") && !bed.is_running("dead2"));
    });
    end(&bed, "a1 a2 a3 a4 dead1 dead2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn releases_are_lost_while_the_plugin_is_down() {
    let bed = bed("", PATIENT);
    let live = ["k1", "k2"];
    run(&bed, &live, "");
    let doomed = ["d1", "d2", "d3", "d4"];
    let remove = |name: &&str| format!("rm -f {name}");

    run(&bed, &doomed, "");
    fault(&bed, "four containers are removed while the plugin is disabled", &live, || {
        bed.docker(&format!("plugin disable -f {PLUGIN}"));
        at_once(&bed, &doomed.iter().map(remove).collect::<Vec<_>>());
        bed.docker(&format!("plugin enable {PLUGIN}"));
        until("the driver grants again", || is_up(&bed));
    });

    run(&bed, &doomed, "");
    fault(&bed, "kill -9 of the plugin while four containers are removed and two start", &live, || {
        let mut commands: Vec<String> = doomed.iter().map(remove).collect();
        commands.extend(["n1", "n2"].map(|name| format!("run -d --name {name} --network front {IMAGE} idle")));
        scope(|scope| {
            let all = scope.spawn(|| at_once(&bed, &commands));
            bed.engine.kill_plugin();
            all.join().unwrap();
        });
        until("the driver grants again", || is_up(&bed));
    });
    let _ = bed.engine.docker("rm -f n1 n2");

    // A driver that has not seen the network in its life cannot know whose Engine this is: it says so, and judges again once
    // the network is there.
    let create = || bed.network("front", &FRONT, &format!("--subnet {}", FRONT.cidr)).unwrap();
    bed.docker(&format!("plugin disable -f {PLUGIN}"));
    bed.docker("rm -f k1 k2");
    until("the network goes", || {
        // Whose start the kill has cut short, Docker may keep an endpoint of for ever.
        let stale = ["n1", "n2"].map(|name| format!("network disconnect -f front {name}"));
        stale.iter().for_each(|words| drop(bed.engine.docker(words)));
        bed.engine.docker("network rm front")
    });
    bed.docker(&format!("plugin enable {PLUGIN}"));
    until("the driver says what it does not judge", || {
        let problems = bed.status()?.problems;
        let is_told =
            problems.iter().any(|why| why.contains("Docker shows no network on it: create its network again"));
        if is_told { Ok(()) } else { Err(format!("{problems:?}")) }
    });
    bed.step("I6: network create after a network rm while the plugin is disabled", create);
    until("no problem is left", || match bed.status()?.problems {
        none if none.is_empty() => Ok(()),
        problems => Err(format!("{problems:?}")),
    });
    run(&bed, &live, "");
    end(&bed, "k1 k2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storms_of_twenty_containers_started_and_removed_at_once() {
    let bed = bed("", BRISK);
    let live = ["k1", "k2"];
    run(&bed, &live, "");
    let names = |wave: &str| -> Vec<String> { (0..20).map(|n| format!("{wave}{n}")).collect() };
    let start = |name: &String| format!("run -d --name {name} --network front {IMAGE} idle");
    let remove = |name: &String| format!("rm -f {name}");
    let all = |commands: &[String]| {
        for (words, outcome) in commands.iter().zip(at_once(&bed, commands)) {
            outcome.unwrap_or_else(|why| panic!("docker {words}: {why}"));
        }
    };
    let (even, odd) = (names("e"), names("o"));
    fault(&bed, "20 runs at once", &live, || all(&even.iter().map(start).collect::<Vec<_>>()));
    for wave in 1..=2 {
        fault(&bed, &format!("rm -f of 20 at once, wave {wave}"), &live, || {
            all(&even.iter().map(remove).collect::<Vec<_>>());
        });
        fault(&bed, &format!("20 runs at once, wave {wave}"), &live, || {
            all(&even.iter().map(start).collect::<Vec<_>>());
        });
    }
    fault(&bed, "rm -f of 20 and 20 runs, at once", &live, || {
        let mixed: Vec<_> = even.iter().zip(&odd).flat_map(|(old, new)| [remove(old), start(new)]).collect();
        all(&mixed);
    });
    fault(&bed, "rm -f of 20 at once, the last", &live, || all(&odd.iter().map(remove).collect::<Vec<_>>()));
    end(&bed, "k1 k2");
}
