//! Whatever the feed loses, doubles or reorders, and wherever a client drops and resumes: the union of its reads is
//! the run's events once and in order, and its deltas always add up to the text.

use proptest::prelude::*;
use serde_json::Value;
use steadfast::{
    feed::Frame,
    run::{Event, RunId, TenantId, event::*},
    store::StoredEvent,
    wire::{self, Cursor},
};

use super::position::{Heard, Position, Sink};

/// A step as it happened: how the text was cut, and whether the worker died after some of it.
#[derive(Debug, Clone)]
struct Step {
    pieces: Vec<String>,
    /// Deltas of a try that came to nothing, before the one that answered.
    lost: Option<Vec<String>>,
}

/// What happened, in the order in which it happened.
#[derive(Debug, Clone)]
enum Happened {
    Committed(StoredEvent),
    Streamed(Frame),
}

struct History {
    happened: Vec<Happened>,
}

impl History {
    fn of(steps: &[Step]) -> Self {
        let mut history = Self { happened: Vec::new() };
        history.commit(
            RunStarted {
                worker: "a".into(),
                epoch: 1,
            }
            .into(),
        );
        for (at, step) in steps.iter().enumerate() {
            let step_number = at as u32 + 1;
            let call = |attempt| ModelCallRequested {
                step: step_number,
                attempt,
                model: "m".into(),
                provider: None,
                reserved_output_tokens: 1,
                reserved_input_tokens: 0,
                reserved_cost_microusd: 0,
                step_deadline: None,
            };
            history.commit(call(1).into());
            if let Some(lost) = &step.lost {
                history.stream(lost);
                history.commit(
                    RunResumed {
                        worker: "b".into(),
                        epoch: 2,
                    }
                    .into(),
                );
                history.commit(call(2).into());
            }
            history.stream(&step.pieces);
            history.commit(
                ModelReplied {
                    step: step_number,
                    attempt: 1,
                    text: step.pieces.concat(),
                    tool_calls: vec![],
                    usage: Default::default(),
                    model: "m".into(),
                    provider_id: None,
                    finish_reason: None,
                    latency_ms: 1,
                    first_token_ms: None,
                    deltas: step.pieces.iter().map(|piece| piece.len() as u32).collect(),
                }
                .into(),
            );
        }
        history.commit(RunCompleted { output: String::new() }.into());
        history
    }

    fn events(&self) -> impl Iterator<Item = &StoredEvent> {
        self.happened.iter().filter_map(|happened| match happened {
            Happened::Committed(event) => Some(event),
            Happened::Streamed(_) => None,
        })
    }

    fn commit(&mut self, event: Event) {
        let version = self.events().count() as u64 + 1;
        self.happened.push(Happened::Committed(StoredEvent {
            run_id: RunId::default(),
            version,
            tenant: TenantId::default(),
            name: event.name().into(),
            schema: event.schema(),
            time: Default::default(),
            payload: event.payload(),
            hash: [0; 32],
        }));
    }

    fn stream(&mut self, pieces: &[String]) {
        let version = self.events().count() as u64 + 1;
        for (piece, sub) in pieces.iter().zip(1..) {
            let json = wire::delta(RunId::default(), version, sub, piece).into();
            self.happened.push(Happened::Streamed(Frame::Delta {
                run_id: RunId::default(),
                version,
                sub,
                json,
            }));
        }
    }

    /// The deltas streamed for an event, by the time the `until`-th thing has happened: what a resend gives.
    fn deltas_of(&self, of: u64, until: usize) -> Vec<Frame> {
        let is_it = |frame: &&Frame| matches!(frame, Frame::Delta { version, .. } if *version == of);
        let frames = self.happened[..until].iter().filter_map(|happened| match happened {
            Happened::Streamed(frame) => Some(frame),
            Happened::Committed(_) => None,
        });
        frames.filter(is_it).cloned().collect()
    }

    fn committed_by(&self, until: usize) -> Vec<&StoredEvent> {
        self.happened[..until]
            .iter()
            .filter_map(|happened| match happened {
                Happened::Committed(event) => Some(event),
                Happened::Streamed(_) => None,
            })
            .collect()
    }
}

fn frame(happened: &Happened) -> Frame {
    match happened {
        Happened::Streamed(frame) => frame.clone(),
        Happened::Committed(event) => Frame::of_event(event, &event.decode().expect("an event of this build")),
    }
}

/// Everything a client has received, over all its connections.
#[derive(Default)]
struct Client {
    ids: Vec<Cursor>,
    frames: Vec<(String, Value)>,
}

impl Sink for Client {
    fn frame(&mut self, id: Cursor, name: &str, json: &[u8]) {
        self.ids.push(id);
        self.frames
            .push((name.into(), serde_json::from_slice(json).expect("a frame is JSON")));
    }
}

impl Client {
    fn cursor(&self) -> Cursor {
        self.ids.last().copied().unwrap_or_default()
    }

    /// Fails on the first broken promise.
    fn check(&self, history: &History) {
        assert!(
            self.ids.windows(2).all(|pair| pair[0] < pair[1]),
            "ids do not increase: {:?}",
            self.ids
        );
        let mut text = String::new();
        let mut events = history.events();
        for ((name, json), id) in self.frames.iter().zip(&self.ids) {
            assert_eq!(json["type"], name.as_str());
            match name.as_str() {
                wire::DELTA => text.push_str(json["delta"].as_str().expect("a delta has text")),
                wire::RESET => text.clear(),
                _ => {
                    let expected = events.next().expect("more events than happened");
                    assert_eq!(
                        (name.as_str(), *id),
                        (expected.name.as_str(), Cursor::after_event(expected.version))
                    );
                    if name == "model.replied" {
                        assert_eq!(json["data"]["text"], text.as_str(), "the deltas do not add up");
                    } else {
                        assert_eq!(text, "", "deltas before {name} were not taken back");
                    }
                    text.clear();
                }
            }
        }
        assert_eq!(events.count(), 0, "the client missed the end");
    }
}

/// What happens to one frame on its way.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Arrives,
    Lost,
    Twice,
    /// After the one that follows it.
    Late,
    /// The client's connection breaks before it, and the client resumes at once.
    Drop,
    /// The client was too slow, and is told so.
    Missed,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pieces = || prop::collection::vec("[a-zé🦀\"\\\\]{1,4}", 0..6);
    let step = (pieces(), prop::option::of(pieces())).prop_map(|(pieces, lost)| Step { pieces, lost });
    prop::collection::vec(step, 1..4)
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        6 => Just(Fate::Arrives),
        2 => Just(Fate::Lost),
        1 => Just(Fate::Twice),
        2 => Just(Fate::Late),
        2 => Just(Fate::Drop),
        1 => Just(Fate::Missed),
    ];
    prop::collection::vec(fate, 80)
}

/// Reads the store as it is when `until` things have happened, then asks for the deltas in progress.
fn catch_up(position: &mut Position, client: &mut Client, history: &History, until: usize) {
    for event in history.committed_by(until) {
        assert_eq!(position.read(event, client), Heard::Well, "the store has no holes");
    }
    if position.may_miss_deltas() {
        resend(position, client, history, until);
    }
}

fn resend(position: &mut Position, client: &mut Client, history: &History, until: usize) {
    for delta in history.deltas_of(position.version() + 1, until) {
        assert_eq!(
            position.hear(&delta, client),
            Heard::Well,
            "a resend starts at the first delta"
        );
    }
}

fn play(history: &History, fates: &[Fate], resend_works: bool) -> Client {
    let mut client = Client::default();
    let mut position = Position::after(RunId::default(), Cursor::default(), true);
    let mut late: Option<Frame> = None;
    for (at, happened) in history.happened.iter().enumerate() {
        let now = at + 1;
        let mut arriving = Vec::new();
        match fates[at % fates.len()] {
            Fate::Arrives => arriving.push(frame(happened)),
            Fate::Lost => {}
            Fate::Twice => arriving.extend([frame(happened), frame(happened)]),
            Fate::Late => {
                arriving.extend(late.replace(frame(happened)));
                continue;
            }
            Fate::Drop => {
                if position.ended() {
                    break;
                }
                position = Position::after(RunId::default(), client.cursor(), true);
                catch_up(&mut position, &mut client, history, now);
            }
            Fate::Missed => catch_up(&mut position, &mut client, history, now),
        }
        arriving.extend(late.take());
        for frame in arriving {
            match position.hear(&frame, &mut client) {
                Heard::Well => {}
                Heard::EventsMissing => catch_up(&mut position, &mut client, history, now),
                Heard::DeltasMissing if resend_works => resend(&mut position, &mut client, history, now),
                Heard::DeltasMissing => {}
            }
        }
    }
    // The silence after which the store is looked at.
    catch_up(&mut position, &mut client, history, history.happened.len());
    assert!(position.ended());
    client
}

proptest! {
    #[test]
    fn a_stream_read_across_any_faults_and_reconnects_is_whole(steps in steps(), fates in fates(), resend in any::<bool>()) {
        let history = History::of(&steps);
        play(&history, &fates, resend).check(&history);
    }

    #[test]
    fn a_finished_run_gives_the_same_frames_from_every_cursor(steps in steps()) {
        let history = History::of(&steps);
        let whole = play(&history, &[Fate::Lost], true);
        whole.check(&history);
        for (seen, cursor) in whole.ids.iter().enumerate() {
            let mut rest = Client::default();
            let mut position = Position::after(RunId::default(), *cursor, true);
            catch_up(&mut position, &mut rest, &history, history.happened.len());
            prop_assert_eq!(&rest.ids[..], &whole.ids[seen + 1..]);
            prop_assert_eq!(&rest.frames[..], &whole.frames[seen + 1..]);
        }
    }
}
