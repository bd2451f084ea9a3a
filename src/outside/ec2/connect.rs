//! Where EC2 is, and with whose credentials it is called.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::config::timeout::TimeoutConfig;
use aws_sdk_ec2::config::{Credentials, Region};

use super::calls::Calls;
use super::credentials::Source;
use super::{ATTEMPTS, CALL, Ec2, Ec2Error, LOST};

/// Longest time for a connection, TLS included; the SDK's own default is 3.1 s.
pub(super) const CONNECT: Duration = Duration::from_secs(3);
/// Access keys from the original's `config.json`. Not printable.
#[derive(Clone)]
#[allow(missing_docs, reason = "AWS's names")]
pub struct StaticKeys {
    pub access_key_id: String,
    pub secret_access_key: String,
}

impl From<StaticKeys> for SharedCredentialsProvider {
    fn from(StaticKeys { access_key_id, secret_access_key }: StaticKeys) -> Self {
        let keys = Credentials::builder().access_key_id(access_key_id).secret_access_key(secret_access_key);
        Self::new(keys.provider_name("config.json").build())
    }
}

impl std::fmt::Debug for StaticKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StaticKeys")
    }
}

impl Ec2 {
    /// Finds region, credentials and endpoint: what is given here, else the SDK's own environment names
    /// (`AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL_EC2`, ...), and in the end this role's credentials. Sends
    /// nothing.
    ///
    /// Errors: [`Ec2Error::NoRegion`]. Credentials are looked for at the first call.
    pub async fn connect(
        region: Option<String>,
        keys: Option<StaticKeys>,
        role: impl ProvideCredentials + 'static,
    ) -> Result<Self, Ec2Error> {
        let region = region_of(region).await?;
        let credentials = match keys {
            Some(keys) => keys.into(),
            // The SDK's own chain but for its end: its client of IMDS is not used (see `imds::session`).
            None => SharedCredentialsProvider::new(
                CredentialsProviderChain::first_try("environment", EnvironmentVariableCredentialsProvider::new())
                    .or_else("profile", ProfileFileCredentialsProvider::builder().build())
                    .or_else("web identity", WebIdentityTokenCredentialsProvider::builder().build())
                    .or_else("container", EcsCredentialsProvider::builder().build())
                    .or_else("role", role),
            ),
        };
        Ok(Self::with(None, region, credentials).await)
    }

    /// At this endpoint, such as `http://127.0.0.1:4566`.
    pub async fn connect_to(endpoint: String, region: String, keys: StaticKeys) -> Self {
        Self::with(Some(endpoint), region, keys.into()).await
    }

    async fn with(endpoint: Option<String>, region: String, credentials: SharedCredentialsProvider) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(LOST)
            .operation_timeout(CALL)
            .build();
        // Dated, so that an update of the SDK does not change retries or timeouts by itself. It honours HTTPS_PROXY and
        // NO_PROXY.
        let loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(timeouts)
            .region(Region::new(region.clone()))
            .credentials_provider(credentials.clone());
        // Boxed: the SDK's loader is tens of kilobytes of future.
        let shared = Box::pin(loader.load()).await;
        let mut config = aws_sdk_ec2::config::Builder::from(&shared);
        // A plugin's settings can be emptied but not removed, and the SDK takes an empty one for an endpoint.
        let given = ["AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL"].map(|name| std::env::var(name).ok());
        if endpoint.is_some() || given.iter().flatten().any(String::is_empty) {
            let named = given.into_iter().flatten().find(|url| !url.is_empty());
            config.set_endpoint_url(endpoint.or(named));
        }
        let calls = Calls::default();
        let client = Client::from_conf(config.interceptor(calls.clone()).build());
        Self { client, region, calls, credentials: Source::new(credentials) }
    }
}

/// This one, else the environment's.
async fn region_of(given: Option<String>) -> Result<String, Ec2Error> {
    let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new());
    let region = match given {
        Some(region) => Some(region),
        None => Box::pin(chain.region()).await.map(|region| region.as_ref().trim().to_owned()),
    };
    // A plugin's settings can be emptied but not removed.
    region.filter(|region| !region.is_empty()).ok_or(Ec2Error::NoRegion)
}
