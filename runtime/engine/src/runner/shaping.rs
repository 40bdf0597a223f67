//! A lane whose state is in an older shape than its stages want: first of all that is brought over, part by part, each in a commit of its own.

use sluice_event::Batch;

use super::{LaneRunner, Step};
use crate::delivery::Counts;
use crate::keyed::Keyed;
use crate::lane::{HaltKind, Next};
use crate::port::CallErrorKind;
use crate::probation::Verdict;

impl LaneRunner {
    /// Brings the next part of the state into the shape that the stages want, before anything else is done with it. `None` when there is nothing to do about it.
    pub(super) fn shape(&mut self, next: &Next, draining: bool) -> Option<Step> {
        let from = match next {
            // Also without any event it is to be what people ask for.
            Next::Idle if !draining => self.lane.planned(),
            Next::Call { from, .. } if !draining || *from < self.claims.claimed() => *from,
            _ => return None,
        };
        let keyed = self.keyed.as_ref().filter(|_| !self.shaped)?;
        if keyed.failure().is_some() {
            return None;
        }
        if keyed.must_wait() {
            return Some(Step::Waiting);
        }
        let fired_outputs = Keyed::fired_outputs(keyed);
        match self.chain.migrate(from) {
            Ok(None) => {
                self.shaped = true;
                return None;
            }
            Ok(Some(changes)) => {
                self.commit_changes((from, from), Counts::default(), Batch::default(), (changes, fired_outputs, true));
            }
            Err(error) => {
                self.chain.drop_instances();
                self.state.work.failed(error.error.kind);
                match &self.trial {
                    Some(trial) if error.error.kind != CallErrorKind::State => {
                        trial.probation.end(Verdict::Failed(format!("the state cannot be brought over: {error}")));
                    }
                    _ => self.lane.halt_at(from, HaltKind::Other, error.to_string()),
                }
            }
        }
        Some(Step::Worked)
    }
}
