//! Sends dead letters through their pipeline again, one by one.

use std::sync::Arc;

use sluice_env::Clock;
use sluice_event::{Batch, Event, NewEvent};
use sluice_log::{Append, ReadBatch, TopicPartition};

use crate::chain::{Chain, StageConfig};
use crate::dead_letter::DeadLetter;
use crate::errors::{ErrorPolicy, Failed};
use crate::port::{CallErrorKind, Witness};
use crate::router::Sink;
use crate::timers::Due;
use crate::watermark::Marks;

/// What a redriver needs to know of its pipeline.
#[derive(Clone)]
pub struct RedriveConfig {
    /// The pipeline's name and id.
    pub pipeline_name: String,
    /// See `pipeline_name`.
    pub pipeline: u32,
    /// Is told of each call.
    pub witness: Arc<dyn Witness>,
    /// What is called, one after the other.
    pub stages: Vec<StageConfig>,
    /// Where outputs go.
    pub sinks: Vec<Sink>,
    /// What to do about events that fail.
    pub errors: ErrorPolicy,
}

/// What came of sending a dead letter through.
#[derive(Debug)]
pub enum Sent {
    /// It went through; these are its outputs.
    Through(Vec<Append>),
    /// It failed again; this is its dead letter.
    Dead(Vec<Append>),
    /// It is no dead letter that could be sent, for this reason.
    Impossible(String),
    /// It failed, and may go through later.
    Later {
        /// How often it was tried by now.
        attempts: u32,
        /// Why it failed.
        reason: String,
    },
}

/// Instances of a pipeline's stages, apart from those of its lanes.
pub struct Redriver {
    config: RedriveConfig,
    chain: Chain,
    clock: Arc<dyn Clock>,
}

impl Redriver {
    /// One that has no instances yet.
    pub fn new(config: RedriveConfig, clock: Arc<dyn Clock>) -> Self {
        let witness = (config.pipeline, config.witness.clone());
        let chain = Chain::new(witness, &config.stages, config.sinks.clone(), None);
        Self { config, chain, clock }
    }

    /// Sends the event of a dead letter through, as it was when it was read from `letter`'s position; `id` names the dead letter.
    /// `attempts` counts how often this was tried already.
    ///
    /// # Errors
    /// When no instance can be made.
    pub fn send(&mut self, id: &str, event: &Event<'_>, attempts: u32) -> Result<Sent, String> {
        let (Some((letter, headers)), Some(origin)) = (DeadLetter::of(event), event.origin()) else {
            return Ok(Sent::Impossible("it does not say why it died, or where it comes from".to_owned()));
        };
        let source = TopicPartition { topic: origin.topic, partition: letter.partition };
        let mut batch = Batch::default();
        let original = NewEvent {
            timestamp: event.timestamp(),
            key: event.key(),
            value: event.value(),
            headers: &headers,
            origin: None,
        };
        if let Err(error) = batch.push(&original) {
            return Ok(Sent::Impossible(error.to_string()));
        }
        let read =
            ReadBatch { base_offset: letter.offset, count: 1, bytes: batch.bytes().to_vec(), ..ReadBatch::default() };
        self.chain.point_at(source, &letter.topic);
        let mut failed = match self.chain.call(&read, Marks::default(), &Due::default(), None) {
            Ok(mut called) => match (called.failed.pop(), called.stopped) {
                (None, None) => return Ok(Sent::Through(self.chain.take_appends())),
                (Some(failed), _) => failed,
                (None, Some(stopped)) if attempts + 1 < self.config.errors.retry.attempts => {
                    return Ok(Sent::Later { attempts: attempts + 1, reason: stopped.error.to_string() });
                }
                (None, Some(stopped)) => stopped,
            },
            Err(error) => {
                self.chain.drop_instances();
                if error.error.kind == CallErrorKind::Instantiate {
                    return Err(error.to_string());
                }
                Failed { index: 0, stage: error.stage, error: error.error, attempts: 1 }
            }
        };
        failed.attempts += letter.attempts + attempts;
        let stage = &self.config.stages[failed.stage];
        let again = failed.letter(
            DeadLetter { pipeline: self.config.pipeline_name.clone(), again: Some(id.to_owned()), ..letter },
            stage,
            self.clock.now(),
        );
        let mut dead = Batch::default();
        if let Some(Ok(event)) = batch.region().events().next() {
            again.push(&event, source, &mut dead);
        }
        Ok(Sent::Dead(self.config.errors.on_error.appends(source, dead)))
    }
}
