//! A blocked address is one that no connection is made to: the proof is a socket that listens and hears nothing.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{HttpGet, HttpGetOptions, REDIRECTS_MAX, resolver::Lookup};

/// Answers each look-up with the next of its answers, the last one again and again, and counts.
struct Stub {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    asked: Mutex<u32>,
}

impl Stub {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |texts: &&[&str]| texts.iter().map(|text| text.parse().expect("an address")).collect();
        Arc::new(Self {
            answers: Mutex::new(answers.iter().map(parse).collect()),
            asked: Mutex::new(0),
        })
    }

    fn asked(&self) -> u32 {
        *self.asked.lock().expect("not poisoned")
    }
}

#[async_trait]
impl Lookup for Stub {
    async fn lookup(&self, _name: &str) -> io::Result<Vec<IpAddr>> {
        *self.asked.lock().expect("not poisoned") += 1;
        let mut answers = self.answers.lock().expect("not poisoned");
        let answer = if answers.len() > 1 {
            answers.pop_front()
        } else {
            answers.front().cloned()
        };
        Ok(answer.unwrap_or_default())
    }
}

/// Listens on loopback, and says afterwards whether anyone came.
struct Trap(TcpListener);

impl Trap {
    fn set() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a mode");
        Self(listener)
    }

    fn port(&self) -> u16 {
        self.0.local_addr().expect("an address").port()
    }

    fn nobody_came(&self) -> bool {
        matches!(self.0.accept(), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

/// A tool that may use this port. Its guarded connections start from loopback, so a packet to a public address
/// cannot leave the machine, while one to the trap would arrive.
fn tool(port: u16, allow: &[String], lookup: Arc<Stub>) -> HttpGet {
    let options = HttpGetOptions {
        allow_hosts: allow.iter().cloned().collect(),
        ports: [port].into(),
    };
    HttpGet::with(options, lookup, |builder| {
        builder.local_address(IpAddr::V4(Ipv4Addr::LOCALHOST))
    })
}

/// Serves these answers, one for each connection, and says what the last request asked for.
async fn serve(answers: Vec<String>) -> (SocketAddr, tokio::task::JoinHandle<Vec<String>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let served = tokio::spawn(async move {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut request = vec![0; 4096];
            let read = socket.read(&mut request).await.expect("a request");
            requests.push(String::from_utf8_lossy(&request[..read]).into_owned());
            // A reader that has enough hangs up before the end.
            let _ = socket.write_all(answer.as_bytes()).await;
        }
        requests
    });
    (address, served)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn a_private_address_is_refused_however_it_is_spelled_and_nobody_connects_to_it() {
    let trap = Trap::set();
    let port = trap.port();
    let stub = Stub::new(&[&["127.0.0.1"]]);
    let tool = tool(port, &[], stub.clone());
    let hosts = [
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "127.1",
        "127.0.0.1.",
        "%31%32%37.0.0.1",
        "127。0。0。1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "0.0.0.0",
        "0",
        "[::]",
        "localhost",
        "LOCALHOST.",
        "a.name.of.ours",
    ];
    for host in hosts {
        let said = tool.get(&format!("http://{host}:{port}/")).await.expect_err(host);
        assert!(said.contains("only public addresses may be reached"), "{host}: {said}");
    }
    assert!(trap.nobody_came());
    assert_eq!(stub.asked(), 3, "only names are looked up");
}

#[tokio::test]
async fn the_address_of_a_clouds_credentials_is_refused() {
    let tool = HttpGet::new(HttpGetOptions::default());
    let said = tool
        .get("http://169.254.169.254/latest/meta-data/")
        .await
        .expect_err("it is link-local");
    assert!(said.contains("169.254.169.254 is link-local"), "{said}");
}

#[tokio::test]
async fn a_name_that_changes_its_mind_gains_nothing() {
    let trap = Trap::set();
    let stub = Stub::new(&[&["1.2.3.4"], &["127.0.0.1"]]);
    let tool = tool(trap.port(), &[], stub.clone());
    let url = format!("http://rebind.test:{}/", trap.port());
    let first = tool.get(&url).await.expect_err("a public address is out of reach here");
    assert!(first.contains("cannot connect"), "{first}");
    assert_eq!(
        stub.asked(),
        1,
        "what was vetted is what was connected to: no second look-up in between"
    );
    let second = tool.get(&url).await.expect_err("the name points here now");
    assert!(
        second.contains("127.0.0.1 is this machine's own (loopback)"),
        "{second}"
    );
    assert!(trap.nobody_came());
}

#[tokio::test]
async fn one_private_address_among_public_ones_condemns_the_name() {
    let trap = Trap::set();
    let tool = tool(trap.port(), &[], Stub::new(&[&["1.2.3.4", "::ffff:10.0.0.1"]]));
    let said = tool
        .get(&format!("http://mixed.test:{}/", trap.port()))
        .await
        .expect_err("one of them is private");
    assert!(said.contains("is private"), "{said}");
}

#[tokio::test]
async fn a_redirect_is_vetted_like_the_first_address() {
    let trap = Trap::set();
    let hidden = trap.port();
    let targets = [
        (format!("http://127.0.0.1:{hidden}/"), "only public addresses"),
        (format!("http://[::ffff:127.0.0.1]:{hidden}/"), "only public addresses"),
        (format!("//inner.test:{hidden}/"), "only public addresses"),
        ("file:///etc/passwd".to_string(), "\"file\" addresses cannot be read"),
        ("http://127.0.0.1:22/".to_string(), "port 22 may not be reached"),
        ("http://user:pw@example.com/".to_string(), "user name or password"),
    ];
    for (target, expected) in targets {
        let (address, served) = serve(vec![answer("302 Found", &format!("location: {target}\r\n"), "")]).await;
        let tool = tool(hidden, &[address.to_string()], Stub::new(&[&["127.0.0.1"]]));
        let said = tool.get(&format!("http://{address}/")).await.expect_err(&target);
        assert!(said.contains(expected), "{target}: {said}");
        assert_eq!(
            served.await.expect("served").len(),
            1,
            "the first hop was allowed, and reached"
        );
    }
    assert!(trap.nobody_came());
}

#[tokio::test]
async fn redirects_are_followed_to_their_end_but_not_for_ever() {
    let hop = |to: &str| answer("302 Found", &format!("location: {to}\r\n"), "");
    let (address, served) = serve(vec![
        hop("/b?x=1"),
        hop("c"),
        answer("200 OK", "content-type: text/plain\r\n", "here"),
    ])
    .await;
    let there = tool(1, &[address.to_string()], Stub::new(&[]));
    let page = there.get(&format!("http://{address}/a")).await;
    assert_eq!(page.as_deref(), Ok("HTTP 200 OK, text/plain\n\nhere"));
    let requests = served.await.expect("served");
    assert!(
        requests[1].starts_with("GET /b?x=1 ") && requests[2].starts_with("GET /c "),
        "{requests:?}"
    );

    let (address, _served) = serve(vec![hop("/"); REDIRECTS_MAX + 1]).await;
    let round = tool(1, &[address.to_string()], Stub::new(&[]));
    let said = round
        .get(&format!("http://{address}/"))
        .await
        .expect_err("it goes round");
    assert_eq!(said, "the url redirects more than 5 times");
}

#[tokio::test]
async fn what_is_no_address_for_a_page_is_refused() {
    let tool = HttpGet::new(HttpGetOptions::default());
    for (url, expected) in [
        ("not a url", "is not an address"),
        ("ftp://example.com/", "\"ftp\" addresses cannot be read"),
        ("file:///etc/passwd", "\"file\" addresses cannot be read"),
        ("gopher://example.com:80/", "\"gopher\" addresses cannot be read"),
        (
            "http://example.com:22/",
            "port 22 may not be reached; these may: 80, 443, 8080, 8443",
        ),
        ("https://user:secret@example.com/", "user name or password"),
        ("http://", "is not an address"),
    ] {
        let said = tool.get(url).await.expect_err(url);
        assert!(said.contains(expected) && !said.contains("secret"), "{url}: {said}");
    }
    let long = format!("http://example.com/{}", "x".repeat(4_000));
    assert!(
        tool.get(&long)
            .await
            .expect_err("too long")
            .contains("more than 4000 characters")
    );
}

#[tokio::test]
async fn only_text_is_read_and_only_so_much_of_it() {
    let cases = [
        (
            answer("200 OK", "content-type: image/png\r\n", "x"),
            Err("is image/png; only text can be read"),
        ),
        (
            answer("200 OK", "content-type: application/octet-stream\r\n", "x"),
            Err("only text can be read"),
        ),
        (answer("200 OK", "", "a\0b"), Err("is not text")),
        (
            answer("200 OK", "", "plain"),
            Ok("HTTP 200 OK, of no named type\n\nplain"),
        ),
        (
            answer("404 Not Found", "content-type: application/problem+json\r\n", "{}"),
            Ok("HTTP 404 Not Found, "),
        ),
        (
            answer(
                "200 OK",
                "content-type: text/html; charset=utf-8\r\n",
                &"é".repeat(200_000),
            ),
            Ok("HTTP 200 OK, text/html\n\néé"),
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_string(),
            Err("broke off"),
        ),
        ("no http at all".to_string(), Err("cannot be read")),
    ];
    for (answer, expected) in cases {
        let (address, _served) = serve(vec![answer]).await;
        let page = tool(1, &[address.to_string()], Stub::new(&[]))
            .get(&format!("http://{address}/"))
            .await;
        match (&page, expected) {
            (Ok(text), Ok(start)) => {
                assert!(text.starts_with(start), "{text:.200}");
                assert!(text.len() < 262_144, "{}", text.len());
                assert_eq!(text.len() > 200_000, text.ends_with("bytes were read]"));
            }
            (Err(said), Err(part)) => assert!(said.contains(part), "{said}, not {part}"),
            _ => panic!("{page:?}, not {expected:?}"),
        }
    }
}
