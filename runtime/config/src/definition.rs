//! The keys of a pipeline file, as serde reads them. Design section 6 fixes them.

use serde::Deserialize;
use toml::{Spanned, Table};

type Text = Spanned<String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Definition {
    pub(crate) name: Text,
    pub(crate) delivery: Option<Text>,
    pub(crate) source: Spanned<SourceKeys>,
    pub(crate) stage: Spanned<Vec<Spanned<StageKeys>>>,
    #[serde(default)]
    pub(crate) sink: Vec<Spanned<SinkKeys>>,
    #[serde(default)]
    pub(crate) topic: Vec<Spanned<TopicKeys>>,
    pub(crate) batch: Option<BatchKeys>,
    pub(crate) errors: Option<ErrorsKeys>,
    pub(crate) time: Option<Spanned<TimeKeys>>,
    pub(crate) checkpoint: Option<CheckpointKeys>,
    pub(crate) reload: Option<ReloadKeys>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct SourceKeys {
    pub(crate) topics: Spanned<Vec<Text>>,
    pub(crate) start: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct StageKeys {
    pub(crate) plugin: Text,
    pub(crate) name: Option<Text>,
    pub(crate) config: Option<Spanned<Table>>,
    pub(crate) capabilities: Option<Spanned<Vec<Text>>>,
    pub(crate) limits: Option<LimitsKeys>,
    pub(crate) keys: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LimitsKeys {
    pub(crate) memory: Option<Text>,
    pub(crate) call_timeout: Option<Text>,
    pub(crate) output_bytes: Option<Text>,
    pub(crate) outputs_per_event: Option<Spanned<u32>>,
    pub(crate) log_bytes: Option<Text>,
    pub(crate) table_elements: Option<Spanned<u32>>,
    pub(crate) wasm_size: Option<Text>,
    pub(crate) compile_time: Option<Text>,
    pub(crate) compile_memory: Option<Text>,
    pub(crate) state: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct SinkKeys {
    pub(crate) topic: Text,
    pub(crate) name: Option<Text>,
    pub(crate) partition_by: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct TopicKeys {
    pub(crate) name: Text,
    pub(crate) partitions: Option<Spanned<u32>>,
    pub(crate) retention: Option<RetentionKeys>,
    pub(crate) compression: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RetentionKeys {
    pub(crate) age: Option<Text>,
    pub(crate) size: Option<Text>,
    /// Not among the design's keys: "unless the topic says so".
    pub(crate) past_cursors: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct BatchKeys {
    pub(crate) max_events: Option<Spanned<u32>>,
    pub(crate) max_bytes: Option<Text>,
    pub(crate) linger: Option<Text>,
    pub(crate) commit_every: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct TimeKeys {
    pub(crate) lateness: Option<Text>,
    pub(crate) idle_after: Option<Text>,
    pub(crate) max_ahead: Option<Text>,
    pub(crate) late_sink: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct CheckpointKeys {
    pub(crate) every: Option<Text>,
    pub(crate) keep: Option<KeepKeys>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct KeepKeys {
    pub(crate) all: Option<Text>,
    pub(crate) hourly: Option<Text>,
    pub(crate) daily: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ReloadKeys {
    pub(crate) watch: Option<bool>,
    pub(crate) probation: Option<ProbationKeys>,
    pub(crate) hold_outputs: Option<Spanned<bool>>,
    pub(crate) diff: Option<Spanned<DiffKeys>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ProbationKeys {
    pub(crate) batches: Option<Spanned<u32>>,
    pub(crate) time: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct DiffKeys {
    pub(crate) last: Option<Text>,
    pub(crate) allow: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ErrorsKeys {
    pub(crate) retry: Option<RetryKeys>,
    pub(crate) on_error: Option<Text>,
    pub(crate) dead_letter_topic: Option<Text>,
    pub(crate) breaker: Option<BreakerKeys>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RetryKeys {
    pub(crate) attempts: Option<Spanned<u32>>,
    pub(crate) initial_backoff: Option<Text>,
    pub(crate) max_backoff: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct BreakerKeys {
    pub(crate) window: Option<Spanned<u32>>,
    pub(crate) max_failures: Option<Spanned<u32>>,
}
