//! What a consumer is.

use serde::de::DeserializeOwned;

use crate::{Event, Failure, Outputs, Result, Timer, Wanted};

/// A consumer that is configured, or remembers something between events.
///
/// ```
/// use serde::Deserialize;
/// use sluice_sdk::{Config, Consumer, Event, Outputs, Result, consumer};
///
/// #[derive(Deserialize)]
/// #[serde(rename_all = "kebab-case")]
/// struct Longer {
///     than_bytes: usize,
/// }
///
/// impl Consumer for Longer {
///     fn init(config: &Config) -> Result<Self> {
///         config.parse()
///     }
///
///     fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
///         if event.value().len() > self.than_bytes { out.send(event.key(), event.value()) } else { Ok(()) }
///     }
/// }
///
/// consumer!(type Longer);
/// ```
///
/// What a consumer remembers in its own fields may be gone at any time: instances come and go. Memory that counts is
/// [`State`](crate::State).
pub trait Consumer: 'static {
    /// Makes the consumer from the pipeline's `config`.
    ///
    /// # Errors
    /// A configuration that does not fit; the host refuses the pipeline with this text.
    fn init(config: &Config) -> Result<Self>
    where
        Self: Sized;

    /// Deals with one event.
    ///
    /// # Errors
    /// A failure of this event: its outputs are undone.
    fn process(&mut self, event: &Event, out: &mut Outputs) -> Result;

    /// Deals with a timer that is due: see [`Timers`](crate::Timers).
    ///
    /// # Errors
    /// A failure of this timer: its outputs are undone, and it is tried again or dead-lettered like an event.
    fn fire(&mut self, timer: &Timer, out: &mut Outputs) -> Result {
        let _ = out;
        Err(Failure::permanent(format!("the timer {:?} fired, and the consumer has no `fire`", timer.name())))
    }

    /// Names the keys of the state that an event will want, so that when one value has to be fetched, those for the rest of the batch come
    /// with it: the event's own key, where nothing else is said. What is not named is fetched when it is used.
    fn wants(event: &Event, wanted: &mut Wanted)
    where
        Self: Sized,
    {
        wanted.key(event.key());
    }
}

/// The `config` table of the stage, as JSON.
#[derive(Debug, Clone)]
pub struct Config(String);

impl Config {
    /// From JSON, as the host gives it.
    pub fn from_json(json: impl Into<String>) -> Self {
        Self(json.into())
    }

    /// Reads it as a type of yours; `#[serde(deny_unknown_fields)]` catches typing errors.
    ///
    /// # Errors
    /// When it is not of this type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.0).map_err(|error| Failure::permanent(format!("config: {error}")))
    }

    /// For consumers that take none.
    ///
    /// # Errors
    /// When there is any.
    pub fn must_be_empty(&self) -> Result {
        let empty = matches!(self.0.trim(), "" | "{}" | "null");
        if empty { Ok(()) } else { Err(Failure::permanent("config: this consumer takes none")) }
    }
}
