//! What is wrong with a definition, where, and what helps.

use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, as the user named it.
    pub file: PathBuf,
    /// The file's text.
    pub source: String,
    /// Bytes of the text that it is about; `None` for the file as a whole.
    pub span: Option<Range<usize>>,
    /// What is wrong: lower case, no full stop, values last.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// About a file as a whole.
    pub fn of_file(file: &Path, message: impl Into<String>, help: Option<String>) -> Self {
        Self { file: file.to_owned(), source: String::new(), span: None, message: message.into(), help }
    }

    /// What the TOML reader says.
    pub fn of_toml(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let message = error.message().trim().to_owned();
        let help = suggestion(&message);
        let message = message.split(", expected").next().unwrap_or_default().to_owned();
        let span = error.span().unwrap_or(0..0);
        // A missing key has no place of its own: the table it is missing from may be the whole file.
        let span = if span.len() > 200 { span.start..span.start + 1 } else { span };
        Self { file: file.to_owned(), source: text.to_owned(), span: Some(span), message, help }
    }

    /// Line and column, counted from 1.
    pub fn position(&self) -> Option<(usize, usize)> {
        let start = self.span.as_ref()?.start.min(self.source.len());
        let before = self.source.get(..start)?;
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |text| text.chars().count()) + 1;
        Some((line, column))
    }

    /// For a person: message, file, line, caret, help.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let path = self.file.display().to_string();
        let title = Level::ERROR.primary_title(self.message.as_str());
        let mut group = match &self.span {
            Some(span) => {
                let end = span.end.min(self.source.len());
                let annotation = AnnotationKind::Primary.span(span.start.min(end)..end);
                title.element(Snippet::source(self.source.as_str()).path(path.as_str()).annotation(annotation))
            }
            None => title.element(Origin::path(path.as_str())),
        };
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }
}

/// What toml says it expected, as help; with the nearest name first when something was misspelt.
fn suggestion(message: &str) -> Option<String> {
    let (what, expected) = message.split_once(", expected")?;
    let names: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let wrong = what.split('`').nth(1).unwrap_or_default();
    let nearest = names.iter().min_by_key(|name| strsim::damerau_levenshtein(wrong, name));
    match nearest {
        Some(name) if strsim::damerau_levenshtein(wrong, name) <= 1 + name.len() / 4 => {
            Some(format!("did you mean `{name}`?"))
        }
        _ if what.starts_with("unknown field") => Some(format!("known keys: {}", names.join(", "))),
        _ => Some(format!("expected{expected}")),
    }
}
