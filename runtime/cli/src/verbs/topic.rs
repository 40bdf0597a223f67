//! `sluice topic`

use std::process::ExitCode;

use sluice_node::topics::TopicDescription;

use crate::access::Access;
use crate::args::{Global, Topic};
use crate::exit::Failure;
use crate::show;

pub(crate) fn topic(global: &Global, verb: &Topic) -> Result<ExitCode, Failure> {
    match verb {
        Topic::Create { name, partitions } => {
            let made = Access::open(global)?.create(name, *partitions)?;
            show::answer(global, &made, || format!("topic {name} made: id {}, {partitions} partitions\n", made.id))?;
        }
        Topic::List => {
            let topics = Access::open_existing(global)?.topics()?;
            show::answer(global, &topics, || list(&topics))?;
        }
        Topic::Describe { name } => {
            let topic = Access::open_existing(global)?.describe(name)?;
            show::answer(global, &topic, || describe(&topic))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(topics: &[TopicDescription]) -> String {
    let row = |topic: &TopicDescription| {
        let events: u64 = topic.partitions.iter().map(|p| p.high_watermark - p.low_mark).sum();
        vec![topic.name.clone(), topic.id.to_string(), topic.partitions.len().to_string(), events.to_string()]
    };
    show::table(&["TOPIC", "ID", "PARTITIONS", "EVENTS"], &topics.iter().map(row).collect::<Vec<_>>())
}

fn describe(topic: &TopicDescription) -> String {
    let rows: Vec<_> = topic
        .partitions
        .iter()
        .map(|p| {
            let damage = p.damage.clone().unwrap_or_else(|| "-".to_owned());
            vec![p.partition.to_string(), p.low_mark.to_string(), p.high_watermark.to_string(), damage]
        })
        .collect();
    let table = show::table(&["PARTITION", "LOW MARK", "HIGH WATERMARK", "DAMAGE"], &rows);
    format!("topic {} (id {})\n{table}", topic.name, topic.id)
}
