//! What is done with an event.

use std::collections::HashMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Events of a job: key and value; a line that has no tab has no key.
pub(crate) fn read(inputs: &str, job: &str) -> Result<Vec<(String, String)>> {
    let mut files: Vec<_> = std::fs::read_dir(format!("{inputs}/{job}"))?.flatten().map(|file| file.path()).collect();
    files.sort();
    let mut events = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file)?;
        events.extend(text.lines().map(|line| match line.split_once('\t') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => (String::new(), line.to_owned()),
        }));
    }
    Ok(events)
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

#[derive(Deserialize)]
struct Payment {
    cents: u64,
}

#[derive(Serialize, Clone, Copy, Default)]
struct Total {
    count: u64,
    cents: u64,
}

/// A job under way.
pub(crate) struct Job {
    name: String,
    totals: HashMap<Vec<u8>, Total>,
}

impl Job {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), totals: HashMap::new() }
    }

    /// What comes of an event.
    pub(crate) fn process(&mut self, key: &[u8], value: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        Ok(match self.name.as_str() {
            "J1" => {
                let ShopEvent { kind, user, amount, id } = serde_json::from_slice(value)?;
                let order = || serde_json::to_vec(&Order { id, user, amount });
                if kind == "order" { Some((user.as_bytes().to_vec(), order()?)) } else { None }
            }
            "J2" => {
                let payment: Payment = serde_json::from_slice(value)?;
                let total = self.totals.entry(key.to_vec()).or_default();
                total.count += 1;
                total.cents += payment.cents;
                Some((key.to_vec(), serde_json::to_vec(total)?))
            }
            _ => Some((key.to_vec(), value.to_vec())),
        })
    }
}
