//! Docker's requests as they come: JSON keys as the Engine has them. Values only, nothing is done here.
//!
//! Source: moby/moby, `libnetwork/ipams/remote/api/api.go`, v20.10 to v29, and requests recorded from those engines. All keys
//! of a request are always there; `Options` may be null.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RequestPool {
    #[serde(default)]
    pub(super) pool: String,
    #[serde(default)]
    pub(super) sub_pool: String,
    #[serde(default)]
    pub(super) options: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(super) v6: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct ReleasePool {
    #[serde(rename = "PoolID")]
    pub(super) pool_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RequestAddress {
    #[serde(rename = "PoolID")]
    pub(super) pool_id: String,
    #[serde(default)]
    pub(super) address: String,
    #[serde(default)]
    pub(super) options: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ReleaseAddress {
    #[serde(rename = "PoolID")]
    pub(super) pool_id: String,
    pub(super) address: String,
}

/// A body of a call that has one, or a sentence that says why it is none.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    if body.iter().all(u8::is_ascii_whitespace) {
        // The Engine repeats a call whose connection broke with an empty body (moby/moby issue 35459); answering it would do
        // something that nobody asked for.
        return Err("the request has no body: it is a repetition that lost it; try the command again".into());
    }
    // An object: serde would read a list as the fields in order, and an empty one as a request without any.
    serde_json::from_slice(body)
        .and_then(|fields| T::deserialize(Value::Object(fields)))
        .map_err(|e| format!("the request is not what Docker sends: {e}"))
}
