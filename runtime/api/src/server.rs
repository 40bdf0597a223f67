//! The node's side.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{any, delete, get, post, put};
use axum::{Json, Router};
use sluice_event::Region;
use sluice_log::Audit;
use sluice_node::checkpoint::{self, Checkpoint};
use sluice_node::dead::{self, DeadLetters, Found, Treated, Treatment};
use sluice_node::operate::{self, Rewind};
use sluice_node::replay::{self, Replay};
use sluice_node::state;
use sluice_node::topics::{self, Place, Production, TopicDescription};
use sluice_node::{Node, PipelineState, PipelineStatus, Status};
use tokio::sync::{oneshot, watch};

use crate::admission::{Room, admit, same_site};
use crate::connections::{self, Bounds};
use crate::events::{self, FLAT};
use crate::intake::{self, ProduceQuery};
use crate::problem::{Problem, as_document, not_allowed, unknown};
use crate::wire::{
    CheckpointRequest, DeadRequest, FileRequest, LocateQuery, Located, MAX_BODY, NewTopic, NextSequence, Produced,
    RewindRequest, Want,
};

#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) node: Arc<Node>,
    /// Changes whenever something was appended.
    pub(crate) appended: watch::Receiver<u64>,
    /// Where the node listens on the network.
    address: Option<SocketAddr>,
}

type Answer<T> = Result<Json<T>, Problem>;

/// Where a node listens.
#[derive(Debug)]
pub struct Listeners {
    /// The socket in its data directory.
    pub socket: std::os::unix::net::UnixListener,
    /// On the network.
    pub tcp: Option<std::net::TcpListener>,
}

/// Serves a node until it is dropped.
///
/// # Errors
/// When a listener cannot be used.
pub async fn serve(node: Arc<Node>, listeners: Listeners) -> std::io::Result<()> {
    let (changed, appended) = watch::channel(0);
    node.log().on_append(move |_| changed.send_modify(|count| *count += 1));
    let tcp = listeners.tcp.map(tokio::net::TcpListener::from_std).transpose()?;
    let address = tcp.as_ref().map(tokio::net::TcpListener::local_addr).transpose()?;
    let api = Api { node, appended, address };
    let served = |files: Router<Api>| {
        let router = router().merge(files).fallback(unknown).method_not_allowed_fallback(not_allowed);
        // Those on the network leave room to those who are here.
        router
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(from_fn_with_state(Room::default(), admit))
            .with_state(api.clone())
    };
    let socket = tokio::net::UnixListener::from_std(listeners.socket)?;
    let local = connections::serve(socket, Bounds::local(), served(files()).layer(from_fn(as_document)));
    let Some((tcp, address)) = tcp.zip(address) else {
        local.await;
        return Ok(());
    };
    let remote = served(no_files()).layer(from_fn_with_state(address.ip().is_loopback(), same_site));
    tokio::join!(local, connections::serve(tcp, Bounds::remote(), remote.layer(from_fn(as_document))));
    Ok(())
}

/// What is served everywhere.
fn router() -> Router<Api> {
    Router::new()
        .route("/healthz", get(|| async { Json("ok") }))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .route("/topics", get(list).post(create))
        .route("/topics/{topic}", get(describe).delete(delete_topic))
        .route("/topics/{topic}/partitions/{partition}/offset", get(locate))
        .route("/topics/{topic}/events", post(produce).get(events::read))
        .route("/topics/{topic}/producers/{producer}", get(next_sequence))
        .route("/pipelines", get(pipelines))
        .route("/pipelines/{pipeline}", get(pipeline).delete(delete_pipeline))
        .route("/pipelines/{pipeline}/health", get(health))
        .route("/pipelines/{pipeline}/desired", put(want))
        .route("/pipelines/{pipeline}/rewind", post(rewind))
        .route("/pipelines/{pipeline}/state", post(look))
        .route("/pipelines/{pipeline}/dead", get(dead_list))
        .route("/pipelines/{pipeline}/dead/{id}", get(dead_find))
        .route("/pipelines/{pipeline}/dead/redrive", post(dead_redrive))
        .route("/pipelines/{pipeline}/dead/discard", post(dead_discard))
        .route("/checkpoints", get(checkpoints).post(make_checkpoint))
        .route("/checkpoints/{name}", delete(delete_checkpoint))
        .route("/audit", get(audit))
}

/// Where requests name files on the node's machine.
const REPLAY: &str = "/pipelines/{pipeline}/replay";
const EXPORT: &str = "/checkpoints/{name}/export";
const IMPORT: &str = "/checkpoint-imports";

fn files() -> Router<Api> {
    Router::new()
        .route(REPLAY, post(replay))
        .route(EXPORT, post(export_checkpoint))
        .route(IMPORT, post(import_checkpoint))
}

/// Files of the node's machine are for those who are there.
fn no_files() -> Router<Api> {
    let refused = || async {
        Problem::new(403, "this names files on the node's machine").help("run the verb there, without --node")
    };
    [REPLAY, EXPORT, IMPORT].into_iter().fold(Router::new(), |router, path| router.route(path, any(refused)))
}

/// File I/O never runs on the reactor's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|died| Err(Problem::connection(died)))
}

async fn status(State(api): State<Api>) -> Answer<Status> {
    let address = api.address.map(|address| address.to_string());
    blocking(move || Ok(Status { address, ..api.node.status() })).await.map(Json)
}

/// It answers once pipelines were started; what is damaged stands in the way of producers.
async fn ready(State(api): State<Api>) -> Answer<&'static str> {
    let damaged = blocking(move || Ok(api.node.status().damaged)).await?;
    match damaged.first() {
        None => Ok(Json("ok")),
        Some(file) => Err(Problem::new(503, format!("damaged: {file}")).help("stop the node, and run `sluice fsck`")),
    }
}

async fn pipelines(State(api): State<Api>) -> Answer<Vec<PipelineStatus>> {
    blocking(move || Ok(api.node.status().pipelines)).await.map(Json)
}

async fn pipeline(State(api): State<Api>, Path(name): Path<String>) -> Answer<PipelineStatus> {
    let pipelines = blocking(move || Ok(api.node.status().pipelines)).await?;
    let found = pipelines.into_iter().find(|pipeline| pipeline.name == name);
    found.map(Json).ok_or_else(|| sluice_log::Error::UnknownPipeline(name).into())
}

/// Whether a pipeline does what it is told to.
async fn health(api: State<Api>, name: Path<String>) -> Answer<PipelineState> {
    let Json(pipeline) = pipeline(api, name).await?;
    let unhealthy = matches!(pipeline.state, PipelineState::Halted | PipelineState::Held | PipelineState::Waiting);
    if !unhealthy {
        return Ok(Json(pipeline.state));
    }
    let lanes = pipeline.partitions.iter();
    let why = lanes.filter_map(|lane| lane.halted.as_ref().map(|halt| halt.reason.clone()).or(lane.waits_for.clone()));
    let why = pipeline.held.into_iter().chain(why).next().unwrap_or_default();
    Err(Problem::new(503, format!("{} is {}: {why}", pipeline.name, pipeline.state)))
}

async fn list(State(api): State<Api>) -> Answer<Vec<TopicDescription>> {
    blocking(move || Ok(topics::list(api.node.log())?)).await.map(Json)
}

async fn describe(State(api): State<Api>, Path(topic): Path<String>) -> Answer<TopicDescription> {
    blocking(move || Ok(topics::describe(api.node.log(), &topic)?)).await.map(Json)
}

async fn create(
    State(api): State<Api>,
    topic: Result<Json<NewTopic>, JsonRejection>,
) -> Result<(StatusCode, Json<TopicDescription>), Problem> {
    let Json(topic) = topic?;
    let made = blocking(move || {
        topics::create(api.node.log(), topic.to_log()?)?;
        Ok(topics::describe(api.node.log(), &topic.name)?)
    });
    Ok((StatusCode::CREATED, Json(made.await?)))
}

async fn produce(
    State(api): State<Api>,
    Path(topic): Path<String>,
    query: Result<Query<ProduceQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<Produced> {
    let Query(query) = query?;
    if query.producer.is_some() != query.first.is_some() {
        return Err(Problem::bad_request("`producer` and `first` go together"));
    }
    let (answer, answered) = oneshot::channel();
    blocking(move || {
        let batch;
        let events = match query.count {
            Some(count) if intake::media_type(&headers) == FLAT => Region::new(&body, count),
            Some(_) => return Err(Problem::bad_request(format!("`count` goes with content of the type {FLAT}"))),
            None => {
                batch = intake::batch(&headers, &body, &query)?;
                batch.region()
            }
        };
        let sequence = query.producer.as_deref().zip(query.first);
        let production = Production { topic: &topic, partition: query.partition, events, sequence };
        topics::produce(api.node.log(), production, Box::new(move |result| drop(answer.send(result))))?;
        Ok(())
    })
    .await?;
    let committed = answered.await.map_err(|_| Problem::from(sluice_log::Error::Closed))??;
    Ok(Json(committed.into()))
}

async fn next_sequence(
    State(api): State<Api>,
    Path((topic, producer)): Path<(String, String)>,
) -> Answer<NextSequence> {
    let topic = api.node.log().topic(&topic)?;
    Ok(Json(NextSequence { next: api.node.log().next_sequence(&producer, topic.id) }))
}

async fn delete_topic(State(api): State<Api>, Path(topic): Path<String>) -> Answer<()> {
    blocking(move || Ok(api.node.delete_topic(&topic)?)).await.map(Json)
}

async fn locate(
    State(api): State<Api>,
    Path((topic, partition)): Path<(String, u32)>,
    query: Result<Query<LocateQuery>, QueryRejection>,
) -> Answer<Located> {
    let Query(query) = query?;
    let place: Place = query.at.parse().map_err(|what: String| Problem::bad_request(what))?;
    let offset = blocking(move || Ok(topics::locate(api.node.log(), &topic, partition, place)?)).await?;
    Ok(Json(Located { offset }))
}

async fn delete_pipeline(State(api): State<Api>, Path(pipeline): Path<String>) -> Answer<()> {
    blocking(move || Ok(api.node.delete_pipeline(&pipeline)?)).await.map(Json)
}

async fn want(
    State(api): State<Api>,
    Path(pipeline): Path<String>,
    want: Result<Json<Want>, JsonRejection>,
) -> Answer<()> {
    let Json(want) = want?;
    let done = blocking(move || match want {
        Want::Resume | Want::ResumePast => Ok(api.node.resume(&pipeline, want == Want::ResumePast)?),
        Want::Pause | Want::Drain => Ok(api.node.want(&pipeline, want.into())?),
    });
    done.await.map(Json)
}

async fn rewind(
    State(api): State<Api>,
    Path(pipeline): Path<String>,
    request: Result<Json<RewindRequest>, JsonRejection>,
) -> Answer<Rewind> {
    let Json(request) = request?;
    let RewindRequest { to, state, into, really } = request;
    let target = to.parse().map_err(|what: String| Problem::bad_request(what))?;
    let request = operate::Request { target, state, into, really };
    blocking(move || Ok(api.node.rewind(&pipeline, &request)?)).await.map(Json)
}

async fn replay(State(api): State<Api>, request: Result<Json<replay::Request>, JsonRejection>) -> Answer<Replay> {
    let Json(request) = request?;
    blocking(move || Ok(api.node.replay(&request)?)).await.map(Json)
}

async fn checkpoints(State(api): State<Api>) -> Answer<Vec<Checkpoint>> {
    blocking(move || Ok(checkpoint::list(api.node.log().root())?)).await.map(Json)
}

async fn make_checkpoint(
    State(api): State<Api>,
    request: Result<Json<CheckpointRequest>, JsonRejection>,
) -> Answer<Checkpoint> {
    let Json(request) = request?;
    blocking(move || Ok(api.node.checkpoint(&request.name, request.pipeline.as_deref())?)).await.map(Json)
}

async fn export_checkpoint(
    State(api): State<Api>,
    Path(name): Path<String>,
    request: Result<Json<FileRequest>, JsonRejection>,
) -> Answer<Checkpoint> {
    let Json(request) = request?;
    blocking(move || Ok(api.node.export_checkpoint(&name, &request.file)?)).await.map(Json)
}

async fn import_checkpoint(
    State(api): State<Api>,
    request: Result<Json<FileRequest>, JsonRejection>,
) -> Answer<Checkpoint> {
    let Json(request) = request?;
    blocking(move || Ok(api.node.import_checkpoint(&request.file, request.name.as_deref())?)).await.map(Json)
}

async fn delete_checkpoint(State(api): State<Api>, Path(name): Path<String>) -> Answer<()> {
    blocking(move || Ok(checkpoint::delete(api.node.log().root(), &name)?)).await.map(Json)
}

async fn look(
    State(api): State<Api>,
    Path(pipeline): Path<String>,
    query: Result<Json<state::Query>, JsonRejection>,
) -> Answer<state::Found> {
    let Json(query) = query?;
    blocking(move || Ok(api.node.look(&pipeline, &query)?)).await.map(Json)
}

async fn dead_list(State(api): State<Api>, Path(pipeline): Path<String>) -> Answer<DeadLetters> {
    blocking(move || Ok(dead::list(api.node.log(), &pipeline)?)).await.map(Json)
}

async fn dead_find(State(api): State<Api>, Path((pipeline, id)): Path<(String, String)>) -> Answer<Found> {
    let id = id.parse().map_err(|what: String| Problem::bad_request(what))?;
    blocking(move || Ok(dead::find(api.node.log(), &pipeline, id)?)).await.map(Json)
}

type DeadBody = Result<Json<DeadRequest>, JsonRejection>;

async fn dead_redrive(api: State<Api>, pipeline: Path<String>, request: DeadBody) -> Answer<Treated> {
    dead_treat(api, pipeline, Treatment::Redrive, request).await
}

async fn dead_discard(api: State<Api>, pipeline: Path<String>, request: DeadBody) -> Answer<Treated> {
    dead_treat(api, pipeline, Treatment::Discard, request).await
}

async fn dead_treat(
    State(api): State<Api>,
    Path(pipeline): Path<String>,
    treatment: Treatment,
    request: DeadBody,
) -> Answer<Treated> {
    let Json(DeadRequest { selection, really }) = request?;
    blocking(move || Ok(api.node.treat(&pipeline, treatment, &selection, really)?)).await.map(Json)
}

async fn audit(State(api): State<Api>) -> Answer<Audit> {
    blocking(move || Ok(api.node.log().audit()?)).await.map(Json)
}
