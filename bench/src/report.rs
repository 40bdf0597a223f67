//! What a run of the bench found: printed as tables, kept as JSON, compared with what an earlier run found.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::measure::Spread;

/// Everything that one run found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// Events of a job, and how often each side ran.
    pub(crate) events: u64,
    pub(crate) runs: usize,
    pub(crate) tables: Vec<Table>,
}

/// Where it was found, and with what.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Seconds since the epoch.
    pub(crate) at: u64,
    pub(crate) commit: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// Of the folder for temporary files, where all data is.
    pub(crate) file_system: String,
    pub(crate) rustc: String,
    pub(crate) wasmtime: String,
}

/// One table; its name is what it is compared by.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Row>,
    /// What is to be known beside it.
    #[serde(default)]
    pub(crate) notes: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) cells: Vec<Cell>,
}

/// A field of a table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Cell {
    Spread(Spread),
    Number(f64),
    Text(String),
}

impl From<Spread> for Cell {
    fn from(spread: Spread) -> Self {
        Self::Spread(spread)
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Cell {
    /// What it is compared by.
    fn number(&self) -> Option<f64> {
        match self {
            Self::Spread(spread) => Some(spread.median),
            Self::Number(number) => Some(*number),
            Self::Text(_) => None,
        }
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Spread(spread) => write!(f, "{spread}"),
            Self::Number(number) if number.fract() == 0.0 => write!(f, "{number}"),
            Self::Number(number) => write!(f, "{number:.2}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Table {
    pub(crate) fn new(name: &str, title: &str, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        Self { name: name.to_owned(), title: title.to_owned(), columns, rows: Vec::new(), notes: Vec::new() }
    }

    pub(crate) fn row(&mut self, name: impl Into<String>, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(Row { name: name.into(), cells: cells.into_iter().collect() });
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "| {} | {} |", self.title, self.columns.join(" | "))?;
        writeln!(f, "|---|{}", "---|".repeat(self.columns.len()))?;
        for row in &self.rows {
            let cells: Vec<_> = row.cells.iter().map(Cell::to_string).collect();
            writeln!(f, "| {} | {} |", row.name, cells.join(" | "))?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "\n{note}"))
    }
}

impl Machine {
    /// This one.
    pub(crate) fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let says = |program: &str, arguments: &[&str]| {
            let output = std::process::Command::new(program).args(arguments).output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let lock = read("Cargo.lock");
        let wasmtime = lock.split("name = \"wasmtime\"\nversion = \"").nth(1).and_then(|rest| rest.split('"').next());
        let temporary = std::env::temp_dir();
        Self {
            at: std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
            commit: says("git", &["describe", "--always", "--dirty"]),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 10,
            kernel: says("uname", &["-sr"]),
            file_system: says("stat", &["-f", "-c", "%T", &temporary.to_string_lossy()]),
            rustc: says("rustc", &["--version"]),
            wasmtime: wasmtime.unwrap_or_default().to_owned(),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { commit, processor, cores, memory_mib, kernel, file_system, rustc, wasmtime, .. } = self;
        write!(
            f,
            "{processor}, {cores} cores, {} GiB; {kernel}, {file_system}; {rustc}, wasmtime {wasmtime}; {commit}",
            memory_mib.div_ceil(1024)
        )
    }
}

impl Report {
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no report of this bench", file.display()))
    }

    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(file, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", file.display()))
    }

    pub(crate) fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// What both have found, side by side; `apart` stands where none of the runs of one was within those of the other.
    pub(crate) fn compare(&self, old: &Self) -> String {
        let mut out = format!("old: {}\nnew: {}\n\n", old.machine, self.machine);
        out += "| table | row | column | old | new | new / old | |\n|---|---|---|---|---|---|---|\n";
        for table in &self.tables {
            let Some(before) = old.table(&table.name) else { continue };
            for row in &table.rows {
                let Some(row_before) = before.rows.iter().find(|before| before.name == row.name) else { continue };
                for (column, cell) in table.columns.iter().zip(&row.cells) {
                    let place = before.columns.iter().position(|before| before == column);
                    let Some(cell_before) = place.and_then(|place| row_before.cells.get(place)) else { continue };
                    let (Some(new), Some(old)) = (cell.number(), cell_before.number()) else { continue };
                    let apart = match (cell, cell_before) {
                        (Cell::Spread(new), Cell::Spread(old)) if new.is_apart(old) => "apart",
                        _ => "",
                    };
                    let (name, ratio) = (&row.name, new / old);
                    let _ = writeln!(
                        out,
                        "| {} | {name} | {column} | {cell_before} | {cell} | {ratio:.2} | {apart} |",
                        table.name
                    );
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(rates: [f64; 3]) -> Report {
        let mut table = Table::new("jobs", "job", &["M/s", "asked"]);
        table.row("J1", [Spread::of(rates.to_vec()).into(), "at least 0.5".into()]);
        Report { machine: Machine::here(), events: 1, runs: 3, tables: vec![table] }
    }

    #[test]
    fn a_report_comes_back_from_its_file_and_is_compared_cell_by_cell() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/folder/report.json");
        report([1.0, 2.0, 3.0]).write(&file).unwrap();
        let old = Report::read(&file).unwrap();
        let told = report([2.0, 4.0, 5.0]).compare(&old);
        assert!(
            told.contains("| jobs | J1 | M/s | 1.00 / **2.00** / 3.00 | 2.00 / **4.00** / 5.00 | 2.00 |  |"),
            "{told}"
        );
        assert!(!told.contains("asked"), "{told}");
        let told = report([4.0, 5.0, 6.0]).compare(&old);
        assert!(told.contains("| 2.50 | apart |"), "{told}");
        std::fs::write(&file, "{}").unwrap();
        assert!(Report::read(&file).unwrap_err().to_string().contains("no report"));
    }
}
