//! The verbs, a file each.

pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod checkpoint;
pub(crate) mod consume;
pub(crate) mod dead;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod fsck;
pub(crate) mod pipeline;
pub(crate) mod plugin;
pub(crate) mod plugin_run;
pub(crate) mod produce;
pub(crate) mod replay;
pub(crate) mod rewind;
pub(crate) mod run;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod test;
pub(crate) mod token;
pub(crate) mod topic;
