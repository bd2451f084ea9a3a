//! A scripted HTTP/1.1 server: for each request, the head and body go in and an answer comes out.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What to do with a request.
pub(crate) enum Answer {
    /// Status, extra header lines, body.
    Http(u16, String, String),
    /// Close the connection without a word.
    Drop,
    /// Never answer.
    Hang,
}

pub(crate) struct Stub {
    pub(crate) url: String,
    /// `head\r\n\r\nbody` of each request.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Stub {
    /// `answer` is called with the request and its number, from 0.
    pub(crate) async fn start(answer: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (log, answer) = (seen.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (log, answer) = (log.clone(), answer.clone());
                tokio::spawn(async move {
                    let Some(request) = request(&mut stream).await else {
                        return;
                    };
                    let number = {
                        let mut log = log.lock().unwrap();
                        log.push(request.clone());
                        log.len() - 1
                    };
                    match answer(&request, number) {
                        Answer::Http(status, headers, body) => {
                            let length = body.len();
                            let text = format!(
                                "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
                            );
                            stream.write_all(text.as_bytes()).await.unwrap();
                        }
                        Answer::Drop => {}
                        Answer::Hang => std::future::pending().await,
                    }
                });
            }
        });
        Self { url, seen }
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn request(stream: &mut tokio::net::TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some(text);
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
        }
    }
}
