//! What must hold of pipelines that hand every event through, from what anybody can read.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// A partition and an offset.
pub type Place = (u64, u64);

/// An event as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Where it stands.
    pub at: Place,
    /// Its value.
    pub value: String,
    /// Its key.
    pub key: String,
    /// For an output: where its input stands, and the how manieth output of it this is.
    pub origin: Option<(Place, u64)>,
}

impl Seen {
    /// From a line of `sluice consume --json`.
    ///
    /// # Errors
    /// When a field is missing.
    pub fn from_json(event: &Value) -> Result<Self, String> {
        let number = |value: &Value, name: &str| value[name].as_u64().ok_or_else(|| format!("no {name}: {event}"));
        let text = |name: &str| event[name].as_str().map(str::to_owned).ok_or_else(|| format!("no {name}: {event}"));
        let place = |value: &Value| Ok::<Place, String>((number(value, "partition")?, number(value, "offset")?));
        let origin = &event["origin"];
        let origin = if origin.is_null() { None } else { Some((place(origin)?, number(origin, "ordinal")?)) };
        Ok(Self { at: place(event)?, value: text("value")?, key: text("key")?, origin })
    }
}

/// What a delivery promises of the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Each input has its output once.
    Once,
    /// Each input has its output, perhaps several times.
    AtLeastOnce,
    /// No input has two outputs.
    AtMostOnce,
}

/// Checks what a pipeline made of these inputs that hands each one through: that offsets are dense, every output is an input with
/// its key, as often as promised, equal keys go to one partition, and the order of each source partition is kept. How many inputs
/// have no output.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_outputs(sent: &[String], outputs: &[Seen], promise: Promise) -> Result<u64, String> {
    dense(outputs)?;
    let sent: BTreeSet<&str> = sent.iter().map(String::as_str).collect();
    let (mut origins, mut homes) = (BTreeMap::new(), BTreeMap::new());
    let mut last: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    let mut came = BTreeSet::new();
    for output in outputs {
        let Some((origin, ordinal)) = output.origin else { return Err(format!("no origin: {output:?}")) };
        if !sent.contains(output.value.as_str()) || !output.value.contains(&format!("{:?}", output.key)) {
            return Err(format!("an output of nothing that was sent: {output:?}"));
        }
        if ordinal != 0 {
            return Err(format!("two outputs of one input: {output:?}"));
        }
        let before = origins.insert(origin, &output.value);
        if before.is_some_and(|before| *before != output.value) {
            return Err(format!("two inputs at {origin:?}"));
        }
        let again = !came.insert(output.value.as_str());
        if again != before.is_some() {
            return Err(format!("one input at two places: {output:?}"));
        }
        if again && promise != Promise::AtLeastOnce {
            return Err(format!("it came again: {output:?}"));
        }
        if *homes.entry(&output.key).or_insert(output.at.0) != output.at.0 {
            return Err(format!("key {} in two partitions", output.key));
        }
        if !again {
            let before = last.insert((origin.0, output.at.0), origin.1);
            if before.is_some_and(|before| before >= origin.1) {
                return Err(format!("out of order: {output:?}"));
            }
        }
    }
    let missing = (sent.len() - came.len()) as u64;
    if missing > 0 && promise != Promise::AtMostOnce {
        return Err(format!("{missing} inputs have no output"));
    }
    Ok(missing)
}

/// Checks what a pipeline made that was rewound now and then, whose outputs stay in their source's partition: it goes on event by
/// event, but for jumps back.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_rewound(sent: &[String], outputs: &[Seen]) -> Result<(), String> {
    dense(outputs)?;
    let sent: BTreeSet<&str> = sent.iter().map(String::as_str).collect();
    let (mut last, mut values) = (BTreeMap::new(), BTreeMap::new());
    for output in outputs {
        let Some((origin, _)) = output.origin else { return Err(format!("no origin: {output:?}")) };
        if !sent.contains(output.value.as_str()) || *values.entry(origin).or_insert(&output.value) != &output.value {
            return Err(format!("not what was sent: {output:?}"));
        }
        let before: Option<u64> = last.insert(origin.0, origin.1);
        if before.map_or(0, |before| before + 1) < origin.1 {
            return Err(format!("events are left out between {before:?} and {output:?}"));
        }
    }
    Ok(())
}

/// Checks that what a reader saw while things broke is what stands there in the end.
///
/// # Errors
/// The first event that changed or vanished.
pub fn check_seen(early: &[Seen], finally: &[Seen]) -> Result<(), String> {
    let by_place: BTreeMap<Place, &Seen> = finally.iter().map(|event| (event.at, event)).collect();
    match early.iter().find(|event| by_place.get(&event.at) != Some(event)) {
        Some(event) => Err(format!("seen, then changed or gone: {event:?}")),
        None => Ok(()),
    }
}

fn dense(events: &[Seen]) -> Result<(), String> {
    let mut next: BTreeMap<u64, u64> = BTreeMap::new();
    for event in events {
        let expected = next.entry(event.at.0).or_default();
        if *expected != event.at.1 {
            return Err(format!("offset {} of partition {} where {expected} should be", event.at.1, event.at.0));
        }
        *expected += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(seed: u64) -> (Vec<String>, Vec<Seen>) {
        let (mut sent, mut inputs, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
        let mut next = [0; 4];
        for number in 0..40 {
            let key = format!("k{}", (number * 7 + seed) % 5);
            let at = (number % 2, number / 2);
            let value = format!("v{number} {key:?}");
            sent.push(value.clone());
            inputs.push(Seen { at, value, key, origin: None });
        }
        inputs.sort_by_key(|input| input.at);
        for input in &inputs {
            let partition = input.key.as_bytes()[1] as usize % 4;
            let at = (partition as u64, next[partition]);
            next[partition] += 1;
            outputs.push(Seen { at, origin: Some((input.at, 0)), ..input.clone() });
        }
        outputs.sort_by_key(|output| output.at);
        (sent, outputs)
    }

    const PROMISES: [Promise; 3] = [Promise::Once, Promise::AtLeastOnce, Promise::AtMostOnce];

    #[test]
    fn right_histories_pass() {
        for seed in 0..1000 {
            let (sent, outputs) = history(seed);
            for promise in PROMISES {
                assert_eq!(check_outputs(&sent, &outputs, promise), Ok(0));
            }
            check_seen(&outputs[..outputs.len() / 2], &outputs).unwrap();
        }
    }

    #[test]
    fn a_history_with_one_thing_wrong_is_flagged() {
        for seed in 0..3000_u64 {
            let (sent, mut outputs) = history(seed);
            let at = (seed * 31 % 40) as usize;
            // What is broken, and by which promise it is allowed all the same.
            let allowed = match seed % 6 {
                0 => {
                    let gone = outputs.remove(at);
                    let behind = outputs.iter_mut().filter(|o| o.at.0 == gone.at.0 && o.at.1 > gone.at.1);
                    behind.for_each(|output| output.at.1 -= 1);
                    Some(Promise::AtMostOnce)
                }
                1 => {
                    let mut twice = outputs[at].clone();
                    twice.at.1 = outputs.iter().filter(|output| output.at.0 == twice.at.0).count() as u64;
                    outputs.push(twice);
                    Some(Promise::AtLeastOnce)
                }
                2 => {
                    outputs[at].value.push('!');
                    None
                }
                3 => {
                    outputs[at].at.1 += 1;
                    None
                }
                4 => {
                    outputs[at].key.push('!');
                    None
                }
                _ => {
                    let same = |other: usize, outputs: &[Seen]| {
                        let source = |output: &Seen| output.origin.map(|(place, _)| place.0);
                        outputs[other].at.0 == outputs[at].at.0 && source(&outputs[other]) == source(&outputs[at])
                    };
                    let Some(other) = (0..40).find(|other| *other != at && same(*other, &outputs)) else { continue };
                    let (here, there) = (outputs[at].at, outputs[other].at);
                    outputs.swap(at, other);
                    (outputs[at].at, outputs[other].at) = (here, there);
                    None
                }
            };
            outputs.sort_by_key(|output| output.at);
            for promise in PROMISES {
                let passed = check_outputs(&sent, &outputs, promise).is_ok();
                assert_eq!(passed, allowed == Some(promise), "seed {seed}, {promise:?}");
            }
        }
        let (_, outputs) = history(1);
        let mut changed = outputs.clone();
        changed[3].value.push('!');
        assert!(check_seen(&changed, &outputs).is_err() && check_seen(&outputs, &outputs[1..]).is_err());
    }

    #[test]
    fn a_rewound_history_may_jump_back_and_nowhere_else() {
        let sent: Vec<String> = (0..10).map(|number| format!("v{number}")).collect();
        let check = |offsets: &[u64]| {
            let seen = |(at, offset): (usize, &u64)| Seen {
                at: (0, at as u64),
                value: format!("v{offset}"),
                key: String::new(),
                origin: Some(((0, *offset), 0)),
            };
            check_rewound(&sent, &offsets.iter().enumerate().map(seen).collect::<Vec<_>>()).is_ok()
        };
        assert!(check(&[0, 1, 2, 3, 1, 2, 3, 4, 0, 1]));
        assert!(!check(&[0, 1, 3]) && !check(&[1, 2]) && !check(&[0, 1, 2, 0, 2]) && !check(&[0, 1, 77]));
    }
}
