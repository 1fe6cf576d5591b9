//! A client that wants its run whatever happens: it posts again with the same key, reconnects where it stopped, and
//! answers its tools, until it has seen the end.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crate::{SseClient, sse::SseError};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    api::Api,
    chance::Chance,
    transcript::{Cursor, Frame, Transcript},
};

/// Between tries: a server that is away comes back in its own time.
const PAUSE: Duration = Duration::from_millis(50);

/// When the client itself lets go of its connection.
#[derive(Debug, Clone)]
pub enum Drops {
    Never,
    /// After 1 to this many frames of each connection.
    Within(u64, Chance),
}

pub struct Rider {
    pub gateways: Arc<Vec<Api>>,
    /// The gateway it begins with.
    pub first: usize,
    pub key: String,
    pub body: Value,
    pub drops: Drops,
}

/// What it came to.
#[derive(Debug)]
pub struct Ride {
    pub key: String,
    pub body: Value,
    pub run: Option<String>,
    pub transcript: Transcript,
    /// Connections it lost, or let go of.
    pub reconnects: u64,
    /// Answers that told it to come back later.
    pub refusals: u64,
    /// Of the reconnects, inside a step.
    pub inside_steps: u64,
    /// Where another answer than the promised one came.
    pub fault: Option<String>,
}

struct Riding {
    rider: Rider,
    ride: Ride,
    turn: usize,
    answered: BTreeSet<String>,
}

impl Rider {
    /// Rides until the end of the run or of the time.
    pub async fn ride(self, time: Duration) -> Ride {
        let ride = Ride {
            key: self.key.clone(),
            body: self.body.clone(),
            run: None,
            transcript: Transcript::default(),
            reconnects: 0,
            refusals: 0,
            inside_steps: 0,
            fault: None,
        };
        let mut riding = Riding {
            turn: self.first,
            rider: self,
            ride,
            answered: BTreeSet::new(),
        };
        if tokio::time::timeout(time, riding.go()).await.is_err() {
            riding.ride.fault.get_or_insert(format!("no end within {time:?}"));
        }
        riding.ride
    }
}

impl Riding {
    async fn go(&mut self) {
        while !self.ride.transcript.ended() && self.ride.fault.is_none() {
            let opened = match self.ride.run.clone() {
                Some(run) if self.ride.transcript.cursor().is_some() || self.rider.body["stream"] != true => {
                    self.resume(&run).await
                }
                _ => self.post().await,
            };
            match opened {
                Ok(Some(stream)) => {
                    self.read(stream).await;
                    if !self.ride.transcript.ended() {
                        self.ride.reconnects += 1;
                        let cursor = self.ride.transcript.cursor().map(Cursor::read);
                        let inside = cursor.is_some_and(|cursor| cursor.is_ok_and(|cursor| cursor.sub.is_some()));
                        self.ride.inside_steps += u64::from(inside);
                    }
                }
                Ok(None) => {}
                Err(SseError::Transport(_)) => tokio::time::sleep(PAUSE).await,
                Err(SseError::Refused {
                    status: 429 | 503,
                    retry_after: Some(_),
                    ..
                }) => {
                    self.ride.refusals += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(other) => self.ride.fault = Some(other.to_string()),
            }
            self.turn += 1;
        }
    }

    fn api(&self) -> &Api {
        &self.rider.gateways[self.turn % self.rider.gateways.len()]
    }

    /// The run, accepted; or its stream, if that was asked for.
    async fn post(&mut self) -> Result<Option<SseClient>, SseError> {
        let request = self.api().request(Method::POST, "/v1/runs").json(&self.rider.body);
        let request = request.header("idempotency-key", &self.rider.key);
        if self.rider.body["stream"] == true {
            let stream = SseClient::open(request, &[]).await?;
            let location = stream.headers().get("location").and_then(|value| value.to_str().ok());
            let run = location.map(|path| path.trim_start_matches("/v1/runs/").to_owned());
            self.accepted(run);
            return Ok(Some(stream));
        }
        let answer = Api::send(request).await?;
        if answer.status != 202 {
            let retry_after = answer.header("retry-after").and_then(|value| value.parse().ok());
            return Err(SseError::Refused {
                status: answer.status,
                retry_after,
                body: answer.text,
            });
        }
        let run = answer.json()["id"].as_str().map(str::to_owned);
        self.accepted(run);
        Ok(None)
    }

    fn accepted(&mut self, run: Option<String>) {
        let known = self.ride.run.get_or_insert_with(|| run.clone().unwrap_or_default());
        if Some(&*known) != run.as_ref() {
            self.ride.fault = Some(format!("one key, two runs: {known} and {run:?}"));
        }
    }

    async fn resume(&mut self, run: &str) -> Result<Option<SseClient>, SseError> {
        let cursor = self.ride.transcript.cursor();
        let path = format!("/v1/runs/{run}/events/stream");
        // Both ways to say it, in turn.
        let request = match cursor {
            Some(cursor) if self.turn.is_multiple_of(2) => {
                self.api().request(Method::GET, &path).header("last-event-id", cursor)
            }
            Some(cursor) => self.api().request(Method::GET, &format!("{path}?after={cursor}")),
            None => self.api().request(Method::GET, &path),
        };
        SseClient::open(request, &[]).await.map(Some)
    }

    async fn read(&mut self, mut stream: SseClient) {
        let mut left = match &mut self.rider.drops {
            Drops::Never => u64::MAX,
            Drops::Within(frames, chance) => 1 + chance.below(*frames),
        };
        while left > 0 && !self.ride.transcript.ended() && self.ride.fault.is_none() {
            let frame = match stream.next().await {
                Some(Ok(frame)) => Frame::read(frame),
                Some(Err(SseError::Malformed(why))) => Err(why),
                // Cut, or ended by a process that is ending.
                Some(Err(_)) | None => return,
            };
            match frame {
                Ok(frame) => self.take(frame).await,
                Err(why) => self.ride.fault = Some(why),
            }
            left -= 1;
        }
    }

    async fn take(&mut self, frame: Frame) {
        let asked = frame.name == "tool_call.requested" && frame.data()["executor"] == "client";
        let call = asked.then(|| frame.data()["id"].as_str().unwrap_or_default().to_owned());
        self.ride.transcript.push(frame);
        if let Some(call) = call.filter(|call| self.answered.insert(call.clone())) {
            self.answer(&call).await;
        }
    }

    /// Posts the output of a tool until it is taken. It may be posted twice: the answer to the first may be lost.
    async fn answer(&mut self, call: &str) {
        let run = self.ride.run.clone().unwrap_or_default();
        let body = json!({"outputs": [{"tool_call_id": call, "output": "done by the client"}]});
        loop {
            let request = self
                .api()
                .request(Method::POST, &format!("/v1/runs/{run}/tool_outputs"))
                .json(&body);
            match Api::send(request).await {
                Ok(answer) if answer.status == 200 => return,
                Ok(answer) if answer.status == 503 => {}
                Ok(answer) => {
                    self.ride.fault = Some(format!(
                        "the output of {call} was answered {}: {}",
                        answer.status, answer.text
                    ));
                    return;
                }
                Err(_) => {}
            }
            self.turn += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }
}
