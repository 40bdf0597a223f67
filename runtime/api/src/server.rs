//! The node's side.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use sluice_event::Region;
use sluice_log::Audit;
use sluice_node::checkpoint::{self, Checkpoint};
use sluice_node::dead::{self, DeadLetters, Found, Treated, Treatment};
use sluice_node::operate::{self, Rewind};
use sluice_node::replay::{self, Replay};
use sluice_node::state;
use sluice_node::topics::{self, Place, Production, TopicDescription};
use sluice_node::{Node, Status};
use tokio::sync::{oneshot, watch};

use crate::problem::Problem;
use crate::wire::{
    CheckpointRequest, DeadRequest, FileRequest, LocateQuery, Located, MAX_BODY, MAX_READ, MAX_WAIT_MS, NewTopic,
    NextSequence, ProduceQuery, Produced, ReadQuery, RewindRequest, Want, encode_read,
};

#[derive(Clone)]
struct Api {
    node: Arc<Node>,
    /// Changes whenever something was appended.
    appended: watch::Receiver<u64>,
}

type Answer<T> = Result<Json<T>, Problem>;

/// Serves a node on its socket until `ended`.
///
/// # Errors
/// When the socket cannot be used.
pub async fn serve(
    node: Arc<Node>,
    listener: std::os::unix::net::UnixListener,
    ended: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let (changed, appended) = watch::channel(0);
    node.log().on_append(move |_| changed.send_modify(|count| *count += 1));
    let router = Router::new()
        .route("/status", get(status))
        .route("/topics", get(list).post(create))
        .route("/topics/{topic}", get(describe).delete(delete_topic))
        .route("/topics/{topic}/partitions/{partition}/offset", get(locate))
        .route("/topics/{topic}/events", post(produce).get(read))
        .route("/topics/{topic}/producers/{producer}", get(next_sequence))
        .route("/pipelines/{pipeline}", delete(delete_pipeline))
        .route("/pipelines/{pipeline}/desired", put(want))
        .route("/pipelines/{pipeline}/rewind", post(rewind))
        .route("/pipelines/{pipeline}/replay", post(replay))
        .route("/pipelines/{pipeline}/state", post(look))
        .route("/pipelines/{pipeline}/dead", get(dead_list))
        .route("/pipelines/{pipeline}/dead/{id}", get(dead_find))
        .route("/pipelines/{pipeline}/dead/redrive", post(dead_redrive))
        .route("/pipelines/{pipeline}/dead/discard", post(dead_discard))
        .route("/checkpoints", get(checkpoints).post(make_checkpoint))
        .route("/checkpoints/{name}", delete(delete_checkpoint))
        .route("/checkpoints/{name}/export", post(export_checkpoint))
        .route("/checkpoint-imports", post(import_checkpoint))
        .route("/audit", get(audit))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Api { node, appended });
    let listener = tokio::net::UnixListener::from_std(listener)?;
    axum::serve(listener, router).with_graceful_shutdown(ended).await
}

/// File I/O never runs on the reactor's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|died| Err(Problem::connection(died)))
}

async fn status(State(api): State<Api>) -> Answer<Status> {
    blocking(move || Ok(api.node.status())).await.map(Json)
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
    body: Bytes,
) -> Answer<Produced> {
    let Query(query) = query?;
    let sequence = match (query.producer, query.first) {
        (Some(producer), Some(first)) => Some((producer, first)),
        (None, None) => None,
        _ => return Err(Problem::bad_request("`producer` and `first` go together")),
    };
    let (answer, answered) = oneshot::channel();
    blocking(move || {
        let production = Production {
            topic: &topic,
            partition: query.partition,
            events: Region::new(&body, query.count),
            sequence: sequence.as_ref().map(|(producer, first)| (producer.as_str(), *first)),
        };
        topics::produce(api.node.log(), production, Box::new(move |result| drop(answer.send(result))))?;
        Ok(())
    })
    .await?;
    let committed = answered.await.map_err(|_| Problem::from(sluice_log::Error::Closed))??;
    Ok(Json(committed.into()))
}

async fn read(
    State(api): State<Api>,
    Path(topic): Path<String>,
    query: Result<Query<ReadQuery>, QueryRejection>,
) -> Result<Vec<u8>, Problem> {
    let Query(query) = query?;
    let deadline = tokio::time::Instant::now() + Duration::from_millis(query.wait_ms.min(MAX_WAIT_MS));
    let mut appended = api.appended.clone();
    loop {
        appended.mark_unchanged();
        let (node, topic) = (api.node.clone(), topic.clone());
        let batch = blocking(move || {
            let max_bytes = query.max_bytes.min(MAX_READ);
            Ok(topics::read(node.log(), &topic, query.partition, query.from, max_bytes)?)
        });
        let batch = batch.await?;
        let waited = batch.count > 0 || tokio::time::timeout_at(deadline, appended.changed()).await.is_err();
        if waited {
            return Ok(encode_read(&batch));
        }
    }
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
