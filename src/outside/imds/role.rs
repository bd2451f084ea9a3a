//! The credentials of the instance's role, for the SDK.

use std::sync::{Arc, Mutex, PoisonError};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use serde::Deserialize;

use super::{Imds, ImdsError};

/// A source of the role's credentials. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Role {
    imds: Imds,
    /// While IMDS is away the last ones are better than none.
    last: Arc<Mutex<Option<Credentials>>>,
}

/// IMDS's answer; the names are AWS's.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Answer {
    code: String,
    message: String,
    access_key_id: String,
    secret_access_key: String,
    token: String,
    expiration: String,
}

impl Role {
    pub(super) fn new(imds: Imds) -> Self {
        Self { imds, last: Arc::default() }
    }

    fn last(&self) -> Option<Credentials> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn credentials(&self) -> Result<Credentials, CredentialsError> {
        match self.fetch().await {
            Ok(credentials) => {
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(credentials.clone());
                Ok(credentials)
            }
            Err(why) => self.last().ok_or(why),
        }
    }

    async fn fetch(&self) -> Result<Credentials, CredentialsError> {
        let listing = self.get("iam/security-credentials/").await?;
        let Some(role) = listing.lines().next().map(str::trim).filter(|role| !role.is_empty()) else {
            return Err(CredentialsError::not_loaded("the instance has no role"));
        };
        let text = self.get(&format!("iam/security-credentials/{role}")).await?;
        // The parser's own message could quote a secret.
        let answer: Answer = serde_json::from_str(&text)
            .map_err(|_| CredentialsError::unhandled("the instance metadata service's credentials are not JSON"))?;
        if !matches!(answer.code.as_str(), "" | "Success") {
            let why = format!("[{}] {}", answer.code, answer.message);
            return Err(match answer.code.as_str() {
                // The role's trust policy does not name EC2.
                "AssumeRoleUnauthorizedAccess" => CredentialsError::invalid_configuration(why),
                _ => CredentialsError::provider_error(why),
            });
        }
        if answer.access_key_id.is_empty() || answer.secret_access_key.is_empty() {
            return Err(CredentialsError::unhandled("the instance metadata service's credentials lack their keys"));
        }
        // Some whose time is over are used all the same: while AWS cannot make new ones it goes on taking them.
        let expiry = humantime::parse_rfc3339_weak(&answer.expiration).ok();
        let Answer { access_key_id, secret_access_key, token, .. } = answer;
        Ok(Credentials::new(access_key_id, secret_access_key, Some(token), expiry, "IMDS"))
    }

    async fn get(&self, path: &str) -> Result<String, CredentialsError> {
        self.imds.get(path).await.map_err(|why| match why {
            ImdsError::Absent { .. } => CredentialsError::not_loaded(why),
            ImdsError::Unreachable { .. } | ImdsError::Disabled | ImdsError::Odd { .. } => {
                CredentialsError::provider_error(why)
            }
        })
    }
}

impl ProvideCredentials for Role {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.last()
    }
}
