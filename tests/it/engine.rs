//! Docker's API over a Unix socket.

use std::os::unix::fs::PermissionsExt;

use ec2_ipam::outside::engine::{Engine, EngineError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

mod dockerd;
mod snapshot;

fn serve(path: &std::path::Path, answer: &'static str) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let n = stream.read(&mut request).await.unwrap();
            assert!(request[..n].starts_with(b"GET /version HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
}

#[tokio::test]
async fn the_version_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("docker.sock");
    serve(&path, "HTTP/1.1 200 OK\r\nContent-Length: 39\r\n\r\n{\"Version\":\"29.0.1\",\"ApiVersion\":\"1.5\"}");
    let engine = Engine::new(path);
    assert_eq!(engine.version().await.unwrap(), "29.0.1");
    assert_eq!(engine.version().await.unwrap(), "29.0.1");
}

#[tokio::test]
async fn failures_are_told_with_their_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let error = Engine::new(dir.path().join("none.sock")).version().await.unwrap_err();
    assert!(
        matches!(error, EngineError::NoSocket { .. }) && error.to_string().contains("EC2_IPAM_DOCKER_SOCKET"),
        "{error:?}"
    );

    let dead = dir.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let error = Engine::new(dead).version().await.unwrap_err();
    assert!(
        matches!(error, EngineError::Silent { .. }) && error.to_string().contains("is dockerd running?"),
        "{error:?}"
    );

    let hung = dir.path().join("hung.sock");
    let _listener = UnixListener::bind(&hung).unwrap();
    let error = Engine::new(hung).version().await.unwrap_err();
    assert!(error.to_string().contains("no answer within 5 s"), "{error}");

    let other = dir.path().join("other.sock");
    serve(&other, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    let error = Engine::new(other).version().await.unwrap_err();
    assert!(matches!(&error, EngineError::Odd { what, .. } if what == "HTTP 404"), "{error:?}");

    // Root may open anything.
    if !nix::unistd::geteuid().is_root() {
        let shut = dir.path().join("shut.sock");
        serve(&shut, "");
        std::fs::set_permissions(&shut, std::fs::Permissions::from_mode(0o000)).unwrap();
        assert!(matches!(Engine::new(shut).version().await, Err(EngineError::Denied { .. })));
    }
}
