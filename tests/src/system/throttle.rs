//! A connection that takes almost nothing until it is told to: the slow reader's network.

use std::net::SocketAddr;

use tokio::{
    io::copy,
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

impl Throttle {
    pub async fn before(gateway: &str) -> Self {
        let target: SocketAddr = gateway
            .trim_start_matches("http://")
            .parse()
            .expect("an address of a gateway");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (gate, opened) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, target, opened.clone()));
            }
        });
        Self { url, gate }
    }

    pub fn open(&self) {
        self.gate.send_replace(true);
    }
}

async fn pass(client: TcpStream, target: SocketAddr, mut opened: watch::Receiver<bool>) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(WINDOW_BYTES)?;
    let gateway = socket.connect(target).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_gateway, mut to_gateway) = gateway.into_split();
    let there = async { copy(&mut from_client, &mut to_gateway).await };
    let back = async {
        let _ = opened.wait_for(|opened| *opened).await;
        copy(&mut from_gateway, &mut to_client).await
    };
    tokio::try_join!(there, back)?;
    Ok(())
}
