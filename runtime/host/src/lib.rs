//! The plugin host: loads, checks, limits and calls WebAssembly components.
//!
//! Compiling happens in a process of its own ([`Compiler`]). [`Host`] holds the engine; [`Host::load`] turns bytes into [`Code`], or into an error that its author can act on;
//! [`Stage`] is code with limits and configuration, from which the engine makes instances. Guests are hostile until proven
//! otherwise: everything is denied but what the contract allows, and nothing a guest returns is believed.

mod cache;
mod code;
mod compile;
mod componentize;
mod contract;
mod host;
mod instance;
mod interrupt;
mod limits;
mod stage;
mod state;
mod typed;
mod wasi;

#[cfg(test)]
mod tests;

pub use code::{Code, Digest, Error};
pub use compile::{Compiler, compile_if_asked};
pub use contract::World;
pub use host::Host;
pub use interrupt::Interruption;
pub use limits::Limits;
pub use stage::Stage;
