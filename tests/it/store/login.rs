//! Reaching a server, or being told why not, without a secret in the sentence.

use std::time::Duration;

use ec2_ipam::store::{Database, Login, Server, Store, StoreError, Tokens};
use tokio::time::Instant;

use super::bed::{open, soon};
use crate::support::mariadb::{Db, PASSWORD, server};
use crate::support::mysql;
use crate::support::proxy::Proxy;
use crate::support::secrets;

const WRONG: &str = "aWrongSecretQ3";

async fn refusal(url: &str) -> StoreError {
    refusal_of(&url.parse().unwrap()).await
}

async fn refusal_of(database: &Database) -> StoreError {
    let error = Store::open(database, soon()).await.unwrap_err();
    let text = format!("{error} {error:?}");
    secrets::assert_untold(&text, &[PASSWORD.to_owned(), WRONG.to_owned()]);
    error
}

#[tokio::test]
async fn each_way_to_fail_has_its_sentence() {
    let db = Db::new().await;
    let port = server().port;
    let error = refusal(&format!("mysql://ipam:{WRONG}@127.0.0.1:{port}/{}", db.name)).await;
    assert!(matches!(&error, StoreError::Refused { .. }) && error.to_string().contains("Access denied"), "{error}");
    let error = refusal(&db.url().replace(&db.name, "nowhere")).await;
    assert!(matches!(&error, StoreError::Refused { .. }) && error.to_string().contains("nowhere"), "{error}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = refusal(&db.url_at(free)).await;
    let sentence = format!("the database 127.0.0.1:{free}/{} cannot be reached: Connection refused", db.name);
    assert_eq!(error.to_string(), sentence);
    // Listens and says nothing.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = db.url_at(mute.local_addr().unwrap().port());
    let until = Instant::now() + Duration::from_millis(200);
    let error = Store::open(&url.parse().unwrap(), until).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unreachable { why, .. } if why == "no answer in time"), "{error}");
    let error = refusal(&format!("mysql://root@/{}?socket=/nowhere/sock", db.name)).await;
    assert!(matches!(&error, StoreError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_local_socket_will_do() {
    let db = Db::new().await;
    let store = open(&format!("mysql://root@/{}?socket={}/sock", db.name, server().dir.display())).await;
    assert!(store.describe(soon()).await.unwrap().version.contains("MariaDB"));
}

#[tokio::test]
async fn tls_goes_as_far_as_it_is_asked_to() {
    let db = Db::new().await;
    let dir = server().dir.display();
    let named = db.url().replace("127.0.0.1", "localhost");
    for url in [
        format!("{}?ssl-mode=required", db.url()),
        format!("{named}?ssl-ca={dir}/ca.pem"),
        format!("{named}?ssl-mode=verify-identity&ssl-ca={dir}/ca.pem"),
        format!("{}?ssl-name=localhost&ssl-ca={dir}/ca.pem", db.url()),
        // The first is not whom the certificate is for, which says nothing about the second.
        format!("{}?ssl-ca={dir}/ca.pem", named.replace("@", &format!("@127.0.0.1:{},", server().port))),
    ] {
        open(&url).await.describe(soon()).await.unwrap();
    }
    for url in [
        format!("{named}?ssl-mode=verify-identity&ssl-ca={dir}/other.pem"),
        format!("{}?ssl-name=localhost&ssl-ca={dir}/other.pem", db.url()),
        format!("{}?ssl-mode=verify-identity&ssl-ca={dir}/ca.pem", db.url()),
        format!("{named}?ssl-mode=verify-identity"),
    ] {
        let error = refusal(&url).await;
        assert!(matches!(&error, StoreError::Refused { .. }) && error.to_string().contains("TLS"), "{error}");
    }
    // A user who must come by TLS.
    db.exec(&format!("CREATE USER {0}_tls IDENTIFIED BY 'p' REQUIRE SSL; GRANT ALL ON {0}.* TO {0}_tls", db.name))
        .await;
    let url = format!("mysql://{0}_tls:p@127.0.0.1:{1}/{0}", db.name, server().port);
    assert!(matches!(refusal(&url).await, StoreError::Refused { .. }));
    open(&format!("{url}?ssl-mode=required")).await;
}

#[tokio::test]
async fn an_authority_is_read_for_each_connection_and_its_file_named() {
    let (db, ways) = (Db::new().await, Proxy::to(server().port).await);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    let url = format!("{}?ssl-name=localhost&ssl-ca={}", db.url_at(ways.port), file.display());
    let error = refusal(&url).await;
    assert!(matches!(&error, StoreError::Refused { .. }), "{error}");
    let named = format!("{} of ssl-ca cannot be read", file.display());
    assert!(error.to_string().contains(&named), "{error}");
    std::fs::write(&file, "no certificate").unwrap();
    assert!(refusal(&url).await.to_string().contains("of ssl-ca holds no certificate"));
    let known = |name: &str| std::fs::copy(server().dir.join(name), &file).unwrap();
    known("ca.pem");
    let store = open(&url).await;
    known("other.pem");
    ways.cut();
    let error = store.describe(soon()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused { .. }) && error.to_string().contains("TLS"), "{error}");
    known("ca.pem");
    store.describe(soon()).await.unwrap();
}

#[tokio::test]
async fn what_is_no_database_is_not_called_a_failure_of_tls() {
    let garbage = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = garbage.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = garbage.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"\x05\0\0\0hello").await;
        }
    });
    for tls in ["", "?ssl-mode=required"] {
        let error = refusal(&format!("mysql://u:p@127.0.0.1:{port}/d{tls}")).await;
        assert!(matches!(&error, StoreError::Unreachable { why, .. } if why.contains("does not speak")), "{error}");
    }
}

fn logging_in(url: &str, login: Login) -> Database {
    match url.parse().unwrap() {
        Database::MySql(server) => Database::MySql(Server { login, ..server }),
        Database::Sqlite(_) => panic!("{url}"),
    }
}

#[tokio::test]
async fn a_password_of_a_file_is_read_for_each_login() {
    let (db, dir) = (Db::new().await, tempfile::tempdir().unwrap());
    let (file, ways) = (dir.path().join("password"), Proxy::to(server().port).await);
    let user = format!("{}_rot", db.name);
    db.exec(&format!("CREATE USER {user} IDENTIFIED BY 'first'; GRANT ALL ON {}.* TO {user}", db.name)).await;
    let password = async |text: &str| db.exec(&format!("ALTER USER {user} IDENTIFIED BY '{text}'")).await;
    let url = format!("mysql://{user}@127.0.0.1:{}/{}", ways.port, db.name);
    let database = logging_in(&url, Login::PasswordFile(file.clone()));
    let error = refusal_of(&database).await;
    assert!(matches!(&error, StoreError::Unfit { why, .. } if why.ends_with("but there is no such file")), "{error}");
    std::fs::write(&file, WRONG).unwrap();
    let told = refusal_of(&database).await.to_string();
    assert!(told.contains("Access denied") && told.contains(&format!("belongs into {}", file.display())), "{told}");
    std::fs::write(&file, "first\n").unwrap();
    let store = Store::open(&database, soon()).await.unwrap();

    // The database first: what is open lives on, and a new connection comes once the file has it too.
    password("second").await;
    store.describe(soon()).await.unwrap();
    ways.cut();
    let error = store.describe(soon()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused { .. }), "{error}");
    std::fs::write(&file, "second\n").unwrap();
    store.describe(soon()).await.unwrap();
    // The file first.
    std::fs::write(&file, "third\r\n").unwrap();
    store.describe(soon()).await.unwrap();
    ways.cut();
    assert!(matches!(store.describe(soon()).await.unwrap_err(), StoreError::Refused { .. }));
    password("third").await;
    store.describe(soon()).await.unwrap();
}

#[tokio::test]
async fn mysql_takes_two_passwords_while_files_are_exchanged() {
    let Some((db, _turn)) = mysql::shared().await else { return };
    let (dir, ways) = (tempfile::tempdir().unwrap(), Proxy::to(db.server.port).await);
    let (file, user) = (dir.path().join("password"), format!("{}_rot", db.name));
    db.exec(&format!("CREATE USER {user} IDENTIFIED BY 'first'")).await;
    db.exec(&format!("GRANT ALL ON {}.* TO {user}", db.name)).await;
    std::fs::write(&file, "first").unwrap();
    let url = format!("mysql://{user}@127.0.0.1:{}/{}?ssl-mode=required", ways.port, db.name);
    let store = Store::open(&logging_in(&url, Login::PasswordFile(file.clone())), soon()).await.unwrap();
    db.exec(&format!("ALTER USER {user} IDENTIFIED BY 'second' RETAIN CURRENT PASSWORD")).await;
    for password in ["first", "second"] {
        std::fs::write(&file, password).unwrap();
        ways.cut();
        store.describe(soon()).await.unwrap();
    }
    db.exec(&format!("ALTER USER {user} DISCARD OLD PASSWORD")).await;
    ways.cut();
    store.describe(soon()).await.unwrap();
}

#[tokio::test]
async fn a_token_goes_to_no_server_that_is_not_verified() {
    let db = Db::new().await;
    let tokens = Tokens::new(async |_, _| Ok(WRONG.to_owned()));
    for url in [db.url(), format!("{}?ssl-mode=required", db.url())] {
        let error = refusal_of(&logging_in(&url, Login::Token(tokens.clone()))).await;
        assert!(matches!(&error, StoreError::Unfit { why, .. } if why.contains("ssl-mode")), "{error}");
    }
    let verified = format!("{}?ssl-ca={}/ca.pem", db.url().replace("127.0.0.1", "localhost"), server().dir.display());
    let error = refusal_of(&logging_in(&verified, Login::Token(tokens))).await;
    assert!(error.to_string().contains("rds-db:connect"), "{error}");
    let nobody = refusal_of(&logging_in(&verified, Login::Token(Tokens::none()))).await;
    assert!(
        matches!(&nobody, StoreError::Unreachable { why, .. } if why.contains("no token to log in with")),
        "{nobody}"
    );
}
