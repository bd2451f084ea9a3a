//! The original's `config.json`; keys that are not needed are ignored, as the original does.

use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

use crate::store::Server;

/// What it has.
#[derive(Default, Deserialize)]
pub(super) struct Original {
    pub(super) mysql: Option<OriginalMySql>,
    #[serde(default)]
    pub(super) aws: OriginalAws,
}

#[derive(Deserialize)]
pub(super) struct OriginalMySql {
    host: String,
    port: Option<u16>,
    user: String,
    #[serde(default)]
    password: String,
    database: String,
}

#[derive(Default, Deserialize)]
pub(super) struct OriginalAws {
    pub(super) region: Option<String>,
    #[serde(rename = "accessKeyId")]
    pub(super) access_key_id: Option<String>,
    #[serde(rename = "secretAccessKey")]
    pub(super) secret_access_key: Option<String>,
}

impl Original {
    pub(super) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        // serde_json's own message could quote a secret: its position is enough.
        serde_json::from_str(&text).map_err(|e| {
            anyhow::anyhow!(
                "{} is not a config.json of the original ec2-ipam (line {}, column {}): it looks like \
                 {{\"mysql\":{{\"host\":…,\"port\":…,\"user\":…,\"password\":…,\"database\":…}},\
                 \"aws\":{{\"region\":…,\"accessKeyId\":…,\"secretAccessKey\":…}}}}",
                file.display(),
                e.line(),
                e.column()
            )
        })
    }
}

impl OriginalMySql {
    pub(super) fn server(self) -> Server {
        Server::new(self.host, self.port.unwrap_or(3306), self.user, self.password, self.database)
    }
}
