//! How things are written for people and programs.

use std::fmt::Write;

pub(crate) use sluice_api::as_json::{bytes, event, headers};

use crate::args::Global;
use crate::exit::Failure;

/// Writes to stdout. Whoever reads it may have had enough: that ends the program, and is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result?),
    }
}

/// A value as a line of JSON, or the text for people.
pub(crate) fn answer(
    global: &Global,
    value: &impl serde::Serialize,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    if !global.json {
        return print(&text());
    }
    let line = serde_json::to_string(value).map_err(|error| Failure::failed(error.to_string()))?;
    print(&(line + "\n"))
}

/// A time of so many ms since the epoch, for people.
pub(crate) fn time(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis).map_or_else(|_| millis.to_string(), |time| format!("{time:.0}"))
}

/// A size as people read it.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) if bytes.is_multiple_of(*unit) => format!("{} {name}", bytes / unit),
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

/// A duration as people read it: in the largest unit that it is a whole number of.
pub(crate) fn duration(millis: u64) -> String {
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let unit = units.iter().find(|(_, unit)| millis >= *unit && millis.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{millis}ms"), |(name, unit)| format!("{}{name}", millis / unit))
}

/// How many a second, as people read it.
pub(crate) fn rate(a_second: f64) -> String {
    if a_second < 100.0 { format!("{a_second:.1}") } else { format!("{a_second:.0}") }
}

/// How long something is, roughly, in the unit that tells most.
pub(crate) fn span(millis: i64) -> String {
    let seconds = millis as f64 / 1000.0;
    match millis {
        ..1000 => format!("{millis}ms"),
        1000..120_000 => format!("{seconds:.1}s"),
        120_000..7_200_000 => format!("{:.0}m", seconds / 60.0),
        7_200_000..172_800_000 => format!("{:.1}h", seconds / 3600.0),
        _ => format!("{:.0}d", seconds / 86_400.0),
    }
}

/// Rows in columns, numbers to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let numeric: Vec<_> = (0..head.len()).map(|c| rows.iter().all(|row| row[c].parse::<f64>().is_ok())).collect();
    let mut out = String::new();
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ = if numeric[column] { write!(line, "{cell:>width$}  ") } else { write!(line, "{cell:<width$}  ") };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
