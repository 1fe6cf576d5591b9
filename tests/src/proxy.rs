//! A TCP proxy between a process and what it stands on, whose faults are switched while connections live.
//!
//! It breaks what a network breaks and nothing else: bytes come late, not at all, or the connection ends; what is held
//! back and then let go of arrives whole and in order, as TCP has it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use crate::Result;

const PIECE_BYTES: usize = 16 * 1024;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Towards {
    Server,
    Client,
}

/// What is wrong with the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Nothing,
    /// Connections are reset, and new ones as soon as they are made.
    Cut,
    /// Nothing arrives any more, and nobody is told.
    Silent,
    /// The same in one direction only: half-open connections.
    Deaf(Towards),
    /// Each piece takes so much longer.
    Late(Duration),
    /// Every second connection is reset as soon as something is said on it, the first of them too.
    Resets,
    /// When one of these words has been said to the server the connection is reset before its answer: each time, but
    /// every second time only after the server has answered. Who asked cannot know what became of it.
    NoAnswerTo(Vec<&'static str>),
}

impl Fault {
    fn holds(&self, towards: Towards) -> bool {
        *self == Self::Silent || *self == Self::Deaf(towards)
    }
}

/// A proxy; gone when dropped, and its connections with it.
pub struct Proxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    struck: Arc<AtomicU64>,
    serving: JoinHandle<()>,
}

impl Proxy {
    pub async fn before(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (fault, faults) = watch::channel(Fault::Nothing);
        let struck = Arc::<AtomicU64>::default();
        let counted = struck.clone();
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            let resets = Arc::<AtomicU64>::default();
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    return;
                };
                let line = Line {
                    resets: resets.clone(),
                    spared: AtomicBool::new(false),
                    faults: faults.clone(),
                    struck: counted.clone(),
                    doomed: AtomicBool::new(false),
                };
                connections.spawn(line.carry(client, server));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            address,
            fault,
            struck,
            serving,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this is wrong; `Fault::Nothing` heals.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// How often a fault has met a connection or a piece.
    pub fn struck(&self) -> u64 {
        self.struck.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The connection ends as if the network had.
struct Reset;

impl From<std::io::Error> for Reset {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

struct Line {
    /// Connections that met [`Fault::Resets`].
    resets: Arc<AtomicU64>,
    /// This one did, and was not reset.
    spared: AtomicBool,
    faults: watch::Receiver<Fault>,
    struck: Arc<AtomicU64>,
    /// The server's next word is not passed on.
    doomed: AtomicBool,
}

impl Line {
    async fn carry(self, mut client: TcpStream, server: SocketAddr) {
        if *self.faults.borrow() == Fault::Cut {
            self.strike();
            let _ = client.set_zero_linger();
            return;
        }
        let Ok(mut server) = TcpStream::connect(server).await else {
            let _ = client.set_zero_linger();
            return;
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ended = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let there = self.pump(from_client, to_server, Towards::Server);
            let back = self.pump(from_server, to_client, Towards::Client);
            tokio::try_join!(there, back)
        };
        if ended.is_err() {
            // The client is reset. The server sees an end, and does all the same what it was told before.
            let _ = client.set_zero_linger();
        }
    }

    fn strike(&self) {
        self.struck.fetch_add(1, Ordering::Relaxed);
    }

    async fn pump(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, towards: Towards) -> Result<(), Reset> {
        let mut faults = self.faults.clone();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = tokio::select! {
                biased;
                // A proxy that is gone leaves nothing behind.
                changed = faults.changed() => {
                    changed.map_err(|_| Reset)?;
                    if *faults.borrow_and_update() == Fault::Cut {
                        self.strike();
                        return Err(Reset);
                    }
                    continue;
                }
                read = from.read(&mut piece) => read?,
            };
            let fault = self.passed(&mut faults, towards).await?;
            if read == 0 {
                to.shutdown().await?;
                return Ok(());
            }
            let words = &piece[..read];
            let unheard = match &fault {
                Fault::NoAnswerTo(said) if towards == Towards::Server => said.iter().any(|word| contains(words, word)),
                _ => false,
            };
            if towards == Towards::Client && self.doomed.load(Ordering::Relaxed) {
                return Err(Reset);
            }
            to.write_all(words).await?;
            if unheard {
                let times = self.struck.fetch_add(1, Ordering::Relaxed);
                if times.is_multiple_of(2) {
                    return Err(Reset);
                }
                self.doomed.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Back when a piece may pass; answers what is wrong then.
    async fn passed(&self, faults: &mut watch::Receiver<Fault>, towards: Towards) -> Result<Fault, Reset> {
        let mut held = false;
        loop {
            let fault = faults.borrow_and_update().clone();
            if fault != Fault::Resets {
                self.spared.store(false, Ordering::Relaxed);
            }
            match &fault {
                Fault::Cut => {
                    self.strike();
                    return Err(Reset);
                }
                Fault::Resets if !self.spared.load(Ordering::Relaxed) => {
                    if self.resets.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                        self.strike();
                        return Err(Reset);
                    }
                    self.spared.store(true, Ordering::Relaxed);
                }
                Fault::Late(by) => {
                    self.strike();
                    tokio::time::sleep(*by).await;
                    return Ok(fault);
                }
                holding if holding.holds(towards) => {
                    if !held {
                        self.strike();
                        held = true;
                    }
                    faults.changed().await.map_err(|_| Reset)?;
                }
                _ => return Ok(fault),
            }
        }
    }
}

fn contains(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Answers each line with the same line, and remembers what it was told.
    async fn echo() -> (SocketAddr, Arc<Mutex<String>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::<Mutex<String>>::default();
        let told = heard.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let told = told.clone();
                tokio::spawn(async move {
                    let mut line = vec![0; 64];
                    while let Ok(read @ 1..) = client.read(&mut line).await {
                        *told.lock().unwrap() += std::str::from_utf8(&line[..read]).unwrap();
                        client.write_all(&line[..read]).await.unwrap();
                    }
                });
            }
        });
        (address, heard)
    }

    async fn ask(client: &mut TcpStream, word: &str) -> std::io::Result<String> {
        client.write_all(word.as_bytes()).await?;
        let mut answer = vec![0; word.len()];
        client.read_exact(&mut answer).await?;
        Ok(String::from_utf8(answer).unwrap())
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_lets_none_in_until_it_heals() {
        let (server, _) = echo().await;
        let proxy = Proxy::before(server).await.unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut client, "one").await.unwrap(), "one");
        proxy.set(Fault::Cut);
        assert!(ask(&mut client, "two").await.is_err());
        if let Ok(mut client) = TcpStream::connect(proxy.address()).await {
            assert!(ask(&mut client, "three").await.is_err());
        }
        proxy.set(Fault::Nothing);
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut client, "four").await.unwrap(), "four");
        assert!(proxy.struck() >= 2);
    }

    #[tokio::test]
    async fn what_is_held_back_arrives_whole_when_the_network_heals() {
        let (server, heard) = echo().await;
        let proxy = Proxy::before(server).await.unwrap();
        for (fault, arrives) in [
            (Fault::Deaf(Towards::Client), true),
            (Fault::Deaf(Towards::Server), false),
            (Fault::Silent, false),
        ] {
            let mut client = TcpStream::connect(proxy.address()).await.unwrap();
            assert_eq!(ask(&mut client, "first").await.unwrap(), "first");
            heard.lock().unwrap().clear();
            proxy.set(fault.clone());
            let met = proxy.struck();
            let mut asking = Box::pin(ask(&mut client, "second"));
            while proxy.struck() == met {
                tokio::select! {
                    answer = &mut asking => panic!("{fault:?}: answered {answer:?}"),
                    () = tokio::time::sleep(Duration::from_millis(1)) => {}
                }
            }
            assert_eq!(heard.lock().unwrap().as_str() == "second", arrives, "{fault:?}");
            proxy.set(Fault::Nothing);
            assert_eq!(asking.await.unwrap(), "second", "{fault:?}");
        }
    }

    #[tokio::test]
    async fn a_word_without_answer_reaches_the_server_and_its_answer_nobody() {
        let (server, heard) = echo().await;
        let proxy = Proxy::before(server).await.unwrap();
        proxy.set(Fault::NoAnswerTo(vec!["commit"]));
        for _ in 0..4 {
            heard.lock().unwrap().clear();
            let mut client = TcpStream::connect(proxy.address()).await.unwrap();
            assert_eq!(ask(&mut client, "begin").await.unwrap(), "begin");
            assert!(ask(&mut client, "commit it").await.is_err());
            while heard.lock().unwrap().as_str() != "begincommit it" {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        assert_eq!(proxy.struck(), 4);
    }
}
