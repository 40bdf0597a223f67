//! Connections: how many there are, and how long one may take to say what it wants.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::problem::Problem;
use crate::tls::Tls;
use crate::unread::{Worded, refusal};

/// Connections from the network at once, at most. More wait to be accepted.
const MAX_CONNECTIONS: usize = 16_384;
/// The same on the socket, for those who are here.
const LOCAL_CONNECTIONS: usize = 1024;
/// How long a request's headers may take, and a connection may stand idle.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// How long it may take until both sides know each other.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Bytes of a request's headers.
const MAX_HEADERS: usize = 64 << 10;

/// How much is borne of those who connect.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    connections: usize,
    header_time: Option<Duration>,
}

impl Bounds {
    /// For the socket: a verb may wait for its input for as long as it likes.
    pub(crate) fn local() -> Self {
        Self { connections: LOCAL_CONNECTIONS, header_time: None }
    }

    /// For the network. A third of the files that this process may open are left to the log.
    pub(crate) fn remote() -> Self {
        let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
        let connections = files.map_or(MAX_CONNECTIONS, |files| (files - files / 3).clamp(1, MAX_CONNECTIONS));
        Self { connections, header_time: Some(HEADER_TIME) }
    }
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer(pub(crate) String);

/// Serves what comes on a listener, until it is dropped.
pub(crate) async fn serve<L: Listener>(mut listener: L, tls: Option<Arc<Tls>>, bounds: Bounds, router: Router)
where
    L::Addr: std::fmt::Debug,
{
    let permits = Arc::new(Semaphore::new(bounds.connections));
    // The semaphore is never closed.
    while let Ok(permit) = permits.clone().acquire_owned().await {
        let (stream, peer) = listener.accept().await;
        let (router, tls, peer) = (router.clone(), tls.clone(), Peer(format!("{peer:?}")));
        tokio::spawn(async move {
            match tls {
                None => converse(stream, peer, bounds, router).await,
                Some(tls) => match timeout(HANDSHAKE_TIME, tls.acceptor().accept(stream)).await {
                    Ok(Ok(stream)) => converse(stream, peer, bounds, router).await,
                    Ok(Err(error)) => tracing::debug!(peer = peer.0, "no TLS: {error}"),
                    Err(_) => tracing::debug!(peer = peer.0, "no TLS in time"),
                },
            }
            drop(permit);
        });
    }
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer, bounds: Bounds, router: Router) {
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(bounds.header_time).max_buf_size(MAX_HEADERS);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        router.call(request)
    });
    let worded = Worded::new(&mut stream, MAX_HEADERS);
    let Err(error) = server.serve_connection(TokioIo::new(worded), service).await else { return };
    tracing::debug!("a connection ended early: {error}");
    if let Some(time) = bounds.header_time.filter(|_| error.is_timeout()) {
        let problem = Problem::new(408, format!("no request came within {time:?}"));
        // Whoever is that slow may not read it either.
        let _ = timeout(time, stream.write_all(&refusal(&problem))).await;
    }
}

#[cfg(test)]
mod tests {
    use axum::middleware::from_fn_with_state;
    use axum::routing::any;
    use tokio::io::{AsyncReadExt, DuplexStream};
    use tokio::sync::mpsc;

    use super::*;
    use crate::admission::{Room, admit};

    /// Connections that a test makes.
    struct Made(mpsc::Receiver<DuplexStream>);

    impl Listener for Made {
        type Io = DuplexStream;
        type Addr = &'static str;

        async fn accept(&mut self) -> (Self::Io, Self::Addr) {
            match self.0.recv().await {
                Some(stream) => (stream, "a test"),
                None => std::future::pending().await,
            }
        }

        fn local_addr(&self) -> std::io::Result<Self::Addr> {
            Ok("a test")
        }
    }

    /// What comes back until the other side leaves.
    async fn rest(mut stream: impl AsyncRead + Unpin) -> String {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn who_says_slowly_what_it_wants_is_left_and_others_are_served_meanwhile() {
        const TIME: Duration = Duration::from_millis(50);
        let (made, connections) = mpsc::channel(8);
        let router = Router::new().fallback(any(async || "done")).layer(from_fn_with_state(Room::with(TIME), admit));
        let bounds = Bounds { connections: 8, header_time: Some(TIME) };
        tokio::spawn(serve(Made(connections), None, bounds, router));
        let connect = async |said: &str| {
            let (mut own, other) = tokio::io::duplex(1 << 20);
            made.send(other).await.unwrap();
            own.write_all(said.as_bytes()).await.unwrap();
            own
        };
        let silent = connect("").await;
        let half = connect("GET / HTTP/1.1\r\nx").await;
        let body = connect("POST / HTTP/1.1\r\ncontent-length: 100000\r\n\r\nx").await;
        // A line now and then earns no more time.
        let (reader, mut writer) = tokio::io::split(connect("GET / HTTP/1.1\r\n").await);
        let trickle = tokio::spawn(async move {
            let mut every = tokio::time::interval(TIME / 10);
            while writer.write_all(b"x: y\r\n").await.is_ok() {
                every.tick().await;
            }
        });
        let other = connect("GET / HTTP/1.1\r\nconnection: close\r\n\r\n").await;
        assert!(rest(other).await.starts_with("HTTP/1.1 200"));
        for answer in [rest(silent).await, rest(half).await, rest(reader).await] {
            assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("no request came within 50ms"), "{answer}");
        }
        trickle.await.unwrap();
        let answer = rest(body).await;
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("problem+json"), "{answer}");
    }
}
