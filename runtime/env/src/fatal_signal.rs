//! Leaves a word in a file when the process dies of a fault in this thread: which signal it was.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::IntoRawFd;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};

use libc::{SA_NODEFER, SA_ONSTACK, SA_SIGINFO, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV};

/// The signals that a fault in native code ends a process with.
const SIGNALS: [i32; 5] = [SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT];

static FILE: AtomicI32 = AtomicI32::new(-1);

thread_local! {
    /// Where in the file this thread's word goes; negative for nowhere.
    static PLACE: Cell<i64> = const { Cell::new(-1) };
}

/// Sets the handlers, once in a process. **To be called before the first of wasmtime's engines is made**: its own handlers take the traps of
/// guests, and pass on to these what is something else. The other way round a guest's trap would be the end.
///
/// # Errors
/// When a handler cannot be set.
pub fn handle_fatal_signals() -> std::io::Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| result = SIGNALS.into_iter().try_for_each(set_handler));
    result
}

/// Has the number of a fatal signal written to `file`, as a little-endian u32, at the place that the dying thread has set with
/// [`set_place`].
///
/// # Errors
/// When the file cannot be kept open.
pub fn note_fatal_signals(file: &File) -> std::io::Result<()> {
    // Kept open for ever: the handler may come at any time.
    let before = FILE.swap(file.try_clone()?.into_raw_fd(), Ordering::SeqCst);
    close(before);
    Ok(())
}

/// Where in the file this thread's word goes.
pub fn set_place(place: u64) {
    PLACE.set(place.cast_signed());
}

#[expect(unsafe_code, reason = "closes a file that was kept open for signal handlers")]
fn close(file: i32) {
    if file >= 0 {
        // SAFETY: the number came from `into_raw_fd`, and nobody else has it.
        unsafe { libc::close(file) };
    }
}

#[expect(unsafe_code, reason = "the one place that sets signal handlers")]
fn set_handler(signal: i32) -> std::io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid one, and the pointers are to live values of the right types.
    let set = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        // On a stack of its own, for the fault may be that the usual one is full.
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        libc::sigaction(signal, &raw const action, ptr::null_mut())
    };
    if set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Writes the word, then lets the signal do what it does by default. Only what is safe in a signal handler is called.
#[expect(unsafe_code, reason = "a signal handler")]
extern "C" fn handle(signal: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // A thread-local without a destructor and with a constant initial value: reading it neither allocates nor locks.
    let place = PLACE.get();
    let word = signal.to_le_bytes();
    // SAFETY: `pwrite`, `sigaction` and `raise` are safe to call in a signal handler; the buffer and the action live on the stack.
    unsafe {
        if place >= 0 {
            libc::pwrite(FILE.load(Ordering::SeqCst), word.as_ptr().cast(), word.len(), place);
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, &raw const action, ptr::null_mut());
        libc::raise(signal);
    }
}
