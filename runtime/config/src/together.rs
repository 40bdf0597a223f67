//! What several definitions say of each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::Diagnostic;
use crate::pipeline::{At, Pipeline, Topic};

/// Checks that pipelines have names of their own, agree on topics, and do not feed each other in a circle.
///
/// # Errors
/// Everything that is wrong.
pub fn check_together(pipelines: &[Pipeline]) -> Result<(), Vec<Diagnostic>> {
    let mut found = Vec::new();
    let mut names: BTreeMap<&str, &Pipeline> = BTreeMap::new();
    let mut topics: BTreeMap<&str, (&Topic, &Pipeline)> = BTreeMap::new();
    for pipeline in pipelines {
        if let Some(other) = names.insert(&pipeline.name, pipeline) {
            let message = format!("two pipelines of one name: {:?}, also in {}", pipeline.name, other.file.display());
            found.push(pipeline.diagnose(
                At::Name,
                message,
                Some("names are the identity of cursors: choose another".into()),
            ));
        }
        for (at, topic) in pipeline.topics.iter().enumerate() {
            let (first, other) = *topics.entry(&topic.name).or_insert((topic, pipeline));
            if first != topic {
                let message = format!("topic {:?} is declared otherwise in {}", topic.name, other.file.display());
                found.push(pipeline.diagnose(
                    At::Topic(at),
                    message,
                    Some("declare it once, or the same in both".into()),
                ));
            }
        }
    }
    found.extend(pipelines.iter().filter_map(|pipeline| cycle(pipeline, pipelines)));
    if found.is_empty() { Ok(()) } else { Err(found) }
}

/// A way from a pipeline's sinks back to its source.
fn cycle(start: &Pipeline, pipelines: &[Pipeline]) -> Option<Diagnostic> {
    for (at, topic) in start.written() {
        let mut reached = BTreeSet::from([topic]);
        loop {
            let before = reached.len();
            let next: Vec<_> = pipelines
                .iter()
                .filter(|pipeline| pipeline.sources.iter().any(|source| reached.contains(source.as_str())))
                .flat_map(|pipeline| pipeline.written().map(|(_, topic)| topic))
                .collect();
            reached.extend(next);
            if let Some(source) = start.sources.iter().find(|source| reached.contains(source.as_str())) {
                let message = format!("a cycle: what is written to {topic:?} comes back to {source:?}");
                let help = "break the circle: events in it would never end".to_owned();
                return Some(start.diagnose(at, message, Some(help)));
            }
            if reached.len() == before {
                break;
            }
        }
    }
    None
}
