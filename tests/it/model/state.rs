//! A host's state folder, and what may become of it between two lives of its driver.

use std::fs;
use std::path::{Path, PathBuf};

use super::clock::soon;

pub struct StateFolder {
    folder: PathBuf,
}

impl StateFolder {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub fn journal(&self) -> PathBuf {
        self.folder.join("journal.db")
    }

    /// Whether the folder says that the host is drained.
    pub fn is_drained(&self) -> bool {
        self.folder.join("drained").exists()
    }

    /// As on a new machine.
    pub fn clear(&self) {
        remove(&self.folder);
        remove(&self.copy());
    }

    /// No driver runs. Says what became of it.
    pub fn meddle(&self, rng: &mut fastrand::Rng) -> &'static str {
        // Whoever had it open closes it in its own time.
        soon("the journal is closed", || !self.folder.join("journal.db-wal").exists());
        match rng.u8(0..4) {
            0 => {
                remove(&self.folder);
                "is lost"
            }
            1 if self.journal().exists() => {
                copy(&self.folder, &self.copy());
                "is copied"
            }
            2 if self.copy().exists() => {
                copy(&self.copy(), &self.folder);
                "is the copy of before"
            }
            _ => {
                remove(&self.folder);
                // In its place is what no folder can be made of.
                fs::write(&self.folder, "").unwrap();
                "takes no writes"
            }
        }
    }

    fn copy(&self) -> PathBuf {
        self.folder.with_extension("copy")
    }
}

fn copy(from: &Path, to: &Path) {
    remove(to);
    fs::create_dir(to).unwrap();
    fs::copy(from.join("journal.db"), to.join("journal.db")).unwrap();
}

fn remove(path: &Path) {
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}
