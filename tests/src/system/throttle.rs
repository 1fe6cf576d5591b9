//! Connections that take almost nothing until they are told to, or little all the time: the slow reader's network.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
};

/// Bytes the system keeps of what was not read.
const WINDOW_BYTES: u32 = 4096;

/// A proxy before a gateway. Requests pass; of an answer no more than the window until the gate is open.
pub struct Throttle {
    pub url: String,
    gate: watch::Sender<bool>,
}

/// How often a slow connection takes something.
const SIP: Duration = Duration::from_millis(100);

impl Throttle {
    pub async fn before(gateway: &str) -> Self {
        Self::with(gateway, None).await
    }

    /// Open, but so many bytes a second are the most that a connection takes.
    pub async fn slow(gateway: &str, bytes_per_second: u64) -> Self {
        let slow = Self::with(gateway, Some(bytes_per_second)).await;
        slow.open();
        slow
    }

    async fn with(gateway: &str, rate: Option<u64>) -> Self {
        let target: SocketAddr = gateway
            .trim_start_matches("http://")
            .parse()
            .expect("an address of a gateway");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (gate, opened) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, target, opened.clone(), rate));
            }
        });
        Self { url, gate }
    }

    pub fn open(&self) {
        self.gate.send_replace(true);
    }
}

async fn pass(
    client: TcpStream,
    target: SocketAddr,
    mut opened: watch::Receiver<bool>,
    rate: Option<u64>,
) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(WINDOW_BYTES)?;
    let gateway = socket.connect(target).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_gateway, mut to_gateway) = gateway.into_split();
    let there = async { copy(&mut from_client, &mut to_gateway).await };
    let back = async {
        let _ = opened.wait_for(|opened| *opened).await;
        let Some(rate) = rate else {
            return copy(&mut from_gateway, &mut to_client).await;
        };
        let mut sip = vec![0; (rate / 10).max(1) as usize];
        loop {
            let read = from_gateway.read(&mut sip).await?;
            if read == 0 {
                to_client.shutdown().await?;
                return Ok(0);
            }
            to_client.write_all(&sip[..read]).await?;
            tokio::time::sleep(SIP).await;
        }
    };
    tokio::try_join!(there, back)?;
    Ok(())
}
