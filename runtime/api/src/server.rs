//! The node's side.

use std::sync::{Arc, Weak};

use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use sluice_node::{HISTORY_EVERY, Node};
use tokio::sync::watch;

use crate::admission::{Room, admit, same_site};
use crate::appended::Appended;
use crate::auth::{Asks, Entrance, Operations, Tokens, gate};
use crate::connections::{self, Bounds};
use crate::dashboard;
use crate::problem::{as_document, not_allowed, unknown};
use crate::routes;
use crate::tls::Tls;
use crate::wire::MAX_BODY;

#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) node: Arc<Node>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) appended: Appended,
    /// Changes whenever a plugin has written to the log.
    pub(crate) logged: watch::Receiver<u64>,
    /// Where the node listens on the network.
    pub(crate) url: Option<String>,
}

/// Where a node listens.
pub struct Listeners {
    /// The socket in its data directory.
    pub socket: std::os::unix::net::UnixListener,
    /// On the network.
    pub tcp: Option<Remote>,
}

/// A listener on the network.
pub struct Remote {
    /// Where.
    pub listener: std::net::TcpListener,
    /// Its certificate; without one, what goes over it can be read on the way.
    pub tls: Option<Tls>,
    /// Whether nobody is let in without a token.
    pub with_tokens: bool,
}

impl Remote {
    /// Where it is, as clients name it.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn url(&self) -> std::io::Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.listener.local_addr()?))
    }
}

/// Serves a node until it is dropped.
///
/// # Errors
/// When a listener cannot be used.
pub async fn serve(node: Arc<Node>, tokens: Arc<Tokens>, listeners: Listeners) -> std::io::Result<()> {
    let appended = Appended::of(node.log());
    let operations = Arc::new(Operations::of(node.log().root()));
    let url = listeners.tcp.as_ref().map(Remote::url).transpose()?;
    let (wrote, logged) = watch::channel(0);
    node.on_line(move || wrote.send_modify(|count| *count += 1));
    tokio::spawn(note_history(Arc::downgrade(&node)));
    let api = Api { node, tokens: tokens.clone(), appended, logged, url };
    let served = |asks: Asks| {
        let router = routes::router(&operations, asks == Asks::Nothing).merge(dashboard::router());
        let router = router.fallback(unknown).method_not_allowed_fallback(not_allowed);
        // Those on the network leave room to those who are here.
        router
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(from_fn_with_state(Room::default(), admit))
            .layer(from_fn_with_state(Entrance { tokens: tokens.clone(), asks }, gate::identify))
            .with_state(api.clone())
    };
    let socket = tokio::net::UnixListener::from_std(listeners.socket)?;
    let local = connections::serve(socket, None, Bounds::local(), served(Asks::Nothing).layer(from_fn(as_document)));
    let Some(Remote { listener, tls, with_tokens }) = listeners.tcp else {
        local.await;
        return Ok(());
    };
    let is_loopback = listener.local_addr()?.ip().is_loopback();
    let remote = served(if with_tokens { Asks::ForTokens } else { Asks::ForGoodTokens });
    let remote = remote.layer(from_fn_with_state(is_loopback, same_site)).layer(from_fn(as_document));
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let tls = tls.map(Arc::new);
    if let Some(tls) = tls.clone() {
        tokio::spawn(tls.renew());
    }
    tokio::join!(local, connections::serve(listener, tls, Bounds::remote(), remote));
    Ok(())
}

/// Has a node note what its pipelines do, for as long as it is there.
async fn note_history(node: Weak<Node>) {
    let mut every = tokio::time::interval(HISTORY_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let Some(node) = node.upgrade() else { return };
        drop(tokio::task::spawn_blocking(move || node.note_history()).await);
    }
}
