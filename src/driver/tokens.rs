//! Tokens by which the table's user logs in, signed with the credentials that EC2 is called with.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::late::Late;
use crate::outside::ec2::Ec2;
use crate::outside::rds;
use crate::store::Tokens;

/// Region and credentials are waited for so long: a login has less time than a request.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whoever makes them. The region is EC2's, that of AWS_REGION or of the instance.
pub(crate) fn tokens(ec2: &Late<Ec2>) -> Tokens {
    let ec2 = ec2.clone();
    Tokens::new(move |(name, port), user| {
        let ec2 = ec2.clone();
        async move {
            let ec2 = ec2.get(Instant::now() + PATIENCE).await.map_err(|why| why.to_string())?;
            let credentials = ec2.credentials().await.map_err(|why| why.to_string())?;
            rds::token(credentials, ec2.region(), (&name, port), &user, now())
        }
    })
}

#[allow(clippy::disallowed_methods, reason = "a signature has a time of AWS's")]
fn now() -> SystemTime {
    SystemTime::now()
}
