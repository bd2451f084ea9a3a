//! A wall clock that a test sets: a library that a process is started with, and a file that says how many seconds its clock
//! is off. The kernel has one clock for all, which is nobody's to set.

use std::path::{Path, PathBuf};
use std::process::Command;

const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long off(void) {
  const char *path = getenv("TEST_CLOCK_OFF");
  char text[32];
  int file = path ? open(path, O_RDONLY) : -1;
  if (file < 0) return 0;
  ssize_t n = read(file, text, sizeof text - 1);
  close(file);
  if (n <= 0) return 0;
  text[n] = 0;
  return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *t) {
  int failed = syscall(SYS_clock_gettime, clock, t);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) t->tv_sec += off();
  return failed;
}

int gettimeofday(struct timeval *t, void *zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  t->tv_sec = now.tv_sec;
  t->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *t) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (t) *t = now.tv_sec;
  return now.tv_sec;
}
"#;

pub struct Clock {
    dir: tempfile::TempDir,
}

impl Clock {
    /// Right, for now.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("clock.c"), LIBRARY).unwrap();
        let mut make = Command::new("cc");
        make.args(["-shared", "-fPIC", "-O1", "-o", "clock.so", "clock.c"]).current_dir(dir.path());
        let made = make.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { dir }
    }

    /// What a process needs in its environment.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        let text = |path: PathBuf| path.display().to_string();
        [("LD_PRELOAD", text(self.dir.path().join("clock.so"))), ("TEST_CLOCK_OFF", text(self.file()))]
    }

    /// So many seconds off from now on.
    pub fn set(&self, seconds: i64) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, seconds.to_string()).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    fn file(&self) -> PathBuf {
        Path::join(self.dir.path(), "off")
    }
}
