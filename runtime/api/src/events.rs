//! Reading events: a range, or following what comes.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, Uri, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use sluice_event::{Event, Malformed};
use sluice_log::Partition;
use sluice_node::Node;
use sluice_node::topics::{self, Place};
use tokio::sync::watch;

use crate::auth::Caller;
use crate::handlers::blocking;
use crate::problem::Problem;
use crate::server::Api;
use crate::wire::{MAX_READ, MAX_WAIT_MS, ReadQuery, encode_read};
use crate::{as_json, cloud_event};

/// The media type of events in their flat format, as the command line sends and reads them.
pub(crate) const FLAT: &str = "application/vnd.sluicegate.events";
pub(crate) const STREAM: &str = "text/event-stream";
pub(crate) const JSON: &str = "application/json";
pub(crate) const CLOUD_EVENTS: &str = "application/cloudevents-batch+json";

/// Reads events as the request accepts them.
pub(crate) async fn read(
    api: State<Api>,
    Extension(caller): Extension<Caller>,
    topic: Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let accepted = accepted(&headers);
    if accepted == FLAT {
        return Ok(read_flat(api, topic, query(&uri)?).await?.into_response());
    }
    if accepted == STREAM {
        return Ok(follow(api, caller, topic, query(&uri)?, &headers).await?.into_response());
    }
    range(api, topic, query(&uri)?, accepted == CLOUD_EVENTS).await
}

/// The first kind of answer among those that a request accepts; JSON, when it accepts none of them.
fn accepted(headers: &HeaderMap) -> &'static str {
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let mut kinds = lines.flat_map(|line| line.split(',')).filter_map(|kind| {
        let mut parts = kind.split(';').map(|part| part.trim().to_ascii_lowercase());
        let kind = parts.next()?;
        let mut weights =
            parts.filter_map(|part| part.strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok()));
        weights.all(|weight| weight > 0.0).then_some(kind)
    });
    let known = |kind: String| match &*kind {
        "*/*" | "application/*" => Some(JSON),
        kind => [FLAT, STREAM, CLOUD_EVENTS, JSON].into_iter().find(|known| *known == kind),
    };
    kinds.find_map(known).unwrap_or(JSON)
}

fn query<T: serde::de::DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let Query(query) = Query::try_from_uri(uri)?;
    Ok(query)
}

async fn read_flat(State(api): State<Api>, Path(topic): Path<String>, query: ReadQuery) -> Result<Vec<u8>, Problem> {
    let deadline = tokio::time::Instant::now() + Duration::from_millis(query.wait_ms.min(MAX_WAIT_MS));
    let mut appended = api.appended.to(api.node.log().topic(&topic)?.id);
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
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RangeQuery {
    /// May be left out where there is one only, and by who follows: of all then.
    partition: Option<u32>,
    /// `earliest`, `latest`, an offset, or an RFC 3339 time, when events were appended, or `event-time:TIME`.
    from: Option<String>,
    /// Events, at most.
    max: Option<usize>,
}

fn place(from: Option<&str>, otherwise: Place) -> Result<Place, Problem> {
    from.map_or(Ok(otherwise), |from| from.parse().map_err(|what: String| Problem::bad_request(what)))
}

async fn range(
    State(api): State<Api>,
    Path(topic): Path<String>,
    query: RangeQuery,
    as_cloud_events: bool,
) -> Result<Response, Problem> {
    const USUAL: usize = 100;
    const MOST: usize = 10_000;
    let from = place(query.from.as_deref(), Place::Earliest)?;
    let max = query.max.unwrap_or(USUAL);
    if max > MOST {
        return Err(Problem::bad_request(format!("`max` is at most {MOST}; read on from `next`")));
    }
    blocking(move || {
        let log = api.node.log();
        let found = log.topic(&topic)?;
        let number = match (query.partition, found.partitions) {
            (Some(number), _) => number,
            (None, 1) => 0,
            (None, count) => {
                return Err(Problem::bad_request(format!("say which `partition`: {topic} has {count}")));
            }
        };
        let partition = log.partition(&found, number)?;
        let bytes = (max * USUAL_BYTES).clamp(FOLLOW_BYTES, MAX_READ);
        let batch = topics::read_partition(log, partition.clone(), from.offset(&partition)?, bytes)?;
        let read = batch.region().events().take(max).zip(batch.base_offset..).map(numbered);
        let read = read.collect::<Result<Vec<_>, _>>()?;
        let next = batch.base_offset + read.len() as u64;
        if as_cloud_events {
            let tell = |(offset, event): &(u64, Event<'_>)| cloud_event::of(&topic, number, *offset, event);
            let told: Vec<_> = read.iter().map(tell).collect();
            let next = format!("</topics/{topic}/events?partition={number}&from={next}&max={max}>; rel=\"next\"");
            let headers = [(header::CONTENT_TYPE, CLOUD_EVENTS), (header::LINK, &*next)];
            return Ok((headers, format!("[{}]", told.join(","))).into_response());
        }
        let names = names(&api.node);
        let name = |id: u32| names.get(&id).cloned();
        let tell = |(offset, event): &(u64, Event<'_>)| as_json::event(&topic, number, *offset, event, &name);
        let events: Vec<_> = read.iter().map(tell).collect();
        let end = partition.high_watermark();
        Ok(Json(json!({ "events": events, "next": next, "high-watermark": end })).into_response())
    })
    .await
}

fn numbered((event, offset): (Result<Event<'_>, Malformed>, u64)) -> Result<(u64, Event<'_>), Problem> {
    event.map(|event| (offset, event)).map_err(|malformed| Problem::new(500, malformed.to_string()))
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
/// Bytes of events that are read at once for somebody who follows, and at least for a range.
const FOLLOW_BYTES: usize = 64 << 10;
/// For each event of a range, so many bytes are read.
const USUAL_BYTES: usize = 1 << 10;

async fn follow(
    State(api): State<Api>,
    caller: Caller,
    Path(topic): Path<String>,
    query: FollowQuery,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let last = headers.get("last-event-id").map(|id| id.to_str().ok().and_then(position));
    let last = match last {
        Some(None) => return Err(Problem::bad_request("`Last-Event-ID` is none of this node's")),
        last => last.flatten(),
    };
    let from = place(query.from.as_deref(), Place::Latest)?;
    let follower = blocking(move || {
        let log = api.node.log();
        let found = log.topic(&topic)?;
        let partitions: Vec<u32> = query.partition.map_or_else(|| (0..found.partitions).collect(), |only| vec![only]);
        if partitions.len() > MOST_FOLLOWED {
            let help = "follow some of them, each with `partition`";
            return Err(Problem::bad_request(format!("{topic} has more than {MOST_FOLLOWED} partitions")).help(help));
        }
        if last.as_ref().is_some_and(|last| last.topic != found.id) {
            return Err(gone(&topic));
        }
        let next = |number: u32| {
            let partition = log.partition(&found, number)?;
            let seen = last.as_ref().and_then(|last| last.next.iter().find(|(seen, _)| *seen == number));
            let next = match seen {
                Some((_, next)) => *next,
                // Nothing of it had come yet.
                None => from.offset(&partition)?,
            };
            let end = partition.high_watermark();
            if seen.is_some() && next > end {
                let what = format!("{topic}/{number} ends at {end}, before {next}: it has lost what was not durable");
                return Err(Problem::new(409, what).help("leave `Last-Event-ID` out, and say `from`"));
            }
            Ok(Followed { number, partition, next })
        };
        let followed = partitions.into_iter().map(next).collect::<Result<_, Problem>>()?;
        let mut follower = Follower {
            appended: api.appended.to(found.id),
            topic,
            id: found.id,
            followed,
            ready: VecDeque::new(),
            failed: false,
            caller,
            api,
        };
        // Who is cut off before an event has come knows where it was all the same.
        follower.ready.push_back(sse::Event::default().id(follower.position()));
        Ok(follower)
    });
    let follower = follower.await?;
    let events = stream::unfold(follower, |mut follower| async move {
        let event = follower.event().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

/// What an event's id tells: `TOPIC-ID/PARTITION:NEXT,…`.
struct Position {
    topic: u32,
    next: Vec<(u32, u64)>,
}

fn position(id: &str) -> Option<Position> {
    let (topic, next) = id.split_once('/')?;
    let one = |text: &str| {
        let (partition, next) = text.split_once(':')?;
        Some((partition.parse().ok()?, next.parse().ok()?))
    };
    Some(Position { topic: topic.parse().ok()?, next: next.split(',').map(one).collect::<Option<_>>()? })
}

fn gone(topic: &str) -> Problem {
    let what = format!("the topic {topic} that was followed was deleted");
    Problem::new(410, what).help("leave `Last-Event-ID` out, and say `from`")
}

/// Somebody who follows a topic.
struct Follower {
    api: Api,
    /// Changes whenever something was appended to the topic.
    appended: watch::Receiver<u64>,
    caller: Caller,
    topic: String,
    id: u32,
    followed: Vec<Followed>,
    ready: VecDeque<sse::Event>,
    failed: bool,
}

struct Followed {
    number: u32,
    partition: Arc<Partition>,
    /// The offset that comes next.
    next: u64,
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
            self.appended.mark_unchanged();
            match self.behind() {
                Ok(Some(at)) => {
                    if let Err(problem) = self.read(at).await {
                        self.fail(&problem);
                    }
                }
                // The node's end ends this, too.
                Ok(None) => self.appended.changed().await.ok()?,
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

    /// Where it is, as an event's id.
    fn position(&self) -> String {
        let next: Vec<_> = self.followed.iter().map(|one| format!("{}:{}", one.number, one.next)).collect();
        format!("{}/{}", self.id, next.join(","))
    }

    /// Which partition has events that were not read; looked up in memory.
    fn behind(&self) -> Result<Option<usize>, Problem> {
        if !self.caller.is_let_in() {
            return Err(Problem::new(401, "the token has ended"));
        }
        if self.api.node.log().topic(&self.topic).is_ok_and(|topic| topic.id == self.id) {
            return Ok(self.followed.iter().position(|one| one.partition.high_watermark() > one.next));
        }
        Err(gone(&self.topic))
    }

    async fn read(&mut self, at: usize) -> Result<(), Problem> {
        let Followed { number, ref partition, next: from } = self.followed[at];
        let (node, topic, partition) = (self.api.node.clone(), self.topic.clone(), partition.clone());
        let read = blocking(move || {
            let batch = topics::read_partition(node.log(), partition, from, FOLLOW_BYTES)?;
            if batch.count == 0 && batch.base_offset <= from {
                return Err(Problem::new(500, format!("nothing can be read at {topic}/{number} offset {from}")));
            }
            let names = names(&node);
            let name = |id: u32| names.get(&id).cloned();
            let tell = |(offset, event)| (offset, as_json::event(&topic, number, offset, &event, &name).to_string());
            let events = batch.region().events().zip(batch.base_offset..).map(numbered);
            let told = events.map(|event| event.map(tell)).collect::<Result<Vec<_>, _>>()?;
            Ok((batch.base_offset, told))
        });
        let (base, told) = read.await?;
        self.followed[at].next = base;
        if base > from {
            let gap = json!({ "topic": self.topic, "partition": number, "from": from, "to": base - 1 });
            self.ready.push_back(sse::Event::default().id(self.position()).event("gap").data(gap.to_string()));
        }
        for (offset, told) in told {
            self.followed[at].next = offset + 1;
            self.ready.push_back(sse::Event::default().id(self.position()).data(told));
        }
        // The next one to be looked at is another one.
        let count = self.followed.len();
        self.followed.rotate_left((at + 1) % count);
        Ok(())
    }
}
