//! `[reload]`

use std::time::Duration;

use toml::Spanned;

use super::Checker;
use crate::definition::ReloadKeys;
use crate::pipeline::{Allow, Delivery, Diff, Reload};

impl Checker<'_> {
    /// `waits`: the pipeline sets timers, or keeps state of several topics.
    pub(super) fn reload(&mut self, keys: Option<ReloadKeys>, delivery: Delivery, waits: bool) -> Reload {
        let mut reload = Reload::default();
        let Some(keys) = keys else { return reload };
        reload.watch = keys.watch.unwrap_or(reload.watch);
        if let Some(probation) = keys.probation {
            reload.batches = self.bounded_number(probation.batches.as_ref(), 0..=1_000_000).unwrap_or(reload.batches);
            let long = Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
            let time = self.bounded_duration(probation.time.as_ref(), "time", long, "1ms to 24h");
            reload.time = time.unwrap_or(reload.time);
        }
        if let Some(hold) = keys.hold_outputs {
            reload.hold_outputs = *hold.get_ref();
            if reload.hold_outputs && delivery == Delivery::AtMostOnce {
                let help = "leave it out, or use another delivery".to_owned();
                let what =
                    "at-most-once moves the cursor before the call: outputs that are held back would be lost with it";
                self.report(hold.span(), what, Some(help));
            }
            if reload.hold_outputs && delivery == Delivery::AtLeastOnce && waits {
                let help = "use exactly-once, or leave it out".to_owned();
                let what = "at-least-once waits for a commit where timers fire, and between topics: what is held would be waited for";
                self.report(hold.span(), what, Some(help));
            }
            if reload.hold_outputs && reload.batches == 0 {
                let help = "without a probation nothing is held: write `batches = 1` or more".to_owned();
                self.report(hold.span(), "hold-outputs goes with a probation", Some(help));
            }
        }
        reload.diff = keys.diff.and_then(|diff| self.diff(diff));
        reload
    }

    fn diff(&mut self, keys: Spanned<crate::definition::DiffKeys>) -> Option<Diff> {
        let (span, keys) = (keys.span(), keys.into_inner());
        let long = Duration::from_millis(1)..=Duration::from_secs(365 * 24 * 3600);
        let Some(last) = &keys.last else {
            let help = "diff = { last = \"1h\", allow = \"none\" }".to_owned();
            self.report(span, "it does not say how much is compared", Some(help));
            return None;
        };
        let last = self.bounded_duration(Some(last), "last", long, "1ms to 365d")?;
        let allow = match keys.allow.as_ref().map(|allow| (allow.get_ref().as_str(), allow.span())) {
            None | Some(("none", _)) => Allow::None,
            Some(("added", _)) => Allow::Added,
            Some(("all", _)) => Allow::All,
            Some((other, span)) => {
                let help = "write \"none\", \"added\" or \"all\"".to_owned();
                self.report(span, format!("unknown allow: {other:?}"), Some(help));
                return None;
            }
        };
        Some(Diff { last, allow })
    }
}
