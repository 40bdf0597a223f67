//! Why an event could not be dealt with.

use sluice_event::FailureKind;

/// What handlers return.
pub type Result<T = ()> = std::result::Result<T, Failure>;

/// Why an event could not be dealt with. Any error becomes a permanent failure through `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) reason: String,
}

impl Failure {
    /// This event will never go through.
    pub fn permanent(reason: impl Into<String>) -> Self {
        Self { kind: FailureKind::Permanent, reason: reason.into() }
    }

    /// Trying again may help. The events behind it wait.
    pub fn transient(reason: impl Into<String>) -> Self {
        Self { kind: FailureKind::Transient, reason: reason.into() }
    }

    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        self.kind == FailureKind::Transient
    }

    /// What went wrong.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

// `Failure` is no `std::error::Error` itself, so that every error can become one.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::permanent(error.to_string())
    }
}
