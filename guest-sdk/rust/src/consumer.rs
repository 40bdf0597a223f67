//! What a consumer is.

use serde::de::DeserializeOwned;

use crate::{Entry, Event, Failure, Outputs, Result, Timer, Wanted};

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
///         if event.value().len() > self.than_bytes { out.forward(event) } else { Ok(()) }
///     }
/// }
///
/// consumer!(type Longer);
/// ```
///
/// What a consumer remembers in its own fields may be gone at any time: instances come and go. Memory that counts is
/// [`State`](crate::State).
pub trait Consumer: 'static {
    /// Counts the shapes that what it keeps in [`State`](crate::State) has had. When it is counted up, [`migrate`](Self::migrate) brings over what there is of older
    /// versions; a plugin of an older version than what is kept is refused.
    const STATE_VERSION: u32 = 0;

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

    /// Brings a value that was kept in an older version into the shape of this one: what is put into `out` stands in its place. Values come in the order of
    /// their keys, before any event does. They are of all that the stage keeps: what has not changed is to be handed on as it is.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use sluice_sdk::{Config, Consumer, Entry, Event, Outputs, Result, State};
    /// # #[derive(Serialize, Deserialize, Clone)] struct Total { cents: u64, count: Option<u64> }
    /// # struct Totals { totals: State<Total> }
    /// # impl Consumer for Totals {
    /// #     fn init(_: &Config) -> Result<Self> { Ok(Self { totals: State::named("total") }) }
    /// #     fn process(&mut self, _: &Event, _: &mut Outputs) -> Result { Ok(()) }
    /// const STATE_VERSION: u32 = 1;
    ///
    /// fn migrate(&mut self, _from: u32, entry: Entry, out: &mut Vec<Entry>) -> Result {
    ///     let cents: u64 = entry.json()?;
    ///     out.push(entry.with(&Total { cents, count: None })?);
    ///     Ok(())
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// When it cannot: then this version is not put in force, or taken out again, and nothing is lost.
    fn migrate(&mut self, from: u32, entry: Entry, out: &mut Vec<Entry>) -> Result {
        let _ = (entry, out);
        let own = Self::STATE_VERSION;
        Err(Failure::permanent(format!(
            "what is kept is of version {from}, and the consumer, of version {own}, has no `migrate`"
        )))
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
