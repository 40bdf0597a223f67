//! What the node's routes do.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, RawQuery, State};
use axum::http::header::{self, CONTENT_TYPE, HeaderName};
use axum::http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};
use sluice_event::Region;
use sluice_log::Audit;
use sluice_node::checkpoint::{self, Checkpoint};
use sluice_node::dead::{self, DeadLetters, Found, Treated, Treatment};
use sluice_node::generations::GenerationInfo;
use sluice_node::operate::{self, Rewind};
use sluice_node::replay::{self, Replay};
use sluice_node::state;
use sluice_node::topics::{self, Place, Production, TopicDescription};
use sluice_node::{Backup, History, PipelineState, PipelineStatus, Status};
use tokio::sync::oneshot;

use crate::auth::{Caller, MadeToken, Need, NewToken, TokenInfo};
use crate::events::FLAT;
use crate::intake::{self, ProduceQuery};
use crate::metrics;
use crate::problem::Problem;
use crate::routes::{Here, not_here};
use crate::server::Api;
use crate::wire::{
    BackupRequest, CheckpointRequest, DeadRequest, FileRequest, InForce, LocateQuery, Located, NewTopic, NextSequence,
    Plugin, PluginStage, Produced, RewindRequest, Want,
};

type Answer<T> = Result<Json<T>, Problem>;

/// File I/O never runs on the reactor's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|died| Err(Problem::connection(died)))
}

pub(crate) async fn alive() -> Json<&'static str> {
    Json("ok")
}

pub(crate) async fn openapi() -> Json<serde_json::Value> {
    Json(crate::openapi::description())
}

pub(crate) async fn status(State(api): State<Api>) -> Answer<Status> {
    blocking(move || Ok(Status { url: api.url, ..api.node.status() })).await.map(Json)
}

pub(crate) async fn metrics(State(api): State<Api>) -> Result<([(HeaderName, &'static str); 1], String), Problem> {
    let text = blocking(move || metrics::of(&api.node)).await?;
    Ok(([(header::CONTENT_TYPE, metrics::MEDIA_TYPE)], text))
}

/// The plugins of the definitions in force, by digest.
pub(crate) async fn plugins(State(api): State<Api>) -> Answer<Vec<Plugin>> {
    let pipelines = blocking(move || Ok(api.node.status().pipelines)).await?;
    let mut plugins: BTreeMap<String, Vec<PluginStage>> = BTreeMap::new();
    for pipeline in pipelines {
        for (stage, digest) in pipeline.stages.iter().zip(&pipeline.digests) {
            let (pipeline, generation) = (pipeline.name.clone(), pipeline.generation);
            let stage = PluginStage { pipeline, stage: stage.clone(), generation };
            plugins.entry(digest.clone()).or_default().push(stage);
        }
    }
    Ok(Json(plugins.into_iter().map(|(digest, stages)| Plugin { digest, stages }).collect()))
}

pub(crate) async fn history(State(api): State<Api>, Path(pipeline): Path<String>) -> Answer<History> {
    Ok(Json(api.node.history(&pipeline)?))
}

/// It answers once pipelines were started; what is damaged stands in the way of producers.
pub(crate) async fn ready(State(api): State<Api>) -> Answer<&'static str> {
    let damaged = blocking(move || Ok(api.node.status().damaged)).await?;
    match damaged.first() {
        None => Ok(Json("ok")),
        Some(_) => Err(Problem::new(503, "a partition is damaged").help("stop the node, and run `sluice fsck`")),
    }
}

pub(crate) async fn pipelines(State(api): State<Api>) -> Answer<Vec<PipelineStatus>> {
    blocking(move || Ok(api.node.status().pipelines)).await.map(Json)
}

pub(crate) async fn pipeline(State(api): State<Api>, Path(name): Path<String>) -> Answer<PipelineStatus> {
    let pipelines = blocking(move || Ok(api.node.status().pipelines)).await?;
    let found = pipelines.into_iter().find(|pipeline| pipeline.name == name);
    found.map(Json).ok_or_else(|| sluice_log::Error::UnknownPipeline(name).into())
}

/// Whether a pipeline does what it is told to.
pub(crate) async fn health(api: State<Api>, name: Path<String>) -> Answer<PipelineState> {
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

/// Those that the caller may know of.
pub(crate) async fn list(State(api): State<Api>, caller: Extension<Caller>) -> Answer<Vec<TopicDescription>> {
    let mut topics = blocking(move || Ok(topics::list(api.node.log())?)).await?;
    topics.retain(|topic| caller.may(Need::Know, &topic.name));
    Ok(Json(topics))
}

pub(crate) async fn describe(State(api): State<Api>, Path(topic): Path<String>) -> Answer<TopicDescription> {
    blocking(move || Ok(topics::describe(api.node.log(), &topic)?)).await.map(Json)
}

pub(crate) async fn create(
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

pub(crate) async fn produce(
    State(api): State<Api>,
    Path(topic): Path<String>,
    query: Result<Query<ProduceQuery>, QueryRejection>,
    RawQuery(written): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<Produced> {
    let Query(query) = query?;
    if query.producer.is_some() != query.first.is_some() {
        return Err(Problem::bad_request("`producer` and `first` go together"));
    }
    let once = idempotency_key(&headers)?;
    let has_key = once.is_some();
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
        let once = once.as_deref().map(|key| (key, hash_of(written.as_deref(), &headers, &body)));
        let production = Production { topic: &topic, partition: query.partition, events, sequence, once };
        topics::produce(api.node.log(), production, Box::new(move |result| drop(answer.send(result))))?;
        Ok(())
    })
    .await?;
    match answered.await.map_err(|_| Problem::from(sluice_log::Error::Closed))? {
        Err(sluice_log::Error::SequenceGap { .. }) if has_key => {
            let problem = Problem::new(422, "this Idempotency-Key came with another request before");
            Err(problem.help("a request that is sent again is the same; another one has a key of its own"))
        }
        result => Ok(Json(result?.into())),
    }
}

/// The key that makes a request count once, whether as the draft of its header has it, in quotation marks, or plain.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key =
        key.to_str().map_err(|_| Problem::bad_request("`Idempotency-Key` has other than ASCII characters"))?.trim();
    let quoted = key.strip_prefix('"').and_then(|key| key.strip_suffix('"'));
    Ok(Some(quoted.unwrap_or(key).to_owned()))
}

/// A hash of all that a request's events come of, but for the time of day.
fn hash_of(query: Option<&str>, headers: &HeaderMap, body: &[u8]) -> u64 {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(query.unwrap_or_default().as_bytes());
    add(body);
    // As they came: a client that sends a request again writes it as before.
    for (name, value) in headers.iter().filter(|(name, _)| *name == CONTENT_TYPE || name.as_str().starts_with("ce-")) {
        add(name.as_str().as_bytes());
        add(value.as_bytes());
    }
    hash.finalize().first_chunk().copied().map_or(0, u64::from_le_bytes)
}

pub(crate) async fn next_sequence(
    State(api): State<Api>,
    Path((topic, producer)): Path<(String, String)>,
) -> Answer<NextSequence> {
    let topic = api.node.log().topic(&topic)?;
    Ok(Json(NextSequence { next: api.node.log().next_sequence(&producer, topic.id) }))
}

pub(crate) async fn delete_topic(State(api): State<Api>, Path(topic): Path<String>) -> Answer<()> {
    blocking(move || Ok(api.node.delete_topic(&topic)?)).await.map(Json)
}

pub(crate) async fn locate(
    State(api): State<Api>,
    Path((topic, partition)): Path<(String, u32)>,
    query: Result<Query<LocateQuery>, QueryRejection>,
) -> Answer<Located> {
    let Query(query) = query?;
    let place: Place = query.at.parse().map_err(|what: String| Problem::bad_request(what))?;
    let offset = blocking(move || Ok(topics::locate(api.node.log(), &topic, partition, place)?)).await?;
    Ok(Json(Located { offset }))
}

pub(crate) async fn delete_pipeline(State(api): State<Api>, Path(pipeline): Path<String>) -> Answer<()> {
    blocking(move || Ok(api.node.delete_pipeline(&pipeline)?)).await.map(Json)
}

pub(crate) async fn want(
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

pub(crate) async fn rewind(
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

pub(crate) async fn replay(
    State(api): State<Api>,
    Extension(Here(here)): Extension<Here>,
    request: Result<Json<replay::Request>, JsonRejection>,
) -> Answer<Replay> {
    let Json(request) = request?;
    if !here && (!request.files.is_empty() || request.plugin.is_some()) {
        return Err(not_here());
    }
    blocking(move || Ok(api.node.replay(&request)?)).await.map(Json)
}

pub(crate) async fn checkpoints(State(api): State<Api>) -> Answer<Vec<Checkpoint>> {
    blocking(move || Ok(checkpoint::list(api.node.log().root())?)).await.map(Json)
}

pub(crate) async fn make_checkpoint(
    State(api): State<Api>,
    request: Result<Json<CheckpointRequest>, JsonRejection>,
) -> Answer<Checkpoint> {
    let Json(request) = request?;
    blocking(move || Ok(api.node.checkpoint(&request.name, request.pipeline.as_deref())?)).await.map(Json)
}

pub(crate) async fn export_checkpoint(
    State(api): State<Api>,
    Path(name): Path<String>,
    request: Result<Json<FileRequest>, JsonRejection>,
) -> Answer<Checkpoint> {
    let Json(request) = request?;
    blocking(move || Ok(api.node.export_checkpoint(&name, &request.file)?)).await.map(Json)
}

pub(crate) async fn import_checkpoint(
    State(api): State<Api>,
    request: Result<Json<FileRequest>, JsonRejection>,
) -> Answer<Checkpoint> {
    let Json(request) = request?;
    blocking(move || Ok(api.node.import_checkpoint(&request.file, request.name.as_deref())?)).await.map(Json)
}

pub(crate) async fn delete_checkpoint(State(api): State<Api>, Path(name): Path<String>) -> Answer<()> {
    blocking(move || Ok(api.node.delete_checkpoint(&name)?)).await.map(Json)
}

pub(crate) async fn backup(
    State(api): State<Api>,
    request: Result<Json<BackupRequest>, JsonRejection>,
) -> Answer<Backup> {
    let Json(BackupRequest { folder }) = request?;
    blocking(move || Ok(api.node.backup(&folder)?)).await.map(Json)
}

pub(crate) async fn look(
    State(api): State<Api>,
    Path(pipeline): Path<String>,
    query: Result<Json<state::Query>, JsonRejection>,
) -> Answer<state::Found> {
    let Json(query) = query?;
    blocking(move || Ok(api.node.look(&pipeline, &query)?)).await.map(Json)
}

pub(crate) async fn generations(State(api): State<Api>, Path(pipeline): Path<String>) -> Answer<Vec<GenerationInfo>> {
    blocking(move || Ok(api.node.generations(&pipeline)?)).await.map(Json)
}

pub(crate) async fn reload(State(api): State<Api>, Path(pipeline): Path<String>) -> Answer<InForce> {
    let generation = blocking(move || Ok(api.node.reload(&pipeline)?)).await?;
    Ok(Json(InForce { generation }))
}

pub(crate) async fn roll_back(State(api): State<Api>, Path(pipeline): Path<String>) -> Answer<InForce> {
    let generation = blocking(move || Ok(api.node.roll_back(&pipeline)?)).await?;
    Ok(Json(InForce { generation }))
}

pub(crate) async fn dead_list(State(api): State<Api>, Path(pipeline): Path<String>) -> Answer<DeadLetters> {
    blocking(move || Ok(dead::list(api.node.log(), &pipeline)?)).await.map(Json)
}

pub(crate) async fn dead_find(State(api): State<Api>, Path((pipeline, id)): Path<(String, String)>) -> Answer<Found> {
    let id = id.parse().map_err(|what: String| Problem::bad_request(what))?;
    blocking(move || Ok(dead::find(api.node.log(), &pipeline, id)?)).await.map(Json)
}

type DeadBody = Result<Json<DeadRequest>, JsonRejection>;

pub(crate) async fn dead_redrive(api: State<Api>, pipeline: Path<String>, request: DeadBody) -> Answer<Treated> {
    dead_treat(api, pipeline, Treatment::Redrive, request).await
}

pub(crate) async fn dead_discard(api: State<Api>, pipeline: Path<String>, request: DeadBody) -> Answer<Treated> {
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

pub(crate) async fn audit(State(api): State<Api>) -> Answer<Audit> {
    blocking(move || Ok(api.node.log().audit()?)).await.map(Json)
}

pub(crate) async fn tokens(State(api): State<Api>) -> Answer<Vec<TokenInfo>> {
    Ok(Json(api.tokens.list()))
}

pub(crate) async fn create_token(
    State(api): State<Api>,
    token: Result<Json<NewToken>, JsonRejection>,
) -> Result<(StatusCode, Json<MadeToken>), Problem> {
    let Json(token) = token?;
    let made = blocking(move || api.tokens.create(token)).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

pub(crate) async fn revoke_token(State(api): State<Api>, Path(name): Path<String>) -> Answer<()> {
    blocking(move || api.tokens.revoke(&name)).await.map(Json)
}
