//! Checks a definition and collects everything that is wrong with it.

mod reload;

use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::time::Duration;

use toml::Spanned;

use crate::definition::{
    BatchKeys, CheckpointKeys, Definition, ErrorsKeys, KeepKeys, LimitsKeys, RetentionKeys, SinkKeys, SourceKeys,
    StageKeys, TimeKeys, TopicKeys,
};
use crate::diagnostic::Diagnostic;
use crate::json::{is_not_finite, json_of_table};
use crate::pipeline::{
    At, Batch, CHANGELOG, Checkpoints, Delivery, Errors, Limits, OnError, PartitionBy, Pipeline, Retention, Sink,
    Stage, Start, Time, Topic,
};
use crate::units::{parse_duration, parse_size};

/// Topics that one pipeline reads, at most: each commit of one that keeps state names the cursors in all of them.
const MOST_SOURCES: usize = 64;

/// Stages of one chain, at most.
const MAX_STAGES: usize = 16;

/// Reads and checks a definition.
pub(crate) fn check(file: &Path, text: &str) -> Result<Pipeline, Vec<Diagnostic>> {
    let mut checker = Checker { file, text, found: Vec::new(), places: Vec::new() };
    let definition: Definition = match toml::from_str(text) {
        Ok(definition) => definition,
        Err(error) => return Err(vec![Diagnostic::of_toml(file, text, &error)]),
    };
    let pipeline = checker.pipeline(definition);
    match pipeline {
        Some(pipeline) if checker.found.is_empty() => Ok(pipeline),
        _ => Err(checker.found),
    }
}

/// Collects everything that is wrong, and where things stand.
struct Checker<'a> {
    file: &'a Path,
    text: &'a str,
    found: Vec<Diagnostic>,
    places: Vec<(At, Range<usize>)>,
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

    fn pipeline(&mut self, definition: Definition) -> Option<Pipeline> {
        let name = self.name("pipeline", &definition.name);
        let delivery = self.delivery(definition.delivery.as_ref());
        self.places.push((At::Name, definition.name.span()));
        let (sources, start) = self.source(definition.source.into_inner())?;
        let stages = self.stages(definition.stage)?;
        let sinks = self.sinks(definition.sink);
        let topics = self.topics(definition.topic);
        if let Some(at) = sinks.iter().position(|sink| sources.contains(&sink.topic)) {
            let span =
                self.places.iter().find(|(place, _)| *place == At::Sink(at)).map_or(0..0, |(_, span)| span.clone());
            let help = "write to another topic".to_owned();
            self.report(span, format!("the sink is the source: {}", sinks[at].topic), Some(help));
        }
        let batch = self.batch(definition.batch, delivery);
        let dead_letters = definition.errors.as_ref().and_then(|errors| errors.dead_letter_topic.as_ref());
        if let Some(topic) = dead_letters.filter(|topic| sinks.iter().any(|sink| sink.topic == *topic.get_ref())) {
            let help = "give dead letters a topic of their own".to_owned();
            self.report(
                topic.span(),
                format!("dead letters would go among the outputs: {}", topic.get_ref()),
                Some(help),
            );
        }
        let errors = self.errors(definition.errors, &name);
        let checkpoints = self.checkpoints(definition.checkpoint);
        let time = self.time(definition.time, &stages, &sinks);
        let keeps = stages.iter().any(Stage::keeps);
        let waits = stages.iter().any(|stage| stage.timers) || (keeps && sources.len() > 1);
        let reload = self.reload(definition.reload, delivery, waits);
        Some(Pipeline {
            file: self.file.to_owned(),
            text: self.text.to_owned(),
            name,
            delivery,
            sources,
            start,
            stages,
            sinks,
            topics,
            batch,
            errors,
            time,
            checkpoints,
            reload,
            places: std::mem::take(&mut self.places),
        })
    }

    fn time(&mut self, keys: Option<Spanned<TimeKeys>>, stages: &[Stage], sinks: &[Sink]) -> Time {
        let mut time = Time::default();
        let Some(keys) = keys else { return time };
        if !stages.iter().any(Stage::keeps) {
            let help = "grant a stage `capabilities = [\"state\", \"timers\"]`, or leave this section out".to_owned();
            self.report(keys.span(), "[time] says nothing to stages without state and timers", Some(help));
        }
        let keys = keys.into_inner();
        let long = || Duration::ZERO..=Duration::from_secs(3650 * 24 * 3600);
        let mut long_or = |text: Option<&Spanned<String>>, name: &str, usual: Duration| {
            self.bounded_duration(text, name, long(), "0s to 3650d").unwrap_or(usual)
        };
        time.lateness = long_or(keys.lateness.as_ref(), "lateness", time.lateness);
        time.idle_after = long_or(keys.idle_after.as_ref(), "idle-after", time.idle_after);
        time.max_ahead = long_or(keys.max_ahead.as_ref(), "max-ahead", time.max_ahead);
        if let Some(name) = &keys.late_sink {
            time.late_sink = sinks.iter().position(|sink| sink.name == *name.get_ref());
            if time.late_sink.is_none() {
                let names: Vec<_> = sinks.iter().map(|sink| sink.name.as_str()).collect();
                let help = format!("name one of the pipeline's sinks: {names:?}");
                self.report(name.span(), format!("unknown sink: {:?}", name.get_ref()), Some(help));
            }
        }
        time
    }

    fn checkpoints(&mut self, keys: Option<CheckpointKeys>) -> Checkpoints {
        let mut checkpoints = Checkpoints::default();
        let Some(keys) = keys else { return checkpoints };
        let often = Duration::from_millis(100)..=Duration::from_secs(7 * 24 * 3600);
        let every = self.bounded_duration(keys.every.as_ref(), "every", often, "100ms to 7d");
        checkpoints.every = every.unwrap_or(checkpoints.every);
        let keep = keys.keep.unwrap_or(KeepKeys { all: None, hourly: None, daily: None });
        let long = || Duration::ZERO..=Duration::from_secs(3650 * 24 * 3600);
        let mut kept = |text: Option<&Spanned<String>>, name: &str, usual: Duration| {
            self.bounded_duration(text, name, long(), "0s to 3650d").unwrap_or(usual)
        };
        checkpoints.all = kept(keep.all.as_ref(), "all", checkpoints.all);
        checkpoints.hourly = kept(keep.hourly.as_ref(), "hourly", checkpoints.hourly);
        checkpoints.daily = kept(keep.daily.as_ref(), "daily", checkpoints.daily);
        checkpoints
    }

    fn name(&mut self, what: &str, name: &Spanned<String>) -> String {
        let text = name.get_ref();
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.is_empty() || text.len() > 200 || text.starts_with('.') || !text.chars().all(good) {
            let help = "use 1 to 200 letters, digits, `-`, `_` and `.`, not beginning with `.`".to_owned();
            self.report(name.span(), format!("not a {what} name: {text:?}"), Some(help));
        }
        if what == "topic" && text.ends_with(CHANGELOG) {
            let help = "such topics hold the state of pipelines: use another name".to_owned();
            self.report(name.span(), format!("the topic is a changelog: {text:?}"), Some(help));
        }
        text.clone()
    }

    fn delivery(&mut self, delivery: Option<&Spanned<String>>) -> Delivery {
        let known = [Delivery::ExactlyOnce, Delivery::AtLeastOnce, Delivery::AtMostOnce];
        let Some(delivery) = delivery else { return Delivery::default() };
        let found = known.into_iter().find(|known| known.to_string() == *delivery.get_ref());
        found.unwrap_or_else(|| {
            let help = "write \"exactly-once\", \"at-least-once\" or \"at-most-once\"".to_owned();
            self.report(delivery.span(), format!("unknown delivery: {:?}", delivery.get_ref()), Some(help));
            Delivery::default()
        })
    }

    fn errors(&mut self, keys: Option<ErrorsKeys>, pipeline: &str) -> Errors {
        let mut errors = Errors {
            attempts: 5,
            initial_backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(30),
            on_error: OnError::default(),
            dead_letter_topic: format!("{pipeline}.dead"),
            window: 1000,
            max_failures: 500,
        };
        let Some(keys) = keys else { return errors };
        if let Some(retry) = &keys.retry {
            errors.attempts = self.bounded_number(retry.attempts.as_ref(), 1..=1000).unwrap_or(errors.attempts);
            let bounds = || Duration::from_millis(1)..=Duration::from_secs(3600);
            let (initial, max) = (retry.initial_backoff.as_ref(), retry.max_backoff.as_ref());
            let initial = self.bounded_duration(initial, "initial-backoff", bounds(), "1ms to 1h");
            errors.initial_backoff = initial.unwrap_or(errors.initial_backoff);
            let longest = self.bounded_duration(max, "max-backoff", bounds(), "1ms to 1h");
            errors.max_backoff = longest.unwrap_or(errors.max_backoff.max(errors.initial_backoff));
        }
        if let Some(on_error) = &keys.on_error {
            errors.on_error = match on_error.get_ref().as_str() {
                "dead-letter" => OnError::DeadLetter,
                "halt" => OnError::Halt,
                "skip" => OnError::Skip,
                other => {
                    let help = "write \"dead-letter\", \"halt\" or \"skip\"".to_owned();
                    self.report(on_error.span(), format!("unknown on-error: {other:?}"), Some(help));
                    OnError::default()
                }
            };
        }
        if let Some(topic) = &keys.dead_letter_topic {
            errors.dead_letter_topic = self.name("topic", topic);
            self.places.push((At::DeadLetters, topic.span()));
            if errors.on_error != OnError::DeadLetter {
                let help = "leave it out, or write on-error = \"dead-letter\"".to_owned();
                self.report(topic.span(), "no dead letters are written with this on-error", Some(help));
            }
        }
        if let Some(breaker) = &keys.breaker {
            errors.window = self.bounded_number(breaker.window.as_ref(), 1..=1_000_000).unwrap_or(errors.window);
            errors.max_failures = self
                .bounded_number(breaker.max_failures.as_ref(), 0..=errors.window)
                .unwrap_or(errors.max_failures.min(errors.window));
        }
        errors
    }

    fn bounded_number(&mut self, number: Option<&Spanned<u32>>, bounds: RangeInclusive<u32>) -> Option<u32> {
        let number = number?;
        if bounds.contains(number.get_ref()) {
            return Some(*number.get_ref());
        }
        let (least, most) = bounds.into_inner();
        self.report(number.span(), "the number is out of bounds", Some(format!("{least} to {most}")));
        None
    }

    fn source(&mut self, source: SourceKeys) -> Option<(Vec<String>, Start)> {
        let span = source.topics.span();
        let start = source.start.as_ref().map_or(Start::default(), |start| match start.get_ref().as_str() {
            "earliest" => Start::Earliest,
            "latest" => Start::Latest,
            other => match other.parse::<jiff::Timestamp>() {
                Ok(time) => Start::Time(time.as_millisecond()),
                Err(_) => {
                    let help = "write \"earliest\", \"latest\" or an RFC 3339 time, such as \"2026-01-31T12:00:00Z\"";
                    self.report(start.span(), format!("unknown start: {other:?}"), Some(help.to_owned()));
                    Start::default()
                }
            },
        });
        let mut topics: Vec<String> = Vec::new();
        for (at, topic) in source.topics.into_inner().into_iter().enumerate() {
            self.places.push((At::Source(at), topic.span()));
            let name = self.name("topic", &topic);
            if topics.contains(&name) {
                self.report(topic.span(), format!("the topic is named twice: {name}"), None);
            }
            topics.push(name);
        }
        if topics.len() > MOST_SOURCES {
            let help = "split the pipeline, or write several topics to one first".to_owned();
            self.report(span.clone(), format!("more than {MOST_SOURCES} source topics"), Some(help));
        }
        if topics.is_empty() {
            self.report(span, "a pipeline reads a topic, and none is named", Some("topics = [\"NAME\"]".to_owned()));
            return None;
        }
        Some((topics, start))
    }

    fn stages(&mut self, stages: Spanned<Vec<Spanned<StageKeys>>>) -> Option<Vec<Stage>> {
        let span = stages.span();
        let stages = stages.into_inner();
        if stages.is_empty() {
            self.report(span, "a pipeline has a [[stage]]", None);
            return None;
        }
        if let Some(stage) = stages.get(MAX_STAGES) {
            self.report(stage.span(), format!("a chain has at most {MAX_STAGES} stages"), None);
        }
        let mut checked: Vec<Stage> = Vec::new();
        for (at, stage) in stages.into_iter().enumerate() {
            let (span, keys) = (stage.span(), stage.into_inner());
            let name_span = keys.name.as_ref().map_or_else(|| keys.plugin.span(), Spanned::span);
            let (state, timers) = self.capabilities(keys.capabilities.as_ref(), &checked);
            let stage = Stage { state, timers, ..self.stage(at, keys) };
            if checked.iter().any(|other| other.name == stage.name) {
                let help = "give each its own `name`: it is the identity of a stage's state".to_owned();
                let span = if name_span.is_empty() { span } else { name_span };
                self.report(span, format!("two stages of one name: {:?}", stage.name), Some(help));
            }
            checked.push(stage);
        }
        Some(checked)
    }

    /// Whether state and timers are among what a stage may use.
    fn capabilities(&mut self, capabilities: Option<&Spanned<Vec<Spanned<String>>>>, before: &[Stage]) -> (bool, bool) {
        let Some(capabilities) = capabilities else { return (false, false) };
        let has = |wanted: &str| capabilities.get_ref().iter().any(|capability| capability.get_ref() == wanted);
        let (state, timers) = (has("state"), has("timers"));
        if let Some(rekeys) = before.iter().find(|stage| (state || timers) && !stage.keys_unchanged) {
            let keeps = if state { "state" } else { "timers" };
            let what = format!("{keeps} on a later stage, but stage {:?} may change keys", rekeys.name);
            let help = "write `keys = \"unchanged\"` in every earlier stage; or re-key through a topic: a sink with partition-by = \"key\", and a second pipeline";
            self.report(capabilities.span(), what, Some(help.to_owned()));
        }
        for capability in capabilities.get_ref() {
            let name = capability.get_ref();
            if name.starts_with("env:") {
                self.not_yet(capability.span(), &format!("the capability {name:?}"), "leave it out");
            } else if !["state", "timers"].contains(&name.as_str()) {
                let help = "there are \"state\", \"timers\" and \"env:NAME\"".to_owned();
                self.report(capability.span(), format!("unknown capability: {name:?}"), Some(help));
            }
        }
        (state, timers)
    }

    fn stage(&mut self, at: usize, keys: StageKeys) -> Stage {
        let keys_unchanged = keys.keys.as_ref().is_some_and(|promise| {
            let known = promise.get_ref() == "unchanged";
            if !known {
                let help = "write \"unchanged\", or leave it out".to_owned();
                self.report(promise.span(), format!("unknown promise: {:?}", promise.get_ref()), Some(help));
            }
            known
        });
        self.places.push((At::Plugin(at), keys.plugin.span()));
        let config = match keys.config {
            None => "{}".to_owned(),
            Some(table) => {
                self.places.push((At::Config(at), table.span()));
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
        Stage { name, plugin, config, limits, keys_unchanged, state: false, timers: false }
    }

    fn limits(&mut self, limits: &LimitsKeys) -> Limits {
        let memory = self.bounded_size(limits.memory.as_ref(), 1 << 16, 4 << 30);
        let output_bytes = self.bounded_size(limits.output_bytes.as_ref(), 1 << 10, 64 << 20);
        let bounds = Duration::from_millis(10)..=Duration::from_secs(3600);
        let call_timeout = self.bounded_duration(limits.call_timeout.as_ref(), "call-timeout", bounds, "10ms to 1h");
        let compile = Duration::from_secs(1)..=Duration::from_secs(3600);
        Limits {
            memory,
            call_timeout,
            output_bytes,
            outputs_per_event: self.bounded_number(limits.outputs_per_event.as_ref(), 1..=1_000_000),
            log_bytes: self.bounded_size(limits.log_bytes.as_ref(), 1 << 10, 16 << 20),
            table_elements: self.bounded_number(limits.table_elements.as_ref(), 1..=10_000_000),
            wasm_size: self.bounded_size(limits.wasm_size.as_ref(), 1 << 10, 256 << 20),
            compile_time: self.bounded_duration(limits.compile_time.as_ref(), "compile-time", compile, "1s to 1h"),
            compile_memory: self.bounded_size(limits.compile_memory.as_ref(), 256 << 20, 64 << 30),
            state: self.bounded_size(limits.state.as_ref(), 1 << 10, 1 << 40),
        }
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

    fn sinks(&mut self, sinks: Vec<Spanned<SinkKeys>>) -> Vec<Sink> {
        let mut checked: Vec<Sink> = Vec::new();
        for (at, sink) in sinks.into_iter().enumerate() {
            let keys = sink.into_inner();
            self.places.push((At::Sink(at), keys.topic.span()));
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

    fn topics(&mut self, topics: Vec<Spanned<TopicKeys>>) -> Vec<Topic> {
        let mut checked: Vec<Topic> = Vec::new();
        for (at, topic) in topics.into_iter().enumerate() {
            let keys = topic.into_inner();
            self.places.push((At::Topic(at), keys.name.span()));
            let partitions = keys.partitions.map(|partitions| {
                if !(1..=10_000).contains(partitions.get_ref()) {
                    self.report(partitions.span(), "a topic has 1 to 10000 partitions", None);
                }
                partitions.into_inner()
            });
            let compression = keys.compression.map_or_else(
                || "none".to_owned(),
                |compression| {
                    if !["none", "lz4", "zstd"].contains(&compression.get_ref().as_str()) {
                        let what = format!("unknown compression: {:?}", compression.get_ref());
                        let help = "write \"none\", \"lz4\" or \"zstd\"".to_owned();
                        self.report(compression.span(), what, Some(help));
                    }
                    compression.into_inner()
                },
            );
            let retention = keys.retention.map(|keys| self.retention(&keys)).unwrap_or_default();
            let name = self.name("topic", &keys.name);
            if checked.iter().any(|other| other.name == name) {
                self.report(keys.name.span(), format!("the topic is declared twice: {name}"), None);
            }
            checked.push(Topic { name, partitions, retention, compression });
        }
        checked
    }

    fn retention(&mut self, keys: &RetentionKeys) -> Retention {
        let age = self.bounded_duration(
            keys.age.as_ref(),
            "age",
            Duration::from_secs(1)..=Duration::from_secs(100 * 365 * 86_400),
            "1s to 36500d",
        );
        let size = self.bounded_size(keys.size.as_ref(), 64 << 10, 1 << 50);
        Retention { age, size, past_cursors: keys.past_cursors.unwrap_or(false) }
    }

    fn batch(&mut self, keys: Option<BatchKeys>, delivery: Delivery) -> Batch {
        let mut batch = Batch {
            max_events: 4096,
            max_bytes: 1 << 20,
            linger: Duration::ZERO,
            commit_every: Duration::from_secs(1),
        };
        let Some(keys) = keys else { return batch };
        if let Some(events) = keys.max_events {
            if !(1..=1_000_000).contains(events.get_ref()) {
                self.report(events.span(), "max-events is out of bounds", Some("1 to 1000000".to_owned()));
            }
            batch.max_events = events.into_inner();
        }
        batch.max_bytes = self.bounded_size(keys.max_bytes.as_ref(), 1 << 10, 64 << 20).unwrap_or(batch.max_bytes);
        let minute = Duration::from_secs(60);
        let linger = self.bounded_duration(keys.linger.as_ref(), "linger", Duration::ZERO..=minute, "0ms to 60s");
        batch.linger = linger.unwrap_or(batch.linger);
        if let Some(every) = keys.commit_every.as_ref().filter(|_| delivery != Delivery::AtLeastOnce) {
            let help = "leave it out: the cursor moves with each batch".to_owned();
            self.report(every.span(), format!("commit-every means nothing with {delivery}"), Some(help));
        }
        let least = Duration::from_millis(10);
        let every =
            self.bounded_duration(keys.commit_every.as_ref(), "commit-every", least..=10 * minute, "10ms to 10m");
        batch.commit_every = every.unwrap_or(batch.commit_every);
        batch
    }

    fn bounded_duration(
        &mut self,
        text: Option<&Spanned<String>>,
        what: &str,
        bounds: RangeInclusive<Duration>,
        help: &str,
    ) -> Option<Duration> {
        let text = text?;
        match parse_duration(text.get_ref()) {
            Ok(duration) if bounds.contains(&duration) => return Some(duration),
            Ok(_) => self.report(text.span(), format!("{what} is out of bounds"), Some(help.to_owned())),
            Err(error) => self.report(text.span(), error, None),
        }
        None
    }
}
