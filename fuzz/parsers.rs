//! What parses a text from outside: nothing makes it panic, what it takes it gives back as it was, and what it refuses it
//! refuses in one sentence without a secret.
//!
//! The parsers are pure and stand in files of their own, so they are taken in by path: the crate as a whole would bring the
//! AWS SDK with it, instrumented, which takes longer to build than this takes to find something.
//!
//! Without libFuzzer it is a test, so that it cannot rot.
#![cfg_attr(fuzzing, no_main)]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use arbitrary::Arbitrary;
use ipnet::Ipv4Net;
use serde::de::DeserializeOwned;
use serde_json::json;

#[allow(dead_code, reason = "the driver uses the rest")]
#[path = "../src/domain/id.rs"]
mod id;
#[allow(dead_code, reason = "the driver uses the rest")]
#[path = "../src/store/login.rs"]
mod login;
#[allow(dead_code, reason = "the driver uses the rest")]
#[path = "../src/random.rs"]
mod random;
#[allow(dead_code, reason = "the driver uses the rest")]
#[path = "../src/store/url.rs"]
mod url;
#[path = "../src/socket/wire.rs"]
mod wire;

use id::{Boot, Claim, EniId, Kind, PoolId};
use url::{Database, Server};
use wire::{ReleaseAddress, ReleasePool, RequestAddress, RequestPool};

type Options = Option<BTreeMap<String, String>>;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Body(&'a [u8]),
    RequestPool { pool: String, sub_pool: String, options: Options, v6: bool },
    RequestAddress { pool_id: String, address: String, options: Options },
    ReleaseAddress { pool_id: String, address: String },
    PoolId(&'a str),
    PoolIdOf { eni: u128, cidr: Option<(u32, u8)>, sub_pool: Option<(u32, u8)> },
    PoolIdNear { base: u32, len: u8, at: u8, cut: u8, inserted: &'a [u8] },
    Url(&'a str),
    UrlAround { user: &'a [u8], before: &'a [u8], after: &'a [u8], place: &'a [u8] },
    UrlOf { user: String, password: String, host: u64, port: Option<u16>, database: String },
    Claim(&'a str),
    ClaimOf { number: u64, kind: u8 },
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: Input<'_>| check(input));

/// Without libFuzzer, some inputs by chance.
#[cfg(not(fuzzing))]
fn main() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..20_000 {
        let length = random.usize(..512);
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
        if let Ok(input) = Input::arbitrary_take_rest(arbitrary::Unstructured::new(&bytes)) {
            check(input);
        }
    }
}

#[cfg(not(fuzzing))]
#[test]
fn nothing_from_outside_makes_a_parser_panic() {
    main();
}

fn check(input: Input<'_>) {
    match input {
        Input::Body(body) => {
            refused::<RequestPool>(body);
            refused::<RequestAddress>(body);
            refused::<ReleaseAddress>(body);
            refused::<ReleasePool>(body);
        }
        Input::RequestPool { pool, sub_pool, options, v6 } => {
            let body = json!({ "AddressSpace": "x", "Pool": pool, "SubPool": sub_pool, "Options": options, "V6": v6 });
            let got: RequestPool = taken(&body);
            assert_eq!((got.pool, got.sub_pool, got.options, got.v6), (pool, sub_pool, options, v6));
        }
        Input::RequestAddress { pool_id, address, options } => {
            let got: RequestAddress = taken(&json!({ "PoolID": pool_id, "Address": address, "Options": options }));
            assert_eq!((got.pool_id, got.address, got.options), (pool_id, address, options));
        }
        Input::ReleaseAddress { pool_id, address } => {
            let body = json!({ "PoolID": pool_id, "Address": address });
            let (got, pool): (ReleaseAddress, ReleasePool) = (taken(&body), taken(&body));
            assert_eq!((&got.pool_id, got.address, pool.pool_id), (&pool_id, address, pool_id.clone()));
        }
        Input::PoolId(text) => pool_id(text),
        Input::PoolIdNear { base, len, at, cut, inserted } => {
            let net = Ipv4Net::new(Ipv4Addr::from(base), len % 33).unwrap().trunc();
            let mut text = format!("eni-0a1b2c3d/{}-{}", net.network(), net.prefix_len());
            let at = usize::from(at) % (text.len() + 1);
            let end = text.len().min(at + usize::from(cut % 4));
            text.replace_range(at..end, &likely(inserted));
            pool_id(&text);
        }
        Input::PoolIdOf { eni, cidr, sub_pool } => {
            let net = |(base, len): (u32, u8)| Ipv4Net::new(Ipv4Addr::from(base), len % 33).unwrap().trunc();
            let eni: EniId = format!("eni-{:08x}", eni >> 20).parse().unwrap();
            // A PoolID with a range has a subnet.
            let id = PoolId { eni, cidr: cidr.map(net), sub_pool: cidr.and(sub_pool).map(net) };
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        Input::Url(text) => match text.parse::<Database>() {
            Ok(Database::Sqlite(file)) => assert!(file.is_absolute() && text.ends_with(file.to_str().unwrap())),
            Ok(Database::MySql(server)) => assert!(!server.user.is_empty() && !server.database.is_empty()),
            Err(why) => assert!(!why.to_string().is_empty()),
        },
        Input::UrlAround { user, before, after, place } => {
            // A password that somebody forgot to encode, in a URL that may be wrong in further ways.
            const SECRET: &str = "Kq7vZ2xTr9Wm";
            let [user, before, after, place] = [user, before, after, place].map(likely);
            let url = format!("mysql://{user}:{before}{SECRET}{after}@{place}");
            let said = match url.parse::<Database>() {
                Ok(database) => format!("{database} {database:?}"),
                Err(why) => format!("{why} {why:?}"),
            };
            assert!(!said.contains(SECRET), "{url}: {said}");
        }
        Input::UrlOf { user, password, host, port, database } => {
            let user = format!("u{user}");
            let database = format!("d{}", database.replace('/', ""));
            let host = format!("h{host:x}.example");
            let place = port.filter(|port| *port != 0).map_or(host.clone(), |port| format!("{host}:{port}"));
            let url = format!("mysql://{}:{}@{place}/{}", encoded(&user), encoded(&password), encoded(&database));
            let Ok(Database::MySql(server)) = url.parse() else { panic!("{url}") };
            let port = port.filter(|port| *port != 0).unwrap_or(3306);
            assert_eq!(server, Server::new(host, port, user, password, database));
        }
        Input::Claim(text) => {
            let claim = Claim::stored(text.to_owned());
            assert_eq!(claim.as_str(), text);
            let ends = [":on", ":off", ":lease"].map(|end| text.ends_with(end));
            assert_eq!(claim.kind().is_some(), ends.contains(&true));
        }
        Input::ClaimOf { number, kind } => {
            let kind = [Kind::On, Kind::Off, Kind::Lease][usize::from(kind % 3)];
            let (boot, other) = (Boot::random().unwrap(), Boot::random().unwrap());
            let claim = boot.claim(number, kind);
            let stored = Claim::stored(claim.as_str().to_owned());
            assert_eq!((stored.kind(), stored.is_of(&boot), stored.is_of(&other)), (Some(kind), true, false));
            assert!(claim.as_str().len() <= 64, "the column's width");
        }
    }
}

fn pool_id(text: &str) {
    match text.parse::<PoolId>() {
        Ok(id) => assert_eq!(id.to_string(), text),
        Err(why) => is_a_sentence(&why.to_string()),
    }
}

/// A text of the characters that these parsers tell apart.
fn likely(bytes: &[u8]) -> String {
    const CHARACTERS: &[u8] = b"@/?:%&=-+,.[]#012345abcdeint \n";
    bytes.iter().map(|byte| char::from(CHARACTERS[usize::from(*byte) % CHARACTERS.len()])).collect()
}

fn taken<T: DeserializeOwned>(body: &serde_json::Value) -> T {
    // With the end of line that the Engine sends.
    wire::parse(format!("{body}\n").as_bytes()).unwrap()
}

fn refused<T: DeserializeOwned>(body: &[u8]) {
    if let Err(why) = wire::parse::<T>(body) {
        is_a_sentence(&why);
    }
}

fn is_a_sentence(why: &str) {
    assert!(!why.is_empty() && !why.chars().any(char::is_control), "{why:?}");
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}
