//! A NATS server that can be killed and can lose everything.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::io::AsyncReadExt;

use super::{Home, PATIENCE, free_port, program, unprivileged};
use crate::{Result, process::Proc};

/// Garbage is collected when the heap has grown by this many percent, as deploy/compose.yaml has it.
const GOGC: &str = "400";

/// A NATS server of this test's own, with JetStream. Dropping it kills it and deletes its store.
#[derive(Debug)]
pub struct PrivateNats {
    proc: Option<Proc>,
    home: Home,
    program: PathBuf,
    port: u16,
}

impl PrivateNats {
    pub async fn start() -> Result<Self> {
        let program = Self::program().await?;
        let mut this = Self {
            proc: None,
            home: Home::new()?,
            program,
            port: free_port(),
        };
        this.restart().await?;
        Ok(this)
    }

    /// The path of `nats-server`.
    pub async fn program() -> Result<PathBuf> {
        program("STEADFAST_NATS_SERVER").await
    }

    pub fn pid(&self) -> Option<u32> {
        self.proc.as_ref().map(Proc::pid)
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn is_running(&mut self) -> bool {
        self.proc.as_mut().is_some_and(Proc::is_running)
    }

    pub fn log(&self) -> PathBuf {
        self.home.path("nats.log")
    }

    pub fn kill9(&mut self) {
        self.proc = None;
    }

    pub fn sigstop(&mut self) {
        self.proc.iter_mut().for_each(Proc::sigstop);
    }

    pub fn sigcont(&mut self) {
        self.proc.iter_mut().for_each(Proc::sigcont);
    }

    /// Deletes every stream, consumer and message. Kills the server first if it runs: it would write them again.
    pub fn wipe(&mut self) {
        self.kill9();
        std::fs::remove_dir_all(self.home.path("store")).ok();
    }

    /// The same port and store. Back when it takes connections.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill9();
        let mut command = unprivileged(&self.program, &self.home.0);
        command.env("GOGC", GOGC);
        command.args([
            "--addr",
            "127.0.0.1",
            "--port",
            &self.port.to_string(),
            "--jetstream",
            "--store_dir",
        ]);
        command.arg(self.home.path("store"));
        let log = self.log();
        self.proc = Some(Proc::launch(command, &log, Some(&self.home.0))?);
        let end = Instant::now() + PATIENCE;
        while let Err(e) = greeted(self.port).await {
            if Instant::now() >= end || !self.is_running() {
                let log = std::fs::read_to_string(log).unwrap_or_default();
                return Err(format!("NATS does not answer: {e}\n{log}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// A NATS server speaks first. It listens only once JetStream has recovered, so a greeting means ready.
async fn greeted(port: u16) -> Result<()> {
    let mut socket = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let mut hello = [0; 5];
    tokio::time::timeout(Duration::from_secs(2), socket.read_exact(&mut hello)).await??;
    if &hello == b"INFO " {
        Ok(())
    } else {
        Err("something else listens there".into())
    }
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream;

    use super::*;

    #[tokio::test]
    async fn nats_keeps_its_streams_over_a_kill_and_loses_them_to_a_wipe() {
        crate::init();
        let mut nats = PrivateNats::start().await.unwrap();
        let stream = || jetstream::stream::Config {
            name: "s".into(),
            subjects: vec!["s.>".into()],
            ..Default::default()
        };
        let js = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
        js.create_stream(stream()).await.unwrap();
        js.publish("s.a", "x".into()).await.unwrap().await.unwrap();
        nats.kill9();
        nats.restart().await.unwrap();
        let js = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
        assert_eq!(js.get_stream("s").await.unwrap().cached_info().state.messages, 1);
        nats.wipe();
        assert!(async_nats::connect(nats.url()).await.is_err());
        nats.restart().await.unwrap();
        let js = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
        assert!(js.get_stream("s").await.is_err());
    }
}
