//! Connections: how many there are, and how long one may take to say what it wants.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;

/// Connections to one listener at once. More wait to be accepted.
const MAX_CONNECTIONS: usize = 16_384;
/// How long a request's headers may take, and a connection may stand idle.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// Bytes of a request's headers.
const MAX_HEADERS: usize = 64 << 10;

/// Serves what comes on a listener, until it is dropped.
pub(crate) async fn serve<L: Listener>(mut listener: L, router: Router) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(permit) = permits.clone().acquire_owned().await {
        let (stream, _) = listener.accept().await;
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME).max_buf_size(MAX_HEADERS);
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!("a connection ended early: {error}");
            }
            drop(permit);
        });
    }
}
