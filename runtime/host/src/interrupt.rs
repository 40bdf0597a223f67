//! Stopping a guest that does not come back.
//!
//! Wasmtime offers epochs: code that looks, at each loop and function, whether its time is up. That costs a third of the rate of guests that parse JSON. Here a guest reads, at the same
//! places, four bytes that it never uses: its *interrupt page*. To stop it, the page is taken away; the next read faults, and Wasmtime makes of it the trap that any
//! access out of bounds is. `checks` puts the reads into the code, `page` keeps the pages, `watch` takes them away when a call has taken too long.

pub(crate) mod checks;
pub(crate) mod page;
pub(crate) mod watch;

/// How guests are stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Interruption {
    /// By taking a page away.
    #[default]
    Page,
    /// By Wasmtime's epochs: slower, and without rewriting any code.
    Epochs,
    /// Not at all. No setting chooses it: it is there to measure what stopping costs.
    Never,
}

impl Interruption {
    /// The setting in the environment, `SLUICE_INTERRUPTION=page|epochs`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn chosen() -> Result<Self, String> {
        match std::env::var("SLUICE_INTERRUPTION") {
            Err(_) => Ok(Self::default()),
            Ok(name) => {
                Self::named(&name).ok_or_else(|| format!("SLUICE_INTERRUPTION is {name:?}, not page or epochs"))
            }
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Page, Self::Epochs].into_iter().find(|one| one.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Epochs => "epochs",
            Self::Never => "never",
        }
    }
}
