//! Code with limits and configuration: what instances are made from.

use std::sync::{Arc, Mutex};

use sluice_engine::{CallError, Consumer, Plugin};
use sluice_state::StageState;
use wasmtime::component::InstancePre;

use crate::code::{Code, Error};
use crate::contract::World;
use crate::host::Host;
use crate::instance::{Data, Instance, LogBudget};
use crate::limits::Limits;

/// A stage of a pipeline: the engine makes its instances from it.
pub struct Stage {
    host: Arc<Host>,
    code: InstancePre<Data>,
    name: Arc<str>,
    log_budget: Arc<Mutex<LogBudget>>,
    limits: Limits,
    config: String,
    world: World,
    _used: Arc<()>,
}

impl Stage {
    /// Code for a stage of this name, with these capabilities; `config` is JSON, `{}` when there is none.
    ///
    /// # Errors
    /// When it imports what it is not granted.
    pub fn new(
        host: &Arc<Host>,
        code: &Code,
        name: &str,
        limits: Limits,
        config: String,
        capabilities: &[&str],
    ) -> Result<Self, Error> {
        code.surface.check_granted(capabilities)?;
        let Code { linked, world, used, .. } = code.clone();
        let (host, log_budget) = (host.clone(), Arc::default());
        Ok(Self { host, code: linked, name: name.into(), log_budget, limits, config, world, _used: used })
    }
}

impl Plugin for Stage {
    fn instantiate(&self, state: Option<StageState>) -> Result<Box<dyn Consumer>, CallError> {
        let Self { host, code, name, log_budget, limits, config, .. } = self;
        Ok(Box::new(Instance::new(host, code, name, log_budget, *limits, config, state)?))
    }

    fn takes_timers_between(&self) -> bool {
        // Those of typed records know no way to stop early: they get one thing or the other.
        self.world == World::BatchConsumer
    }
}
