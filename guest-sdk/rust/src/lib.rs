//! Write Sluicegate consumers in Rust.
//!
//! ```
//! use sluice_sdk::{Event, Outputs, Result, consumer};
//!
//! fn shout(event: &Event, out: &mut Outputs) -> Result {
//!     out.send(event.key(), event.text()?.to_uppercase())
//! }
//!
//! consumer!(shout);
//! ```
//!
//! A consumer with configuration is a type that implements [`Consumer`]; `consumer!(type MyType)` exports it. An `Err` is a
//! failure of that one event: its outputs are undone, the other events go on. See [`Failure`] for the two kinds.
//!
//! Consumers are tested like any other Rust code, natively: see [`testing`].

mod consumer;
mod entry;
mod event;
mod failure;
mod json;
mod log;
mod numbers;
mod outputs;
mod runner;
mod state;
pub mod testing;
mod timer;
pub mod window;

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod guest;

pub use consumer::{Config, Consumer};
pub use entry::Entry;
pub use event::Event;
pub use failure::{Failure, Result};
pub use log::{Level, log};
pub use outputs::{Json, Key, Output, Outputs, Value, json};
#[doc(hidden)]
pub use runner::{Runner, Shared, consumer_runner, runner};
pub use state::{State, Wanted};
pub use timer::{Timer, Timers};

/// Exports a consumer: a function `fn(&Event, &mut Outputs) -> Result`, or a type that implements [`Consumer`].
///
/// `consumer!(shout)` takes a function, `consumer!(type Shout)` a type. Use it once, in the crate that becomes the plugin.
#[macro_export]
macro_rules! consumer {
    (type $consumer:ty) => {
        $crate::consumer!(@export <$consumer as $crate::Consumer>::STATE_VERSION, |config: &$crate::Config| {
            $crate::consumer_runner(|| <$consumer as $crate::Consumer>::init(config))
        });
    };
    ($function:ident) => {
        $crate::consumer!(@export 0, |config: &$crate::Config| {
            config.must_be_empty()?;
            Ok($crate::runner($function))
        });
    };
    (@export $version:expr, $create:expr) => {
        // Natively only the types are checked: tests call the consumer itself.
        #[cfg(not(target_family = "wasm"))]
        const _: fn(&$crate::Config) -> $crate::Result<Box<dyn $crate::Runner>> = $create;
        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Plugin;
            impl $crate::guest::Plugin for Plugin {
                const STATE_VERSION: u32 = $version;

                fn create(config: &$crate::Config) -> $crate::Result<Box<dyn $crate::Runner>> {
                    ($create)(config)
                }
            }
            type Exports = $crate::guest::Exports<Plugin>;
            $crate::guest::bindings::export!(Exports with_types_in $crate::guest::bindings);
        };
    };
}
