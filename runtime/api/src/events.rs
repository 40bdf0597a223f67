//! Reading events: a range, or following what comes.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Uri, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_log::ReadBatch;
use sluice_node::Node;
use sluice_node::topics::{self, Place};

use crate::problem::Problem;
use crate::server::{Api, blocking};
use crate::wire::{MAX_READ, MAX_WAIT_MS, ReadQuery, encode_read};
use crate::{cloud_event, legible};

/// The media type of events in their flat format, as the command line sends and reads them.
pub(crate) const FLAT: &str = "application/vnd.sluicegate.events";
const CLOUD_EVENTS: &str = "application/cloudevents-batch+json";

/// Reads events as the request accepts them.
pub(crate) async fn read(
    api: State<Api>,
    topic: Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accepted.contains(FLAT) {
        return Ok(read_flat(api, topic, query(&uri)?).await?.into_response());
    }
    if accepted.contains("text/event-stream") {
        return Ok(follow(api, topic, query(&uri)?, &headers).await?.into_response());
    }
    let range = range(api, topic, query(&uri)?, accepted.contains(CLOUD_EVENTS)).await?;
    Ok(match range {
        Range::Events(events) => Json(events).into_response(),
        Range::CloudEvents(events) => {
            ([(header::CONTENT_TYPE, CLOUD_EVENTS)], Json(events).0.to_string()).into_response()
        }
    })
}

fn query<T: serde::de::DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let Query(query) = Query::try_from_uri(uri)?;
    Ok(query)
}

async fn read_flat(State(api): State<Api>, Path(topic): Path<String>, query: ReadQuery) -> Result<Vec<u8>, Problem> {
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

/// A range that is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeQuery {
    /// May be left out where there is one only.
    partition: Option<u32>,
    /// `earliest`, `latest`, an offset, a time.
    from: Option<String>,
    /// Events, at most.
    max: Option<usize>,
}

fn place(from: Option<&str>, otherwise: Place) -> Result<Place, Problem> {
    from.map_or(Ok(otherwise), |from| from.parse().map_err(|what: String| Problem::bad_request(what)))
}

enum Range {
    Events(Value),
    CloudEvents(Value),
}

async fn range(
    State(api): State<Api>,
    Path(topic): Path<String>,
    query: RangeQuery,
    as_cloud_events: bool,
) -> Result<Range, Problem> {
    const USUAL: usize = 100;
    const MOST: usize = 10_000;
    let from = place(query.from.as_deref(), Place::Earliest)?;
    let max = query.max.unwrap_or(USUAL);
    if max > MOST {
        return Err(Problem::bad_request(format!("`max` is at most {MOST}; read on from `next`")));
    }
    blocking(move || {
        let log = api.node.log();
        let found = topics::describe(log, &topic)?;
        let partition = match (query.partition, found.partitions.len()) {
            (Some(partition), _) => partition,
            (None, 1) => 0,
            (None, count) => {
                return Err(Problem::bad_request(format!("say which `partition`: {topic} has {count}")));
            }
        };
        let from = topics::locate(log, &topic, partition, from)?;
        let batch = topics::read(log, &topic, partition, from, MAX_READ)?;
        let names = names(&api.node);
        let name = |id: u32| names.get(&id).cloned();
        let offsets = batch.base_offset..;
        let mut events = Vec::new();
        for (offset, event) in offsets.zip(batch.region().events()).take(max) {
            let event = event.map_err(|malformed| Problem::new(500, malformed.to_string()))?;
            events.push(match as_cloud_events {
                true => cloud_event::of(&topic, partition, offset, &event),
                false => legible::event(&topic, partition, offset, &event, &name),
            });
        }
        if as_cloud_events {
            return Ok(Range::CloudEvents(events.into()));
        }
        let next = batch.base_offset + events.len() as u64;
        let end = topics::find(log, &topic, partition)?.high_watermark();
        Ok(Range::Events(json!({ "events": events, "next": next, "high-watermark": end })))
    })
    .await
}

/// The names of topics, for origins.
fn names(node: &Node) -> HashMap<u32, String> {
    node.log().topics().into_iter().map(|topic| (topic.id, topic.name.clone())).collect()
}

/// Where somebody begins to follow.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FollowQuery {
    /// All of them, when it is left out.
    partition: Option<u32>,
    from: Option<String>,
}

/// Partitions that one may follow at once: the id of each event says where all of them are.
const MOST_FOLLOWED: usize = 64;
/// Bytes of events that are read at once for somebody who follows.
const FOLLOW_BYTES: usize = 256 << 10;

async fn follow(
    State(api): State<Api>,
    Path(topic): Path<String>,
    query: FollowQuery,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let last = headers.get("last-event-id").map(|id| id.to_str().ok().and_then(positions));
    let last = match last {
        Some(None) => return Err(Problem::bad_request("`Last-Event-ID` is none of this node's")),
        last => last.flatten(),
    };
    let from = place(query.from.as_deref(), Place::Latest)?;
    let node = api.node.clone();
    let of = topic.clone();
    let next = blocking(move || {
        let count = topics::describe(node.log(), &of)?.partitions.len();
        let partitions: Vec<u32> = query.partition.map_or_else(|| (0..count as u32).collect(), |only| vec![only]);
        if partitions.len() > MOST_FOLLOWED {
            let help = "follow some of them, each with `partition`";
            return Err(Problem::bad_request(format!("{of} has more than {MOST_FOLLOWED} partitions")).help(help));
        }
        let next = |partition: u32| {
            let seen = last.as_ref().and_then(|last| last.iter().find(|(seen, _)| *seen == partition));
            let offset = match seen {
                Some((_, next)) => *next,
                // It resumes where nothing of this one had come yet.
                None => topics::locate(node.log(), &of, partition, from)?,
            };
            Ok((partition, offset))
        };
        partitions.into_iter().map(next).collect::<Result<Vec<_>, Problem>>()
    });
    let follower = Follower { topic, next: next.await?, ready: VecDeque::new(), failed: false, api };
    let events = stream::unfold(follower, |mut follower| async move {
        let event = follower.event().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

/// The positions that an event's id tells: `PARTITION:NEXT,…`.
fn positions(id: &str) -> Option<Vec<(u32, u64)>> {
    let position = |text: &str| {
        let (partition, next) = text.split_once(':')?;
        Some((partition.parse().ok()?, next.parse().ok()?))
    };
    id.split(',').map(position).collect()
}

/// Somebody who follows a topic.
struct Follower {
    api: Api,
    topic: String,
    /// Of each partition, the offset that comes next.
    next: Vec<(u32, u64)>,
    ready: VecDeque<sse::Event>,
    failed: bool,
}

impl Follower {
    /// The next event, when it has come; none once it failed.
    async fn event(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.failed {
                return None;
            }
            self.api.appended.mark_unchanged();
            match self.behind() {
                Ok(Some(at)) => {
                    if let Err(problem) = self.read(at).await {
                        self.fail(&problem);
                    }
                }
                // The node's end ends this, too.
                Ok(None) => self.api.appended.changed().await.ok()?,
                Err(problem) => self.fail(&problem),
            }
        }
    }

    /// Tells what is wrong, as the last thing.
    fn fail(&mut self, problem: &Problem) {
        let told = serde_json::to_string(problem).unwrap_or_default();
        self.ready.push_back(sse::Event::default().event("problem").data(told));
        self.failed = true;
    }

    /// Which partition has events that were not read; looked up in memory.
    fn behind(&self) -> Result<Option<usize>, Problem> {
        let topic = self.api.node.log().topic(&self.topic)?;
        for (at, (partition, next)) in self.next.iter().enumerate() {
            if self.api.node.log().partition(&topic, *partition)?.high_watermark() > *next {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    async fn read(&mut self, at: usize) -> Result<(), Problem> {
        let (node, topic, (partition, from)) = (self.api.node.clone(), self.topic.clone(), self.next[at]);
        let batch: ReadBatch =
            blocking(move || Ok(topics::read(node.log(), &topic, partition, from, FOLLOW_BYTES)?)).await?;
        if batch.count == 0 && batch.base_offset <= from {
            return Err(Problem::new(500, format!("nothing can be read at {}/{partition} offset {from}", self.topic)));
        }
        self.next[at].1 = batch.base_offset;
        let names = names(&self.api.node);
        let name = |id: u32| names.get(&id).cloned();
        for (offset, event) in (batch.base_offset..).zip(batch.region().events()) {
            let event = event.map_err(|malformed| Problem::new(500, malformed.to_string()))?;
            self.next[at].1 = offset + 1;
            let id: Vec<_> = self.next.iter().map(|(partition, next)| format!("{partition}:{next}")).collect();
            let told = legible::event(&self.topic, partition, offset, &event, &name).to_string();
            self.ready.push_back(sse::Event::default().id(id.join(",")).data(told));
        }
        // The next one to be looked at is another one.
        let count = self.next.len();
        self.next.rotate_left((at + 1) % count);
        Ok(())
    }
}
