//! J1 to J3 as a client of a broker does them: reads a stream batch by batch, deals with the events in Rust, appends what comes of them to another stream,
//! and acknowledges. A line of standard input names a job, the answer is the number of its outputs. Arguments: redis or nats, its port, folder of inputs.
//!
//! The inputs are in the broker before the first answer, `ready`; each run reads them from the beginning.

mod jobs;
mod nats;
mod redis_streams;

use std::io::BufRead;

use anyhow::{Context, Result, bail};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [broker, port, inputs] = &arguments[..] else { bail!("redis|nats PORT INPUTS") };
    let mut redis = match broker.as_str() {
        "redis" => Some(redis_streams::Broker::new(port)?),
        _ => None,
    };
    let nats = match &redis {
        Some(_) => None,
        None => Some(nats::Broker::new(port).await?),
    };
    for job in ["J1", "J2", "J3"] {
        let events = jobs::read(inputs, job).with_context(|| format!("the input of {job}"))?;
        match (&mut redis, &nats) {
            (Some(redis), _) => redis.fill(job, &events)?,
            (_, Some(nats)) => nats.fill(job, &events).await?,
            _ => {}
        }
    }
    println!("ready");
    for (run, job) in std::io::stdin().lock().lines().enumerate() {
        let job = job?;
        let outputs = match (&mut redis, &nats) {
            (Some(redis), _) => redis.run(&job, run)?,
            (_, Some(nats)) => nats.run(&job, run).await?,
            _ => 0,
        };
        println!("outputs {outputs}");
    }
    Ok(())
}
