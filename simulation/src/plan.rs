//! What a seed stands for: who is there, what clients want, and what goes wrong when. A list, so that a failing seed
//! can be made smaller by leaving entries out.

use std::{fmt, time::Duration};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::process::Edge;

/// Faults begin and end within this.
const STORM: Duration = Duration::from_secs(20);
/// How many seeds are about late workers.
const ZOMBIES: f64 = 0.2;
/// And how many about clocks that nobody has set, or that somebody sets.
const WRONG_CLOCKS: f64 = 0.1;
/// This share of worlds has a queue that stops handing out commands.
const STUCK_QUEUES: f64 = 0.1;
/// How far such a clock is off, or jumps, at the most.
const WRONG_MS_MAX: i64 = 600_000;
/// Around what one model call of the built-in agent reserves.
const BUDGET_TOKENS_MAX: u64 = 10_000;
/// Clients begin within this.
const ARRIVALS: Duration = Duration::from_secs(8);

#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub gateways: usize,
    pub workers: usize,
    pub projectors: usize,
    /// How far each process's clock is off, in milliseconds: gateways, workers, projectors.
    pub skews: Vec<i64>,
    pub lease: Duration,
    pub conversations: Vec<Conversation>,
    pub faults: Vec<Fault>,
    pub noise: Noise,
}

/// Runs of one client: each in a session of its own, or all in one.
#[derive(Debug, Clone)]
pub struct Conversation {
    pub tenant: usize,
    pub in_session: bool,
    pub tasks: Vec<Task>,
}

#[derive(Debug, Clone)]
pub struct Task {
    pub at: Duration,
    pub ask: Ask,
    /// Posts and watches in one request.
    pub stream: bool,
    /// The same request is sent twice at the same time.
    pub twice: bool,
    pub cancel_after: Option<Duration>,
    pub run_seconds_max: Option<u64>,
    /// A budget that may be too small; then the client raises it.
    pub budget_tokens: Option<u64>,
}

/// What a task makes the model do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Answer,
    /// A tool that answers at once.
    Look,
    /// A tool that may run twice.
    Work,
    /// A tool that must not.
    Send,
    /// A tool of the client's.
    Client,
    /// All of them at once.
    Everything,
}

impl Ask {
    pub fn word(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Look => "look",
            Self::Work => "work",
            Self::Send => "send",
            Self::Client => "client",
            Self::Everything => "everything",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Fault {
    pub at: Duration,
    pub lasts: Duration,
    pub kind: Kind,
}

/// A process is named by its place among gateways, workers and projectors.
#[derive(Debug, Clone)]
pub enum Kind {
    Crash {
        process: usize,
    },
    /// SIGTERM, and a new process.
    Restart {
        process: usize,
    },
    Stall {
        process: usize,
    },
    /// Its clock is set.
    ClockJump {
        process: usize,
        by_ms: i64,
    },
    Cut {
        process: usize,
        edge: Edge,
    },
    StoreAway,
    SlowCommits,
    QueueAway,
    QueueWiped,
    /// It takes commands and hands none out, until it is wiped: for good, for most.
    QueueStuck,
}

impl Kind {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Crash { .. } => "process crash",
            Self::Restart { .. } => "process restart",
            Self::Stall { .. } => "process stall",
            Self::ClockJump { .. } => "clock jump",
            Self::Cut { edge: Edge::Store, .. } => "cut from the store",
            Self::Cut { edge: Edge::Queue, .. } => "cut from the queue",
            Self::Cut { edge: Edge::Feed, .. } => "cut from the feed",
            Self::StoreAway => "store away",
            Self::SlowCommits => "slow commits",
            Self::QueueAway => "queue away",
            Self::QueueWiped => "queue wiped",
            Self::QueueStuck => "queue stuck",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasts) = (self.at.as_secs_f64(), self.lasts.as_secs_f64());
        write!(f, "at {at:.3} s for {lasts:.3} s: {:?}", self.kind)
    }
}

/// Disturbances that may happen to anything at any time, in thousandths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Noise {
    pub late_permille: u32,
    pub queue_lost_permille: u32,
    pub queue_doubled_permille: u32,
    pub queue_delayed_permille: u32,
    pub feed_lost_permille: u32,
    pub feed_delayed_permille: u32,
    pub model_fails_permille: u32,
    pub model_slow_permille: u32,
    pub client_drops_permille: u32,
    pub answer_lost_permille: u32,
}

impl Noise {
    /// Each on its own, and with it off, for shrinking.
    pub fn quieter(self) -> Vec<Self> {
        let mut ways = vec![
            Self {
                late_permille: 0,
                ..self
            },
            Self {
                queue_lost_permille: 0,
                ..self
            },
            Self {
                queue_doubled_permille: 0,
                ..self
            },
            Self {
                queue_delayed_permille: 0,
                ..self
            },
            Self {
                feed_lost_permille: 0,
                ..self
            },
            Self {
                feed_delayed_permille: 0,
                ..self
            },
            Self {
                model_fails_permille: 0,
                ..self
            },
            Self {
                model_slow_permille: 0,
                ..self
            },
            Self {
                client_drops_permille: 0,
                ..self
            },
            Self {
                answer_lost_permille: 0,
                ..self
            },
        ];
        ways.retain(|quieter| *quieter != self);
        ways
    }
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let rng = &mut rng;
        let gateways = rng.random_range(1..=2);
        let workers = rng.random_range(1..=3);
        let projectors = rng.random_range(1..=2);
        let skew_max = [0, 0, 50, 2_000, 10_000][rng.random_range(0..5)];
        let processes = gateways + workers + projectors;
        let skews = (0..processes).map(|_| rng.random_range(-skew_max..=skew_max)).collect();
        let lease = Duration::from_millis([600, 1_500, 3_000][rng.random_range(0..3)]);
        let conversations = (0..rng.random_range(1..=3)).map(|_| Conversation::of(rng)).collect();
        let mut faults: Vec<Fault> = (0..rng.random_range(0..=8))
            .map(|_| Fault::of(rng, gateways + workers, processes))
            .collect();
        faults.sort_by_key(|fault| fault.at);
        let mut some = |most: u32| {
            if rng.random_bool(0.5) {
                rng.random_range(0..=most)
            } else {
                0
            }
        };
        let noise = Noise {
            late_permille: some(10),
            queue_lost_permille: some(400),
            queue_doubled_permille: some(400),
            queue_delayed_permille: some(400),
            feed_lost_permille: some(300),
            feed_delayed_permille: some(300),
            model_fails_permille: some(350),
            model_slow_permille: some(200),
            client_drops_permille: some(250),
            answer_lost_permille: some(100),
        };
        let plan = Self {
            seed,
            gateways,
            workers,
            projectors,
            skews,
            lease,
            conversations,
            faults,
            noise,
        };
        let plan = if rng.random_bool(ZOMBIES) {
            plan.with_zombies(rng)
        } else {
            plan
        };
        let plan = if rng.random_bool(WRONG_CLOCKS) {
            plan.with_wrong_clocks(rng)
        } else {
            plan
        };
        if rng.random_bool(STUCK_QUEUES) {
            plan.with_a_stuck_queue(rng)
        } else {
            plan
        }
    }

    fn with_a_stuck_queue(mut self, rng: &mut SmallRng) -> Self {
        self.faults.push(Fault {
            at: millis(rng, STORM),
            lasts: Duration::ZERO,
            kind: Kind::QueueStuck,
        });
        self.faults.sort_by_key(|fault| fault.at);
        self
    }

    fn with_wrong_clocks(mut self, rng: &mut SmallRng) -> Self {
        for skew in &mut self.skews {
            *skew = rng.random_range(-WRONG_MS_MAX..=WRONG_MS_MAX);
        }
        for _ in 0..rng.random_range(0..=4) {
            self.faults.push(Fault {
                at: millis(rng, STORM),
                lasts: Duration::ZERO,
                kind: Kind::ClockJump {
                    process: rng.random_range(0..self.gateways + self.workers),
                    by_ms: rng.random_range(-WRONG_MS_MAX..=WRONG_MS_MAX),
                },
            });
        }
        self.faults.sort_by_key(|fault| fault.at);
        self
    }

    /// Workers that lose their leases all the time, over a slow database: what fencing is there for.
    fn with_zombies(mut self, rng: &mut SmallRng) -> Self {
        self.lease = Duration::from_millis(600);
        self.faults.push(Fault {
            at: Duration::ZERO,
            lasts: STORM,
            kind: Kind::SlowCommits,
        });
        for _ in 0..rng.random_range(4..=10) {
            let process = self.gateways + rng.random_range(0..self.workers);
            let edge = Edge::Store;
            self.faults.push(Fault {
                at: millis(rng, STORM - Duration::from_secs(4)),
                lasts: Duration::from_millis(700) + millis(rng, Duration::from_secs(3)),
                kind: if rng.random_bool(0.7) {
                    Kind::Stall { process }
                } else {
                    Kind::Cut { process, edge }
                },
            });
        }
        self.faults.sort_by_key(|fault| fault.at);
        for task in self
            .conversations
            .iter_mut()
            .flat_map(|conversation| &mut conversation.tasks)
        {
            task.ask = if rng.random_bool(0.5) {
                Ask::Everything
            } else {
                task.ask
            };
            task.run_seconds_max = rng.random_bool(0.4).then(|| rng.random_range(2..=8));
            task.cancel_after = rng.random_bool(0.4).then(|| millis(rng, Duration::from_secs(6)));
        }
        self
    }

    pub fn processes(&self) -> usize {
        self.gateways + self.workers + self.projectors
    }

    pub fn runs(&self) -> usize {
        self.conversations
            .iter()
            .map(|conversation| conversation.tasks.len())
            .sum()
    }

    /// When the last fault is over.
    pub fn calm_from(&self) -> Duration {
        let faults = self.faults.iter().map(|fault| fault.at + fault.lasts).max();
        let noisy = (self.noise != Noise::default()).then_some(STORM);
        faults.max(noisy).unwrap_or_default()
    }
}

impl Conversation {
    fn of(rng: &mut SmallRng) -> Self {
        let in_session = rng.random_bool(0.4);
        let tasks = if in_session {
            rng.random_range(1..=3)
        } else {
            rng.random_range(1..=2)
        };
        Self {
            tenant: rng.random_range(0..2),
            in_session,
            tasks: (0..tasks).map(|_| Task::of(rng)).collect(),
        }
    }
}

impl Task {
    fn of(rng: &mut SmallRng) -> Self {
        let asks = [
            Ask::Answer,
            Ask::Look,
            Ask::Work,
            Ask::Send,
            Ask::Client,
            Ask::Everything,
        ];
        Self {
            at: millis(rng, ARRIVALS),
            ask: asks[rng.random_range(0..asks.len())],
            stream: rng.random_bool(0.5),
            twice: rng.random_bool(0.2),
            cancel_after: rng.random_bool(0.15).then(|| millis(rng, Duration::from_secs(6))),
            run_seconds_max: rng.random_bool(0.15).then(|| rng.random_range(1..=15)),
            budget_tokens: rng.random_bool(0.15).then(|| rng.random_range(1..=BUDGET_TOKENS_MAX)),
        }
    }
}

impl Fault {
    /// `served` processes serve clients or execute runs; `processes` is all of them.
    fn of(rng: &mut SmallRng, served: usize, processes: usize) -> Self {
        let process = if rng.random_bool(0.8) {
            rng.random_range(0..served)
        } else {
            rng.random_range(0..processes)
        };
        let edges = [Edge::Store, Edge::Queue, Edge::Feed];
        let kind = match rng.random_range(0..16) {
            0..4 => Kind::Crash { process },
            4 => Kind::Restart { process },
            5..8 => Kind::Stall { process },
            8..11 => Kind::Cut {
                process,
                edge: edges[rng.random_range(0..edges.len())],
            },
            11 => Kind::StoreAway,
            12..14 => Kind::SlowCommits,
            14 => Kind::QueueAway,
            _ => Kind::QueueWiped,
        };
        let lasts = match rng.random_range(0..3) {
            0 => millis(rng, Duration::from_millis(300)),
            1 => millis(rng, Duration::from_secs(3)),
            _ => millis(rng, Duration::from_secs(9)),
        };
        Self {
            at: millis(rng, STORM - Duration::from_secs(9)),
            lasts,
            kind,
        }
    }
}

fn millis(rng: &mut SmallRng, below: Duration) -> Duration {
    Duration::from_millis(rng.random_range(0..below.as_millis() as u64))
}
