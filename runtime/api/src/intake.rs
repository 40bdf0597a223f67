//! From the body of a request to events.

use std::fmt;

use axum::http::{HeaderMap, header};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;
use sluice_env::{Clock, SystemClock};
use sluice_event::{Batch, NewEvent};

use crate::cloud_event;
use crate::events::FLAT;
use crate::lines::LineFormat;
use crate::problem::Problem;
use crate::wire::MAX_BODY;

/// How a producer says where events go, and what they are besides their values.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ProduceQuery {
    /// Of events in their flat format: how many there are.
    pub(crate) count: Option<u32>,
    /// Where all of them go [default: by key, else in turn].
    pub(crate) partition: Option<u32>,
    /// Who sends them, so that what is sent again adds nothing; with `first`.
    pub(crate) producer: Option<String>,
    /// The sequence number of the first of them; one more for each.
    pub(crate) first: Option<u64>,
    /// The key of all of them.
    key: Option<String>,
    /// The field of each that holds its key.
    key_field: Option<String>,
    /// The field of each that holds its time: ms since the epoch, or RFC 3339 [default: now].
    timestamp_field: Option<String>,
    /// How that is written (strftime), in UTC.
    timestamp_format: Option<String>,
}

/// Bytes of events that a request may come to: short ones take up more than they are.
const MAX_EVENTS: usize = 2 * MAX_BODY;

/// What a request says that its body is, without parameters, in lower case.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The events of a body.
///
/// # Errors
/// What is wrong with it, by its number, counted from 1; nothing of it counts then.
pub(crate) fn batch<'q>(headers: &'q HeaderMap, body: &[u8], query: &'q ProduceQuery) -> Result<Batch, Problem> {
    let trace =
        ["traceparent", "tracestate"].into_iter().filter_map(|name| Some((name, headers.get(name)?.as_bytes())));
    let mut intake = Intake { batch: Batch::default(), now: SystemClock.now(), query, trace: trace.collect() };
    match &*media_type(headers) {
        "application/cloudevents+json" => intake.cloud_event(1, body)?,
        "application/cloudevents-batch+json" => each(body, |number, event| intake.cloud_event(number, event))?,
        other if other.starts_with("application/cloudevents") => {
            let what = format!("events of the format {other} are not understood");
            return Err(Problem::new(415, what).help("send application/cloudevents+json, or -batch+json"));
        }
        FLAT => return Err(Problem::bad_request("events in their flat format come with their `count`")),
        _ if headers.contains_key("ce-specversion") => {
            let event = cloud_event::binary(headers, body).map_err(Problem::bad_request)?;
            intake.push_cloud_event(1, &event)?;
        }
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => {
            let lines = (1..).zip(body.split(|byte| *byte == b'\n'));
            for (number, line) in lines.map(|(number, line)| (number, line.trim_ascii())).filter(|(_, l)| !l.is_empty())
            {
                let value: &RawValue =
                    serde_json::from_slice(line).map_err(|error| at(number, &format!("not JSON: {error}")))?;
                intake.value(number, value.get().as_bytes())?;
            }
        }
        "application/json" if body.trim_ascii_start().starts_with(b"[") => {
            each(body, |number, value| intake.value(number, value))?;
        }
        "application/json" => {
            let value: &RawValue = json(body)?;
            intake.value(1, value.get().as_bytes())?;
        }
        _ => intake.value(1, body)?,
    }
    if intake.batch.is_empty() {
        return Err(Problem::bad_request("there are no events in the request"));
    }
    Ok(intake.batch)
}

fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}")))
}

/// Hands on the elements of an array as they are written, one by one: a short text may hold millions of them.
fn each(body: &[u8], mut take: impl FnMut(usize, &[u8]) -> Result<(), Problem>) -> Result<(), Problem> {
    struct Each<'a>(&'a mut dyn FnMut(&RawValue) -> Result<(), Problem>, &'a mut Option<Problem>);

    impl<'de> Visitor<'de> for Each<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
            while let Some(element) = elements.next_element::<&RawValue>()? {
                if let Err(problem) = self.0(element) {
                    *self.1 = Some(problem);
                    return Err(A::Error::custom("refused"));
                }
            }
            Ok(())
        }
    }

    let (mut number, mut refused) = (0, None);
    let mut numbered = |element: &RawValue| {
        number += 1;
        take(number, element.get().as_bytes())
    };
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = json.deserialize_seq(Each(&mut numbered, &mut refused)).and_then(|()| json.end());
    match refused {
        Some(problem) => Err(problem),
        None => read.map_err(|error| Problem::bad_request(format!("the body is not a JSON array: {error}"))),
    }
}

fn at(number: usize, what: &str) -> Problem {
    Problem::bad_request(format!("event {number}: {what}"))
        .help("nothing was appended; mend it and send all of it again")
}

struct Intake<'q> {
    batch: Batch,
    now: i64,
    query: &'q ProduceQuery,
    /// The trace that the request belongs to, and so its events.
    trace: Vec<(&'static str, &'q [u8])>,
}

impl Intake<'_> {
    fn value(&mut self, number: usize, value: &[u8]) -> Result<(), Problem> {
        let ProduceQuery { key, key_field, timestamp_field, timestamp_format, .. } = self.query;
        let format = LineFormat {
            key: key_field.as_deref(),
            timestamp: timestamp_field.as_deref(),
            timestamp_format: timestamp_format.as_deref(),
        };
        let parts = format.read(value).map_err(|what| at(number, &what))?;
        let key = parts.key.as_deref().or(key.as_deref().map(str::as_bytes));
        let timestamp = parts.timestamp.unwrap_or(self.now);
        let headers = std::mem::take(&mut self.trace);
        let pushed = self.push(number, &NewEvent { timestamp, key, value, headers: &headers, origin: None });
        self.trace = headers;
        pushed
    }

    fn cloud_event(&mut self, number: usize, json: &[u8]) -> Result<(), Problem> {
        let ProduceQuery { key_field, timestamp_field, timestamp_format, .. } = self.query;
        if [key_field, timestamp_field, timestamp_format].into_iter().any(Option::is_some) {
            let what =
                "a CloudEvent's key is its `partitionkey`, and its timestamp its `time`, not one of its data's fields";
            return Err(Problem::bad_request(what));
        }
        let event = cloud_event::structured(json).map_err(|what| at(number, &what))?;
        self.push_cloud_event(number, &event)
    }

    fn push_cloud_event(&mut self, number: usize, event: &cloud_event::CloudEvent) -> Result<(), Problem> {
        let own = event.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let headers: Vec<_> = own.chain(self.trace.iter().copied()).collect();
        let key = event.key.as_deref().or(self.query.key.as_deref()).map(str::as_bytes);
        let timestamp = event.timestamp.unwrap_or(self.now);
        let event = NewEvent { timestamp, key, value: &event.data, headers: &headers, origin: None };
        self.push(number, &event)
    }

    fn push(&mut self, number: usize, event: &NewEvent<'_>) -> Result<(), Problem> {
        let key = event.key.map_or(0, <[u8]>::len);
        if self.batch.bytes().len() + key + event.value.len() > MAX_EVENTS {
            let what =
                format!("the request's events come to more than {MAX_EVENTS} bytes, with what each takes up besides");
            return Err(Problem::new(413, what).help("send fewer events at once"));
        }
        self.batch.push(event).map_err(|error| at(number, &error.to_string()))
    }
}
