//! Bytes in JSON: a string or, when they are not UTF-8, `{"base64": …}`.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How bytes stand in JSON.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Text {
    /// As they are.
    Text(String),
    /// Encoded.
    Bytes {
        /// In base64.
        base64: String,
    },
}

/// The bytes that stand in JSON as a string or as `{"base64": …}`; `None` where that is neither.
pub fn bytes_of_json(value: &serde_json::Value) -> Option<Vec<u8>> {
    match value {
        serde_json::Value::String(text) => Some(text.clone().into_bytes()),
        other => BASE64_STANDARD.decode(other.get("base64")?.as_str()?).ok(),
    }
}

/// Bytes as they stand in JSON.
pub(crate) fn to_value(bytes: &[u8]) -> serde_json::Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => serde_json::json!({ "base64": BASE64_STANDARD.encode(bytes) }),
    }
}

/// For `#[serde(with)]`.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => Text::Text(text.to_owned()),
        Err(_) => Text::Bytes { base64: BASE64_STANDARD.encode(bytes) },
    };
    text.serialize(serializer)
}

/// For `#[serde(with)]`.
///
/// # Errors
/// When it is neither.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    match Text::deserialize(deserializer)? {
        Text::Text(text) => Ok(text.into_bytes()),
        Text::Bytes { base64 } => BASE64_STANDARD.decode(base64).map_err(serde::de::Error::custom),
    }
}
