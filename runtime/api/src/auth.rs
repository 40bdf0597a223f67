//! Who gets in from the network, and what they may do there.
//!
//! A listener [`identify`](gate::identify)s who calls; each route says what it [`Need`]s, and its [`gate`] lets those through who may. A
//! route that says nothing cannot be made.

pub(crate) mod gate;
pub(crate) mod operations;
mod scope;
mod tokens;

pub(crate) use gate::{Asks, Caller, Entrance, Gate};
pub(crate) use operations::Operations;
pub(crate) use scope::Need;
pub use scope::{Pattern, Scope};
pub use tokens::{MadeToken, NewToken, TokenInfo, Tokens};
