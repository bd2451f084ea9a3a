//! The picture of a subnet: on a terminal, as JSON, and as a page in a real browser.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vpc_sim::Switches;

use crate::support::browser::Browser;
use crate::support::host::{Fleet, Host, Kind, RDS, SUBNET, eni, eventually, ip, on_both};

/// What nobody should call a container. It ends a script, opens a comment, and loads a picture.
const FORGED: &str = "</script><script>document.title='forged'</script><!--<img src=x onerror=alert(1)>\u{202e}";

on_both! {
    each_address_is_a_square
}

/// Two leases, one of them let go; something else's address, and a reserved one.
async fn bed(fleet: &Fleet) -> (Host, [Ipv4Addr; 2]) {
    fleet.vpc.take(RDS, ip(70));
    let (host, pool) = fleet.started(1, &[]).await;
    host.tell(&["reserve", "10.77.0.60", "printer"]).await;
    let (named, idle) = (host.lease_for(&pool, FORGED).await, host.lease_for(&pool, "web-2").await);
    host.release(&pool, idle).await;
    (host, [named, idle])
}

/// One that nobody has.
fn unused(used: &[Ipv4Addr]) -> Ipv4Addr {
    (100..).map(ip).find(|ip| !used.contains(ip)).unwrap()
}

/// The letters of a subnet in order.
fn squares(text: &str) -> Vec<char> {
    let lines = text.lines().filter(|line| line.starts_with("10.77."));
    lines.flat_map(|line| line.split_whitespace().skip(1).flat_map(str::chars)).collect()
}

async fn each_address_is_a_square(kind: Kind) {
    let fleet = Fleet::new(kind).await;
    let (host, [named, idle]) = bed(&fleet).await;
    let text = host.tell(&["map"]).await;
    assert!(text.starts_with(&format!("{SUBNET} 10.77.0.0/24: 246 of 256 addresses are free\n\n")), "{text}");
    let drawn = squares(&text);
    let at = |ip: Ipv4Addr| drawn[usize::from(ip.octets()[3])];
    assert_eq!(drawn.len(), 256, "{text}");
    assert_eq!((at(named), at(idle)), ('L', 'I'));
    assert_eq!([0, 1, 2, 3, 255, 4, 60, 70].map(|n| drawn[n]), ['A', 'A', 'A', 'A', 'A', 'p', 'R', 'p']);
    assert_eq!(at(unused(&[named, idle])), '.');
    let line = text.lines().find(|line| line.starts_with(&host.eni)).unwrap();
    assert!(line.contains(&format!("{} (this host)", host.instance)), "{text}");
    assert!(line.contains("1      1      1  10.77.0.4"), "{text}");
    assert!(text.lines().any(|line| line.starts_with(RDS) && line.ends_with("10.77.0.70")), "{text}");
    assert!(!text.contains('\u{1b}'), "no colour for who is no terminal");

    let json: Value = host.tell_json(&["map", SUBNET]).await;
    let subnet = &json["subnets"][0];
    assert_eq!(subnet["squares"].as_str().unwrap().chars().collect::<Vec<_>>(), drawn);
    assert_eq!(subnet["counts"], json!({ "aws": 5, "free": 246, "idle": 1, "lease": 1, "primary": 2, "reserved": 1 }));
    let taken = |ip: Ipv4Addr| {
        let all = subnet["taken"].as_array().unwrap();
        all.iter().find(|taken| taken["ip"] == ip.to_string()).unwrap()
    };
    let place = usize::try_from(taken(named)["eni"].as_u64().unwrap()).unwrap();
    assert_eq!(json["enis"][place], json!({ "eni": host.eni, "instance": host.instance, "here": true }));
    assert_eq!((&taken(named)["holder"], &taken(ip(60))["holder"]), (&json!(FORGED), &json!("printer")));
    assert!(taken(idle)["seconds"].is_u64() && taken(ip(60))["seconds"].is_null());

    // Without a driver the table itself is asked, and none of it is this host's.
    if kind == Kind::Mariadb {
        let other = fleet.host(2);
        let (done, text) = other.run(&["map"]).await;
        assert!(done && text.contains("no driver answers"), "{text}");
        let drawn = squares(&text);
        assert_eq!((drawn[usize::from(named.octets()[3])], drawn[usize::from(idle.octets()[3])]), ('l', 'i'), "{text}");
        assert!(text.contains(&host.instance) && !text.contains("(this host)"), "the roll says whose it is: {text}");
    }
}

#[tokio::test]
async fn it_is_told_what_it_cannot_draw() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let mut host = fleet.host(1);
    host.start().await;
    let text = host.tell(&["map"]).await;
    assert!(
        text.ends_with(
            "ec2-ipam: the table has no subnet yet; the first network fills it, or `ec2-ipam init SUBNET`\n"
        )
    );
    host.pool().await;
    for (args, says) in [
        (
            &["map", "subnet-0fffffffffffffff1"][..],
            "the table has no rows of subnet-0fffffffffffffff1; the subnets that it has",
        ),
        (&["map", "10.77.0.0/24"], "\"10.77.0.0/24\" is not an id of the form subnet-0123456789abcdef0"),
        (&["map", "--html", "/"], "the page cannot be written to /: it is a folder: name a file in it"),
        (&["map", "--html", "/nowhere/map.html"], "cannot be written to /nowhere/map.html: No such file or directory"),
        (&["map", "--html", "map.html", "--full"], "cannot be used with"),
        (&["map", "--html", "map.html", "--json"], "cannot be used with"),
        (&["map", "--color", "blue"], "invalid value 'blue' for '--color <WHEN>'"),
    ] {
        let (done, text) = host.ask(args).await;
        assert!(!done && text.contains(says), "{args:?}: {text}");
    }
    // Rows that no subnet of this VPC has are told of, not drawn.
    let stray = format!("INSERT INTO allocation (ip,subnet,status,`primary`) VALUES ('10.99.0.9','{SUBNET}','free',0)");
    host.sql(&stray, "").await;
    let text = host.tell(&["map"]).await;
    assert!(text.contains("1 of its rows are not in 10.77.0.0/24: they are not drawn"), "{text}");
    let proxy = host.proxy.as_ref().unwrap();
    proxy.away(true);
    let (done, text) = host.ask(&["map"]).await;
    assert!(!done && text.contains("the database 127.0.0.1:") && text.contains(" cannot be reached"), "{text}");
    proxy.away(false);
}

/// One that has no such call yet, as while a fleet is upgraded.
#[tokio::test]
async fn an_older_driver_is_named_as_the_reason() {
    let fleet = Fleet::new(Kind::Sqlite).await;
    let host = fleet.host(1);
    let listener = UnixListener::bind(host.socket()).unwrap();
    let answers = std::thread::spawn(move || {
        // The first only looks whether somebody listens.
        let mut streams = listener.incoming().map(Result::unwrap);
        let mut stream = streams.find_map(|mut one| (one.read(&mut [0; 4096]).unwrap() > 0).then_some(one)).unwrap();
        let body = "{\"Err\":\"\\\"/v1/map\\\" is not a call of this driver\"}";
        write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    });
    let (done, text) = host.ask(&["map"]).await;
    answers.join().unwrap();
    assert!(!done && text.contains("the driver that runs is of another version"), "{text}");
}

#[tokio::test]
async fn a_server_shows_by_host_what_it_serves() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (mut server, far) = (fleet.host(1), fleet.host(2));
    server.set(&[("EC2_IPAM_DISTANT", "true")]);
    server.start().await;
    let options = json!({ "eni-id": far.eni, "instance-id": far.instance });
    let pool = server.pool_with("", options).await.unwrap();
    let leased = server.lease(&pool).await;
    let text = server.tell(&["map"]).await;
    assert_eq!(squares(&text)[usize::from(leased.octets()[3])], 'l', "another host's: {text}");
    let line = text.lines().find(|line| line.starts_with(&far.eni)).unwrap();
    assert!(line.contains(&format!("  {}  ", far.instance)), "{text}");
}

/// On a terminal of so many columns, with colours if it has any.
async fn on_terminal(host: &Host, columns: u32, environment: &str, args: &str) -> String {
    let program = env!("CARGO_BIN_EXE_ec2-ipam");
    let command = format!(
        "stty cols {columns} rows 24; {environment} exec {program} --socket {} map {args}",
        host.socket().display()
    );
    host.program("script", &["-qec", &command, "/dev/null"]).await.replace('\r', "")
}

#[tokio::test]
async fn a_terminal_gets_what_it_can_show() {
    let fleet = Fleet::with(Kind::Sqlite, "10.77.0.0/20", Switches::default()).await;
    let (host, pool) = fleet.started(1, &[]).await;
    host.lease(&pool).await;
    let bare = on_terminal(&host, 80, "LC_ALL=C TERM=xterm NO_COLOR=1", "").await;
    assert!(!bare.contains('\u{1b}') && bare.is_ascii(), "{bare}");
    assert!(bare.contains("each square is a /28, 64 a line") && bare.contains("--full draws every address"), "{bare}");
    assert!(bare.lines().count() < 24 && bare.lines().all(|line| line.len() <= 80), "it fits: {bare}");
    assert_eq!(squares(&bare).len(), 256);
    let narrow = on_terminal(&host, 40, "LC_ALL=C TERM=xterm NO_COLOR=1", "").await;
    assert!(narrow.contains("each square is a /28, 16 a line"), "{narrow}");
    assert_eq!(squares(&narrow), squares(&bare));

    let full = on_terminal(&host, 80, "LC_ALL=C TERM=xterm-256color", "--full").await;
    assert!(full.contains("\u{1b}[38;5;231m\u{1b}[48;5;25mL "), "{full}");
    for (environment, args) in [
        ("LC_ALL=C TERM=dumb", "--full"),
        ("LC_ALL=C TERM=xterm NO_COLOR=1", "--full"),
        ("LC_ALL=C TERM=xterm", "--full --color never"),
    ] {
        let text = on_terminal(&host, 80, environment, args).await;
        assert!(!text.contains('\u{1b}') && squares(&text).len() == 4096, "{environment} {args}");
    }
    let some = on_terminal(&host, 80, "LC_ALL=C.UTF-8 TERM=linux NO_COLOR=1 COLORTERM=", "--full --color always").await;
    assert!(some.contains("\u{1b}[97m\u{1b}[44mL ") && some.contains('·'), "{some}");
}

/// Writes the page, and opens it.
async fn page(host: &Host) -> (PathBuf, Browser) {
    let file = host.dir.path().join("map.html");
    let text = host.tell(&["map", "--html", file.to_str().unwrap()]).await;
    assert!(text.contains(&format!("{} is written\n", file.display())), "{text}");
    let mut browser = Browser::open(&file);
    drawn(&mut browser);
    (file, browser)
}

fn drawn(browser: &mut Browser) {
    while browser.evaluate("subnets[0].canvas.width === 0") == true {
        browser.frame();
    }
}

/// What is painted in the middle of the lower edge of an address's square, beside its letter.
fn painted(browser: &mut Browser, n: u32) -> Value {
    browser.evaluate(&format!(
        "(() => {{ const [x, y] = place(subnets[0], {n}); const size = subnets[0].cell; \
         return Array.from(subnets[0].canvas.getContext('2d').getImageData(x + size / 2, y + size - 3, 1, 1).data); }})()"
    ))
}

/// The colour that the legend has for a kind, by its name.
fn of_legend(browser: &mut Browser, name: &str) -> Value {
    browser.evaluate(&format!(
        "(() => {{ const all = [...document.querySelectorAll('#legend .swatch')]; \
         const swatch = all.find((swatch) => swatch.style.background.includes('--{name})')); \
         return getComputedStyle(swatch).backgroundColor.match(/\\d+/g).map(Number).concat(255); }})()"
    ))
}

/// What the pointer is told of an address.
fn pointed_at(browser: &mut Browser, n: u32) -> String {
    let place = browser.evaluate(&format!(
        "(() => {{ const box = subnets[0].grid.getBoundingClientRect(); const [x, y] = place(subnets[0], {n}); \
         return [box.left + x + 2, box.top + y + 2]; }})()"
    ));
    browser.point(place[0].as_f64().unwrap(), place[1].as_f64().unwrap());
    told(browser)
}

fn told(browser: &mut Browser) -> String {
    browser
        .evaluate("tip.hidden ? '' : [...tip.childNodes].map((part) => part.textContent).join('; ')")
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn a_page_shows_in_a_browser_what_the_table_says() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    let (host, [named, idle]) = bed(&fleet).await;
    host.tell(&["reserve", "10.77.0.61", "beside-10.77.0.60"]).await;
    let (other, theirs) = fleet.started(2, &[]).await;
    let elsewhere = other.lease_for(&theirs, "db-1").await;
    let unused = unused(&[named, idle, elsewhere]);
    let [lease, idle_one, far, free] = [named, idle, elsewhere, unused].map(|ip| u32::from(ip.octets()[3]));
    eventually("both hosts are on the roll", async || {
        host.rows().await;
        host.tell_json::<Value>(&["map"]).await["hosts"].as_array().unwrap().len() == 2
    })
    .await;
    let (file, mut browser) = page(&host).await;
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefers(scheme);
        for (n, name) in [
            (lease, "lease"),
            (far, "lease_elsewhere"),
            (idle_one, "idle"),
            (4, "primary"),
            (0, "aws"),
            (60, "reserved"),
            (free, "free"),
        ] {
            assert_eq!(painted(&mut browser, n), of_legend(&mut browser, name), "{scheme}: {name}");
        }
        grounds.push(browser.evaluate("getComputedStyle(document.body).backgroundColor"));
    }
    assert_ne!(grounds[0], grounds[1], "light and dark differ");

    // Whoever it is sent to, wherever that is, reads the same moment.
    let when = browser.evaluate("document.getElementById('when').textContent");
    let when = when.as_str().unwrap().strip_prefix("as of ").unwrap().split_once(',').unwrap().0.to_owned();
    assert!(when.len() == 20 && when.ends_with('Z') && when.as_bytes()[10] == b'T', "{when}");

    // A name is text, whatever it holds.
    let told_of = pointed_at(&mut browser, lease);
    let forged = FORGED.replace('\u{202e}', "\\u{202e}");
    assert!(
        told_of.starts_with(&format!(
            "{named}; lease, this host; {forged}; {}; {} (this host); for ",
            eni(1),
            host.instance
        )),
        "{told_of}"
    );
    assert!(pointed_at(&mut browser, idle_one).contains("; last had by web-2; "));
    assert!(pointed_at(&mut browser, far).starts_with(&format!(
        "{elsewhere}; lease, another host; db-1; {}; {}; for ",
        eni(2),
        other.instance
    )));
    assert_eq!(pointed_at(&mut browser, 60), "10.77.0.60; reserved; for printer");
    assert_eq!(pointed_at(&mut browser, 1), "10.77.0.1; kept back by AWS; AWS: the VPC router");
    assert_eq!(browser.evaluate("document.title"), "ec2-ipam: addresses");
    assert_eq!(browser.evaluate("document.images.length + document.scripts.length"), 2, "no element came of a name");

    // By keys alone, and by a finger.
    browser.evaluate("subnets[0].grid.focus()");
    browser.press("ArrowDown");
    assert!(told(&mut browser).starts_with("10.77.0.17; "), "{}", told(&mut browser));
    browser.press("Escape");
    assert_eq!(told(&mut browser), "");
    let touch = "new PointerEvent('pointerdown', { pointerType: 'touch', clientX: box.left + x + 3, clientY: box.top + y + 3 })";
    browser.evaluate(&format!(
        "(() => {{ const box = subnets[0].grid.getBoundingClientRect(); const [x, y] = place(subnets[0], {far}); \
         subnets[0].grid.dispatchEvent({touch}); }})()"
    ));
    assert!(told(&mut browser).starts_with(&elsewhere.to_string()));

    // A host's own addresses stand out.
    let veiled = |browser: &mut Browser, n: u32| {
        browser.evaluate(&format!(
            "(() => {{ const [x, y] = place(subnets[0], {n}); \
             return subnets[0].over.getContext('2d').getImageData(x + 3, y + 3, 1, 1).data[3] > 0; }})()"
        ))
    };
    browser.evaluate(&format!(
        "[...document.querySelectorAll('#hosts button')].find((one) => one.textContent.includes('{}')).click()",
        other.instance
    ));
    assert_eq!((veiled(&mut browser, far), veiled(&mut browser, lease)), (json!(false), json!(true)));
    for (text, found) in [
        ("db-1", 1),
        ("10.77.0.60", 1),
        ("10.77.0.6", 1),
        ("10.77.0.6/32", 1),
        ("10.77.0.16/28", 16),
        ("10.77", 256),
        (&host.instance, 3),
        ("nobody", 0),
    ] {
        browser.evaluate(&format!("search.value = '{text}'; search.dispatchEvent(new Event('input'))"));
        assert_eq!(browser.evaluate("matches.length"), found, "{text}");
    }
    browser.evaluate("search.value = 'printer'; search.dispatchEvent(new Event('input')); search.focus()");
    browser.press("Enter");
    assert!(told(&mut browser).starts_with("10.77.0.60; "), "{}", told(&mut browser));
    assert_eq!((veiled(&mut browser, 60), veiled(&mut browser, far)), (json!(false), json!(true)));

    assert!(browser.complaints().is_empty(), "{:#?}", browser.complaints());
    assert_eq!(browser.asked_for(), [format!("file://{}", file.display())], "it needs nobody");
}

#[tokio::test]
async fn blocks_of_interfaces_stand_out() {
    let fleet = Fleet::new(Kind::Mariadb).await;
    fleet.vpc.take(RDS, ip(70));
    let auto = [("EC2_IPAM_BLOCKS", "auto")];
    let ((host, pool), (other, theirs)) = (fleet.started(1, &auto).await, fleet.started(2, &auto).await);
    // Whoever is not would be taken for the original, and no block be taken beside it.
    eventually("both hosts are on the roll", async || {
        host.tell_json::<Value>(&["map"]).await["hosts"].as_array().unwrap().len() == 2
    })
    .await;
    let (leased, elsewhere) = (host.lease(&pool).await, other.lease(&theirs).await);
    host.rows().await;
    let json: Value = host.tell_json(&["map"]).await;
    let blocks = &json["subnets"][0]["blocks"];
    assert_eq!(["whole", "broken", "full"].map(|name| blocks[name].as_u64()), [11, 1, 0].map(Some), "{blocks}");
    for (eni, ip) in [(&host.eni, leased), (&other.eni, elsewhere)] {
        let place = json["enis"].as_array().unwrap().iter().position(|one| one["eni"] == **eni).unwrap();
        let net = fleet.vpc.prefixes(eni).into_iter().find(|net| net.contains(&ip)).unwrap();
        let held = json!({ "net": net.to_string(), "eni": place });
        assert!(blocks["held"].as_array().unwrap().contains(&held), "{held}: {blocks}");
    }
    let block = |ip: Ipv4Addr| u32::from(ip.octets()[3]) / 16 * 16;
    let text = host.tell(&["map"]).await;
    let framed: Vec<&str> = text.lines().filter(|line| line.contains('[') && line.ends_with(']')).collect();
    let mut expected = [leased, elsewhere].map(|ip| format!("10.77.0.{}", block(ip)));
    expected.sort_by_key(|first| text.find(first.as_str()));
    assert_eq!(framed.iter().map(|line| line[..12].split('[').next().unwrap().trim()).collect::<Vec<_>>(), expected);
    assert!(text.contains("\n  /28 blocks: 2 on an interface as one ([ ]), 11 whole, 1 broken, 0 full\n"), "{text}");
    let line = text.lines().find(|line| line.starts_with(&host.eni)).unwrap();
    assert!(line.contains("     1     15      1       1  10.77.0.4"), "{text}");

    let (_, mut browser) = page(&host).await;
    let net = format!("in the block 10.77.0.{}/28; ", block(leased));
    let told_of = pointed_at(&mut browser, u32::from(leased.octets()[3]));
    assert!(told_of.contains(&net) && told_of.contains(&host.instance), "{told_of}");
    let told_of = pointed_at(&mut browser, u32::from(elsewhere.octets()[3]));
    assert!(told_of.contains("in the block ") && told_of.contains(&other.instance), "{told_of}");
    assert!(!pointed_at(&mut browser, 70).contains("block"));
    // The frame's own colour, left of the first square.
    let frame = |browser: &mut Browser, n: u32| {
        browser.evaluate(&format!(
            "(() => {{ const [x, y] = place(subnets[0], {n}); \
             const pixel = subnets[0].canvas.getContext('2d').getImageData(x - 2, y + 4, 1, 1).data; \
             return Array.from(pixel); }})()"
        ))
    };
    let [of_block, plain] = [block(leased), 64].map(|n| frame(&mut browser, n));
    assert_eq!(frame(&mut browser, block(elsewhere)), of_block);
    assert_ne!(plain, of_block);
    browser.evaluate(
        "[...document.querySelectorAll('#legend button')].find((one) => one.textContent.includes('block of')).click()",
    );
    let is_veiled = |browser: &mut Browser, n: u32| {
        browser.evaluate(&format!(
            "(() => {{ const [x, y] = place(subnets[0], {n}); \
             return subnets[0].over.getContext('2d').getImageData(x + 3, y + 3, 1, 1).data[3] > 0; }})()"
        ))
    };
    assert_eq!(
        [block(leased) + 9, block(elsewhere), 70].map(|n| is_veiled(&mut browser, n)),
        [false, false, true].map(Value::from)
    );
    assert!(browser.complaints().is_empty(), "{:#?}", browser.complaints());
}

/// The largest subnet there is, each address of it somebody's.
#[tokio::test]
async fn a_page_of_65_536_addresses_does_not_stutter() {
    let fleet = Fleet::with(Kind::Sqlite, "10.77.0.0/16", Switches::default()).await;
    let mut host = fleet.host(1);
    host.set(&[("EC2_IPAM_LOG", "info")]);
    host.start().await;
    host.tell(&["map"]).await;
    let lease = format!(
        "WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n+1 FROM n WHERE n<65535) \
         INSERT INTO allocation (ip,subnet,status,iface,\"primary\",ts,claim,claimed,holder) \
         SELECT '10.77.'||(n/256)||'.'||(n%256),'{SUBNET}','occupied','eni-0aaaaaaaaaaaaaa'||(10+n%90),0,0, \
         'a:1:lease',unixepoch()*1000-7000,'container-'||n FROM n"
    );
    host.sql("", &lease).await;
    // Docker's calls are answered beside it (I4).
    let (mut longest, begun) = (Duration::ZERO, Instant::now());
    let map = host.tell_json::<Value>(&["map"]);
    tokio::pin!(map);
    let json = loop {
        let called = Instant::now();
        tokio::select! {
            json = &mut map => break json,
            answer = host.call("/Plugin.Activate", "") => {
                assert_eq!(answer.status, 200);
                longest = longest.max(called.elapsed());
            }
        }
    };
    let asked = begun.elapsed();
    assert_eq!(json["subnets"][0]["squares"].as_str().unwrap().len(), 65_536);
    let (file, mut browser) = page(&host).await;
    println!(
        "asked for in {asked:.2?}, a call of Docker's beside it in {longest:.2?} at most; JSON {} kB, the page {} kB",
        json.to_string().len() / 1024,
        file.metadata().unwrap().len() / 1024
    );
    let load = browser.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd");
    // Between frames, while the pointer goes over all of it and each host is looked at.
    let frames = browser.evaluate(
        "new Promise((done) => { \
           const [box, times, buttons] = [subnets[0].grid.getBoundingClientRect(), [], document.querySelectorAll('#hosts button')]; \
           const step = (now) => { \
             times.push(now); \
             if (times.length > 240) return done(times.slice(1).map((time, n) => time - times[n]).sort((a, b) => a - b)); \
             subnets[0].grid.dispatchEvent(new PointerEvent('pointermove', \
               { pointerType: 'mouse', clientX: box.left + 100 + times.length * 3, clientY: box.top + times.length * 3 })); \
             if (times.length % 4 === 0) buttons[(times.length / 4) % buttons.length].dispatchEvent(new PointerEvent('pointerenter')); \
             requestAnimationFrame(step); }; \
           requestAnimationFrame(step); })",
    );
    let frames: Vec<f64> = frames.as_array().unwrap().iter().map(|time| time.as_f64().unwrap()).collect();
    println!(
        "loaded in {load} ms; frames: median {:.1} ms, longest {:.1} ms",
        frames[frames.len() / 2],
        frames[frames.len() - 1]
    );
    browser.evaluate("dispatchEvent(new Event('scroll')); pin(null, null)");
    assert!(pointed_at(&mut browser, 777).starts_with("10.77.3.9; lease, another host; container-777; "));
    assert_eq!(painted(&mut browser, 777), of_legend(&mut browser, "lease_elsewhere"));
    assert!(
        browser.evaluate("document.querySelectorAll('*').length").as_u64().unwrap() < 3000,
        "no element an address"
    );
    assert!(browser.complaints().is_empty(), "{:#?}", browser.complaints());
}
