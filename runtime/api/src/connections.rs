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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::tls::Tls;

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

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer, bounds: Bounds, router: Router) {
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(bounds.header_time).max_buf_size(MAX_HEADERS);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        router.call(request)
    });
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!("a connection ended early: {error}");
    }
}
