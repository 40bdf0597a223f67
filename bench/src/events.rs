//! Made-up input, the same every time.

use std::fmt;

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
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::J1 => "J1: parse JSON of 120 bytes, keep a fifth, write smaller JSON",
            Self::J2 { evenly: true } => "J2: a running sum for each of 10,000 users, evenly spread",
            Self::J2 { evenly: false } => "J2: a running sum for each of 10,000 users, spread by Zipf's law",
            Self::J3 => "J3: hand 100 bytes through",
        })
    }
}

impl Job {
    pub(crate) fn plugin(self) -> &'static str {
        match self {
            Self::J1 => "plugins/orders",
            Self::J2 { .. } => "plugins/totals",
            Self::J3 => "plugins/pass-through",
        }
    }

    /// The events, in batches of the size that a pipeline's calls get.
    pub(crate) fn events(self, count: u64) -> Vec<Batch> {
        let mut batches = vec![Batch::default()];
        for number in 0..count {
            let value = self.value(number);
            let key = self.key(number);
            let key = key.as_deref().map(str::as_bytes);
            let event =
                NewEvent { timestamp: number.cast_signed(), key, value: value.as_bytes(), ..NewEvent::default() };
            if batches[batches.len() - 1].count() == 4096 {
                batches.push(Batch::default());
            }
            let last = batches.len() - 1;
            batches[last].push(&event).expect("an event fits its format");
        }
        batches
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
            Self::J1 => {
                let kind = ["view", "click", "order", "search", "leave"][(mixed % 5) as usize];
                let (user, cents, page) = (mixed % 10_000, mixed % 99_999, mixed >> 40);
                format!(
                    r#"{{"id":{number},"kind":"{kind}","user":"user-{user:05}","amount":{}.{:02},"page":"/shop/{page:08x}","agent":"Mozilla/5.0"}}"#,
                    cents / 100,
                    cents % 100
                )
            }
            Self::J3 => format!("{mixed:016x}").repeat(6) + "....",
        }
    }
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
