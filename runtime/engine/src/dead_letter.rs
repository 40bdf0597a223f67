//! An event that would not go through, and what is known of its failure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_event::{Batch, Event, NewEvent, Origin, Source};
use sluice_log::TopicPartition;

/// What is known of a failure. A dead letter is the event as it was (key, value, headers, timestamp), with this as JSON in one more
/// header, the last one, and the position of the event as its origin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DeadLetter {
    /// The pipeline that gave the event up.
    pub pipeline: String,
    /// The stage that failed.
    pub stage: String,
    /// SHA-256 of the stage's plugin, in hexadecimal.
    pub plugin: String,
    /// The event's topic.
    pub topic: String,
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// What happened: `permanent`, `transient`, `trap`, `timeout`, `limit` or `bad-outcome`.
    pub kind: String,
    /// In full, a panic's text included; cut to 8 KiB.
    pub reason: String,
    /// The guest's functions on the stack when it trapped, innermost first, by name where the plugin has names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backtrace: Vec<String>,
    /// How often the event was tried.
    pub attempts: u32,
    /// When it was given up, ms since the epoch.
    pub time: i64,
    /// The timer that failed, where it was one: its key is the event's key, its tag the value; it fired before the event at `offset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timer: Option<DeadTimer>,
    /// The dead letter that was sent through again and came to this, where it was one: `PARTITION:OFFSET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<String>,
}

/// What is known of a timer that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DeadTimer {
    /// `event-time` or `wall-clock`.
    pub clock: String,
    /// When it was to fire, ms since the epoch.
    pub time: i64,
}

/// Names and values, in order.
type HeaderList<'a> = Vec<(&'a str, &'a [u8])>;

/// Characters of a reason that tell causes apart.
const CAUSE_CHARS: usize = 300;

impl DeadLetter {
    /// The header that holds it.
    pub const HEADER: &str = "sluice-dead-letter";

    /// Appends the dead letter of `event` to a batch. An event that has as many headers as there can be loses the last one.
    pub fn push(&self, event: &Event<'_>, source: TopicPartition, batch: &mut Batch) {
        let json = serde_json::to_vec(self).unwrap_or_default();
        let mut headers: Vec<(&str, &[u8])> = event.headers().take(usize::from(u16::MAX) - 1).collect();
        headers.push((Self::HEADER, &json));
        let letter = NewEvent {
            timestamp: event.timestamp(),
            key: event.key(),
            value: event.value(),
            headers: &headers,
            origin: Some(Origin {
                topic: source.topic,
                partition: source.partition,
                offset: self.offset,
                ordinal: 0,
                source: if self.timer.is_some() { Source::Timer } else { Source::Input },
            }),
        };
        let pushed = batch.push(&letter);
        debug_assert!(pushed.is_ok(), "an event of the log with some kilobytes more fits the format");
    }

    /// What is known of the failure, where an event is a dead letter, and the headers that the event had before.
    pub fn of<'a>(event: &Event<'a>) -> Option<(Self, HeaderList<'a>)> {
        let mut headers: Vec<_> = event.headers().collect();
        let (name, json) = headers.pop()?;
        if name != Self::HEADER {
            return None;
        }
        Some((serde_json::from_slice(json).ok()?, headers))
    }

    /// The reason without the numbers in it, so that failures of one cause look the same.
    pub fn cause(&self) -> String {
        let mut cause = String::with_capacity(self.reason.len());
        let mut in_number = false;
        // A panic says where in its first line, and what in the next.
        for c in self.reason.chars().take(CAUSE_CHARS).map(|c| if c == '\n' { ' ' } else { c }) {
            if !c.is_ascii_digit() {
                cause.push(c);
            } else if !in_number {
                cause.push('#');
            }
            in_number = c.is_ascii_digit();
        }
        cause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_is_the_event_with_one_more_header() {
        let mut batch = Batch::default();
        let (name, old) = (DeadLetter::HEADER, b"of an older failure".as_slice());
        let event =
            NewEvent { timestamp: 7, key: Some(b"k"), value: b"v", headers: &[("h", b"1"), (name, old)], origin: None };
        batch.push(&event).unwrap();
        let letter = DeadLetter {
            pipeline: "p".into(),
            stage: "s".into(),
            plugin: "00ff".into(),
            topic: "t".into(),
            partition: 3,
            offset: 42,
            kind: "trap".into(),
            reason: "line 12 column 345 of 6\nmore".into(),
            backtrace: vec!["f".into()],
            attempts: 2,
            time: 5,
            timer: None,
            again: None,
        };
        let (mut dead, source) = (Batch::default(), TopicPartition { topic: 9, partition: 3 });
        letter.push(&batch.region().events().next().unwrap().unwrap(), source, &mut dead);
        let event = dead.region().events().next().unwrap().unwrap();
        assert_eq!((event.timestamp(), event.key(), event.value()), (7, Some(&b"k"[..]), &b"v"[..]));
        assert_eq!(event.origin().map(|origin| (origin.topic, origin.partition, origin.offset)), Some((9, 3, 42)));
        assert_eq!(DeadLetter::of(&event), Some((letter.clone(), vec![("h", &b"1"[..]), (name, old)])));
        assert_eq!(letter.cause(), "line # column # of # more");
    }
}
