//! The seams to the outside world: [`Disk`], [`Clock`], [`Rng`].
//!
//! Everything else in the runtime reaches files, time and randomness through these, so that a test can put a simulated
//! world in their place: [`SimDisk`] tears writes, loses what was not synced, fails syncs, runs out of space and hands out
//! the disk that a crash would leave; [`ManualClock`] stands still until it is moved.
// This crate is where the standard library's raw calls, banned elsewhere by clippy.toml, belong.
#![allow(clippy::disallowed_methods)]

mod clock;
mod disk;
mod fatal_signal;
mod real_disk;
mod rng;
mod sim_disk;
mod whole_file;

pub use clock::{Clock, ManualClock, SystemClock};
pub use disk::{Disk, File, Open, Wait, Work};
pub use fatal_signal::{handle_fatal_signals, note_fatal_signals, set_place};
pub use real_disk::RealDisk;
pub use rng::Rng;
pub use sim_disk::{Crash, SimDisk};
pub use whole_file::write_whole;

/// Starts a thread with a name that shows in tools and panics.
///
/// # Errors
/// When the operating system has no more threads to give.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}
