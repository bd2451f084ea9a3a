//! The thread that writes: whatever waits when it comes to write goes into one commit. It never dies alone: a driver that
//! answers and does not write would be worse than one that begins anew.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Recorded;
use super::book::Book;
use super::clock::{Clock, wall};
use super::file::{self, File, Found, Mark};
use super::line::Line;
use super::uses::{Kept, Uses};
use crate::domain::history::{KEPT_FOR, millis};
use crate::domain::holding::Holding;
use crate::fail_point::Underway;
use crate::supervise::supervised_thread;

/// Whether the journal takes writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It does.
    Writable,
    /// It does not, and no file is left that could be believed later.
    Without(String),
    /// It does not, and the file stays where it is: nothing may be answered before the table knows that it is not to be
    /// believed.
    Stuck(String),
}

impl State {
    /// Why it does not.
    pub fn why(self) -> Option<String> {
        match self {
            Self::Writable => None,
            Self::Without(why) | Self::Stuck(why) => Some(why),
        }
    }
}

struct Job {
    lines: Vec<Line>,
    when: When,
}

enum When {
    /// Somebody waits for it.
    Now(oneshot::Sender<Recorded>),
    Soon,
    /// With what comes next: a commit of its own would be in the way of that.
    Sometime,
    /// Nothing to write: somebody wants to see uses.
    Look(Look),
}

type Look = Box<dyn FnOnce(Option<&File>, &mut Uses) + Send>;

pub(super) struct Pen {
    path: PathBuf,
    jobs: mpsc::Sender<Job>,
    known: Arc<Mutex<Known>>,
}

struct Known {
    state: State,
    mark: Option<Mark>,
    put_aside: Option<String>,
    kept: Kept,
}

/// What may be written sometime is written after so long by itself.
const SOMETIME: Duration = Duration::from_secs(1);

/// A new file is tried to be made so often.
const AGAIN: Duration = Duration::from_secs(5);

/// Uses that are too old are looked for so often,
const FORGET: Duration = Duration::from_secs(3600);
/// and where there are many, a page after the other, with room for grants in between.
const FORGET_MORE: Duration = Duration::from_millis(20);

impl Pen {
    pub(super) fn new(path: PathBuf, found: Found, book: Arc<Mutex<Book>>) -> Self {
        let (jobs, inbox) = mpsc::channel();
        let Found { file, uses, opened, put_aside, .. } = found;
        let known = Arc::new(Mutex::new(Known { state: State::Writable, mark: None, put_aside, kept: uses.kept }));
        let (known_here, instance, here) = (Arc::clone(&known), opened.instance, path.clone());
        let heir_of = Vec::new();
        let (why, forget_at) = (String::new(), Instant::now());
        let mut writer = Writer { path, file: None, why, instance, heir_of, tried: None, book, uses, forget_at, known };
        match file {
            Ok(file) => writer.has(file),
            Err(why) => writer.fails(&why),
        }
        supervised_thread("the journal", move || writer.run(&inbox));
        Self { path: here, jobs, known: known_here }
    }

    /// Writes nowhere.
    pub(super) fn without() -> Self {
        let state = State::Without("this process has none".to_owned());
        let known = Arc::new(Mutex::new(Known { state, mark: None, put_aside: None, kept: Kept::default() }));
        Self { path: PathBuf::new(), jobs: mpsc::channel().0, known }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn state(&self) -> State {
        known(&self.known).state.clone()
    }

    pub(super) fn mark(&self) -> Option<Mark> {
        known(&self.known).mark.clone()
    }

    pub(super) fn put_aside(&self) -> Option<String> {
        known(&self.known).put_aside.clone()
    }

    /// What there is of uses.
    pub(super) fn kept(&self) -> Kept {
        known(&self.known).kept
    }

    /// Looks at uses between two commits; none where the thread has ended. To be short: grants wait for it.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(Option<&File>, &mut Uses) -> T + Send + 'static,
    ) -> Option<T> {
        let (done, seen) = oneshot::channel();
        let look = move |file: Option<&File>, uses: &mut Uses| drop(done.send(look(file, uses)));
        let _ = self.jobs.send(Job { lines: Vec::new(), when: When::Look(Box::new(look)) });
        seen.await.ok()
    }

    /// In the order of the calls: to be called under the book's lock. Then it is waited for, or not.
    pub(super) fn write(&self, lines: Vec<Line>) -> impl Future<Output = Recorded> + use<> {
        // Nothing is as good as written.
        let written = (!lines.is_empty()).then(|| {
            let (done, recorded) = oneshot::channel();
            self.hand_over(lines, When::Now(done));
            recorded
        });
        async move {
            let Some(recorded) = written else { return Recorded::Durable };
            let _underway = Underway::here();
            recorded.await.unwrap_or(Recorded::InMemory)
        }
    }

    /// The same, for what nobody waits for.
    pub(super) fn write_soon(&self, lines: Vec<Line>) {
        self.hand_over(lines, When::Soon);
    }

    /// The same, for what may be lost: another commit of this second takes it along.
    pub(super) fn write_sometime(&self, lines: Vec<Line>) {
        self.hand_over(lines, When::Sometime);
    }

    fn hand_over(&self, lines: Vec<Line>, when: When) {
        // The thread ends with the process alone.
        if !lines.is_empty() {
            let _ = self.jobs.send(Job { lines, when });
        }
    }
}

fn known(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Writer {
    path: PathBuf,
    file: Option<File>,
    /// Why there is none.
    why: String,
    /// Whose every file is.
    instance: Option<String>,
    /// Of which files the next one is to have all.
    heir_of: Vec<Mark>,
    /// When a new one was last tried to be made.
    tried: Option<Instant>,
    book: Arc<Mutex<Book>>,
    uses: Uses,
    /// When it is looked for uses that are too old.
    forget_at: Instant,
    known: Arc<Mutex<Known>>,
}

impl Writer {
    fn run(&mut self, inbox: &mpsc::Receiver<Job>) {
        loop {
            let first = match &self.file {
                Some(_) => match inbox.recv_timeout(self.forget_at.saturating_duration_since(Instant::now())) {
                    Err(RecvTimeoutError::Timeout) => {
                        self.forget();
                        continue;
                    }
                    first => first.ok(),
                },
                None => match inbox.recv_timeout(AGAIN) {
                    Err(RecvTimeoutError::Timeout) => {
                        let _ = self.begins_anew();
                        continue;
                    }
                    first => first.ok(),
                },
            };
            let Some(first) = first else { return };
            let mut jobs = vec![first];
            jobs.extend(inbox.try_iter());
            let end = Instant::now() + SOMETIME;
            while jobs.iter().all(|job| matches!(job.when, When::Sometime)) {
                let Ok(job) = inbox.recv_timeout(end.saturating_duration_since(Instant::now())) else { break };
                jobs.push(job);
                jobs.extend(inbox.try_iter());
            }
            let recorded = self.write(&jobs);
            known(&self.known).kept = self.uses.kept;
            for job in jobs {
                match job.when {
                    When::Now(done) => drop(done.send(recorded)),
                    When::Look(look) => look(self.file.as_ref(), &mut self.uses),
                    When::Soon | When::Sometime => {}
                }
            }
        }
    }

    /// What no container has had for so long is forgotten.
    fn forget(&mut self) {
        let before = millis(wall().saturating_sub(KEPT_FOR));
        let outcome = self.file.as_mut().map(|file| file.forget(before, &mut self.uses));
        self.forget_at = Instant::now() + if matches!(outcome, Some(Ok(true))) { FORGET_MORE } else { FORGET };
        known(&self.known).kept = self.uses.kept;
        if let Some(Err(why)) = outcome {
            self.fails(&why);
        }
    }

    fn write(&mut self, jobs: &[Job]) -> Recorded {
        let lines: Vec<&Line> = jobs.iter().flat_map(|job| &job.lines).collect();
        for line in &lines {
            self.uses.follow(line, millis(wall()));
            match line {
                Line::Belongs(instance) => self.instance = Some(instance.clone()),
                Line::Anew => {
                    self.fails("it is another instance's");
                    self.heir_of.clear();
                }
                Line::Put(_) | Line::Give(..) | Line::End(..) | Line::Strike(_) | Line::Shown(..) | Line::Told(_) => {}
            }
        }
        // What Docker shows is seldom news.
        let is_about_uses = |line: &&Line| matches!(line, Line::Shown(..) | Line::Told(_));
        if lines.iter().all(is_about_uses) && (lines.is_empty() || !self.uses.has_unwritten()) {
            return Recorded::Durable;
        }
        if let Some(file) = &mut self.file {
            match file.write(&lines, &mut self.uses) {
                Ok(()) => {
                    known(&self.known).mark = Some(file.mark.clone());
                    return Recorded::Durable;
                }
                Err(why) => self.fails(&why),
            }
        }
        if self.tried.is_some_and(|tried| tried.elapsed() < AGAIN) {
            return Recorded::InMemory;
        }
        self.begins_anew()
    }

    fn has(&mut self, file: File) {
        let mut known = known(&self.known);
        (known.state, known.mark) = (State::Writable, Some(file.mark.clone()));
        drop(known);
        self.file = Some(file);
    }

    /// It is put aside first, lest it be believed later.
    fn fails(&mut self, why: &str) {
        // Closed before it is renamed.
        if let Some(file) = self.file.take() {
            self.heir_of = file.marks();
        }
        (self.tried, self.why) = (None, why.to_owned());
        let becomes = match self.is_put_aside() {
            Ok(None) => "not there".to_owned(),
            Ok(Some(to)) => format!("put aside as {to}"),
            Err(stays) => stays,
        };
        let path = self.path.display();
        tracing::error!(
            "the journal {path} takes no writes and is {becomes}: {why}; until there is a new one the database is asked"
        );
    }

    /// To what it was renamed, if it was there; else what became of it.
    fn is_put_aside(&mut self) -> Result<Option<String>, String> {
        let why = &self.why;
        let is_there = self.path.symlink_metadata().is_ok();
        let outcome = if is_there { file::aside(&self.path).map(Some) } else { Ok(None) };
        let mut known = known(&self.known);
        known.mark = None;
        known.state = match &outcome {
            Ok(_) => State::Without(why.clone()),
            Err(stays) => State::Stuck(format!("{why}; it is {stays}")),
        };
        if let Ok(Some(to)) = &outcome {
            known.put_aside = Some(format!("{to} ({why})"));
        }
        outcome
    }

    /// A new file with all that is in memory, what is to be written among it.
    fn begins_anew(&mut self) -> Recorded {
        self.tried = Some(Instant::now());
        match self.is_put_aside() {
            Ok(None) => {}
            Ok(Some(to)) => tracing::info!("the journal is put aside as {to}"),
            Err(_) => return Recorded::InMemory,
        }
        let holdings: Vec<Holding> = super::book(&self.book).all().cloned().collect();
        let (instance, heir_of, now) = (self.instance.as_deref(), self.heir_of.clone(), Clock::new().now());
        match file::make(&self.path, &holdings, &mut self.uses, instance, heir_of, &now) {
            Ok(file) => {
                tracing::info!("a new journal {} was begun", self.path.display());
                self.has(file);
                Recorded::Durable
            }
            Err(why) => {
                known(&self.known).state = State::Without(why.clone());
                self.why = why;
                Recorded::InMemory
            }
        }
    }
}
