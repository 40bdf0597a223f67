//! A checked pipeline definition.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use crate::definition::{BatchKeys, Definition, ErrorsKeys, LimitsKeys, SinkKeys, SourceKeys, StageKeys, TopicKeys};
use crate::diagnostic::Diagnostic;
use crate::units::{parse_duration, parse_size};

/// How often an event's effects can come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    /// Neither lost nor repeated, as seen by readers of the log.
    #[default]
    ExactlyOnce,
}

/// Where a pipeline begins when it starts for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// At the oldest event.
    #[default]
    Earliest,
    /// At the next one.
    Latest,
}

/// How a sink spreads its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PartitionBy {
    /// By the hash of the key.
    #[default]
    Key,
    /// One after the other.
    RoundRobin,
    /// As the source.
    Source,
}

/// What an instance may use, where the definition says something else than the default. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// All its memories together.
    pub memory: Option<u64>,
    /// Time for one call.
    pub call_timeout: Option<Duration>,
    /// What one call may return.
    pub output_bytes: Option<u64>,
}

/// One consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Unique in the pipeline.
    pub name: String,
    /// A .wasm file or a plugin's folder, relative to the working directory.
    pub plugin: PathBuf,
    /// JSON.
    pub config: String,
    /// What it may use.
    pub limits: Limits,
}

/// Where outputs go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sink {
    /// What outputs call it.
    pub name: String,
    /// Its topic.
    pub topic: String,
    /// How events are spread over its partitions.
    pub partition_by: PartitionBy,
}

/// A topic that is made where it is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How many it gets when it is made.
    pub partitions: u32,
}

/// How much a call gets, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Events.
    pub max_events: u32,
    /// Bytes, but for a single larger event.
    pub max_bytes: u64,
}

/// A checked pipeline definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pipeline {
    /// The file it stands in, as the user named it.
    pub file: PathBuf,
    /// The file's text.
    pub text: String,
    /// Unique among pipelines.
    pub name: String,
    /// How often an event's effects can come about.
    pub delivery: Delivery,
    /// The topic it reads.
    pub source: String,
    /// Where it begins the first time.
    pub start: Start,
    /// The consumer.
    pub stage: Stage,
    /// The first is the default; none: outputs go nowhere.
    pub sinks: Vec<Sink>,
    /// Topics that are made where they are missing.
    pub topics: Vec<Topic>,
    /// How much a call gets.
    pub batch: Batch,
    places: Vec<(At, Range<usize>)>,
}

/// A place in a definition that others have something to say about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The pipeline's name.
    Name,
    /// The source topic.
    Source,
    /// The plugin.
    Plugin,
    /// The stage's configuration, or its plugin where there is none.
    Config,
    /// The topic of a sink, by its position.
    Sink(usize),
    /// A `[[topic]]`, by its position.
    Topic(usize),
}

impl Pipeline {
    /// Reads a definition. Paths in it are relative to `file`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Vec<Diagnostic>> {
        let mut checker = Checker { file, text, found: Vec::new() };
        let definition: Definition = match toml::from_str(text) {
            Ok(definition) => definition,
            Err(error) => {
                checker.syntax(&error);
                return Err(checker.found);
            }
        };
        let pipeline = checker.pipeline(definition);
        match pipeline {
            Some(pipeline) if checker.found.is_empty() => Ok(pipeline),
            _ => Err(checker.found),
        }
    }

    /// A diagnostic about a place in this definition.
    pub fn diagnose(&self, at: At, message: impl Into<String>, help: Option<String>) -> Diagnostic {
        let at = if at == At::Config && !self.places.iter().any(|(place, _)| *place == at) { At::Plugin } else { at };
        let span = self.places.iter().find(|(place, _)| *place == at).map(|(_, span)| span.clone());
        Diagnostic { file: self.file.clone(), source: self.text.clone(), span, message: message.into(), help }
    }
}

/// Collects everything that is wrong.
struct Checker<'a> {
    file: &'a Path,
    text: &'a str,
    found: Vec<Diagnostic>,
}

impl Checker<'_> {
    fn report(&mut self, span: Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.found.push(Diagnostic {
            file: self.file.to_owned(),
            source: self.text.to_owned(),
            span: Some(span),
            message: message.into(),
            help,
        });
    }

    fn not_yet(&mut self, span: Range<usize>, what: &str, help: &str) {
        self.report(span, format!("not available yet in this version: {what}"), Some(help.to_owned()));
    }

    fn syntax(&mut self, error: &toml::de::Error) {
        let message = error.message().trim().to_owned();
        let help = suggestion(&message);
        let message = message.split(", expected").next().unwrap_or_default().to_owned();
        let span = error.span().unwrap_or(0..0);
        // A missing key has no place of its own: the table it is missing from may be the whole file.
        let span = if span.len() > 200 { span.start..span.start + 1 } else { span };
        self.report(span, message, help);
    }

    fn pipeline(&mut self, definition: Definition) -> Option<Pipeline> {
        let name = self.name("pipeline", &definition.name);
        self.delivery(definition.delivery.as_ref());
        self.refuse_sections(&definition);
        let mut places = vec![(At::Name, definition.name.span())];
        let (source, start) = self.source(definition.source.into_inner(), &mut places)?;
        let stage = self.stage(definition.stage, &mut places)?;
        let sinks = self.sinks(definition.sink, &mut places);
        let topics = self.topics(definition.topic, &mut places);
        if let Some(at) = sinks.iter().position(|sink| sink.topic == source) {
            let span = places.iter().find(|(place, _)| *place == At::Sink(at)).map_or(0..0, |(_, span)| span.clone());
            let help = "write to another topic".to_owned();
            self.report(span, format!("the sink is the source: {source}"), Some(help));
        }
        let batch = self.batch(definition.batch);
        Some(Pipeline {
            file: self.file.to_owned(),
            text: self.text.to_owned(),
            name,
            delivery: Delivery::ExactlyOnce,
            source,
            start,
            stage,
            sinks,
            topics,
            batch,
            places,
        })
    }

    fn name(&mut self, what: &str, name: &Spanned<String>) -> String {
        let text = name.get_ref();
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.is_empty() || text.len() > 200 || text.starts_with('.') || !text.chars().all(good) {
            let help = "use 1 to 200 letters, digits, `-`, `_` and `.`, not beginning with `.`".to_owned();
            self.report(name.span(), format!("not a {what} name: {text:?}"), Some(help));
        }
        text.clone()
    }

    fn delivery(&mut self, delivery: Option<&Spanned<String>>) {
        let Some(delivery) = delivery else { return };
        match delivery.get_ref().as_str() {
            "exactly-once" => {}
            "at-least-once" | "at-most-once" => {
                let help = "leave `delivery` out, or write \"exactly-once\"";
                self.not_yet(delivery.span(), &format!("delivery {}", delivery.get_ref()), help);
            }
            other => {
                let help = "write \"exactly-once\"".to_owned();
                self.report(delivery.span(), format!("unknown delivery: {other:?}"), Some(help));
            }
        }
    }

    fn refuse_sections(&mut self, definition: &Definition) {
        let sections =
            [(&definition.time, "[time]"), (&definition.checkpoint, "[checkpoint]"), (&definition.reload, "[reload]")];
        for (section, name) in sections {
            if let Some(section) = section {
                self.not_yet(section.span(), name, "leave this section out");
            }
        }
        if let Some(errors) = &definition.errors {
            self.errors(errors);
        }
    }

    fn errors(&mut self, errors: &ErrorsKeys) {
        let help = "a failing event halts its partition; leave this out, or write on-error = \"halt\"";
        let tables = [(&errors.retry, "retry"), (&errors.breaker, "breaker")];
        for (table, name) in tables {
            if let Some(table) = table {
                self.not_yet(table.span(), name, help);
            }
        }
        if let Some(topic) = &errors.dead_letter_topic {
            self.not_yet(topic.span(), "dead letters", help);
        }
        if let Some(on_error) = &errors.on_error {
            match on_error.get_ref().as_str() {
                "halt" => {}
                "dead-letter" | "skip" => {
                    self.not_yet(on_error.span(), &format!("on-error {}", on_error.get_ref()), help);
                }
                other => self.report(on_error.span(), format!("unknown on-error: {other:?}"), Some(help.to_owned())),
            }
        }
    }

    fn source(&mut self, source: SourceKeys, places: &mut Vec<(At, Range<usize>)>) -> Option<(String, Start)> {
        let span = source.topics.span();
        let topics = source.topics.into_inner();
        let start = match source.start.as_ref().map(|start| (start.get_ref().as_str(), start.span())) {
            None | Some(("earliest", _)) => Start::Earliest,
            Some(("latest", _)) => Start::Latest,
            Some((other, span)) => {
                let time = other.starts_with(|c: char| c.is_ascii_digit());
                let help = "write \"earliest\" or \"latest\"";
                if time {
                    self.not_yet(span, "a time as `start`", help);
                } else {
                    self.report(span, format!("unknown start: {other:?}"), Some(help.to_owned()));
                }
                Start::Earliest
            }
        };
        if topics.len() > 1 {
            self.not_yet(span.clone(), "several source topics", "name one topic");
        }
        let Some(topic) = topics.into_iter().next() else {
            self.report(span, "a pipeline reads a topic, and none is named", Some("topics = [\"NAME\"]".to_owned()));
            return None;
        };
        places.push((At::Source, topic.span()));
        Some((self.name("topic", &topic), start))
    }

    fn stage(
        &mut self,
        stages: Spanned<Vec<Spanned<StageKeys>>>,
        places: &mut Vec<(At, Range<usize>)>,
    ) -> Option<Stage> {
        let span = stages.span();
        let mut stages = stages.into_inner().into_iter();
        let Some(stage) = stages.next() else {
            self.report(span, "a pipeline has a [[stage]]", None);
            return None;
        };
        if let Some(second) = stages.next() {
            self.not_yet(
                second.span(),
                "a chain of stages",
                "use one stage, or a second pipeline that reads this one's sink",
            );
        }
        let keys = stage.into_inner();
        if let Some(capabilities) = keys.capabilities.filter(|capabilities| !capabilities.get_ref().is_empty()) {
            self.not_yet(
                capabilities.span(),
                "capabilities",
                "leave them out: plugins without state or timers need none",
            );
        }
        if let Some(promise) = keys.keys {
            self.not_yet(promise.span(), "keys", "leave it out: it matters to chains of stages only");
        }
        places.push((At::Plugin, keys.plugin.span()));
        let config = match keys.config {
            None => "{}".to_owned(),
            Some(table) => {
                places.push((At::Config, table.span()));
                if table.get_ref().values().any(is_not_finite) {
                    self.report(table.span(), "config holds nan or inf, which JSON has no word for", None);
                }
                json_of_table(table.into_inner()).to_string()
            }
        };
        let beside = self.file.parent().unwrap_or_else(|| Path::new(""));
        let plugin = beside.join(keys.plugin.get_ref());
        let stem = plugin.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let name = keys.name.map_or(stem, |name| self.name("stage", &name));
        let limits = keys.limits.map(|limits| self.limits(&limits)).unwrap_or_default();
        Some(Stage { name, plugin, config, limits })
    }

    fn limits(&mut self, limits: &LimitsKeys) -> Limits {
        if let Some(state) = &limits.state {
            self.not_yet(state.span(), "limits.state", "leave it out: plugins have no state yet");
        }
        let memory = self.bounded_size(limits.memory.as_ref(), 1 << 16, 4 << 30);
        let output_bytes = self.bounded_size(limits.output_bytes.as_ref(), 1 << 10, 64 << 20);
        let call_timeout = limits.call_timeout.as_ref().and_then(|text| match parse_duration(text.get_ref()) {
            Ok(duration) if duration >= Duration::from_millis(10) && duration <= Duration::from_secs(3600) => {
                Some(duration)
            }
            Ok(_) => {
                self.report(text.span(), "call-timeout is out of bounds", Some("10ms to 1h".to_owned()));
                None
            }
            Err(error) => {
                self.report(text.span(), error, None);
                None
            }
        });
        Limits { memory, call_timeout, output_bytes }
    }

    fn bounded_size(&mut self, text: Option<&Spanned<String>>, least: u64, most: u64) -> Option<u64> {
        let text = text?;
        match parse_size(text.get_ref()) {
            Ok(size) if (least..=most).contains(&size) => return Some(size),
            Ok(_) => self.report(text.span(), "the size is out of bounds", Some(format!("{least}B to {most}B"))),
            Err(error) => self.report(text.span(), error, None),
        }
        None
    }

    fn sinks(&mut self, sinks: Vec<Spanned<SinkKeys>>, places: &mut Vec<(At, Range<usize>)>) -> Vec<Sink> {
        let mut checked: Vec<Sink> = Vec::new();
        for (at, sink) in sinks.into_iter().enumerate() {
            let keys = sink.into_inner();
            places.push((At::Sink(at), keys.topic.span()));
            let topic = self.name("topic", &keys.topic);
            let span = keys.name.as_ref().map_or_else(|| keys.topic.span(), Spanned::span);
            let name = keys.name.map_or_else(|| topic.clone(), |name| self.name("sink", &name));
            if checked.iter().any(|other| other.name == name) {
                self.report(span, format!("two sinks of one name: {name:?}"), Some("give each its own `name`".into()));
            }
            let partition_by = keys.partition_by.map_or(PartitionBy::default(), |by| match by.get_ref().as_str() {
                "key" => PartitionBy::Key,
                "round-robin" => PartitionBy::RoundRobin,
                "source" => PartitionBy::Source,
                other => {
                    let help = "write \"key\", \"round-robin\" or \"source\"".to_owned();
                    self.report(by.span(), format!("unknown partition-by: {other:?}"), Some(help));
                    PartitionBy::default()
                }
            });
            checked.push(Sink { name, topic, partition_by });
        }
        checked
    }

    fn topics(&mut self, topics: Vec<Spanned<TopicKeys>>, places: &mut Vec<(At, Range<usize>)>) -> Vec<Topic> {
        let mut checked = Vec::new();
        for (at, topic) in topics.into_iter().enumerate() {
            let keys = topic.into_inner();
            places.push((At::Topic(at), keys.name.span()));
            if let Some(retention) = keys.retention {
                self.not_yet(retention.span(), "retention", "leave it out: everything is kept");
            }
            if let Some(compression) = keys.compression.filter(|compression| compression.get_ref() != "none") {
                self.not_yet(compression.span(), "compression", "leave it out, or write \"none\"");
            }
            let partitions = match keys.partitions {
                Some(partitions) if !(1..=10_000).contains(partitions.get_ref()) => {
                    self.report(partitions.span(), "a topic has 1 to 10000 partitions", None);
                    1
                }
                partitions => partitions.map_or(1, Spanned::into_inner),
            };
            checked.push(Topic { name: self.name("topic", &keys.name), partitions });
        }
        checked
    }

    fn batch(&mut self, keys: Option<BatchKeys>) -> Batch {
        let mut batch = Batch { max_events: 4096, max_bytes: 1 << 20 };
        let Some(keys) = keys else { return batch };
        if let Some(events) = keys.max_events {
            if !(1..=1_000_000).contains(events.get_ref()) {
                self.report(events.span(), "max-events is out of bounds", Some("1 to 1000000".to_owned()));
            }
            batch.max_events = events.into_inner();
        }
        batch.max_bytes = self.bounded_size(keys.max_bytes.as_ref(), 1 << 10, 64 << 20).unwrap_or(batch.max_bytes);
        if let Some(linger) = keys.linger.filter(|linger| parse_duration(linger.get_ref()) != Ok(Duration::ZERO)) {
            self.not_yet(linger.span(), "linger", "leave it out: a batch is what gathered while the previous one ran");
        }
        if let Some(every) = keys.commit_every {
            self.not_yet(every.span(), "commit-every", "leave it out: it matters to at-least-once only");
        }
        batch
    }
}

/// What toml says it expected, as help; with the nearest name first when something was misspelt.
fn suggestion(message: &str) -> Option<String> {
    let (what, expected) = message.split_once(", expected")?;
    let names: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let wrong = what.split('`').nth(1).unwrap_or_default();
    let nearest = names.iter().min_by_key(|name| strsim::damerau_levenshtein(wrong, name));
    match nearest {
        Some(name) if strsim::damerau_levenshtein(wrong, name) <= 1 + name.len() / 4 => {
            Some(format!("did you mean `{name}`?"))
        }
        _ if what.starts_with("unknown field") => Some(format!("known keys: {}", names.join(", "))),
        _ => Some(format!("expected{expected}")),
    }
}

fn is_not_finite(value: &toml::Value) -> bool {
    match value {
        toml::Value::Float(number) => !number.is_finite(),
        toml::Value::Array(values) => values.iter().any(is_not_finite),
        toml::Value::Table(table) => table.values().any(is_not_finite),
        _ => false,
    }
}

fn json_of_table(table: toml::Table) -> serde_json::Value {
    serde_json::Value::Object(table.into_iter().map(|(key, value)| (key, json(value))).collect())
}

fn json(value: toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => values.into_iter().map(json).collect::<Vec<_>>().into(),
        toml::Value::Table(table) => json_of_table(table),
    }
}
