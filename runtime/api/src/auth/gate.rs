//! Who calls, and whether they may.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::operations::{Operation, Operations};
use super::scope::Need;
use super::tokens::{Token, Tokens};
use crate::connections::Peer;
use crate::problem::Problem;
use crate::wire::MAX_BODY;

/// What a listener asks of those who come.
#[derive(Clone)]
pub(crate) struct Entrance {
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) asks: Asks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    /// Whoever reaches the socket may do what they like with its files, too.
    Nothing,
    /// Nothing of those who show no token; of others, that it is good.
    ForGoodTokens,
    /// A token.
    ForTokens,
}

/// Who sent a request.
#[derive(Clone)]
pub(crate) enum Caller {
    /// Somebody who may do everything.
    Anybody,
    /// Somebody with a token.
    Known(Arc<Tokens>, Token),
    /// Somebody without, where one is needed.
    Unknown,
}

impl Caller {
    /// Whether they may do what needs this, of a topic.
    pub(crate) fn may(&self, need: Need, topic: &str) -> bool {
        match self {
            Self::Anybody => true,
            Self::Known(_, token) => token.info().scopes.iter().any(|scope| need.is_met_by(scope, topic)),
            Self::Unknown => need == Need::Nothing,
        }
    }

    /// Whether they are let in still; the token of somebody who follows may be revoked.
    pub(crate) fn is_let_in(&self) -> bool {
        match self {
            Self::Anybody => true,
            Self::Known(tokens, token) => tokens.is_good(token),
            Self::Unknown => false,
        }
    }

    fn check(&self, need: Need, topic: &str) -> Result<(), Problem> {
        match self {
            caller if caller.may(need, topic) => Ok(()),
            Self::Known(_, token) => {
                let name = &token.info().name;
                let help = "`sluice token create` makes one with other scopes";
                Err(Problem::new(
                    403,
                    format!("this needs the scope {}, which the token {name} has not", need.told(topic)),
                )
                .help(help))
            }
            _ => Err(Problem::new(401, "this needs a token").help(NO_TOKEN)),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Anybody => "anybody".to_owned(),
            Self::Known(_, token) => token.info().name.clone(),
            Self::Unknown => "nobody".to_owned(),
        }
    }
}

const NO_TOKEN: &str = "send `Authorization: Bearer TOKEN`; `sluice token create` makes one, and verbs take it from SLUICE_TOKEN or --token-file";

/// Finds out who sends a request, before anything of it is looked at.
pub(crate) async fn identify(State(entrance): State<Entrance>, mut request: Request, next: Next) -> Response {
    match entrance.identify(request.headers()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            challenged(next.run(request).await)
        }
        Err(problem) => challenged(problem.into_response()),
    }
}

/// Says how to come in, where somebody was not let in (RFC 6750).
fn challenged(mut response: Response) -> Response {
    if response.status() == 401 {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

impl Entrance {
    fn identify(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let Some(shown) = headers.get(header::AUTHORIZATION).filter(|_| self.asks != Asks::Nothing) else {
            return Ok(if self.asks == Asks::ForTokens { Caller::Unknown } else { Caller::Anybody });
        };
        let token = shown.to_str().ok().and_then(|text| text.split_once(' '));
        let token = token.filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        let found = token.and_then(|token| self.tokens.find(token));
        let found =
            found.ok_or_else(|| Problem::new(401, "this token is none of this node's, or has ended").help(NO_TOKEN))?;
        Ok(Caller::Known(self.tokens.clone(), found))
    }
}

/// What a route needs.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) need: Need,
    pub(crate) operations: Arc<Operations>,
}

/// Lets those through who may; orders are noted.
pub(crate) async fn check(State(gate): State<Gate>, path: RawPathParams, request: Request, next: Next) -> Response {
    let topic = path.iter().find(|(name, _)| *name == "topic").map(|(_, topic)| topic).unwrap_or_default();
    // Without a listener in front nobody is let in.
    let caller = request.extensions().get().cloned().unwrap_or(Caller::Unknown);
    if let Err(problem) = caller.check(gate.need, topic) {
        return problem.into_response();
    }
    if request.method() == Method::GET || !matches!(gate.need, Need::Operate | Need::Admin) {
        return next.run(request).await;
    }
    let from = request.extensions().get().map(|Peer(peer)| peer.clone());
    let (method, path) = (request.method().to_string(), request.uri().to_string());
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.unwrap_or_default();
    let response = next.run(Request::from_parts(parts, Body::from(body.clone()))).await;
    let is_order = serde_json::from_slice(&body).map_or(true, |told: Value| told["really"] != Value::Bool(false));
    if is_order {
        let status = response.status().as_u16();
        let operation = Operation { who: caller.name(), from, method, path, body: body.to_vec(), status };
        let told = tokio::task::spawn_blocking(move || gate.operations.tell(&operation)).await;
        drop(told);
    }
    response
}
