//! What only a file can do.

use std::os::unix::fs::PermissionsExt;

use ec2_ipam::domain::address::Status;
use ec2_ipam::store::{Database, Store, StoreError};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::bed::{ip, new_row, open, soon, subnet};

async fn refusal(file: &std::path::Path) -> String {
    Store::open(&Database::Sqlite(file.to_owned()), soon()).await.unwrap_err().to_string()
}

#[tokio::test]
async fn the_file_is_its_owners_alone_and_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a/b/ipam.db");
    let url = format!("sqlite://{}", file.display());
    let store = open(&url).await;
    store.insert_missing(&subnet(), &[new_row(ip(10), Status::Free)], soon()).await.unwrap();
    for name in ["ipam.db", "ipam.db-wal", "ipam.db-shm"] {
        let mode = dir.path().join("a/b").join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    drop(store);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(open(&url).await.row(ip(10), soon()).await.unwrap().is_some());
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn what_is_no_database_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes");
    std::fs::write(&file, "not a database, but somebody's notes. ".repeat(200)).unwrap();
    assert!(refusal(&file).await.contains("the file is not a database"));
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("not a database"));
    assert!(refusal(dir.path()).await.contains("cannot be opened"));
    assert!(refusal(&file.join("below")).await.contains("directory cannot be made"));
}

/// A file system of 256 KiB, for root alone to mount.
struct Small(tempfile::TempDir);

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_or_read_only_disk_is_called_so() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can mount a small file system");
        return;
    }
    let small = Small(tempfile::tempdir().unwrap());
    mount(Some("tmpfs"), small.0.path(), Some("tmpfs"), MsFlags::empty(), Some("size=256k")).unwrap();
    let file = small.0.path().join("ipam.db");
    let store = open(&format!("sqlite://{}", file.display())).await;
    let rows: Vec<_> = (0..20_000_u32).map(|n| new_row((0x0a00_0000 + n).into(), Status::Free)).collect();
    let full = store.insert_missing(&subnet(), &rows, soon()).await.unwrap_err();
    assert!(matches!(&full, StoreError::Failed { why, .. } if why.contains("disk")), "{full}");
    drop(store);
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, small.0.path(), None::<&str>, read_only, None::<&str>).unwrap();
    assert!(refusal(&file).await.contains("cannot be opened for writing (Read-only file system)"));
    assert!(refusal(&small.0.path().join("new.db")).await.contains("Read-only file system"));
}
