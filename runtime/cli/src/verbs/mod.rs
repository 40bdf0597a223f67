//! The verbs, a file each.

pub(crate) mod check;
pub(crate) mod consume;
pub(crate) mod plugin;
pub(crate) mod produce;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod topic;
