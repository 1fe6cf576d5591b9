//! After the commit: telling a worker there is work, and telling watchers what happened.
//!
//! Both are hints. The client is answered without waiting for them, and a lost one is made up for: by the redriver,
//! which finds the run in the store, and by the watchers, which see the hole.

use std::sync::Arc;

use steadfast::{
    crash::{self, Point},
    feed::{Frame, LiveFeed, Signal},
    queue::{Advance, CommandQueue},
    run::{Event, RunId, TenantId},
    simulated,
    store::{Appended, StoredEvent},
    wire,
};
use tokio::sync::Semaphore;

use crate::{
    clock,
    limits::{ANNOUNCEMENT_MAX, ANNOUNCEMENTS_MAX},
};

/// What to tell after an append.
#[derive(Default)]
pub struct News {
    pub frames: Vec<Frame>,
    pub commands: Vec<Advance>,
    /// A worker may hold this run and should look at it again.
    pub changed: Option<RunId>,
}

pub struct Announcer {
    queue: Arc<dyn CommandQueue>,
    feed: Arc<dyn LiveFeed>,
    under_way: Arc<Semaphore>,
}

impl News {
    /// The commands that follow from an append.
    pub fn of(run_id: RunId, tenant: &TenantId, appended: &Appended) -> Self {
        let (version, _) = appended.head();
        let mut commands = Vec::with_capacity(1);
        if !appended
            .events
            .last()
            .is_some_and(|event| Event::is_terminal_name(&event.name))
        {
            commands.push(Advance {
                run_id,
                tenant: tenant.clone(),
                version,
                dispatch: 0,
            });
        }
        if let Some(next) = appended.next_in_session {
            commands.push(again(next, tenant));
        }
        Self {
            commands,
            ..Self::default()
        }
    }
}

/// The command for a run that may have been dispatched any number of times: the queue swallows an id it has seen, and
/// only the time makes a new one.
pub fn again(run_id: RunId, tenant: &TenantId) -> Advance {
    Advance {
        run_id,
        tenant: tenant.clone(),
        version: 0,
        dispatch: clock::now().timestamp_micros().unsigned_abs(),
    }
}

/// An event of the gateway's own as watchers see it. None of them follows deltas.
pub fn frame(stored: &StoredEvent) -> Frame {
    Frame::Event {
        run_id: stored.run_id,
        version: stored.version,
        name: stored.name.clone(),
        deltas: 0,
        json: wire::event(stored).into(),
    }
}

impl Announcer {
    pub fn new(queue: Arc<dyn CommandQueue>, feed: Arc<dyn LiveFeed>) -> Self {
        Self {
            queue,
            feed,
            under_way: Arc::new(Semaphore::new(ANNOUNCEMENTS_MAX)),
        }
    }

    /// Whether a command told now would reach the queue.
    pub fn can_command(&self) -> bool {
        self.queue.is_connected()
    }

    /// Sends the news, later and elsewhere.
    pub fn tell(&self, news: News) {
        let Ok(permit) = self.under_way.clone().try_acquire_owned() else {
            tracing::debug!("too many announcements are under way; the redriver will make up for this one");
            return;
        };
        let (queue, feed) = (self.queue.clone(), self.feed.clone());
        simulated::spawn(async move {
            let commands = async {
                for command in &news.commands {
                    crash::at(Point::AnnounceBefore);
                    if let Err(error) = queue.hint(command).await {
                        tracing::debug!(run.id = %command.run_id, error = %error, "a command was not published");
                    }
                    crash::at(Point::AnnounceAfter);
                }
            };
            let frames = async {
                if !news.frames.is_empty() {
                    feed.publish(news.frames).await;
                }
                if let Some(run_id) = news.changed {
                    feed.signal(run_id, Signal::Changed).await;
                }
            };
            if tokio::time::timeout(ANNOUNCEMENT_MAX, async { tokio::join!(commands, frames) })
                .await
                .is_err()
            {
                tracing::debug!("an announcement took too long; the redriver will make up for it");
            }
            drop(permit);
        });
    }
}
