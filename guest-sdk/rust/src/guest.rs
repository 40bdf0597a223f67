//! The plugin's side of the contract, generated from `guest-sdk/wit`.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::atomic::AtomicU32;

use crate::{Config, Entry, Level, Result, Runner};

/// Generated.
#[allow(unsafe_code, missing_docs, clippy::pedantic, clippy::undocumented_unsafe_blocks, reason = "generated")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "versioned-batch-consumer",
        pub_export_macro: true,
        default_bindings_module: "sluice_sdk::guest::bindings",
    });
}

use bindings::exports::sluicegate::plugin::{batch, lifecycle, versioned_state};
use bindings::sluicegate::plugin::{log as host_log, progress};

/// Makes the consumer; implemented by `consumer!`.
pub trait Plugin: 'static {
    /// The version of what it keeps.
    const STATE_VERSION: u32;

    /// Makes the consumer from its configuration.
    ///
    /// # Errors
    /// What its `init` says.
    fn create(config: &Config) -> Result<Box<dyn Runner>>;
}

/// The component's exports for a plugin.
pub struct Exports<P>(PhantomData<P>);

/// The index of the event in hand; the host looks here after a trap.
static IN_HAND: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static RUNNER: RefCell<Option<Box<dyn Runner>>> = const { RefCell::new(None) };
}

impl<P: Plugin> lifecycle::Guest for Exports<P> {
    fn init(config: String) -> std::result::Result<(), String> {
        std::panic::set_hook(Box::new(|info| host_log::panicked(&info.to_string())));
        watch();
        let runner = P::create(&Config::from_json(config)).map_err(|failure| failure.reason)?;
        RUNNER.set(Some(runner));
        Ok(())
    }
}

/// Tells the host where the index of the event in hand is kept.
#[expect(unsafe_code, reason = "the host reads the cell as bytes, at a time when no guest code runs")]
fn watch() {
    // SAFETY: the four bytes are those of a static; they are only read here, to pass their address.
    let cell = unsafe { std::slice::from_raw_parts(IN_HAND.as_ptr().cast::<u8>(), 4) };
    progress::watch(cell);
}

impl<P: Plugin> batch::Guest for Exports<P> {
    fn process(header: Vec<u8>, events: Vec<u8>) -> Vec<u8> {
        RUNNER.with_borrow_mut(|runner| {
            let runner = runner.as_mut().expect("the host calls `init` first");
            let (header, events) = (header.into(), events.into());
            let outcome = runner.run(&header, &events, &IN_HAND);
            outcome.expect("the host gives well-formed batches")
        })
    }
}

impl<P: Plugin> versioned_state::Guest for Exports<P> {
    fn version() -> u32 {
        P::STATE_VERSION
    }

    fn migrate(
        from: u32,
        entries: Vec<versioned_state::Entry>,
    ) -> std::result::Result<Vec<versioned_state::Entry>, String> {
        let own =
            |entry: versioned_state::Entry| Entry { full_key: entry.key, value: entry.value, expires: entry.expires };
        let theirs =
            |entry: Entry| versioned_state::Entry { key: entry.full_key, value: entry.value, expires: entry.expires };
        let entries = entries.into_iter().map(own).collect();
        let migrated = RUNNER
            .with_borrow_mut(|runner| runner.as_mut().expect("the host calls `init` first").migrate(from, entries));
        Ok(migrated.map_err(|failure| failure.reason)?.into_iter().map(theirs).collect())
    }
}

/// Writes a line to the node's log.
pub(crate) fn log(level: Level, message: &str) {
    let level = match level {
        Level::Debug => host_log::Level::Debug,
        Level::Info => host_log::Level::Info,
        Level::Warn => host_log::Level::Warn,
        Level::Error => host_log::Level::Error,
    };
    host_log::write(level, message);
}
