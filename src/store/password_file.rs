//! A password in a file of its own. It is read for each login, so that it can be changed while the driver runs.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Far beyond any password.
const LARGEST: u64 = 4096;
/// Of a file's mode: others than its owner and its group may read or write it.
const OTHERS: u32 = 0o006;

/// What a file has.
pub struct Found {
    pub(super) password: String,
    /// Why it is no secret, where it is none: the end of a sentence that begins with the file.
    pub exposed: Option<String>,
}

/// Reads it; one line end at its end is not the password's.
///
/// # Errors
/// A sentence that names the setting and the file, and holds nothing of what is in it.
pub async fn read(path: &Path) -> Result<Found, String> {
    let wrong = |why: &str| format!("EC2_IPAM_DATABASE_PASSWORD_FILE is {path:?}, but {why}");
    let unread = |error: &std::io::Error| {
        if error.kind() == ErrorKind::NotFound {
            return wrong("there is no such file");
        }
        wrong(&format!("that file cannot be read ({})", error.kind()))
    };
    let about = tokio::fs::metadata(path).await.map_err(|error| unread(&error))?;
    // What is no file may never come to its end.
    if !about.is_file() || about.len() > LARGEST {
        return Err(wrong("that is no file with a password"));
    }
    let bytes = tokio::fs::read(path).await.map_err(|error| unread(&error))?;
    let mode = about.permissions().mode();
    let exposed = (mode & OTHERS != 0)
        .then(|| format!("everybody on the host may read or change it (mode {:04o}): chmod 600", mode & 0o7777));
    Ok(Found { password: password(bytes).map_err(wrong)?, exposed })
}

fn password(bytes: Vec<u8>) -> Result<String, &'static str> {
    let text = String::from_utf8(bytes).map_err(|_| "that file is not UTF-8")?;
    let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if line.is_empty() {
        return Err("that file is empty");
    }
    if line.contains(['\n', '\r']) {
        return Err("that file has several lines, and must have the password alone");
    }
    // A byte order mark, or what some editors write for text.
    if line.starts_with('\u{feff}') || line.contains('\0') {
        return Err("that file is not plain UTF-8 text");
    }
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_a_password_and_nothing_else_is() {
        for (bytes, read) in [
            (&b"hunter2"[..], Ok("hunter2")),
            (b"hunter2\n", Ok("hunter2")),
            (b"hunter2\r\n", Ok("hunter2")),
            (b" hunter 2 \n", Ok(" hunter 2 ")),
            ("p\u{e4}\u{df}".as_bytes(), Ok("p\u{e4}\u{df}")),
            (b"", Err("that file is empty")),
            (b"\n", Err("that file is empty")),
            (b"\r\n", Err("that file is empty")),
            (b"hunter2\n\n", Err("that file has several lines, and must have the password alone")),
            (b"\nhunter2", Err("that file has several lines, and must have the password alone")),
            (b"hunter2\r", Err("that file has several lines, and must have the password alone")),
            (b"hunter\xff2", Err("that file is not UTF-8")),
            (b"\xef\xbb\xbfhunter2", Err("that file is not plain UTF-8 text")),
            (b"h\0u\0", Err("that file is not plain UTF-8 text")),
        ] {
            assert_eq!(password(bytes.to_vec()).as_deref(), read.as_ref().copied(), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_file_is_said_and_who_else_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let why = async |path: &Path| read(path).await.err().unwrap_or_default();
        assert!(why(&path).await.ends_with("there is no such file"));
        let of_dir = why(dir.path()).await;
        assert!(
            of_dir.starts_with("EC2_IPAM_DATABASE_PASSWORD_FILE is ") && of_dir.ends_with("no file with a password")
        );
        assert!(why(Path::new("/dev/zero")).await.ends_with("no file with a password"));
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        assert!(why(&path).await.ends_with("no file with a password"));
        std::fs::write(&path, "hunter2\n").unwrap();
        for (mode, exposed) in [(0o600, false), (0o640, false), (0o400, false), (0o644, true), (0o602, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let found = read(&path).await.unwrap();
            assert_eq!((found.password.as_str(), found.exposed.is_some()), ("hunter2", exposed), "{mode:o}");
        }
    }
}
