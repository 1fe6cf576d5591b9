//! The binary as a newcomer meets it: started, asked as its own banner says, killed, and started again.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use futures::StreamExt;
use serde_json::{Value, json};

const STEADFAST: &str = env!("CARGO_BIN_EXE_steadfast");

/// A directory of its own for each test, removed afterwards.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("steadfast-smoke-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory for the test");
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The binary, in a directory, without whatever the environment of the test says about Steadfast.
fn steadfast(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(STEADFAST);
    command
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

fn output(dir: &Path, args: &[&str]) -> Output {
    steadfast(dir, args).output().expect("the binary runs")
}

/// A running `steadfast dev` and what its banner says.
struct Dev {
    child: Child,
    url: String,
    curl: String,
}

impl Dev {
    fn start(dir: &Path) -> Self {
        Self::start_logging_to(dir, Stdio::null())
    }

    fn start_logging_to(dir: &Path, stderr: Stdio) -> Self {
        let mut child = steadfast(dir, &["dev", "--port", "0"])
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the binary starts");
        let banner = BufReader::new(child.stdout.take().expect("its output is piped"));
        let (mut url, mut curl) = (String::new(), String::new());
        for line in banner.lines().map_while(Result::ok) {
            if let Some(listens) = line.strip_prefix("Steadfast listens on ") {
                url = listens.into();
            } else if line.trim_start().starts_with("curl ") {
                curl = line.trim().into();
            } else if line.starts_with("Ctrl-C") {
                break;
            }
        }
        assert!(!url.is_empty() && !curl.is_empty(), "no banner was printed");
        Self { child, url, curl }
    }

    /// The body the banner tells newcomers to post.
    fn body(&self) -> Value {
        let body = self
            .curl
            .split(" -d '")
            .nth(1)
            .and_then(|rest| rest.strip_suffix('\''))
            .expect("a body in quotes");
        serde_json::from_str(body).expect("JSON")
    }

    fn kill(&mut self) {
        self.child.kill().expect("it ran");
        self.child.wait().expect("it is ours");
    }

    fn terminate(mut self) -> Option<i32> {
        let sent = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()));
        self.child.wait().expect("it is ours").code()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Frames of a stream as `(id, data)`, until one matches or the stream ends.
async fn read_until(response: reqwest::Response, matches: impl Fn(&Value) -> bool) -> Vec<(String, Value)> {
    assert!(response.status().is_success(), "{}", response.status());
    let (mut text, mut frames) = (String::new(), Vec::new());
    let mut chunks = response.bytes_stream();
    while let Some(Ok(chunk)) = chunks.next().await {
        text += std::str::from_utf8(&chunk).expect("frames are written whole");
        while let Some((frame, rest)) = text.split_once("\n\n") {
            let field = |name: &str| {
                frame
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(str::to_owned)
            };
            if let (Some(id), Some(data)) = (field("id: "), field("data: ")) {
                frames.push((id, serde_json::from_str::<Value>(&data).expect("JSON")));
            }
            text = rest.to_owned();
            if frames.last().is_some_and(|(_, data)| matches(data)) {
                return frames;
            }
        }
    }
    frames
}

#[expect(clippy::disallowed_methods, reason = "the edge: these tests' one client")]
fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .build()
        .expect("a client")
}

#[tokio::test]
async fn the_printed_command_streams_a_run_and_a_killed_dev_goes_on_with_its_runs() {
    let dir = Dir::new("kill");
    let mut dev = Dev::start(&dir.0);
    let http = client();
    let post = |url: String, body: Value| http.post(format!("{url}/v1/runs")).json(&body).send();

    assert!(dev.curl.contains(&format!("{}/v1/runs", dev.url)));
    let response = post(dev.url.clone(), dev.body()).await.expect("an answer");
    let frames = read_until(response, |_| false).await;
    let last = &frames.last().expect("frames").1;
    assert_eq!(last["type"], "run.completed");
    assert!(
        last["data"]["output"]
            .as_str()
            .is_some_and(|output| output.contains("42")),
        "{last}"
    );
    assert!(
        frames.iter().any(|(_, data)| data["type"] == "tool_call.succeeded"),
        "the tool was called"
    );

    // Killed in the middle of an answer.
    let response = post(dev.url.clone(), json!({"input": "Who are you?", "stream": true}))
        .await
        .expect("an answer");
    let seen = read_until(response, |data| data["type"] == "agent.message.delta").await;
    let (cursor, delta) = seen.last().expect("a delta").clone();
    assert_eq!(delta["type"], "agent.message.delta");
    let run_id = delta["run_id"].as_str().expect("an id").to_owned();
    dev.kill();

    let dev = Dev::start(&dir.0);
    let request = http
        .get(format!("{}/v1/runs/{run_id}/events/stream", dev.url))
        .header("last-event-id", &cursor);
    let rest = read_until(request.send().await.expect("an answer"), |_| false).await;
    assert_eq!(rest.last().expect("frames").1["type"], "run.completed");
    let types: Vec<&str> = rest.iter().filter_map(|(_, data)| data["type"].as_str()).collect();
    assert!(
        types.contains(&"step.reset"),
        "what was shown of the lost step is taken back: {types:?}"
    );
    let since_reset = rest
        .rsplit(|(_, data)| data["type"] == "step.reset")
        .next()
        .expect("what follows");
    let shown: String = since_reset
        .iter()
        .filter_map(|(_, data)| data["delta"].as_str())
        .collect();
    let reply = since_reset.iter().find(|(_, data)| data["type"] == "model.replied");
    assert_eq!(
        reply.and_then(|(_, data)| data["data"]["text"].as_str()),
        Some(shown.as_str())
    );

    let second = output(&dir.0, &["dev", "--port", "0"]);
    assert_eq!(second.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another `steadfast dev` is using .steadfast"));

    assert_eq!(dev.terminate(), Some(0), "SIGTERM ends it in order");
    let checked = output(&dir.0, &["check", "--settled", "--json"]);
    let report: Value = serde_json::from_slice(&checked.stdout).expect("a report");
    assert_eq!(
        (checked.status.code(), &report["ok"], &report["runs"]),
        (Some(0), &json!(true), &json!(2)),
        "{report}"
    );
}

#[test]
fn the_client_commands_work_against_a_running_dev() {
    let dir = Dir::new("client");
    let dev = Dev::start(&dir.0);
    let with = |args: &[&str]| output(&dir.0, &[args, &["--url", &dev.url]].concat());

    let run = with(&["run", "What is 6 * 7?"]);
    assert_eq!(run.status.code(), Some(0));
    assert!(
        String::from_utf8_lossy(&run.stdout).contains("42"),
        "the answer is on stdout"
    );
    assert!(
        String::from_utf8_lossy(&run.stderr).contains("→ calculator("),
        "what it did is on stderr"
    );

    let listed: Value = serde_json::from_slice(&with(&["runs", "list", "--json"]).stdout).expect("a list");
    let id = listed["data"][0]["id"].as_str().expect("an id");
    let tail = with(&["runs", "tail", id, "--json"]);
    let last = String::from_utf8_lossy(&tail.stdout)
        .lines()
        .last()
        .map(str::to_owned)
        .unwrap_or_default();
    assert!(last.contains("\"run.completed\""), "{last}");
    assert!(String::from_utf8_lossy(&with(&["runs", "show", id]).stdout).contains("completed"));

    let unknown = with(&["run", "--agent", "assistent", "hello"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&unknown.stderr).contains("assistant"),
        "the refusal names what was meant"
    );
}

#[tokio::test]
async fn a_process_whose_log_nobody_reads_any_more_serves_and_stops_like_any_other() {
    let dir = Dir::new("unread");
    let mut dev = Dev::start_logging_to(&dir.0, Stdio::piped());
    drop(dev.child.stderr.take());
    let run = format!("{}/v1/runs", dev.url);
    let posted = client().post(&run).json(&dev.body()).send().await.expect("an answer");
    let frames = read_until(posted, |data| data["type"] == "run.completed").await;
    assert_eq!(
        frames.last().map(|(_, data)| &data["type"]),
        Some(&json!("run.completed"))
    );
    // Refusals are logged.
    let refused = client()
        .post(&run)
        .json(&json!({"inputs": 1}))
        .send()
        .await
        .expect("an answer");
    assert_eq!(refused.status(), 400);
    assert_eq!(dev.terminate(), Some(0));
}

#[test]
fn a_directory_of_agents_that_was_named_must_be_there() {
    let dir = Dir::new("nowhere");
    let refused = output(&dir.0, &["dev", "--port", "0", "--agents", "nowhere"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("nowhere is not there"), "{said}");
}

#[test]
fn a_wrong_setting_is_refused_with_its_place_before_anything_is_touched() {
    let dir = Dir::new("settings");
    std::fs::write(dir.0.join("steadfast.toml"), "[worker]\nslot = 3\n").expect("a file");
    let refused = output(&dir.0, &["dev", "--port", "0"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("steadfast.toml:2:1: there is no key \"slot\" here; did you mean \"slots\"?"),
        "{said}"
    );
    assert!(!dir.0.join(".steadfast").exists());
}

#[test]
fn the_doctor_says_whether_a_gateway_answers_and_whether_one_would_start() {
    let dir = Dir::new("doctor");
    let findings = |env: &[(&str, &str)]| {
        let doctor = steadfast(&dir.0, &["doctor", "--json"])
            .envs(env.iter().copied())
            .output()
            .expect("the binary runs");
        serde_json::from_slice::<Vec<Value>>(&doctor.stdout).expect("findings")
    };
    let about = |findings: &[Value], part: &str| findings.iter().find(|found| found["part"] == part).cloned();

    let dev = Dev::start(&dir.0);
    let gateway = about(&findings(&[("STEADFAST_URL", &dev.url)]), "gateway").expect("a finding");
    let answers = format!("{}: answers", dev.url);
    assert_eq!(
        (&gateway["verdict"], &gateway["found"]),
        (&json!("ok"), &json!(answers))
    );
    let url = dev.url.clone();
    dev.terminate();

    let secret = ("STEADFAST_JWT_SECRET", "0123456789abcdef0123456789abcdef");
    let found = findings(&[("STEADFAST_URL", &url), secret]);
    let gateway = about(&found, "gateway").expect("a finding");
    assert_eq!(gateway["verdict"], "warn", "{gateway}");
    assert!(
        gateway["remedy"]
            .as_str()
            .is_some_and(|remedy| remedy.contains("set STEADFAST_URL"))
    );
    let identity = about(&found, "identity").expect("a finding");
    assert_eq!(identity["verdict"], "fail", "{identity}");
    assert!(
        identity["found"]
            .as_str()
            .is_some_and(|found| found.contains("STEADFAST_JWT_AUDIENCE"))
    );
    assert_eq!(about(&findings(&[]), "identity"), None);
}

#[test]
fn every_command_explains_itself() {
    let dir = Dir::new("help");
    // From the program itself, so that a new command is asked too.
    let mut commands: Vec<Vec<String>> = vec![vec![]];
    let mut at = 0;
    while let Some(command) = commands.get(at).cloned() {
        let arguments: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let shown = output(&dir.0, &arguments);
        assert_eq!(shown.status.code(), Some(0), "{command:?}");
        assert!(shown.stdout.len() > 100, "{command:?}");
        let help = String::from_utf8_lossy(&shown.stdout).into_owned();
        commands.extend(subcommands(&help).map(|name| [command.clone(), vec![name]].concat()));
        at += 1;
    }
    assert!(commands.len() > 20, "{commands:?}");
}

/// The names below `Commands:` in a help text.
fn subcommands(help: &str) -> impl Iterator<Item = String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    listed
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next().map(str::to_owned))
        .filter(|name| name != "help")
}
