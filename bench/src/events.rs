//! Made-up input, the same every time.

use std::borrow::Cow;
use std::fmt;

use anyhow::{Context, Result};
use sluice_event::{Batch, NewEvent, View};

/// What is done with the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    /// Parse JSON of about 120 bytes, keep a fifth, write smaller JSON.
    J1,
    /// Add up payments of 10,000 users, with a state and an output for each.
    J2 { evenly: bool },
    /// Hand 100 bytes through.
    J3,
    /// How late real flights leave each airport, hour by hour: windows that event time closes.
    J4,
    /// J1 in a chain of four stages, the others of which hand through.
    J5,
}

/// One of each.
pub(crate) const JOBS: [Job; 6] =
    [Job::J1, Job::J2 { evenly: true }, Job::J2 { evenly: false }, Job::J3, Job::J4, Job::J5];

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::J1 => "J1: parse JSON of 120 bytes, keep a fifth, write smaller JSON",
            Self::J2 { evenly: true } => "J2: a running sum for each of 10,000 users, evenly spread",
            Self::J2 { evenly: false } => "J2: a running sum for each of 10,000 users, spread by Zipf's law",
            Self::J3 => "J3: hand 100 bytes through",
            Self::J4 => "J4: how late flights leave each airport, in windows of an hour",
            Self::J5 => "J5: a chain of four stages, J1 the second of them",
        })
    }
}

impl Job {
    /// How many of its events are enough, where others take so many: windows of real flights are slow.
    pub(crate) fn count(self, events: u64) -> u64 {
        if self == Self::J4 { events / 10 } else { events }
    }

    /// A word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::J1 => "J1",
            Self::J2 { evenly: true } => "J2",
            Self::J2 { evenly: false } => "J2 by Zipf's law",
            Self::J3 => "J3",
            Self::J4 => "J4",
            Self::J5 => "J5",
        }
    }

    /// The one of this name.
    pub(crate) fn named(name: &str) -> Result<Self> {
        JOBS.into_iter().find(|job| job.name() == name).with_context(|| format!("there is no job {name}"))
    }

    /// Those of its stages.
    pub(crate) fn plugins(self) -> &'static [&'static str] {
        match self {
            Self::J1 => &["plugins/orders"],
            Self::J2 { .. } => &["plugins/totals"],
            Self::J3 => &["plugins/pass-through"],
            Self::J4 => &["plugins/airport-hours"],
            Self::J5 => &["plugins/pass-through", "plugins/orders", "plugins/pass-through", "plugins/pass-through"],
        }
    }

    /// What its stages need granted.
    pub(crate) fn capabilities(self) -> &'static [&'static str] {
        match self {
            Self::J1 | Self::J3 | Self::J5 => &[],
            Self::J2 { .. } => &["state"],
            Self::J4 => &["state", "timers"],
        }
    }

    /// The events, in batches of the size that a pipeline's calls get.
    pub(crate) fn events(self, count: u64) -> Vec<Batch> {
        self.events_from(0, count, 4096)
    }

    /// The same, from one of them on, in batches of another size.
    pub(crate) fn events_from(self, from: u64, count: u64, size: u32) -> Vec<Batch> {
        let flights = if self == Self::J4 { flights() } else { Vec::new() };
        let mut batches = vec![Batch::default()];
        for number in from..from + count {
            let (timestamp, key, value) = self.event(number, &flights);
            let key = key.as_deref().map(str::as_bytes);
            let event = NewEvent { timestamp, key, value: value.as_bytes(), ..NewEvent::default() };
            if batches[batches.len() - 1].count() == size {
                batches.push(Batch::default());
            }
            let last = batches.len() - 1;
            batches[last].push(&event).expect("an event fits its format");
        }
        batches
    }

    fn event(self, number: u64, flights: &[Flight]) -> (i64, Option<Cow<'_, str>>, Cow<'_, str>) {
        if self == Self::J4 {
            // The same flights again and again, each time later by as long as they take.
            let flight = &flights[number as usize % flights.len()];
            let again = (number / flights.len() as u64).cast_signed();
            // The first at the beginning of 1970: the last of all is not to be in the future, where the engine would not believe it.
            let (first, last) = (flights[0].time, flights[flights.len() - 1].time);
            let time = flight.time - first + again * (last - first + HOUR);
            return (time, Some(Cow::Borrowed(&flight.origin)), Cow::Borrowed(&flight.line));
        }
        (number.cast_signed(), self.key(number).map(Cow::Owned), Cow::Owned(self.value(number)))
    }

    /// Whose event it is, for jobs by key.
    fn key(self, number: u64) -> Option<String> {
        let Self::J2 { evenly } = self else { return None };
        let mixed = mixed(number);
        let user = if evenly {
            mixed % 10_000
        } else {
            // The inverse of the distribution function of Zipf's law with exponent 1, smoothed: user k has a share of about 1/k.
            let share = (mixed >> 11) as f64 / (1u64 << 53) as f64;
            #[expect(clippy::cast_sign_loss, reason = "at least 1")]
            let rank = 10_000f64.powf(share) as u64;
            rank - 1
        };
        Some(format!("user-{user:05}"))
    }

    fn value(self, number: u64) -> String {
        let mixed = mixed(number);
        match self {
            Self::J2 { .. } => {
                let (cents, page) = (mixed % 99_999, mixed >> 40);
                format!(
                    r#"{{"id":{number},"cents":{cents},"page":"/shop/{page:08x}","agent":"Mozilla/5.0 (X11; Linux)"}}"#
                )
            }
            Self::J1 | Self::J5 => {
                let kind = ["view", "click", "order", "search", "leave"][(mixed % 5) as usize];
                let (user, cents, page) = (mixed % 10_000, mixed % 99_999, mixed >> 40);
                format!(
                    r#"{{"id":{number},"kind":"{kind}","user":"user-{user:05}","amount":{}.{:02},"page":"/shop/{page:08x}","agent":"Mozilla/5.0"}}"#,
                    cents / 100,
                    cents % 100
                )
            }
            Self::J3 | Self::J4 => format!("{mixed:016x}").repeat(6) + "....",
        }
    }
}

/// Milliseconds.
pub(crate) const HOUR: i64 = 3_600_000;

/// A real flight.
struct Flight {
    time: i64,
    origin: String,
    line: String,
}

/// The flights that come with the project, in the order of their times.
fn flights() -> Vec<Flight> {
    let text =
        std::fs::read_to_string("pipelines/data/flights.ndjson").expect("the bench runs in the project's folder");
    let flight = |line: &str| {
        let flight: serde_json::Value = serde_json::from_str(line).ok()?;
        // Such as 2001/01/31 00:47; within the months of the file it is enough that later is more.
        let date: Vec<i64> =
            flight["date"].as_str()?.split(['/', ' ', ':']).filter_map(|part| part.parse().ok()).collect();
        let [year, month, day, hour, minute] = date[..] else { return None };
        let time = ((((year * 12 + month) * 31 + day) * 24 + hour) * 60 + minute) * 60_000;
        Some(Flight { time, origin: flight["origin"].as_str()?.to_owned(), line: line.to_owned() })
    };
    let mut flights: Vec<_> = text.lines().filter_map(flight).collect();
    flights.sort_by_key(|flight| flight.time);
    flights
}

/// What a consumer is told of a batch.
pub(crate) fn view(count: u32, base_offset: u64) -> View<'static> {
    View {
        count,
        base_offset,
        watermark: None,
        seed: 0,
        topic: 1,
        partition: 0,
        topic_name: "in",
        chained: false,
        fires: false,
        watermarks: &[],
        due: (&[], 0),
    }
}

/// SplitMix64, so that values neither repeat nor compress.
pub(crate) fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 27)
}
