//! Redis Streams: a thousand entries read at once, what comes of them and the position appended in one MULTI.

use anyhow::Result;
use redis::{Connection, Value};

use crate::jobs::Job;

/// Entries of a batch.
const BATCH: usize = 1000;

pub(crate) struct Broker {
    connection: Connection,
}

impl Broker {
    pub(crate) fn new(port: &str) -> Result<Self> {
        Ok(Self { connection: redis::Client::open(format!("redis://127.0.0.1:{port}/"))?.get_connection()? })
    }

    pub(crate) fn fill(&mut self, job: &str, events: &[(String, String)]) -> Result<()> {
        for events in events.chunks(BATCH) {
            let mut pipe = redis::pipe();
            for (key, value) in events {
                pipe.cmd("XADD").arg(job).arg("*").arg("k").arg(key).arg("v").arg(value).ignore();
            }
            pipe.query::<()>(&mut self.connection)?;
        }
        Ok(())
    }

    pub(crate) fn run(&mut self, name: &str, run: usize) -> Result<u64> {
        let (out, cursor) = (format!("out-{name}-{run}"), format!("cursor-{name}-{run}"));
        let (mut job, mut from, mut outputs) = (Job::new(name), b"-".to_vec(), 0);
        loop {
            let entries: Vec<(Vec<u8>, Vec<Value>)> =
                redis::cmd("XRANGE").arg(name).arg(&from).arg("+").arg("COUNT").arg(BATCH).query(&mut self.connection)?;
            let Some((last, _)) = entries.last() else { break };
            let mut pipe = redis::pipe();
            pipe.atomic();
            for (_, fields) in &entries {
                let [_, Value::BulkString(key), _, Value::BulkString(value)] = &fields[..] else { continue };
                if let Some((key, value)) = job.process(key, value)? {
                    pipe.cmd("XADD").arg(&out).arg("*").arg("k").arg(key).arg("v").arg(value).ignore();
                    outputs += 1;
                }
            }
            pipe.cmd("SET").arg(&cursor).arg(last).ignore();
            pipe.query::<()>(&mut self.connection)?;
            from = [b"(", &last[..]].concat();
        }
        redis::cmd("DEL").arg(&out).arg(&cursor).query::<()>(&mut self.connection)?;
        Ok(outputs)
    }
}
