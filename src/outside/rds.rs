//! Tokens by which a database's user logs in to RDS or Aurora, in a password's place. They are signed here, and nothing is sent.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;

/// How long a token opens connections (AWS, "IAM database authentication"). Those that are open stay.
const VALID: Duration = Duration::from_secs(900);
/// The service's name in a signature, which is also that of the IAM action `rds-db:connect`.
const SERVICE: &str = "rds-db";

/// A token for this user of the database at this name and port, signed at this time: the presigned request `connect`, without
/// its scheme. The name is to be the endpoint's own.
///
/// # Errors
/// What the library for signatures says, which holds no secret.
pub fn token(
    credentials: Credentials,
    region: &str,
    (name, port): (&str, u16),
    user: &str,
    now: SystemTime,
) -> Result<String, String> {
    let why = |what: &dyn std::fmt::Display| format!("it cannot be signed for {name}:{port}: {what}");
    let url = format!("https://{name}:{port}/?Action=connect&DBUser={}", encoded(user));
    let mut settings = SigningSettings::default();
    settings.expires_in = Some(VALID);
    settings.signature_location = SignatureLocation::QueryParams;
    let identity = credentials.into();
    let params = SigningParams::builder().identity(&identity).region(region).name(SERVICE).time(now).settings(settings);
    let params = params.build().map_err(|error| why(&error))?.into();
    let request = SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::empty());
    let signed = sign(request.map_err(|error| why(&error))?, &params).map_err(|error| why(&error))?;
    let (_, mut added) = signed.into_parts().0.into_parts();
    // At the end, as AWS's other clients have it.
    added.sort_by_key(|(name, _)| *name == "X-Amz-Signature");
    let added: String = added.iter().map(|(name, value)| format!("&{name}={}", encoded(value))).collect();
    Ok(format!("{}{added}", url.trim_start_matches("https://")))
}

/// As AWS encodes parts of a query before it signs it (AWS, "Create a signed request", UriEncode).
fn encoded(text: &str) -> String {
    let each = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    /// The expected ones are those of `generate_db_auth_token` of botocore 1.44.8, its clock set to the same time.
    #[test]
    fn a_token_is_what_botocore_makes_of_the_same() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_694_400); // 2026-11-26T12:00:00Z
        let made = |key, session: Option<&str>, region, place, user| {
            let credentials = Credentials::new(key, SECRET, session.map(str::to_owned), None, "test");
            token(credentials, region, place, user, now).unwrap()
        };
        assert_eq!(
            made("AKIDEXAMPLE", None, "eu-west-1", ("db.cluster-c0ffee.eu-west-1.rds.amazonaws.com", 3306), "ipam"),
            "db.cluster-c0ffee.eu-west-1.rds.amazonaws.com:3306/?Action=connect&DBUser=ipam\
             &X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20261126%2Feu-west-1%2Frds-db%2Faws4_request\
             &X-Amz-Date=20261126T120000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
             &X-Amz-Signature=e987bcd22333137169d020fd4ce38e4cc6317d51d9e978c18f58f58883f73d6a"
        );
        let session = "IQoJb3JpZ2luX2VjE+/w==//token";
        let place = ("db.cluster-c0ffee.cn-north-1.rds.amazonaws.com.cn", 3307);
        assert_eq!(
            made("ASIAEXAMPLE", Some(session), "cn-north-1", place, "ip am+@\u{fc}~*"),
            "db.cluster-c0ffee.cn-north-1.rds.amazonaws.com.cn:3307/?Action=connect&DBUser=ip%20am%2B%40%C3%BC~%2A\
             &X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=ASIAEXAMPLE%2F20261126%2Fcn-north-1%2Frds-db%2Faws4_request\
             &X-Amz-Date=20261126T120000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
             &X-Amz-Security-Token=IQoJb3JpZ2luX2VjE%2B%2Fw%3D%3D%2F%2Ftoken\
             &X-Amz-Signature=06eecc4febf3dc622ff6b07439c85b57ccb2f1e8e96465d977df4fc90bec22a5"
        );
    }

    #[test]
    fn a_name_that_is_none_is_an_error_without_a_secret() {
        let credentials = Credentials::new("AKIDEXAMPLE", SECRET, None, None, "test");
        let why = token(credentials, "eu-west-1", ("no name", 3306), "ipam", SystemTime::UNIX_EPOCH).unwrap_err();
        assert!(why.starts_with("it cannot be signed for no name:3306: ") && !why.contains(SECRET), "{why}");
    }
}
