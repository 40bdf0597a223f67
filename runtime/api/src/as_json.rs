//! Events as JSON.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sluice_event::{Event, Source};

/// Bytes as JSON: a string or, when they are not UTF-8, base64.
pub fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "base64": BASE64_STANDARD.encode(bytes) }),
    }
}

/// Headers as JSON: in their order, for a name may be there twice.
pub fn headers<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Vec<Value> {
    headers.map(|(name, value)| json!({ "name": name, "value": bytes(value) })).collect()
}

/// An event as JSON. `name` tells topics' names by their ids.
pub fn event(
    topic: &str,
    partition: u32,
    offset: u64,
    event: &Event<'_>,
    name: &dyn Fn(u32) -> Option<String>,
) -> Value {
    let origin = event.origin().map(|origin| {
        json!({
            "topic": name(origin.topic), "topic-id": origin.topic, "partition": origin.partition,
            "offset": origin.offset, "ordinal": origin.ordinal, "timer": origin.source == Source::Timer,
        })
    });
    json!({
        "topic": topic, "partition": partition, "offset": offset, "timestamp": event.timestamp(),
        "key": event.key().map(bytes), "value": bytes(event.value()), "headers": headers(event.headers()), "origin": origin,
    })
}
