//! State that a stage keeps in another shape than its consumer reads.
//!
//! Values of each version have a space of their own, so that no consumer ever sees those of another version. A newer one brings them over, some at a time:
//! each part is taken out of the old space and put into the new one in one commit, which leaves nothing to remember but what is left.

use sluice_state::{Entries, Layer, full_key, prefix_of, space_of};

use super::{Chain, StageError};
use crate::keyed;
use crate::port::{CallError, CallErrorKind};

/// What one part has, at most.
const MOST_ENTRIES: usize = if cfg!(test) { 2 } else { 10_000 };
const MOST_BYTES: usize = 1 << 20;

impl Chain {
    /// Has the next values of an older version brought into the shape of their stage's consumer: what that changes of the state. `None` when all is in the shape
    /// that it should have. `from` is the next event.
    pub(crate) fn migrate(&mut self, from: u64) -> Result<Option<Layer>, StageError> {
        if self.state.is_none() {
            return Ok(None);
        }
        self.forget_call();
        self.guarded((from, 0), |chain| {
            for at in 0..chain.stages.len() {
                let part = chain.migrate_stage(at).map_err(|error| chain.error_of(at, error))?;
                if part.is_some() {
                    return Ok(part);
                }
            }
            Ok(None)
        })
    }

    fn migrate_stage(&mut self, at: usize) -> Result<Option<Layer>, CallError> {
        let cannot = |error: sluice_state::Error| CallError::new(CallErrorKind::State, error.to_string());
        let stage = &mut self.stages[at];
        let grant = stage.config.state.filter(|grant| grant.values);
        let Some((state, grant)) = self.state.as_ref().zip(grant) else { return Ok(None) };
        let mut consumer = stage.take_consumer(Some(state))?;
        let own = consumer.state_version();
        let kept = state.stage(&stage.config.name);
        let scan = |version: u32, after: Option<&[u8]>| {
            let found = kept.of_version(version).scan(&[], after, MOST_ENTRIES, MOST_BYTES);
            found.map(|(entries, _)| entries).map_err(cannot)
        };
        // What was taken out lies in the way: it is passed over.
        let (mut next, after) = (Entries::new(), stage.migrated.take());
        if let Some((older, after)) = &after {
            next = scan(*older, Some(after))?;
        }
        let older = match after.filter(|_| !next.is_empty()) {
            Some((older, _)) => older,
            None => {
                let versions = state.lock().versions(&stage.config.name).map_err(cannot)?;
                let Some(older) = Self::older_of(&versions, own)? else {
                    stage.consumer = Some(consumer);
                    return Ok(None);
                };
                next = scan(older, None)?;
                older
            }
        };
        if stage.config.state_version.is_none() {
            let what = format!("its state is of version {older}, and the plugin's of version {own}");
            let help = "no checkpoint was made of it yet: start the node again";
            return Err(CallError::new(CallErrorKind::State, format!("{what}; {help}")));
        }
        let migrated = consumer.migrate(older, &next)?;
        let mut layer = Layer::default();
        let before = prefix_of(&space_of(&stage.config.name, older));
        next.iter().for_each(|(key, _)| layer.push(&[], &full_key(&before, key), None, None));
        for (key, slot) in &migrated {
            keyed::check_entry(key, slot.value.as_deref())?;
            layer.push(&stage.prefix, key, slot.value.as_deref(), slot.expires);
        }
        keyed::check_size(state, &[&stage.space], grant, &layer)?;
        // Only an instance that behaved is used again.
        stage.consumer = Some(consumer);
        stage.migrated = next.pop().map(|(key, _)| (older, key));
        Ok(Some(layer))
    }

    /// The oldest of these versions, if it is older than a plugin's own.
    fn older_of(versions: &[u32], own: u32) -> Result<Option<u32>, CallError> {
        if let Some(newer) = versions.iter().find(|version| **version > own) {
            let what = format!("its state is of version {newer}, and the plugin's of version {own}");
            let help =
                "an older plugin never touches newer state: `sluice plugin rollback` takes the state back with it";
            return Err(CallError::new(CallErrorKind::State, format!("{what}; {help}")));
        }
        Ok(versions.first().copied().filter(|version| *version < own))
    }
}
