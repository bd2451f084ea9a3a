//! The credentials that calls are signed with, for what else is signed with them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::{Ec2Error, credentials};

/// Those of a session are used for so long before they are asked for again: IMDS throttles.
const KEPT: Duration = Duration::from_secs(300);
/// But not in their last minutes. A role's are renewed five minutes before their end at the latest (AWS, "IAM roles for EC2").
const LAST: Duration = Duration::from_secs(300);

/// Where they come from. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Source {
    provider: SharedCredentialsProvider,
    kept: Arc<Mutex<Option<(Instant, Credentials)>>>,
}

impl Source {
    pub(super) fn new(provider: SharedCredentialsProvider) -> Self {
        Self { provider, kept: Arc::default() }
    }

    /// Those that are good now. Who asks at the same time waits for the same answer.
    pub(super) async fn get(&self) -> Result<Credentials, Ec2Error> {
        let mut kept = self.kept.lock().await;
        if let Some((since, known)) = kept.as_ref()
            && since.elapsed() < KEPT
        {
            return Ok(known.clone());
        }
        let fresh = self.provider.provide_credentials().await.map_err(|why| credentials(&why))?;
        // Those without an end cost nothing to look for, and may have been exchanged.
        let lasts = fresh.expiry().and_then(|end| end.checked_sub(KEPT + LAST)).is_some_and(|end| end > now());
        *kept = lasts.then(|| (Instant::now(), fresh.clone()));
        Ok(fresh)
    }
}

#[allow(clippy::disallowed_methods, reason = "their end is a time of AWS's")]
fn now() -> SystemTime {
    SystemTime::now()
}
