//! Two streams that meet.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::state::now;
use crate::{Key, Result, State};

/// What is kept of one side of a key: the times and values that may still meet something.
type Side<T> = Vec<(i64, T)>;

/// Joins two streams by key, where their times are no further apart than so long. What comes from one side is kept until the watermark says that nothing
/// can meet it any more, but for what is late; pairs come out as soon as the second of the two is there. Mostly the sides are two topics of the pipeline, whose
/// events of one key stand in partitions of the same number.
///
/// ```
/// use std::time::Duration;
/// use sluice_sdk::window::Join;
/// use sluice_sdk::{Config, Consumer, Event, Outputs, Result, consumer, json};
///
/// /// Orders with their payments, by order number: for `topics = ["orders", "payments"]`.
/// struct Paid {
///     join: Join<String, String>,
/// }
///
/// impl Consumer for Paid {
///     fn init(config: &Config) -> Result<Self> {
///         config.must_be_empty()?;
///         Ok(Self { join: Join::within("paid", Duration::from_secs(3600)) })
///     }
///
///     fn process(&mut self, event: &Event, out: &mut Outputs) -> Result {
///         let (key, time, value) = (event.key(), event.timestamp(), event.text()?.to_owned());
///         if event.topic() == "payments" {
///             let orders = self.join.right(key, time, value.clone())?;
///             orders.into_iter().try_for_each(|(_, order)| out.send(key, json((order, &value))))
///         } else {
///             let payments = self.join.left(key, time, value.clone())?;
///             payments.into_iter().try_for_each(|(_, payment)| out.send(key, json((&value, payment))))
///         }
///     }
/// }
///
/// consumer!(type Paid);
/// ```
pub struct Join<L, R> {
    left: State<Side<L>>,
    right: State<Side<R>>,
    within: i64,
}

impl<L, R> Join<L, R>
where
    L: Serialize + DeserializeOwned + Clone + 'static,
    R: Serialize + DeserializeOwned + Clone + 'static,
{
    /// Joins what is no further apart than so long; to be called in [`Consumer::init`](crate::Consumer::init).
    ///
    /// # Panics
    /// When the name is not one for [`State`].
    pub fn within(name: &str, within: Duration) -> Self {
        let (left, right) = (State::named(&format!("{name}.left")), State::named(&format!("{name}.right")));
        Self { left, right, within: i64::try_from(within.as_millis()).unwrap_or(i64::MAX) }
    }

    /// Something came on the left: what it meets on the right, with the times.
    ///
    /// # Errors
    /// When the event in hand has no key, or what is kept is not of this type.
    pub fn left<'k>(&self, key: impl Key<'k> + Copy, time: i64, value: L) -> Result<Vec<(i64, R)>> {
        keep(&self.left, key, self.within, (time, value))?;
        met(&self.right, key, self.within, time)
    }

    /// Something came on the right: what it meets on the left, with the times.
    ///
    /// # Errors
    /// As for [`left`](Self::left).
    pub fn right<'k>(&self, key: impl Key<'k> + Copy, time: i64, value: R) -> Result<Vec<(i64, L)>> {
        keep(&self.right, key, self.within, (time, value))?;
        met(&self.left, key, self.within, time)
    }
}

fn keep<'k, T>(side: &State<Side<T>>, key: impl Key<'k> + Copy, within: i64, item: (i64, T)) -> Result
where
    T: Serialize + DeserializeOwned + Clone + 'static,
{
    let mut kept = side.get(key)?.unwrap_or_default();
    let watermark = now().watermark.unwrap_or(i64::MIN);
    kept.retain(|(time, _)| time.saturating_add(within) >= watermark);
    kept.insert(kept.partition_point(|(time, _)| *time <= item.0), item);
    // The last one stays the longest; behind that time nothing meets it.
    let until = kept.last().map_or(i64::MAX, |(time, _)| time.saturating_add(within).saturating_add(1));
    side.set_until(key, kept, until)
}

fn met<'k, T>(side: &State<Side<T>>, key: impl Key<'k>, within: i64, time: i64) -> Result<Side<T>>
where
    T: Serialize + DeserializeOwned + Clone + 'static,
{
    let mut kept = side.get(key)?.unwrap_or_default();
    let watermark = now().watermark.unwrap_or(i64::MIN);
    // Of what is too old for anything in time, some may still be there: it does not count, whatever is.
    kept.retain(|(other, _)| {
        other.abs_diff(time) <= within.unsigned_abs() && other.saturating_add(within) >= watermark
    });
    Ok(kept)
}
