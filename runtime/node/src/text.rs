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
