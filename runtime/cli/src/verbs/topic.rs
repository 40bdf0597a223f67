//! `sluice topic`

use std::process::ExitCode;

use sluice_api::NewTopic;
use sluice_node::topics::TopicDescription;

use crate::access::Access;
use crate::args::{Global, Topic};
use crate::exit::Failure;
use crate::show;

pub(crate) fn topic(global: &Global, verb: &Topic) -> Result<ExitCode, Failure> {
    match verb {
        Topic::Create { name, partitions, retention_age, retention_size, past_cursors, compression } => {
            let topic = NewTopic {
                name: name.clone(),
                partitions: *partitions,
                retention_age_ms: retention_age.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX)),
                retention_bytes: *retention_size,
                past_cursors: *past_cursors,
                compression: Some(compression.to_string()),
            };
            let made = Access::open(global)?.create(&topic)?;
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
        Topic::Delete { name } => {
            Access::open_existing(global)?.delete_topic(name)?;
            let told = serde_json::json!({ "topic": name, "deleted": true });
            show::answer(global, &told, || format!("topic {name} deleted\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(topics: &[TopicDescription]) -> String {
    let row = |topic: &TopicDescription| {
        let events: u64 = topic.partitions.iter().map(|p| p.high_watermark - p.low_mark).sum();
        let bytes: u64 = topic.partitions.iter().map(|p| p.bytes).sum();
        let numbers = [u64::from(topic.id), topic.partitions.len() as u64, events];
        let numbers = numbers.map(|number| number.to_string()).to_vec();
        [vec![topic.name.clone()], numbers, vec![show::size(bytes), kept(topic)]].concat()
    };
    let head = ["TOPIC", "ID", "PARTITIONS", "EVENTS", "SIZE", "KEPT"];
    show::table(&head, &topics.iter().map(row).collect::<Vec<_>>())
}

/// How long events are kept, in words.
fn kept(topic: &TopicDescription) -> String {
    let age = topic.retention_age_ms.map(|age| show::duration(age.unsigned_abs()));
    let bytes = topic.retention_bytes.map(|bytes| format!("{} a partition", show::size(bytes)));
    let limits: Vec<_> = age.into_iter().chain(bytes).collect();
    match (limits.is_empty(), topic.past_cursors) {
        (true, _) => "for ever".to_owned(),
        (false, false) => limits.join(", "),
        (false, true) => format!("{}, read or not", limits.join(", ")),
    }
}

fn describe(topic: &TopicDescription) -> String {
    let rows: Vec<_> = topic
        .partitions
        .iter()
        .map(|p| {
            let holes = p.holes.iter().map(|(from, to)| format!("offsets {from} to {} are lost", to - 1));
            let damage: Vec<_> = p.damage.iter().cloned().chain(holes).collect();
            let damage = if damage.is_empty() { "-".to_owned() } else { damage.join("; ") };
            let numbers = [u64::from(p.partition), p.low_mark, p.high_watermark].map(|number| number.to_string());
            [numbers.to_vec(), vec![show::size(p.bytes), damage]].concat()
        })
        .collect();
    let table = show::table(&["PARTITION", "LOW MARK", "HIGH WATERMARK", "SIZE", "DAMAGE"], &rows);
    format!("topic {} (id {}), compression {}, kept {}\n{table}", topic.name, topic.id, topic.compression, kept(topic))
}
