//! What a pipeline's plugins write to the log, now or as it comes.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use sluice_node::Line;

use crate::auth::Caller;
use crate::events::STREAM;
use crate::problem::Problem;
use crate::server::Api;

/// The lines that are kept; who follows gets those, and then each as it comes.
pub(crate) async fn logs(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(pipeline): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let lines = api.node.lines(&pipeline, 0)?;
    if headers.get(header::ACCEPT).is_none_or(|accepted| accepted != STREAM) {
        return Ok(Json(lines).into_response());
    }
    let follower = Follower { api, caller, pipeline, next: 0, ready: VecDeque::new() };
    let events = stream::unfold(follower, |mut follower| async move {
        let line = follower.line().await?;
        let told = serde_json::to_string(&line).unwrap_or_default();
        Some((Ok::<_, Infallible>(sse::Event::default().data(told)), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

struct Follower {
    api: Api,
    caller: Caller,
    pipeline: String,
    /// The number of the line that comes next.
    next: u64,
    ready: VecDeque<Line>,
}

impl Follower {
    /// The next line, when it was written; none when there will be no more, or somebody is not let in any more.
    async fn line(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            self.api.logged.mark_unchanged();
            if !self.caller.is_let_in() {
                return None;
            }
            let lines = self.api.node.lines(&self.pipeline, self.next).ok()?;
            match lines.last() {
                Some(last) => self.next = last.number + 1,
                None => self.api.logged.changed().await.ok()?,
            }
            self.ready.extend(lines);
        }
    }
}
