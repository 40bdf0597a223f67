//! CloudEvents 1.0 and events of the log, both ways: as the specification's Kafka binding has it in binary mode. An attribute is a header whose name begins with
//! `ce_`, `datacontenttype` the header `content-type`, `partitionkey` the key, `time` the timestamp, too; data is the value.

use axum::http::HeaderMap;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sluice_event::Event;

/// What headers of attributes begin with.
const PREFIX: &str = "ce_";
const CONTENT_TYPE: &str = "content-type";
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// An event that came as a CloudEvent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CloudEvent {
    /// As they are in the log.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) key: Option<String>,
    /// ms since the epoch.
    pub(crate) timestamp: Option<i64>,
    pub(crate) data: Vec<u8>,
}

/// Whether an attribute may have this name.
fn is_attribute(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=64).contains(&name.len()) && name != "data" && name.bytes().all(plain)
}

impl CloudEvent {
    fn attribute(&mut self, name: &str, value: String) -> Result<(), String> {
        if !is_attribute(name) {
            return Err(format!("not the name of an attribute (lower-case letters and digits): {name:?}"));
        }
        match name {
            "datacontenttype" => {
                self.headers.push((CONTENT_TYPE.to_owned(), value));
                return Ok(());
            }
            "partitionkey" => self.key = Some(value.clone()),
            "time" => {
                let time: Result<jiff::Timestamp, _> = value.parse();
                let time = time.map_err(|_| format!("`time` is not a time (RFC 3339): {value:?}"))?;
                self.timestamp = Some(time.as_millisecond());
            }
            "specversion" if value != "1.0" => return Err(format!("CloudEvents 1.0 are taken, not {value:?}")),
            _ => {}
        }
        self.headers.push((format!("{PREFIX}{name}"), value));
        Ok(())
    }

    fn checked(self) -> Result<Self, String> {
        let has = |name: &str| {
            let found = self.headers.iter().find(|(header, _)| header.strip_prefix(PREFIX) == Some(name));
            found.is_some_and(|(_, value)| !value.is_empty())
        };
        match REQUIRED.into_iter().find(|name| !has(name)) {
            Some(name) => Err(format!("a CloudEvent has an attribute `{name}`")),
            None => Ok(self),
        }
    }
}

/// One whose attributes are headers of the request, and whose data is its body.
pub(crate) fn binary(headers: &HeaderMap, body: &[u8]) -> Result<CloudEvent, String> {
    let mut event = CloudEvent { data: body.to_vec(), ..CloudEvent::default() };
    for (name, value) in headers {
        let attribute = if name == CONTENT_TYPE { Some("datacontenttype") } else { name.as_str().strip_prefix("ce-") };
        let Some(attribute) = attribute else { continue };
        let value =
            value.to_str().map_err(|_| format!("the header {name} is not ASCII: write it in percent-encoding"))?;
        let value = if name == CONTENT_TYPE { value.to_owned() } else { unescaped(value)? };
        event.attribute(attribute, value)?;
    }
    event.checked()
}

/// What percent-encoding stands for.
fn unescaped(text: &str) -> Result<String, String> {
    let broken = || format!("not in percent-encoding: {text:?}");
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2).ok_or_else(broken)?;
        let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+')).ok_or_else(broken)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| broken())?);
        rest = behind;
    }
    String::from_utf8(bytes).map_err(|_| broken())
}

/// One that is a JSON object with attributes and data.
pub(crate) fn structured(json: &[u8]) -> Result<CloudEvent, String> {
    let members: std::collections::BTreeMap<String, &RawValue> =
        serde_json::from_slice(json).map_err(|error| format!("not the JSON object of a CloudEvent: {error}"))?;
    if members.contains_key("data") && members.contains_key("data_base64") {
        return Err("a CloudEvent has `data` or `data_base64`, not both".to_owned());
    }
    let mut event = CloudEvent::default();
    for (name, raw) in &members {
        let value = || serde_json::from_str::<Value>(raw.get()).map_err(|error| error.to_string());
        match (name.as_str(), raw.get()) {
            // An attribute that is not there.
            (_, "null") => {}
            ("data", data) => event.data = data_of(data, members.get("datacontenttype")),
            ("data_base64", _) => {
                let text = value()?;
                let text = text.as_str().ok_or("`data_base64` is not a string")?;
                event.data = BASE64_STANDARD.decode(text).map_err(|error| format!("`data_base64`: {error}"))?;
            }
            _ => match value()? {
                Value::String(text) => event.attribute(name, text)?,
                other @ (Value::Bool(_) | Value::Number(_)) => event.attribute(name, other.to_string())?,
                _ => return Err(format!("the attribute `{name}` is neither text, number nor truth value")),
            },
        }
    }
    event.checked()
}

/// The bytes of a member `data`: JSON as it is, and other text without its quotes.
fn data_of(raw: &str, kind: Option<&&RawValue>) -> Vec<u8> {
    let kind = kind.and_then(|kind| serde_json::from_str::<String>(kind.get()).ok());
    let is_json = kind.is_none_or(|kind| is_json(&kind));
    let text = || String::deserialize(&mut serde_json::Deserializer::from_str(raw)).ok().filter(|_| !is_json);
    text().map_or_else(|| raw.as_bytes().to_vec(), String::into_bytes)
}

/// Whether data of this `datacontenttype` is JSON.
fn is_json(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind.ends_with("/json") || kind.ends_with("+json")
}

/// An event of the log as a CloudEvent, in JSON; those that did not come as one are named by where they stand.
pub(crate) fn of(topic: &str, partition: u32, offset: u64, event: &Event<'_>) -> String {
    let mut members = Map::new();
    for (name, value) in event.headers() {
        let attribute = if name == CONTENT_TYPE { Some("datacontenttype") } else { name.strip_prefix(PREFIX) };
        let attribute = attribute.filter(|name| is_attribute(name));
        if let (Some(attribute), Ok(value)) = (attribute, std::str::from_utf8(value)) {
            members.insert(attribute.to_owned(), value.into());
        }
    }
    let mut otherwise = |name: &str, value: String| {
        members.entry(name).or_insert_with(|| value.into());
    };
    otherwise("specversion", "1.0".into());
    otherwise("id", format!("{partition}/{offset}"));
    otherwise("source", format!("/topics/{topic}"));
    otherwise("type", "sluicegate.event".into());
    if let Ok(time) = jiff::Timestamp::from_millisecond(event.timestamp()) {
        otherwise("time", time.to_string());
    }
    if let Some(Ok(key)) = event.key().map(std::str::from_utf8) {
        otherwise("partitionkey", key.to_owned());
    }
    let kind = members.get("datacontenttype").and_then(Value::as_str).map(str::to_owned);
    let json = serde_json::from_slice::<&RawValue>(event.value()).ok();
    // JSON goes out as it stands there.
    let (member, data, otherwise) = match (json, std::str::from_utf8(event.value())) {
        _ if event.value().is_empty() => return Value::Object(members).to_string(),
        (Some(json), _) if kind.as_deref().is_none_or(is_json) => ("data", json.get().to_owned(), None),
        (_, Ok(text)) => ("data", Value::from(text).to_string(), Some("text/plain")),
        _ => {
            let data = Value::from(BASE64_STANDARD.encode(event.value()));
            ("data_base64", data.to_string(), Some("application/octet-stream"))
        }
    };
    if let Some(otherwise) = otherwise.filter(|_| kind.is_none()) {
        members.insert("datacontenttype".to_owned(), otherwise.into());
    }
    let mut told = Value::Object(members).to_string();
    told.pop();
    format!("{told},\"{member}\":{data}}}")
}

#[cfg(test)]
mod tests {
    use sluice_event::{Batch, NewEvent};

    use super::*;

    const JSON: &str = r#"{"specversion":"1.0","id":"a-1","source":"/shop","type":"order","time":"1970-01-01T00:00:01Z","partitionkey":"u1","n":7,"data":{"a": 1.0}}"#;

    fn back(event: &CloudEvent) -> Value {
        let headers: Vec<_> = event.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let mut batch = Batch::default();
        let (key, timestamp) = (event.key.as_deref().map(str::as_bytes), event.timestamp.unwrap_or(0));
        batch.push(&NewEvent { timestamp, key, value: &event.data, headers: &headers, origin: None }).unwrap();
        serde_json::from_str(&of("orders", 3, 5, &batch.region().events().next().unwrap().unwrap())).unwrap()
    }

    #[test]
    fn a_structured_one_comes_back_as_it_was_but_for_numbers_that_are_text_then() {
        let event = structured(JSON.as_bytes()).unwrap();
        assert_eq!(
            (event.key.as_deref(), event.timestamp, &event.data[..]),
            (Some("u1"), Some(1000), &br#"{"a": 1.0}"#[..])
        );
        let mut given: Value = serde_json::from_str(JSON).unwrap();
        given["n"] = "7".into();
        assert_eq!(back(&event), given);
    }

    #[test]
    fn a_binary_one_is_the_same_as_a_structured_one() {
        let mut headers = HeaderMap::new();
        let given = [
            ("specversion", "1.0"),
            ("id", "a-1"),
            ("source", "/shop"),
            ("type", "order"),
            ("note", "caf%C3%A9%20%25"),
        ];
        for (name, value) in given {
            headers.insert(format!("ce-{name}").parse::<axum::http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers.insert("content-type", "text/plain".parse().unwrap());
        let mut binary = binary(&headers, b"hello").unwrap();
        let text = r#"{"specversion":"1.0","id":"a-1","source":"/shop","type":"order","note":"café %","datacontenttype":"text/plain","data":"hello"}"#;
        let mut structured = structured(text.as_bytes()).unwrap();
        binary.headers.sort();
        structured.headers.sort();
        assert_eq!(binary, structured);
        assert_eq!(back(&binary)["data"], "hello");
    }

    #[test]
    fn data_that_is_no_text_travels_in_base64() {
        let text = r#"{"specversion":"1.0","id":"a","source":"/s","type":"t","datacontenttype":"image/x","data_base64":"/wA="}"#;
        let event = structured(text.as_bytes()).unwrap();
        assert_eq!(event.data, [255, 0]);
        assert_eq!(back(&event)["data_base64"], "/wA=");
    }

    #[test]
    fn data_is_what_its_type_says_and_not_what_it_looks_like() {
        let with = |data: &str| format!(r#"{{"specversion":"1.0","id":"a","source":"/s","type":"t"{data}}}"#);
        let same = |data: &str| {
            let given: Value = serde_json::from_str(&with(data)).unwrap();
            let mut back = back(&structured(with(data).as_bytes()).unwrap());
            back.as_object_mut().unwrap().remove("time");
            assert_eq!(back, given);
        };
        same(r#","datacontenttype":"text/plain","data":"42""#);
        same(r#","datacontenttype":"application/json","data":"42""#);
        same(r#","data":42"#);
        same("");
        let large = structured(with(r#","data":12345678901234567890123"#).as_bytes()).unwrap();
        assert_eq!(large.data, b"12345678901234567890123");
        assert!(structured(with(r#","data":1,"data_base64":"""#).as_bytes()).unwrap_err().contains("not both"));
        assert!(!is_attribute("data") && !is_attribute("data_base64") && !is_attribute(""));
    }

    #[test]
    fn what_is_no_cloud_event_is_refused_with_what_is_missing() {
        let refused = |text: &str| structured(text.as_bytes()).unwrap_err();
        assert!(refused("[]").contains("JSON object"));
        assert!(refused(r#"{"specversion":"1.0","id":"","source":"/s","type":"t"}"#).contains("`id`"));
        assert!(refused(r#"{"specversion":"0.3","id":"a","source":"/s","type":"t"}"#).contains("1.0"));
        assert!(refused(&JSON.replace("1970-01-01T00:00:01Z", "soon")).contains("`time`"));
        assert!(refused(&JSON.replace("\"n\":7", "\"N\":7")).contains("\"N\""));
        assert!(refused(&JSON.replace("\"n\":7", "\"n\":[7]")).contains("`n`"));
    }
}
