//! What the node serves: each route once, with what it needs of its caller.

use std::sync::Arc;

use axum::Router;
use axum::extract::Extension;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, MethodRouter, any, on};

use schemars::JsonSchema;
use sluice_log::Audit;
use sluice_node::checkpoint::Checkpoint;
use sluice_node::dead::{DeadLetters, Found, Treated};
use sluice_node::generations::GenerationInfo;
use sluice_node::operate::Rewind;
use sluice_node::replay::{self, Replay};
use sluice_node::topics::TopicDescription;
use sluice_node::{History, Line, PipelineState, PipelineStatus, Status, state};

use crate::auth::Need::{Admin, Know, Nothing, Observe, Operate, Produce, Read, Something};
use crate::auth::{Gate, MadeToken, Need, NewToken, Operations, TokenInfo, gate};
use crate::events::{CLOUD_EVENTS, JSON, STREAM};
use crate::intake::ProduceQuery;
use crate::openapi::{Range, Shape, of};
use crate::problem::Problem;
use crate::server::Api;
use crate::wire::{
    CheckpointRequest, DeadRequest, InForce, LocateQuery, Located, NewTopic, NextSequence, Plugin, Produced,
    RewindRequest, Want,
};
use crate::{events, handlers as do_, logs};

/// One method of one path.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) need: Need,
    /// In a sentence.
    pub(crate) about: &'static str,
    /// It names files on the node's machine, and is for those who are there.
    pub(crate) is_local: bool,
    pub(crate) shape: Shape,
    handler: MethodRouter<Api>,
}

fn route<H: Handler<T, Api>, T: 'static>(
    (filter, method): (MethodFilter, Method),
    path: &'static str,
    need: Need,
    about: &'static str,
    handler: H,
) -> Route {
    Route { method, path, need, about, is_local: false, shape: Shape::default(), handler: on(filter, handler) }
}

impl Route {
    fn here(self) -> Self {
        Self { is_local: true, ..self }
    }

    /// What it takes in its query.
    fn query<T: JsonSchema>(self) -> Self {
        Self { shape: Shape { query: Some(of::<T>()), ..self.shape }, ..self }
    }

    /// What it takes as JSON.
    fn body<T: JsonSchema>(self) -> Self {
        Self { shape: Shape { body: Some(of::<T>()), ..self.shape }, ..self }
    }

    /// What it answers as JSON.
    fn gives<T: JsonSchema>(self) -> Self {
        Self { shape: Shape { answer: Some(of::<T>()), ..self.shape }, ..self }
    }

    /// The same, for what was made.
    fn makes<T: JsonSchema>(self) -> Self {
        let made = self.gives::<T>();
        Self { shape: Shape { status: Some(201), ..made.shape }, ..made }
    }

    /// Other kinds of content than JSON.
    fn kinds(self, takes: &'static [&'static str], gives: &'static [&'static str]) -> Self {
        Self { shape: Shape { takes, gives, ..self.shape }, ..self }
    }
}

/// What producers may send.
const TAKEN: &[&str] = &[
    JSON,
    "application/x-ndjson",
    "application/cloudevents+json",
    "application/cloudevents-batch+json",
    "application/octet-stream",
    "text/plain",
];

/// All of them.
#[rustfmt::skip::macros(vec)]
pub(crate) fn all() -> Vec<Route> {
    let get = || (MethodFilter::GET, Method::GET);
    let post = || (MethodFilter::POST, Method::POST);
    let put = || (MethodFilter::PUT, Method::PUT);
    let delete = || (MethodFilter::DELETE, Method::DELETE);
    vec![
        route(get(), "/healthz", Nothing, "Whether the process answers", do_::alive).gives::<String>(),
        route(get(), "/readyz", Nothing, "Whether the node takes events", do_::ready).gives::<String>(),
        route(get(), "/openapi.json", Nothing, "This description", do_::openapi),
        route(get(), "/status", Observe, "How the node and its pipelines stand", do_::status).gives::<Status>(),
        route(get(), "/metrics", Observe, "The node's numbers, as Prometheus reads them", do_::metrics).kinds(&[], &["text/plain"]),
        route(get(), "/topics", Something, "The topics that the caller may know of", do_::list).gives::<Vec<TopicDescription>>(),
        route(post(), "/topics", Admin, "Makes a topic", do_::create).body::<NewTopic>().makes::<TopicDescription>(),
        route(get(), "/topics/{topic}", Know, "A topic and its partitions", do_::describe).gives::<TopicDescription>(),
        route(delete(), "/topics/{topic}", Admin, "Deletes a topic and its events", do_::delete_topic).gives::<()>(),
        route(get(), "/topics/{topic}/partitions/{partition}/offset", Read, "The offset that a place means", do_::locate)
            .query::<LocateQuery>().gives::<Located>(),
        route(get(), "/topics/{topic}/events", Read, "Reads a range of events, or follows them as they come", events::read)
            .query::<events::RangeQuery>().gives::<Range>().kinds(&[], &[JSON, STREAM, CLOUD_EVENTS]),
        route(post(), "/topics/{topic}/events", Produce, "Appends events; answered once they are durable", do_::produce)
            .query::<ProduceQuery>().body::<serde_json::Value>().kinds(TAKEN, &[]).gives::<Produced>(),
        route(get(), "/topics/{topic}/producers/{producer}", Produce, "The sequence number that a producer goes on with", do_::next_sequence)
            .gives::<NextSequence>(),
        route(get(), "/pipelines", Observe, "How all pipelines stand", do_::pipelines).gives::<Vec<PipelineStatus>>(),
        route(get(), "/pipelines/{pipeline}", Observe, "How a pipeline stands", do_::pipeline).gives::<PipelineStatus>(),
        route(delete(), "/pipelines/{pipeline}", Admin, "Stops a pipeline and forgets its cursors", do_::delete_pipeline).gives::<()>(),
        route(get(), "/pipelines/{pipeline}/health", Observe, "Whether a pipeline does what it is told to", do_::health).gives::<PipelineState>(),
        route(get(), "/pipelines/{pipeline}/history", Observe, "What a pipeline did in the last hour", do_::history).gives::<History>(),
        route(get(), "/pipelines/{pipeline}/logs", Operate, "What its plugins have written to the log lately, or write from now on", logs::logs)
            .gives::<Vec<Line>>().kinds(&[], &[JSON, STREAM]),
        route(put(), "/pipelines/{pipeline}/desired", Operate, "Has a pipeline pause, resume or drain", do_::want).body::<Want>().gives::<()>(),
        route(post(), "/pipelines/{pipeline}/rewind", Operate, "Sets cursors anew, or says what that would do", do_::rewind)
            .body::<RewindRequest>().gives::<Rewind>(),
        route(post(), "/pipelines/{pipeline}/replay", Operate, "Runs a range of history once more, aside", do_::replay)
            .body::<replay::Request>().gives::<Replay>(),
        route(post(), "/pipelines/{pipeline}/state", Operate, "Looks into what a pipeline keeps", do_::look)
            .body::<state::Query>().gives::<state::Found>(),
        route(get(), "/pipelines/{pipeline}/dead", Operate, "Dead letters, by cause", do_::dead_list).gives::<DeadLetters>(),
        route(get(), "/pipelines/{pipeline}/dead/{id}", Operate, "Where a dead letter is, and what became of it", do_::dead_find).gives::<Found>(),
        route(post(), "/pipelines/{pipeline}/dead/redrive", Operate, "Sends dead letters through again", do_::dead_redrive)
            .body::<DeadRequest>().gives::<Treated>(),
        route(post(), "/pipelines/{pipeline}/dead/discard", Operate, "Gives dead letters up", do_::dead_discard)
            .body::<DeadRequest>().gives::<Treated>(),
        route(get(), "/pipelines/{pipeline}/generations", Observe, "Definitions with their plugins that were in force, and how they did", do_::generations)
            .gives::<Vec<GenerationInfo>>(),
        route(post(), "/pipelines/{pipeline}/reload", Operate, "Takes over what stands in the pipeline's file and its plugins' now", do_::reload)
            .gives::<InForce>(),
        route(post(), "/pipelines/{pipeline}/rollback", Operate, "Takes the generation in force out, and puts the last good one in its place", do_::roll_back)
            .gives::<InForce>(),
        route(get(), "/plugins", Observe, "The plugins of the definitions in force", do_::plugins).gives::<Vec<Plugin>>(),
        route(get(), "/checkpoints", Observe, "All checkpoints", do_::checkpoints).gives::<Vec<Checkpoint>>(),
        route(post(), "/checkpoints", Operate, "Makes a checkpoint", do_::make_checkpoint).body::<CheckpointRequest>().gives::<Checkpoint>(),
        route(delete(), "/checkpoints/{name}", Operate, "Deletes a checkpoint", do_::delete_checkpoint).gives::<()>(),
        route(post(), "/checkpoints/{name}/export", Operate, "Writes a checkpoint to a file", do_::export_checkpoint).here(),
        route(post(), "/checkpoint-imports", Operate, "Takes a checkpoint in from a file", do_::import_checkpoint).here(),
        route(post(), "/backup", Admin, "Copies the data directory into a folder", do_::backup).here(),
        route(get(), "/audit", Operate, "What the commit log tells of pipelines", do_::audit).gives::<Audit>(),
        route(get(), "/tokens", Admin, "All tokens, without their secrets", do_::tokens).gives::<Vec<TokenInfo>>(),
        route(post(), "/tokens", Admin, "Makes a token", do_::create_token).body::<NewToken>().makes::<MadeToken>(),
        route(delete(), "/tokens/{name}", Admin, "Ends a token", do_::revoke_token).gives::<()>(),
    ]
}

/// Whether a request came by the socket: it may name files of the node's machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Here(pub(crate) bool);

/// Refuses what names files.
pub(crate) fn not_here() -> Problem {
    Problem::new(403, "this names files on the node's machine").help("run the verb there, without --node")
}

/// Puts routes together, each behind its gate; for those `here`, or on the network.
pub(crate) fn router(operations: &Arc<Operations>, here: bool) -> Router<Api> {
    let refused = || async { not_here() };
    let routes = all().into_iter().fold(Router::new(), |router, route| {
        if route.is_local && !here {
            return router.route(route.path, any(refused));
        }
        let gate = Gate { need: route.need, operations: operations.clone() };
        router.route(route.path, route.handler.layer(from_fn_with_state(gate, gate::check)))
    });
    routes.layer(Extension(Here(here)))
}
