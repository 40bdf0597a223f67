//! Jobs as somebody would write them for this job alone: no SDK, `serde_json`, state in a plain table, from a framed file to a framed file.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use sluice_event::{Batch, NewEvent, Region};

use crate::events::{HOUR, Job};
use crate::native::each_frame;

/// The jobs of one consumer that reads its events.
pub(crate) const JOBS: [Job; 4] = [Job::J1, Job::J2 { evenly: true }, Job::J2 { evenly: false }, Job::J4];

/// The job, from the framed file to another; how many outputs there were.
pub(crate) fn run(job: Job, source: &File) -> Result<u64> {
    match job {
        Job::J4 => {
            let mut hours = Hours::default();
            each_frame(source, |events, (count, _), out| hours.take(events, count, out))
        }
        Job::J2 { .. } => {
            let mut sums = Sums::default();
            each_frame(source, |events, (count, _), out| sums.take(events, count, out))
        }
        _ => {
            let mut json = Vec::new();
            each_frame(source, |events, (count, _), out| keep_orders(events, count, &mut json, out))
        }
    }
}

#[derive(Deserialize)]
struct ShopEvent<'a> {
    kind: &'a str,
    user: &'a str,
    amount: f64,
    id: u64,
}

#[derive(Serialize)]
struct Order<'a> {
    id: u64,
    user: &'a str,
    amount: f64,
}

fn keep_orders(events: &[u8], count: u32, json: &mut Vec<u8>, out: &mut Batch) -> Result<()> {
    for event in Region::new(events, count).events() {
        let event = event?;
        let ShopEvent { kind, user, amount, id } = serde_json::from_slice(event.value())?;
        if kind == "order" {
            json.clear();
            serde_json::to_writer(&mut *json, &Order { id, user, amount })?;
            out.push(&NewEvent {
                timestamp: event.timestamp(),
                key: Some(user.as_bytes()),
                value: json,
                ..NewEvent::default()
            })?;
        }
    }
    Ok(())
}

/// What was paid by each user.
#[derive(Default)]
struct Sums {
    totals: HashMap<Vec<u8>, Total>,
    json: Vec<u8>,
}

#[derive(Deserialize)]
struct Payment {
    cents: u64,
}

#[derive(Serialize, Default)]
struct Total {
    count: u64,
    cents: u64,
}

impl Sums {
    fn take(&mut self, events: &[u8], count: u32, out: &mut Batch) -> Result<()> {
        for event in Region::new(events, count).events() {
            let event = event?;
            let payment: Payment = serde_json::from_slice(event.value())?;
            let key = event.key().unwrap_or_default();
            let total = match self.totals.get_mut(key) {
                Some(total) => total,
                None => self.totals.entry(key.to_vec()).or_default(),
            };
            *total = Total { count: total.count + 1, cents: total.cents + payment.cents };
            self.json.clear();
            serde_json::to_writer(&mut self.json, total)?;
            out.push(&NewEvent {
                timestamp: event.timestamp(),
                key: Some(key),
                value: &self.json,
                ..NewEvent::default()
            })?;
        }
        Ok(())
    }
}

/// A table for each hour that is not over.
#[derive(Default)]
struct Hours {
    open: BTreeMap<i64, HashMap<Vec<u8>, Airport>>,
    watermark: i64,
}

/// Flights, the sum of their delays, and the worst.
type Airport = (u64, f64, f64);

#[derive(Deserialize)]
struct Delay {
    delay: f64,
}

#[derive(Serialize)]
struct Hour {
    start: i64,
    flights: u64,
    average: f64,
    worst: f64,
}

impl Hours {
    fn take(&mut self, events: &[u8], count: u32, out: &mut Batch) -> Result<()> {
        for event in Region::new(events, count).events() {
            let event = event?;
            let Delay { delay } = serde_json::from_slice(event.value())?;
            let (time, key) = (event.timestamp(), event.key().unwrap_or_default());
            if time > self.watermark {
                self.watermark = time;
                while let Some(hour) = self.open.first_entry().filter(|hour| hour.key() + HOUR <= time) {
                    let (start, airports) = hour.remove_entry();
                    for (airport, (flights, sum, worst)) in airports {
                        let average = (sum / flights as f64 * 10.0).round() / 10.0;
                        let value = serde_json::to_vec(&Hour { start, flights, average, worst })?;
                        let (timestamp, key) = (start + HOUR - 1, Some(&airport[..]));
                        out.push(&NewEvent { timestamp, key, value: &value, ..NewEvent::default() })?;
                    }
                }
            }
            let airports = self.open.entry(time - time.rem_euclid(HOUR)).or_default();
            let (flights, sum, worst) = match airports.get_mut(key) {
                Some(airport) => airport,
                None => airports.entry(key.to_vec()).or_insert((0, 0.0, f64::MIN)),
            };
            (*flights, *sum, *worst) = (*flights + 1, *sum + delay, worst.max(delay));
        }
        Ok(())
    }
}
