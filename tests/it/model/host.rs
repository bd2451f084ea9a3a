//! A host: a thread in a network namespace of its own, on which one life of the driver after the other runs.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ec2_ipam::config::Settings;
use ec2_ipam::domain::peer::Peer;
use ec2_ipam::driver::ipam::Ipam;
use ec2_ipam::fail_point;
use ec2_ipam::late::Late;
use ec2_ipam::outside::ec2::{Ec2, Ec2Error, StaticKeys};
use ec2_ipam::outside::imds::Imds;
use ec2_ipam::socket::docker::{self, Call};
use ec2_ipam::socket::{control, server};
use ec2_ipam::store::Store;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use vpc_sim::{REGION, Vpc};

use super::clock::{Clock, Pulse, Still, soon};
use super::ledger::Shared;
use super::state::StateFolder;
use super::tally::Points;
use crate::support::host::{ACCESS_KEY, Namespace, SECRET_KEY};

/// How requests that run are cut off at a stop, as the socket's server does it.
const CUT: Duration = Duration::from_secs(7);

/// What a life is made of.
#[derive(Clone)]
pub struct Setting {
    pub settings: Settings,
    pub ec2: String,
    pub imds: String,
    pub shared: Shared,
    pub vpc: Vpc,
    pub points: Points,
    pub seed: u64,
}

enum Command {
    Time(Duration),
    Call { id: u64, path: String, body: String },
    Halt,
    Stop,
    Kill,
}

enum Verdict {
    Resume(Duration),
    Kill,
}

/// The host's thread.
pub struct Host {
    pub namespace: Namespace,
    pub docker: PathBuf,
    pub state: StateFolder,
    lives: mpsc::Sender<Life>,
    pub pulse: Arc<Pulse>,
}

/// A life that runs.
pub struct Running {
    commands: UnboundedSender<Command>,
    verdicts: mpsc::Sender<Verdict>,
    pulse: Arc<Pulse>,
    /// At how many more points it halts; 0: at none.
    armed: Arc<AtomicI64>,
}

struct Life {
    setting: Setting,
    commands: UnboundedReceiver<Command>,
    verdicts: mpsc::Receiver<Verdict>,
    pulse: Arc<Pulse>,
    armed: Arc<AtomicI64>,
    seat: usize,
}

impl Host {
    pub fn new(seat: usize, docker: PathBuf, shared: &Shared) -> Self {
        let namespace = Namespace::new();
        namespace.ip("link set lo up");
        namespace.ip("link add eth1 type veth peer name far");
        namespace.ip(&format!("link set eth1 address {}", mac(seat)));
        namespace.ip("link set eth1 up");
        let (lives, inbox) = mpsc::channel::<Life>();
        let pulse = Arc::<Pulse>::default();
        pulse.gone.store(true, Ordering::Release);
        let inside = namespace.another();
        let (story, mine) = (shared.clone(), Arc::clone(&pulse));
        std::thread::spawn(move || {
            inside.join();
            mine.is_here();
            let lines = tracing_subscriber::fmt::layer().with_ansi(false).without_time().with_target(false);
            let lines = lines.with_writer(move || Line { shared: story.clone(), seat });
            let filter = Targets::new().with_target("ec2_ipam", tracing::Level::DEBUG);
            let subscriber = tracing_subscriber::registry().with(filter).with(lines);
            let _logs = tracing::subscriber::set_default(subscriber);
            for life in inbox {
                let pulse = Arc::clone(&life.pulse);
                life.live();
                pulse.gone.store(true, Ordering::Release);
            }
        });
        let state = StateFolder::new(docker.with_extension("state"));
        Self { namespace, docker, state, lives, pulse }
    }

    /// A new life.
    pub fn start(&self, seat: usize, setting: Setting) -> Running {
        assert!(self.pulse.is_gone(), "h{seat} lives already");
        let (commands, told) = unbounded_channel();
        let (verdicts, judged) = mpsc::channel();
        let armed = Arc::<AtomicI64>::default();
        self.pulse.note(setting.shared.now());
        self.pulse.gone.store(false, Ordering::Release);
        let life = Life {
            setting,
            commands: told,
            verdicts: judged,
            pulse: Arc::clone(&self.pulse),
            armed: Arc::clone(&armed),
            seat,
        };
        self.lives.send(life).expect("the host's thread lives");
        Running { commands, verdicts, pulse: Arc::clone(&self.pulse), armed }
    }
}

/// The hardware address of a host's `eth1`.
pub fn mac(seat: usize) -> String {
    format!("0a:77:00:00:00:{:02x}", seat + 1)
}

impl Running {
    fn command(&self, command: Command) {
        // It may have ended by itself.
        let _ = self.commands.send(command);
    }

    pub fn tell(&self, time: Duration) {
        self.command(Command::Time(time));
    }

    pub fn call(&self, id: u64, path: &str, body: &serde_json::Value) {
        self.command(Command::Call { id, path: path.to_owned(), body: body.to_string() });
    }

    /// It stops in its tracks when it comes to its n-th point from now.
    pub fn arm(&self, points: i64) {
        self.armed.store(points, Ordering::Release);
    }

    /// It stops in its tracks wherever it is.
    pub fn halt(&self) {
        self.command(Command::Halt);
        soon("it halts", || self.pulse.is_halted() || self.pulse.is_gone());
    }

    /// It goes on, and finds that so much time has passed.
    pub fn resume(&self, now: Duration) {
        // It may come to the point that it is armed for, and stand again, before anybody looks.
        let halts = self.pulse.halts.load(Ordering::Acquire);
        let _ = self.verdicts.send(Verdict::Resume(now));
        soon("it resumes", || !self.pulse.is_halted() || self.pulse.halts.load(Ordering::Acquire) != halts);
    }

    /// As SIGTERM does; it takes up to eight seconds.
    pub fn stop(&self) {
        self.command(Command::Stop);
    }

    /// As SIGKILL does.
    pub fn kill(&self) {
        self.command(Command::Kill);
        let _ = self.verdicts.send(Verdict::Kill);
        soon("it is gone", || self.pulse.is_gone());
    }
}

/// Where the driver's thread stands still, if it is told to.
struct Gate {
    pulse: Arc<Pulse>,
    verdicts: mpsc::Receiver<Verdict>,
    clock: RefCell<Option<Clock>>,
    is_dead: Cell<bool>,
}

impl Gate {
    /// Whether it is killed while it stands.
    fn stand(&self) -> bool {
        if self.is_dead.get() {
            return true;
        }
        self.pulse.halts.fetch_add(1, Ordering::AcqRel);
        self.pulse.halted.store(true, Ordering::Release);
        let verdict = self.verdicts.recv();
        match verdict {
            Ok(Verdict::Resume(now)) => {
                if let Some(clock) = self.clock.borrow().as_ref() {
                    clock.advance_to(now);
                    self.pulse.goes_on(now);
                }
            }
            Ok(Verdict::Kill) | Err(_) => self.is_dead.set(true),
        }
        self.pulse.halted.store(false, Ordering::Release);
        self.is_dead.get()
    }
}

impl Life {
    fn live(self) {
        fastrand::seed(self.setting.seed);
        let runtime = self.pulse.runtime();
        let (shared, points, armed) =
            (self.setting.shared.clone(), self.setting.points.clone(), Arc::clone(&self.armed));
        let seat = self.seat;
        let (gate, commands) = (
            Rc::new(Gate {
                pulse: Arc::clone(&self.pulse),
                verdicts: self.verdicts,
                clock: RefCell::new(None),
                is_dead: Cell::new(false),
            }),
            self.commands,
        );
        let at = Rc::clone(&gate);
        fail_point::on_this_thread(move |name| {
            points.reached(name);
            if armed.load(Ordering::Acquire) > 0 && armed.fetch_sub(1, Ordering::AcqRel) == 1 {
                shared.tell(&format!("h{seat} stands at {name}"));
                points.halted(name);
                return at.stand();
            }
            at.is_dead.get()
        });
        runtime.block_on(run(self.setting, self.seat, commands, gate, &self.pulse));
        drop(runtime);
    }
}

async fn run(
    setting: Setting,
    seat: usize,
    mut commands: UnboundedReceiver<Command>,
    gate: Rc<Gate>,
    pulse: &Arc<Pulse>,
) {
    let _still = Still::here();
    let clock = Clock::here(setting.shared.now());
    *gate.clock.borrow_mut() = Some(clock);
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let ipam = start(&setting, tasks.clone(), stop.clone());
    let (over, mut ended) = tokio::sync::mpsc::channel::<()>(1);
    loop {
        let command = tokio::select! {
            biased;
            _ = ended.recv() => return,
            command = commands.recv() => command,
        };
        match command {
            Some(Command::Time(time)) => {
                clock.advance_to(time);
                pulse.note(time);
            }
            Some(Command::Call { id, path, body }) => call(&setting, &ipam, &tasks, &stop, pulse, (id, path, body)),
            Some(Command::Halt) => {
                setting.shared.tell(&format!("h{seat} stands"));
                if gate.stand() {
                    return;
                }
            }
            Some(Command::Stop) => {
                stop.cancel();
                tasks.close();
                let (tasks, over) = (tasks.clone(), over.clone());
                tokio::spawn(async move {
                    let _ = timeout(server::DRAIN, tasks.wait()).await;
                    let _ = over.send(()).await;
                });
            }
            Some(Command::Kill) | None => return,
        }
    }
}

/// What `serve` starts, but for the sockets.
fn start(setting: &Setting, tasks: TaskTracker, stop: CancellationToken) -> Arc<Ipam> {
    let database = setting.settings.database.clone();
    let patience = setting.settings.request_timeout;
    let store = Late::reach("the database", &tasks, stop.clone(), move || {
        let database = database.clone();
        async move { Store::open(&database, Instant::now() + patience).await.map(Arc::new) }
    });
    let endpoint = setting.ec2.clone();
    let ec2 = Late::reach("EC2", &tasks, stop.clone(), move || {
        let keys = StaticKeys { access_key_id: ACCESS_KEY.into(), secret_access_key: SECRET_KEY.into() };
        let endpoint = endpoint.clone();
        async move { Ok::<_, Ec2Error>(Ec2::connect_to(endpoint, REGION.into(), keys).await) }
    });
    let imds = Imds::at(&setting.imds).unwrap();
    let ipam = Ipam::with(setting.settings.clone(), store, ec2, imds, tasks, stop).unwrap();
    ipam.work_by_itself();
    ipam
}

/// A call as the socket's server handles it: it goes on when the caller has left, and takes back what nobody got.
fn call(
    setting: &Setting,
    ipam: &Arc<Ipam>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
    pulse: &Arc<Pulse>,
    what: (u64, String, String),
) {
    let (id, path, body) = what;
    let is_ours = path.starts_with(control::PREFIX);
    let patience = if is_ours { control::PATIENCE } else { setting.settings.request_timeout };
    let until = Instant::now() + patience;
    let (pulse, stood) = (Arc::clone(pulse), pulse.has_stood());
    let (shared, vpc, ipam, stop) = (setting.shared.clone(), setting.vpc.clone(), Arc::clone(ipam), stop.clone());
    tokio::spawn({
        let shared = shared.clone();
        async move {
            tokio::select! {
                () = sleep_until(until) => {}
                () = async { stop.cancelled().await; sleep(CUT).await } => {}
            }
            shared.late(id);
        }
    });
    tasks.spawn(async move {
        let call = Call { peer: &Peer::Local, path: &path, body: body.as_bytes(), until };
        let outcome = match docker::call(&ipam, call).await {
            Some(outcome) => outcome,
            None => control::call(&ipam, &path, body.as_bytes(), until).await.map_err(|refusal| refusal.why),
        };
        // Past its deadline by so much it is no request any more, but a leak.
        if Instant::now() > until + (pulse.has_stood() - stood) + Duration::from_secs(30) {
            shared.broken(format!("I9: #{id} {path} ended long after its deadline: {:?}", outcome.is_ok()));
        }
        let (said, lease) = match outcome {
            Ok(reply) => (Ok(reply.json), reply.lease),
            Err(why) => (Err(why.to_string()), None),
        };
        let holder = lease.as_ref().and_then(|lease| vpc.holder(lease.ip));
        let has_got = shared.answered(id, said, holder);
        // Dropped, it is taken back.
        if let Some(lease) = lease.filter(|_| has_got) {
            lease.keep();
        }
    });
}

/// A line of the driver's log, among the story's.
struct Line {
    shared: Shared,
    seat: usize,
}

impl std::io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.shared.tell(&format!("      h{} | {}", self.seat, text.trim()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
