//! A file that is there whole or not at all.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Error, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::random;

/// Of a file that was not there: it tells whose the fleet's addresses are.
const PRIVATE: u32 = 0o600;

/// Writes the file anew, beside it first. One that is there keeps its mode, and a link leads where it led. What is no file, such
/// as a pipe or a device, is written to.
///
/// # Errors
/// The file system's; then what was there is as it was.
pub(super) fn replace(file: &Path, text: &[u8]) -> Result<(), Error> {
    let (file, mode) = match file.metadata() {
        Ok(there) if there.is_dir() => {
            return Err(Error::new(ErrorKind::IsADirectory, "it is a folder: name a file in it"));
        }
        Ok(there) if there.is_file() => (file.canonicalize()?, there.permissions().mode() & 0o777),
        Ok(_) => return OpenOptions::new().write(true).open(file)?.write_all(text),
        Err(why) if why.kind() == ErrorKind::NotFound => (file.to_path_buf(), PRIVATE),
        Err(why) => return Err(why),
    };
    let beside = beside(&file)?;
    let written = write(&beside, mode, text).and_then(|()| std::fs::rename(&beside, &file));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

/// A name that nobody else has there.
fn beside(file: &Path) -> Result<PathBuf, Error> {
    let name = file.file_name().ok_or_else(|| Error::new(ErrorKind::InvalidInput, "it names no file"))?;
    let number = random::number().map_err(Error::other)?;
    Ok(file.with_file_name(format!(".{}.{number:016x}", name.display())))
}

fn write(file: &Path, mode: u32, text: &[u8]) -> Result<(), Error> {
    let mut written: File = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(file)?;
    written.set_permissions(Permissions::from_mode(mode))?;
    written.write_all(text)?;
    written.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(file: &Path) -> u32 {
        file.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_whole_private_and_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        replace(&at("map.html"), b"one").unwrap();
        assert_eq!(mode(&at("map.html")), 0o600);
        std::fs::set_permissions(at("map.html"), Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink("map.html", at("link.html")).unwrap();
        replace(&at("link.html"), b"two").unwrap();
        assert_eq!((std::fs::read(at("map.html")).unwrap(), mode(&at("map.html"))), (b"two".to_vec(), 0o644));
        assert!(at("link.html").symlink_metadata().unwrap().is_symlink());
        replace(Path::new("/dev/null"), b"nothing").unwrap();
        assert!(!Path::new("/dev/null").metadata().unwrap().is_file());
        for (wrong, says) in
            [(at(""), "it is a folder"), (at("nowhere/map.html"), "No such file"), (at(".."), "a folder")]
        {
            let why = replace(&wrong, b"").unwrap_err().to_string();
            assert!(why.contains(says), "{wrong:?}: {why}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside");
    }
}
