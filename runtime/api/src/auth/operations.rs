//! Who had the node do what: a line for every order, in the data directory.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use sluice_env::{Clock, SystemClock};

/// Bytes of a file, beyond which a new one is begun; the one before is kept.
const FULL: u64 = 16 << 20;
/// Bytes of a request that are kept.
const MOST_TOLD: usize = 1024;

/// The file `operations.jsonl`.
pub(crate) struct Operations {
    path: PathBuf,
    /// Nothing is told twice at a time.
    file: Mutex<Option<File>>,
}

/// An order that was given.
pub(crate) struct Operation {
    /// The token's name, or how the caller came.
    pub(crate) who: String,
    /// The other end of the connection.
    pub(crate) from: Option<String>,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
    pub(crate) status: u16,
}

impl Operations {
    pub(crate) fn of(data: &Path) -> Self {
        Self { path: data.join("operations.jsonl"), file: Mutex::default() }
    }

    /// Tells of an order. That it cannot be told stops nobody.
    pub(crate) fn tell(&self, operation: &Operation) {
        let Operation { who, from, method, path, body, status } = operation;
        tracing::info!(target: "operations", who, from, status, "{method} {path}");
        // Requests are JSON; whatever else was sent is told as text.
        let body = match body.get(..MOST_TOLD) {
            Some(begin) => Value::from(String::from_utf8_lossy(begin)),
            None => serde_json::from_slice(body).unwrap_or_else(|_| String::from_utf8_lossy(body).into()),
        };
        let line = json!({
            "time": SystemClock.now(), "who": who, "from": from, "method": method, "path": path, "body": body, "status": status,
        });
        if let Err(error) = self.append(format!("{line}\n").as_bytes()) {
            tracing::error!(%error, file = %self.path.display(), "cannot note who did what");
        }
    }

    fn append(&self, line: &[u8]) -> std::io::Result<()> {
        let mut open = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match open.take() {
            Some(file) if file.metadata()?.len() < FULL => file,
            file => {
                if file.is_some() {
                    std::fs::copy(&self.path, self.path.with_extension("1.jsonl"))?;
                    std::fs::remove_file(&self.path)?;
                }
                File::options().append(true).create(true).open(&self.path)?
            }
        };
        // In one piece, so that a line is there or not.
        (&file).write_all(line)?;
        *open = Some(file);
        Ok(())
    }
}
