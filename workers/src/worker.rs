//! The command loop: pull while there are places, put the rest into lines, execute, drain.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use steadfast::{
    crash::{self, Point},
    feed::LiveFeed,
    health::Health,
    metrics,
    queue::{Advance, CommandQueue, Delivery},
    run::{RunId, TenantId},
    simulated,
    store::{Appender, Handles, ProviderStates, Reader},
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    context::AgentCache,
    execute::{Done, Execution},
    lease::Leases,
    line::Lines,
    model::{Models, RetryPolicy},
    places::{Place, Places},
    redriver, report,
    tools::Toolbox,
};

/// Pause after the queue did not answer.
const QUEUE_PAUSE: Duration = Duration::from_millis(500);
/// A command that met an absent database comes again after this.
const AWAY_PAUSE: Duration = Duration::from_secs(1);
/// A command about a run that a newer build has written to goes round among the workers so often, and this slowly.
const NEWER_TRIES: u64 = 10;
const NEWER_PAUSE: Duration = Duration::from_secs(1);
/// A worker without a free place looks at the queue after this, and so does one that for so long has found a command for
/// each place it had: by then one that has a place would have taken what is there. What nobody has a place for waits in
/// its tenant's line, where the next free place goes to who has fewest.
const READ_AHEAD_AFTER: Duration = Duration::from_millis(100);
/// Where a place has been free for so long, there were not more commands than places.
const WAITED: Duration = Duration::from_millis(25);
/// Commands looked at in one go when there are more than places.
const READ_AHEAD: usize = 256;
/// A worker that has neither pulled a command nor found none for so long is not ready.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// What a stopping worker keeps of its drain time for handing back what did not end.
const HAND_BACK: Duration = Duration::from_secs(3);

pub struct WorkerDeps {
    pub store: Handles,
    pub queue: Arc<dyn CommandQueue>,
    pub feed: Arc<dyn LiveFeed>,
    pub models: Arc<Models>,
    pub tools: Arc<Toolbox>,
    pub health: Health,
}

#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Unique among all workers alive: it names the owner of a lease.
    pub id: String,
    /// Runs executed at the same time.
    pub slots: usize,
    /// Of them, those of one tenant; its other runs wait in the store.
    pub runs_per_tenant_max: usize,
    /// How long a claim holds without renewal: the time to notice that a worker is dead.
    pub lease: Duration,
    /// After a stop was asked for: finish until then, or hand back.
    pub drain: Duration,
    /// How often the redriver looks for overdue runs.
    pub redrive_every: Duration,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            id: "worker".into(),
            slots: 64,
            runs_per_tenant_max: share_of(64),
            lease: Duration::from_secs(2),
            drain: Duration::from_secs(20),
            redrive_every: Duration::from_millis(250),
        }
    }
}

/// What one tenant may have of a worker's slots, unless configured: an eighth is left for those who come new.
pub fn share_of(slots: usize) -> usize {
    slots - slots / 8
}

/// What all executions of a worker share.
pub struct Shared {
    pub appender: Appender,
    pub reader: Reader,
    pub queue: Arc<dyn CommandQueue>,
    pub feed: Arc<dyn LiveFeed>,
    pub models: Arc<Models>,
    pub tools: Arc<Toolbox>,
    pub agents: AgentCache,
    pub retry: RetryPolicy,
    pub options: WorkerOptions,
}

impl Shared {
    /// Says that a run can go on. Lost words are found by the redriver.
    pub async fn announce(&self, run_id: RunId, tenant: &TenantId) {
        // The dispatch number only makes the message id new: the time is as good as a count.
        let dispatch = crate::clock::now().timestamp_micros().unsigned_abs();
        let command = Advance {
            run_id,
            tenant: tenant.clone(),
            version: 0,
            dispatch,
        };
        if let Err(error) = self.queue.hint(&command).await {
            tracing::debug!(%error, run.id = %run_id, "a command could not be published; the redriver will");
        }
    }
}

pub struct Worker {
    shared: Arc<Shared>,
    health: Health,
    provider_states: Option<ProviderStates>,
}

impl Worker {
    pub fn new(deps: WorkerDeps, options: WorkerOptions) -> Self {
        let WorkerDeps {
            store,
            queue,
            feed,
            models,
            tools,
            health,
        } = deps;
        let provider_states = store.provider_states;
        let shared = Shared {
            appender: store.appender,
            reader: store.reader,
            queue,
            feed,
            models,
            tools,
            agents: AgentCache::default(),
            retry: RetryPolicy::default(),
            options,
        };
        Self {
            shared: Arc::new(shared),
            health,
            provider_states,
        }
    }

    /// Works until told to stop, then drains: runs under way end or are handed back within the drain time.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self {
            shared,
            health,
            provider_states,
        } = self;
        health.expect("worker", SILENCE_MAX);
        metrics::runs().slots.set(shared.options.slots as i64);
        let leases = Leases::default();
        let renewing = CancellationToken::new();
        let hand_back = CancellationToken::new();
        let background = TaskTracker::new();
        simulated::spawn(background.track_future({
            let (leases, shared, stop) = (leases.clone(), shared.clone(), renewing.clone());
            async move {
                leases
                    .keep(&shared.reader, &shared.options.id, shared.options.lease, &stop)
                    .await
            }
        }));
        let (models, id) = (shared.models.clone(), shared.options.id.clone());
        if let Some(states) = provider_states {
            simulated::spawn(background.track_future(report::run(models, states, id, renewing.clone())));
        }
        let lines = Lines::default();
        simulated::spawn(background.track_future(redriver::run(
            shared.clone(),
            lines.clone(),
            health.clone(),
            shutdown.clone(),
        )));
        simulated::spawn(background.track_future({
            let (leases, mut signals, stop) = (leases.clone(), shared.feed.signals().await, renewing.clone());
            async move {
                loop {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        signal = signals.recv() => match signal {
                            Some((run_id, signal)) => leases.signal(run_id, signal),
                            None => return,
                        },
                    }
                }
            }
        }));

        let tasks = TaskTracker::new();
        let hands = Hands {
            places: Places::new(shared.options.slots, shared.options.runs_per_tenant_max),
            lines,
            tasks: tasks.clone(),
            hand_back: hand_back.clone(),
            shared: shared.clone(),
            leases,
        };
        let serving = simulated::spawn(serve_lines(hands.clone(), shutdown.clone()));
        pull(&hands, &health, &shutdown).await;
        shared.queue.let_go().await;
        // Once nobody takes runs any more, those under way are all there are.
        let _ = serving.await;

        tasks.close();
        let finish = shared.options.drain.saturating_sub(HAND_BACK);
        if tokio::time::timeout(finish, tasks.wait()).await.is_err() {
            tracing::info!(runs = tasks.len(), "runs that did not end in time are handed back");
            hand_back.cancel();
            let _ = tokio::time::timeout(HAND_BACK, tasks.wait()).await;
        }
        renewing.cancel();
        background.close();
        background.wait().await;
    }
}

/// What a run is executed with.
#[derive(Clone)]
struct Hands {
    shared: Arc<Shared>,
    leases: Leases,
    places: Places,
    lines: Lines,
    tasks: TaskTracker,
    hand_back: CancellationToken,
}

/// Commands from the queue: into a place, or into a line.
async fn pull(hands: &Hands, health: &Health, shutdown: &CancellationToken) {
    let Hands {
        shared, places, lines, ..
    } = hands;
    // Commands were pulled for which there was no place: behind them may be one of somebody who has more of a right.
    let (mut pressed, mut looked) = (false, Instant::now());
    // Since then there was a command for each free place, and when there was none free last.
    let (mut full_since, mut filled): (Option<Instant>, _) = (None, looked);
    // The first look does not wait for a command: the worker is ready once the queue has answered.
    let mut answered = false;
    while !shutdown.is_cancelled() {
        let free = places.free();
        let pulled = match free {
            0 => {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    // First: where places are freed and taken all the time, the queue has its turn nevertheless.
                    () = tokio::time::sleep_until(looked + READ_AHEAD_AFTER) => shared.queue.pull_ready(READ_AHEAD).await,
                    () = places.freed_for_commands() => continue,
                }
            }
            free if !answered => shared.queue.pull_ready(free).await,
            // Followed to its end also when a stop comes: a pull that is dropped may take messages with it.
            free => {
                let ahead = pressed || full_since.is_some_and(|since| since.elapsed() >= READ_AHEAD_AFTER);
                shared.queue.pull(if ahead { free.max(READ_AHEAD) } else { free }).await
            }
        };
        if shutdown.is_cancelled() {
            for delivery in pulled.unwrap_or_default() {
                delivery.give_back(Duration::ZERO).await;
            }
            return;
        }
        let deliveries = match pulled {
            Ok(deliveries) => deliveries,
            Err(error) => {
                tracing::warn!(%error, "no commands can be pulled");
                health.trouble("worker", error.to_string());
                full_since = None;
                tokio::time::sleep(QUEUE_PAUSE).await;
                continue;
            }
        };
        health.progress("worker");
        answered = true;
        if !deliveries.is_empty() {
            crash::at(Point::PullAfter);
        }
        looked = Instant::now();
        let came = !deliveries.is_empty();
        let mut surplus = Vec::new();
        for delivery in deliveries {
            // In our hands already: whatever the command is about, the run is looked at again, now and once more when
            // we let go of it.
            if hands.leases.look_again(delivery.command.run_id) {
                metrics::runs().deliveries.with_label_values(&["in_hand"]).inc();
                delivery.ack().await;
                continue;
            }
            match places.take(&delivery.command.tenant) {
                Some(place) => hands.execute(delivery.command.clone(), Some(delivery), place),
                None => surplus.push(delivery),
            }
        }
        pressed = !surplus.is_empty();
        if came && (pressed || places.free() == 0) {
            filled = looked;
        }
        // A pull may bring nothing because one of several requests has ended: only time tells that nothing waits.
        full_since = (looked - filled < WAITED).then(|| full_since.unwrap_or(looked));
        if pressed {
            let lined = metrics::runs().deliveries.with_label_values(&["lined"]);
            lined.inc_by(surplus.len() as u64);
            lines.join(&shared.reader, surplus).await;
        }
    }
}

/// Runs from the lines, whenever there is a place and at regular intervals: a line may have begun elsewhere.
async fn serve_lines(hands: Hands, shutdown: CancellationToken) {
    let Hands {
        shared, places, lines, ..
    } = &hands;
    let mut tick = tokio::time::interval(shared.options.redrive_every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut after = None;
    loop {
        let look = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            _ = tick.tick() => true,
            () = places.freed_for_lines() => false,
            () = lines.grown() => false,
        };
        if look {
            match lines.look_up(&shared.reader, after.take()).await {
                Ok(next) => after = next,
                Err(error) => tracing::debug!(%error, "the lines could not be looked up"),
            }
        }
        let execute = |command, place| hands.execute(command, None, place);
        if let Err(error) = lines.serve(&shared.reader, places, execute).await {
            tracing::warn!(%error, "no runs can be taken from their lines");
            tokio::time::sleep(QUEUE_PAUSE).await;
        }
    }
}

impl Hands {
    fn execute(&self, command: Advance, delivery: Option<Delivery>, place: Place) {
        let execution = advance(
            self.shared.clone(),
            self.leases.clone(),
            self.hand_back.clone(),
            command,
            delivery,
            place,
        );
        simulated::spawn(self.tasks.track_future(execution));
    }
}

async fn advance(
    shared: Arc<Shared>,
    leases: Leases,
    hand_back: CancellationToken,
    command: Advance,
    mut delivery: Option<Delivery>,
    place: Place,
) {
    let Some((lease, signals)) = leases.take(command.run_id) else {
        leases.look_again(command.run_id);
        if let Some(delivery) = delivery {
            metrics::runs().deliveries.with_label_values(&["in_hand"]).inc();
            delivery.ack().await;
        }
        return;
    };
    let look_again = lease.look_again();
    metrics::runs().in_progress.inc();
    let _guard = InProgress(place);
    let delivered = delivery.is_some();
    let claimed = async {
        if let Some(delivery) = delivery.take() {
            delivery.ack().await;
            crash::at(Point::AckAfter);
        }
    };
    let done = Execution::run(shared.clone(), &command, lease, signals, hand_back, claimed).await;
    if look_again.load(Ordering::Relaxed) {
        shared.announce(command.run_id, &command.tenant).await;
    }
    match &done {
        Done::Stuck(reason) => {
            metrics::runs().stuck.inc();
            tracing::error!(run.id = %command.run_id, reason, "a run is stuck; it will be tried again")
        }
        Done::Away(reason) => tracing::warn!(run.id = %command.run_id, reason, "a run waits for the database"),
        Done::Newer(reason) => {
            // Not claimed, not failed: it is offered again and again, less and less often.
            metrics::runs().left_to_newer.inc();
            tracing::warn!(run.id = %command.run_id, reason, "a run is left to a newer worker");
        }
        Done::Settled | Done::Lost | Done::Held | Done::HandedBack => {}
    }
    let outcome = match (&delivery, &done) {
        (None, _) => "claimed",
        (Some(_), Done::Held) => "held",
        (Some(_), _) => "in_vain",
    };
    if delivered {
        metrics::runs().deliveries.with_label_values(&[outcome]).inc();
    }
    match (delivery, done) {
        // Nobody looked at the run: its command comes again before the redriver would find it.
        (Some(delivery), Done::Away(_)) => delivery.give_back(AWAY_PAUSE).await,
        // Another worker may be newer. Not for ever: while none is, the redriver's growing pauses are enough.
        (Some(delivery), Done::Newer(_)) if delivery.deliveries() < NEWER_TRIES => {
            delivery.give_back(NEWER_PAUSE).await
        }
        // Not claimed: whoever holds the run, or the redriver once it is due, goes on with it.
        (Some(delivery), _) => delivery.ack().await,
        (None, _) => {}
    }
}

/// Counts down also when the execution panics.
struct InProgress(#[expect(dead_code, reason = "held for its drop")] Place);

impl Drop for InProgress {
    fn drop(&mut self) {
        metrics::runs().in_progress.dec();
    }
}
