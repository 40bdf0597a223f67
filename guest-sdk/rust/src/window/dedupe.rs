//! What was there already.

use std::time::Duration;

use crate::{Key, Result, State};

/// Remembers ids for some time, so that what comes twice is dealt with once. Events with the same id need the same key, so that they come to the
/// same partition; where ids are not keys, name them in [`Consumer::wants`](crate::Consumer::wants).
///
/// ```
/// use std::time::Duration;
/// use sluice_sdk::window::Seen;
/// use sluice_sdk::{Config, Consumer, Event, Outputs, Result, consumer};
///
/// /// Lets each key through once an hour.
/// struct Once {
///     seen: Seen,
/// }
///
/// impl Consumer for Once {
///     fn init(config: &Config) -> Result<Self> {
///         config.must_be_empty()?;
///         Ok(Self { seen: Seen::within("seen", Duration::from_secs(3600)) })
///     }
///
///     fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
///         if self.seen.is_new(event.key())? { out.forward(event) } else { Ok(()) }
///     }
/// }
///
/// consumer!(type Once);
/// ```
pub struct Seen {
    seen: State<()>,
    horizon: Duration,
}

impl Seen {
    /// Remembers ids for so long after the time of their first event; to be called in [`Consumer::init`](crate::Consumer::init).
    ///
    /// # Panics
    /// When the name is not one for [`State`].
    pub fn within(name: &str, horizon: Duration) -> Self {
        Self { seen: State::named(name), horizon }
    }

    /// Whether an id was not there within the horizon; from now on it was.
    ///
    /// # Errors
    /// When there is no id.
    pub fn is_new<'k>(&self, id: impl Key<'k> + Copy) -> Result<bool> {
        if self.seen.get(id)?.is_some() {
            return Ok(false);
        }
        self.seen.set_for(id, (), self.horizon)?;
        Ok(true)
    }
}
