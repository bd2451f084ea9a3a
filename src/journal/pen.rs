//! The thread that writes: whatever waits when it comes to write goes into one commit.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Recorded;
use super::book::Book;
use super::clock::Clock;
use super::file::{self, File, Mark};
use crate::domain::holding::Holding;
use crate::fail_point::Underway;

/// What is written.
pub(super) enum Line {
    Put(Holding),
    Strike(Ipv4Addr),
    /// The instance that the journal belongs to.
    Belongs(String),
    /// This file is another instance's: it is put aside.
    Anew,
}

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
    /// None: nobody waits.
    done: Option<oneshot::Sender<Recorded>>,
}

pub(super) struct Pen {
    path: PathBuf,
    jobs: mpsc::Sender<Job>,
    known: Arc<Mutex<Known>>,
}

struct Known {
    state: State,
    mark: Option<Mark>,
}

/// A new file is tried to be made so often.
const AGAIN: Duration = Duration::from_secs(10);

impl Pen {
    pub(super) fn new(path: PathBuf, file: Result<File, String>, book: Arc<Mutex<Book>>) -> Self {
        let (jobs, inbox) = mpsc::channel();
        let mark = file.as_ref().ok().map(|file| file.mark.clone());
        let known = Arc::new(Mutex::new(Known { state: State::Writable, mark }));
        let mut writer = Writer { path: path.clone(), file: None, tried: None, book, known: Arc::clone(&known) };
        match file {
            Ok(file) => writer.file = Some(file),
            Err(why) => writer.fails(why),
        }
        std::thread::spawn(move || writer.run(&inbox));
        Self { path, jobs, known }
    }

    /// Writes nowhere.
    pub(super) fn without() -> Self {
        let known = Known { state: State::Without("this process has none".to_owned()), mark: None };
        Self { path: PathBuf::new(), jobs: mpsc::channel().0, known: Arc::new(Mutex::new(known)) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn state(&self) -> State {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).state.clone()
    }

    pub(super) fn mark(&self) -> Option<Mark> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).mark.clone()
    }

    /// In the order of the calls: to be called under the book's lock. Then it is waited for, or not.
    pub(super) fn write(&self, lines: Vec<Line>) -> impl Future<Output = Recorded> + use<> {
        let (done, recorded) = oneshot::channel();
        let _ = self.jobs.send(Job { lines, done: Some(done) });
        // The thread ends with the process alone.
        async move {
            let _underway = Underway::here();
            recorded.await.unwrap_or(Recorded::InMemory)
        }
    }

    /// With whatever is written next, or soon.
    pub(super) fn write_some_time(&self, lines: Vec<Line>) {
        if !lines.is_empty() {
            let _ = self.jobs.send(Job { lines, done: None });
        }
    }
}

struct Writer {
    path: PathBuf,
    file: Option<File>,
    /// When a new one was last tried to be made.
    tried: Option<Instant>,
    book: Arc<Mutex<Book>>,
    known: Arc<Mutex<Known>>,
}

impl Writer {
    fn run(&mut self, inbox: &mpsc::Receiver<Job>) {
        while let Ok(first) = inbox.recv() {
            let mut jobs = vec![first];
            jobs.extend(inbox.try_iter());
            let recorded = self.write(&jobs);
            for done in jobs.into_iter().filter_map(|job| job.done) {
                let _ = done.send(recorded);
            }
        }
    }

    fn write(&mut self, jobs: &[Job]) -> Recorded {
        if jobs.iter().flat_map(|job| &job.lines).any(|line| matches!(line, Line::Anew)) {
            (self.file, self.tried) = (None, None);
        }
        let Some(file) = &mut self.file else { return self.begin_anew(jobs) };
        let lines: Vec<&Line> = jobs.iter().flat_map(|job| &job.lines).collect();
        match file.write(&lines) {
            Ok(()) => Recorded::Durable,
            Err(why) => {
                self.fails(why);
                Recorded::InMemory
            }
        }
    }

    /// It is put aside first, lest it be believed later.
    fn fails(&mut self, why: String) {
        self.file = None;
        self.tried = Some(Instant::now());
        let path = self.path.display();
        let (state, becomes) = match file::aside(&self.path) {
            Ok(to) => (State::Without(why.clone()), format!("put aside as {}", to.display())),
            Err(stuck) => (State::Stuck(why.clone()), stuck),
        };
        tracing::error!(
            "the journal {path} takes no writes and is {becomes}: {why}; until there is a new one the database is asked"
        );
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        (known.state, known.mark) = (state, None);
    }

    /// A new file with all that is in memory, what is to be written among it.
    fn begin_anew(&mut self, jobs: &[Job]) -> Recorded {
        if self.tried.is_some_and(|tried| tried.elapsed() < AGAIN) {
            return Recorded::InMemory;
        }
        self.tried = Some(Instant::now());
        let now = Clock::new().now();
        let holdings: Vec<Holding> = super::book(&self.book).all().cloned().collect();
        if self.path.exists() && file::aside(&self.path).is_err() {
            return Recorded::InMemory;
        }
        let belongs =
            jobs.iter().flat_map(|job| &job.lines).filter(|line| matches!(line, Line::Belongs(_))).collect::<Vec<_>>();
        let made = file::make(&self.path, &holdings, &now).and_then(|mut file| file.write(&belongs).map(|()| file));
        match made {
            Ok(file) => {
                tracing::info!("a new journal {} was begun", self.path.display());
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                (known.state, known.mark) = (State::Writable, Some(file.mark.clone()));
                self.file = Some(file);
                Recorded::Durable
            }
            Err(_) => Recorded::InMemory,
        }
    }
}
