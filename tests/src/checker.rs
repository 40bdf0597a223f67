//! What must hold of a pipeline that hands every event through once, from what anybody can read.

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

/// Checks that offsets are dense, every input was appended once, every input has its one output with the same value and
/// key, equal keys go to one partition, and the order of each source partition is kept.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(sent: &[String], inputs: &[Seen], outputs: &[Seen]) -> Result<(), String> {
    dense(inputs)?;
    dense(outputs)?;
    let values: BTreeSet<&str> = inputs.iter().map(|input| input.value.as_str()).collect();
    if values.len() != inputs.len() {
        return Err("an input was appended twice".to_owned());
    }
    if values.len() != sent.len() || !sent.iter().all(|value| values.contains(value.as_str())) {
        return Err(format!("{} inputs instead of {}", inputs.len(), sent.len()));
    }
    let by_place: BTreeMap<Place, &Seen> = inputs.iter().map(|input| (input.at, input)).collect();
    let (mut done, mut homes) = (BTreeSet::new(), BTreeMap::new());
    let mut last: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for output in outputs {
        let Some((origin, ordinal)) = output.origin else { return Err(format!("no origin: {output:?}")) };
        let Some(input) = by_place.get(&origin) else { return Err(format!("an output of nothing: {output:?}")) };
        if ordinal != 0 || !done.insert(origin) {
            return Err(format!("two outputs of {origin:?}"));
        }
        if input.value != output.value || input.key != output.key {
            return Err(format!("{input:?} became {output:?}"));
        }
        if *homes.entry(&output.key).or_insert(output.at.0) != output.at.0 {
            return Err(format!("key {} in two partitions", output.key));
        }
        let before = last.insert((origin.0, output.at.0), origin.1);
        if before.is_some_and(|before| before >= origin.1) {
            return Err(format!("out of order: {output:?}"));
        }
    }
    if done.len() != inputs.len() {
        return Err(format!("{} outputs for {} inputs", done.len(), inputs.len()));
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

    fn history(seed: u64) -> (Vec<String>, Vec<Seen>, Vec<Seen>) {
        let (mut sent, mut inputs, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
        let mut next = [0; 4];
        for number in 0..40 {
            let key = (number * 7 + seed) % 5;
            let at = (number % 2, number / 2);
            let value = format!("v{number}");
            sent.push(value.clone());
            inputs.push(Seen { at, value, key: format!("k{key}"), origin: None });
        }
        inputs.sort_by_key(|input| input.at);
        for input in &inputs {
            let partition = input.key.as_bytes()[1] as usize % 4;
            let at = (partition as u64, next[partition]);
            next[partition] += 1;
            outputs.push(Seen { at, origin: Some((input.at, 0)), ..input.clone() });
        }
        (sent, inputs, outputs)
    }

    #[test]
    fn right_histories_pass() {
        for seed in 0..1000 {
            let (sent, inputs, outputs) = history(seed);
            check(&sent, &inputs, &outputs).unwrap();
            check_seen(&outputs[..outputs.len() / 2], &outputs).unwrap();
        }
    }

    #[test]
    fn a_history_with_one_thing_wrong_is_flagged() {
        for seed in 0..2000_u64 {
            let (sent, inputs, mut outputs) = history(seed);
            let at = (seed * 31 % 40) as usize;
            match seed % 5 {
                0 => drop(outputs.remove(at)),
                1 => {
                    let mut twice = outputs[at].clone();
                    twice.at.1 = outputs.iter().filter(|output| output.at.0 == twice.at.0).count() as u64;
                    outputs.push(twice);
                }
                2 => outputs[at].value.push('!'),
                3 => outputs[at].at.1 += 1,
                _ => {
                    let same = |other: usize, outputs: &[Seen]| {
                        outputs[other].at.0 == outputs[at].at.0
                            && outputs[other].origin.map(|(place, _)| place.0)
                                == outputs[at].origin.map(|(place, _)| place.0)
                    };
                    let Some(other) = (0..40).find(|other| *other != at && same(*other, &outputs)) else { continue };
                    let (here, there) = (outputs[at].at, outputs[other].at);
                    outputs.swap(at, other);
                    (outputs[at].at, outputs[other].at) = (here, there);
                }
            }
            outputs.sort_by_key(|output| output.at);
            assert!(check(&sent, &inputs, &outputs).is_err(), "seed {seed} passed");
        }
        let (_, _, outputs) = history(1);
        let mut changed = outputs.clone();
        changed[3].value.push('!');
        assert!(check_seen(&changed, &outputs).is_err() && check_seen(&outputs, &outputs[1..]).is_err());
    }
}
