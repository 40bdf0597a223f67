//! Exit codes, and how a failure is told.

use std::process::ExitCode;

use sluice_api::Problem;
use sluice_config::Diagnostic;
use sluice_log::{Advice, Error};
use sluice_node::NodeError;

/// Why a verb ends with something else than 0.
#[derive(Debug)]
pub(crate) struct Failure {
    /// 1 failed, 2 wrong usage or a refused definition, 3 storage fault.
    code: u8,
    message: String,
    help: Option<String>,
    diagnostics: Vec<Diagnostic>,
}

impl Failure {
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into(), help: None, diagnostics: Vec::new() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, ..Self::failed(message) }
    }

    pub(crate) fn storage(message: impl Into<String>) -> Self {
        Self { code: 3, ..Self::failed(message) }
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    pub(crate) fn refused(diagnostics: Vec<Diagnostic>) -> Self {
        let count = diagnostics.len();
        let message = format!(
            "{count} {} in pipeline definitions; nothing was changed",
            if count == 1 { "problem" } else { "problems" }
        );
        Self { code: 2, message, help: None, diagnostics }
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn help_text(&self) -> Option<&str> {
        self.help.as_deref()
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }

    /// Tells it on stderr.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        use std::io::IsTerminal;
        if json {
            eprintln!("{}", self.to_json());
            return self.code();
        }
        let colour = std::io::stderr().is_terminal();
        for diagnostic in &self.diagnostics {
            eprintln!("{}\n", diagnostic.render(colour));
        }
        eprintln!("error: {}", self.message);
        if let Some(help) = &self.help {
            eprintln!("help: {help}");
        }
        self.code()
    }

    fn to_json(&self) -> serde_json::Value {
        let diagnostic = |d: &Diagnostic| {
            let (line, column) = d.position().unzip();
            serde_json::json!({
                "file": d.file, "line": line, "column": column, "message": d.message, "help": d.help,
            })
        };
        let diagnostics: Vec<_> = self.diagnostics.iter().map(diagnostic).collect();
        serde_json::json!({
            "error": self.message, "help": self.help, "exit-code": self.code, "diagnostics": diagnostics,
        })
    }
}

impl Failure {
    /// The same, where an exit code of 1 says something else.
    pub(crate) fn not_a_difference(self) -> Self {
        Self { code: if self.code == 1 { 3 } else { self.code }, ..self }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error.advice() {
            _ if error.is_storage_fault() => 3,
            Advice::Fix if !matches!(error, Error::InUse(_)) => 2,
            _ => 1,
        };
        let help = match &error {
            Error::InUse(_) => Some("stop the other process, or name another directory with --data".to_owned()),
            Error::Damaged { file, .. } if file.extension().is_some_and(|kind| kind == "segment") => {
                Some("nothing was changed; `sluice fsck` explains it; restore the file from a copy, or let `sluice fsck --repair` give up what is damaged".to_owned())
            }
            Error::Damaged { .. } => Some(
                "nothing was changed; this file tells what is true, and there is no repair for it: restore the directory from a copy"
                    .to_owned(),
            ),
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Some("check who owns the data directory, or name another one with --data".to_owned())
            }
            other => sluice_api::help(other),
        };
        Self { code, message: error.to_string(), help, diagnostics: Vec::new() }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let code = match () {
            () if problem.storage => 3,
            () if problem.is_usage() => 2,
            () => 1,
        };
        Self { code, message: problem.detail, help: problem.help, diagnostics: Vec::new() }
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Refused(diagnostics) => Self::refused(diagnostics),
            NodeError::Log(error) => error.into(),
            NodeError::Failed(reason) => Self::failed(reason),
            NodeError::Host(error) => Self::storage(error.to_string()),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded | ReadOnlyFilesystem | PermissionDenied => Self::storage(error.to_string()),
            _ => Self::failed(error.to_string()),
        }
    }
}
