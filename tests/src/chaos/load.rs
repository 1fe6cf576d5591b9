//! Clients that ask for run after run, and ride each to its end, whatever happens.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle};

use crate::{
    fresh_prefix,
    system::{Api, Chance, Drops, Ride, Rider, Stack, sessions, task},
};

/// Of these the tasks of every fifth client share; of many clients two at a time are at each, so that the last need not wait
/// for a long row of others.
const SESSIONS_MIN: usize = 16;
const CLIENTS_PER_SESSION: usize = 10;
/// No run takes longer, whatever is done to it.
const RIDE_MAX: Duration = Duration::from_secs(240);

/// A load under way.
pub struct Load {
    stop: watch::Sender<bool>,
    clients: Vec<JoinHandle<Vec<Ride>>>,
    ended: Arc<AtomicUsize>,
}

impl Load {
    /// As many clients at the gateways of a system, beginning at each in turn. With `drops`, each lets go of its
    /// connections after 1 to so many frames.
    pub async fn start(stack: &Stack, clients: usize, drops: Option<(u64, &mut Chance)>) -> Self {
        let gateways = Arc::new(stack.apis());
        let sessions = sessions(&gateways[0], SESSIONS_MIN.max(clients / CLIENTS_PER_SESSION)).await;
        Self::on(gateways, sessions, clients, drops)
    }

    pub fn on(
        gateways: Arc<Vec<Api>>,
        sessions: Vec<String>,
        clients: usize,
        mut drops: Option<(u64, &mut Chance)>,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (next, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (tag, sessions) = (Arc::new(fresh_prefix()), Arc::new(sessions));
        let clients = (0..clients).map(|_| {
            let (gateways, sessions, tag) = (gateways.clone(), sessions.clone(), tag.clone());
            let (next, ended, stopped) = (next.clone(), ended.clone(), stopped.clone());
            let drops = match &mut drops {
                Some((frames, chance)) => Drops::Within(*frames, Chance::new(chance.below(u64::MAX))),
                None => Drops::Never,
            };
            tokio::spawn(async move {
                let mut rides = vec![];
                while !*stopped.borrow() {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let rider = Rider {
                        gateways: gateways.clone(),
                        first: n,
                        key: format!("{tag}-{n}"),
                        body: task(n, &tag, &sessions),
                        drops: drops.clone(),
                    };
                    rides.push(rider.ride(RIDE_MAX).await);
                    ended.fetch_add(1, Ordering::Relaxed);
                }
                rides
            })
        });
        Self {
            stop,
            clients: clients.collect(),
            ended: ended.clone(),
        }
    }

    /// How many runs have ended.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }

    /// Waits until so many more runs have ended: the system is at work.
    pub async fn until_ended(&self, more: usize) {
        let enough = self.ended() + more;
        while self.ended() < enough && self.clients.iter().any(|client| !client.is_finished()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks for no more, and waits for the end of every run under way.
    pub async fn finish(self) -> Vec<Ride> {
        self.stop.send_replace(true);
        let mut rides = vec![];
        for client in self.clients {
            rides.extend(client.await.expect("a client does not panic"));
        }
        rides
    }
}
