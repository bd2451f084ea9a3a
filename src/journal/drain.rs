//! Whether this host is drained: nobody gets an address of its own interfaces, and nothing idle is kept on them.
//!
//! It is an operator's word, so a file beside the journal keeps it over the ends of the process and of the machine. It is no
//! part of the journal: that may be put aside, and this stands all the same.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::wall;
use crate::fail_point::{Underway, point};

/// The file, in the state folder.
const FILE: &str = "drained";

/// One for the life of a driver.
pub struct Drain {
    /// None: this process serves no host.
    file: Option<PathBuf>,
    order: Mutex<Option<Order>>,
    /// Held while the file is changed.
    changing: tokio::sync::Mutex<()>,
}

/// What the file says. One that somebody else made may say nothing: it is there, and that is what counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Order {
    /// The host that is meant: an image of its disk makes another one.
    #[serde(default)]
    instance: Option<String>,
    /// Seconds since 1970, by the wall clock.
    #[serde(default)]
    since: Option<u64>,
}

impl Drain {
    /// As the file beside the journal says, if there is one.
    pub fn open(journal: Option<&Path>) -> Self {
        let file = journal.and_then(Path::parent).map(|folder| folder.join(FILE));
        let order = file.as_deref().and_then(read);
        if order.is_some() {
            tracing::warn!("this host is drained, by an order of before: `ec2-ipam drain --undo` ends that");
        }
        Self { file, order: Mutex::new(order), changing: tokio::sync::Mutex::default() }
    }

    /// Whether it is.
    pub fn is_on(&self) -> bool {
        self.order().is_some()
    }

    /// For how long, by the wall clock; none: it is not drained, or nobody knows since when.
    pub fn lasts(&self) -> Option<Duration> {
        let since = self.order().as_ref()?.since?;
        Some(wall().saturating_sub(Duration::from_secs(since)))
    }

    /// This host's instance. What was ordered of another one, whose disk was cloned, is not of this host.
    pub fn belongs_to(&self, instance: &str) {
        let others = |order: &mut Order| order.instance.as_deref().is_some_and(|of| of != instance);
        if let Some(Order { instance: Some(other), .. }) = self.order().take_if(others) {
            tracing::warn!("{other} was drained, and this host is another one: it is not");
            if let Some(file) = &self.file {
                // Left there, the next life takes no more notice of it than this one.
                let _ = std::fs::remove_file(file);
            }
        }
    }

    /// From now on nobody gets an address here. Again it changes nothing, and writes nothing if the file is there.
    ///
    /// # Errors
    /// The file cannot be written: it would be forgotten at the next start, so it is not begun.
    pub async fn begin(&self, instance: Option<String>) -> io::Result<()> {
        let _changing = self.changing.lock().await;
        let known = self.order().clone();
        if known.is_some() && self.file.as_deref().is_some_and(Path::exists) {
            return Ok(());
        }
        let order = known.unwrap_or_else(|| Order { instance, since: Some(wall().as_secs()) });
        let text = serde_json::to_vec(&order)?;
        self.with_file(move |file| write(file, &text)).await?;
        point("drain:kept").await;
        *self.order() = Some(order);
        Ok(())
    }

    /// It is over. Again it changes nothing.
    ///
    /// # Errors
    /// The file cannot be removed: the next start would find it, so it stays drained.
    pub async fn end(&self) -> io::Result<()> {
        let _changing = self.changing.lock().await;
        self.with_file(remove).await?;
        *self.order() = None;
        Ok(())
    }

    async fn with_file(&self, work: impl FnOnce(&Path) -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let Some(file) = self.file.clone() else {
            return Err(io::Error::new(ErrorKind::Unsupported, "this process serves no host"));
        };
        let _underway = Underway::here();
        let done = tokio::task::spawn_blocking(move || {
            let named = |why: io::Error| io::Error::new(why.kind(), format!("{}: {why}", file.display()));
            work(&file).map_err(named)
        });
        done.await.map_err(io::Error::other)?
    }

    /// Nothing in a critical section of this lock can panic half-way through a change.
    fn order(&self) -> MutexGuard<'_, Option<Order>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(file: &Path) -> Option<Order> {
    match std::fs::read(file) {
        Ok(text) => Some(serde_json::from_slice(&text).unwrap_or_default()),
        Err(why) if matches!(why.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => None,
        Err(why) => {
            tracing::error!("whether this host is drained is not known, so it is not: {}: {why}", file.display());
            None
        }
    }
}

/// Whole or not at all, and there after the machine failed.
fn write(file: &Path, text: &[u8]) -> io::Result<()> {
    let (folder, new) = (file.parent().unwrap_or(file), file.with_extension("new"));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    written.write_all(text)?;
    written.sync_all()?;
    std::fs::rename(&new, file)?;
    File::open(folder)?.sync_all()
}

fn remove(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(why) if !matches!(why.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Err(why),
        Err(_) => Ok(()),
        Ok(()) => File::open(file.parent().unwrap_or(file))?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("state/journal.db");
        (dir, journal)
    }

    #[tokio::test]
    async fn it_lasts_over_lives_until_it_is_undone_and_repeats_change_nothing() {
        let (_dir, journal) = folder();
        let drain = Drain::open(Some(&journal));
        assert!(!drain.is_on() && drain.lasts().is_none());
        drain.end().await.unwrap();
        drain.begin(Some("i-a".into())).await.unwrap();
        drain.begin(Some("i-b".into())).await.unwrap();
        assert!(drain.lasts().is_some_and(|lasts| lasts < Duration::from_secs(60)));
        let next = Drain::open(Some(&journal));
        assert!(next.is_on());
        next.belongs_to("i-a");
        assert!(next.is_on());
        next.end().await.unwrap();
        next.end().await.unwrap();
        assert!(!next.is_on() && !Drain::open(Some(&journal)).is_on());
    }

    #[tokio::test]
    async fn that_of_a_cloned_disk_is_not_this_hosts() {
        let (_dir, journal) = folder();
        Drain::open(Some(&journal)).begin(Some("i-a".into())).await.unwrap();
        let clone = Drain::open(Some(&journal));
        assert!(clone.is_on(), "nobody has said yet which instance this is");
        clone.belongs_to("i-b");
        assert!(!clone.is_on() && !Drain::open(Some(&journal)).is_on());
    }

    #[test]
    fn a_file_that_says_nothing_is_there_all_the_same() {
        let (dir, journal) = folder();
        for text in ["", "null", "{\"since\":\"x\"}", "\0"] {
            let file = dir.path().join("state").join(FILE);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
            let drain = Drain::open(Some(&journal));
            drain.belongs_to("i-b");
            assert!(drain.is_on() && drain.lasts().is_none(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_kept_is_not_begun() {
        let (dir, journal) = folder();
        std::fs::write(dir.path().join("state"), "no folder").unwrap();
        let drain = Drain::open(Some(&journal));
        assert!(drain.begin(None).await.unwrap_err().to_string().contains("state/drained"));
        assert!(!drain.is_on());
        drain.end().await.unwrap();
        assert!(Drain::open(None).begin(None).await.is_err(), "a process that serves nobody");
    }

    #[tokio::test]
    async fn a_repeat_writes_nothing_but_what_somebody_removed() {
        let (dir, journal) = folder();
        let (file, drain) = (dir.path().join("state").join(FILE), Drain::open(Some(&journal)));
        drain.begin(Some("i-a".into())).await.unwrap();
        let text = std::fs::read(&file).unwrap();
        // What is written first goes here.
        std::fs::create_dir(file.with_extension("new")).unwrap();
        drain.begin(Some("i-a".into())).await.unwrap();
        std::fs::remove_file(&file).unwrap();
        drain.begin(None).await.unwrap_err();
        std::fs::remove_dir(file.with_extension("new")).unwrap();
        drain.begin(None).await.unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), text);
    }
}
