//! A value in the state, as it is brought from one version to the next.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Failure, Result};

/// A value that is kept under a key: see [`Consumer::migrate`](crate::Consumer::migrate).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub(crate) full_key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) expires: Option<i64>,
}

impl Entry {
    /// The name of the [`State`](crate::State) that it belongs to, and its key.
    fn parts(&self) -> (&str, &[u8]) {
        let at = self.full_key.iter().position(|byte| *byte == b'/').unwrap_or(self.full_key.len());
        let (name, key) = self.full_key.split_at(at);
        (std::str::from_utf8(name).unwrap_or_default(), key.get(1..).unwrap_or_default())
    }

    /// The name of the [`State`](crate::State) that it belongs to.
    pub fn name(&self) -> &str {
        self.parts().0
    }

    /// Its key.
    pub fn key(&self) -> &[u8] {
        self.parts().1
    }

    /// Its value, as bytes.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// When it expires, in milliseconds since the epoch.
    pub fn expires(&self) -> Option<i64> {
        self.expires
    }

    /// Its value as what it was kept as.
    ///
    /// # Errors
    /// When it is not of this type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        let told =
            |error| Failure::permanent(format!("{} {:?}: {error}", self.name(), self.key().escape_ascii().to_string()));
        crate::json::read(&self.value).map_err(told)
    }

    /// The same with another value.
    ///
    /// # Errors
    /// When the value cannot be written as JSON.
    pub fn with<T: Serialize>(&self, value: &T) -> Result<Self> {
        Ok(Self { value: serde_json::to_vec(value)?, ..self.clone() })
    }

    /// The same under another key, or in another [`State`](crate::State).
    #[must_use]
    pub fn under(&self, name: &str, key: &[u8]) -> Self {
        crate::state::check_name("state", name);
        Self { full_key: [name.as_bytes(), b"/", key].concat(), ..self.clone() }
    }
}
