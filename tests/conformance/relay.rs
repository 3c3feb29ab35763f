//! A TCP relay that makes the loopback interface as slow to answer as a far server.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};

/// Relays connections to a port of this machine, each way late by `delay`; returns its own port.
pub(crate) async fn start(to: u16, delay: Duration) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await.unwrap();
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            tokio::spawn(carry(from_client, to_server, delay));
            tokio::spawn(carry(from_server, to_client, delay));
        }
    });
    port
}

/// Carries one direction until either end closes.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let mut flying: VecDeque<(Instant, Bytes)> = VecDeque::new();
    let mut open = true;
    while open || !flying.is_empty() {
        let arrival = flying.front().map(|(at, _)| *at);
        let mut buffer = BytesMut::with_capacity(64 << 10);
        tokio::select! {
            () = sleep_until(arrival.unwrap_or_else(Instant::now)), if arrival.is_some() => {
                let Some((_, bytes)) = flying.pop_front() else { continue };
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            read = from.read_buf(&mut buffer), if open => match read {
                Ok(0) | Err(_) => open = false,
                Ok(_) => flying.push_back((Instant::now() + delay, buffer.freeze())),
            }
        }
    }
}
