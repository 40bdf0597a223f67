//! Bars with their range, as SVG: for a README.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::measure::Spread;
use crate::report::{Cell, Report, Table};

/// What is drawn: a table, the columns of it, and what stands above.
const PLOTS: [(&str, &[&str], &str); 6] = [
    (
        "jobs",
        &["native loop", "loop by hand", "log and engine, native consumer", "log, engine, sandbox"],
        "Million events a second of processor time",
    ),
    ("partitions", &["M/s by the clock"], "Million events a second by the clock"),
    ("calls", &["M/s per core"], "Million events a second of processor time"),
    ("latency", &["99 % within"], "Milliseconds, 99 % within"),
    ("long", &["M/s per core"], "Million events a second of processor time"),
    ("peers", &["processor s for a million events"], "Processor seconds for a million events"),
];

const WIDTH: f64 = 760.0;
const LABEL: f64 = 330.0;
const BAR: f64 = 16.0;
const COLOURS: [&str; 4] = ["#8a8f98", "#b9a88f", "#5b8def", "#e0803a"];

/// Draws what a report has of these into files of a folder.
pub(crate) fn draw(report: &Report, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for (name, columns, title) in PLOTS {
        if let Some(table) = report.table(name) {
            let file = folder.join(format!("{name}.svg"));
            std::fs::write(&file, svg(table, columns, title, &report.machine.to_string()))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(())
}

/// A text in SVG.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Columns that a table does not have, as that of an earlier report, are left out.
fn svg(table: &Table, columns: &[&str], title: &str, machine: &str) -> String {
    let place = |name: &&str| table.columns.iter().position(|column| column == name);
    let columns: Vec<usize> = columns.iter().filter_map(place).collect();
    let spreads = |cells: &[Cell]| -> Vec<Option<Spread>> {
        let spread = |cell: Option<&Cell>| match cell {
            Some(Cell::Spread(spread)) => Some(*spread),
            Some(Cell::Number(number)) => Some(Spread { min: *number, median: *number, max: *number }),
            _ => None,
        };
        columns.iter().map(|column| spread(cells.get(*column))).collect()
    };
    let rows: Vec<_> = table.rows.iter().map(|row| (&row.name, spreads(&row.cells))).collect();
    let most =
        rows.iter().flat_map(|(_, spreads)| spreads.iter().flatten()).map(|spread| spread.max).fold(0.0, f64::max);
    let scale = (WIDTH - LABEL - 70.0) / if most > 0.0 { most } else { 1.0 };
    let group = BAR * columns.len() as f64 + 10.0;
    let legend = if columns.len() > 1 { 22.0 } else { 0.0 };
    let height = 44.0 + legend + group * rows.len() as f64 + 24.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{}</text>\n<text x=\"10\" y=\"36\" fill=\"#555\">{}</text>\n",
        escaped(title),
        escaped(&table.title)
    );
    if columns.len() > 1 {
        for (place, column) in columns.iter().enumerate() {
            let x = 10.0 + (WIDTH - 20.0) / columns.len() as f64 * place as f64;
            let (colour, name) = (COLOURS[place % COLOURS.len()], escaped(&table.columns[*column]));
            let _ = writeln!(
                out,
                "<rect x=\"{x}\" y=\"46\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"56\">{name}</text>",
                x + 18.0
            );
        }
    }
    for (number, (name, spreads)) in rows.iter().enumerate() {
        let top = 46.0 + legend + group * number as f64;
        let middle = top + BAR * columns.len() as f64 / 2.0 + 4.0;
        let name: String =
            if name.chars().count() > 54 { name.chars().take(53).chain(['…']).collect() } else { (*name).clone() };
        let _ =
            writeln!(out, "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>", LABEL - 8.0, escaped(&name));
        for (place, spread) in spreads.iter().enumerate() {
            let Some(spread) = spread else { continue };
            let y = top + BAR * place as f64;
            let (colour, end, middle) =
                (COLOURS[place % COLOURS.len()], LABEL + spread.median * scale, y + BAR / 2.0 - 1.0);
            let (from, to) = (LABEL + spread.min * scale, LABEL + spread.max * scale);
            let _ = writeln!(
                out,
                "<rect x=\"{LABEL}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/><line x1=\"{from:.1}\" y1=\"{middle}\" x2=\"{to:.1}\" y2=\"{middle}\" stroke=\"black\"/><text x=\"{:.1}\" y=\"{}\">{:.2}</text>",
                end - LABEL,
                BAR - 3.0,
                to.max(end) + 6.0,
                y + BAR - 4.0,
                spread.median
            );
        }
    }
    let _ = writeln!(
        out,
        "<text x=\"10\" y=\"{}\" fill=\"#555\" font-size=\"10\">{}; bars: median of the runs, lines: least to most</text>\n</svg>",
        height - 8.0,
        escaped(machine)
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Machine;

    #[test]
    fn bars_are_as_long_as_their_medians_and_odd_names_do_no_harm() {
        let mut table = Table::new("jobs", "M/s", &["loop by hand", "other", "native loop", "log, engine, <sandbox>"]);
        let spread = |rates: [f64; 3]| Cell::from(Spread::of(rates.to_vec()));
        table.row("J1 <&>", [spread([1.0, 2.0, 4.0]), spread([9.0; 3]), spread([0.5, 1.0, 1.5]), "–".into()]);
        let report = Report { machine: Machine::here(), events: 1, runs: 3, tables: vec![table] };
        let dir = tempfile::tempdir().unwrap();
        draw(&report, dir.path()).unwrap();
        let drawn = std::fs::read_to_string(dir.path().join("jobs.svg")).unwrap();
        assert!(
            drawn.contains("J1 &lt;&amp;&gt;") && !drawn.contains("sandbox") && !drawn.contains("other"),
            "{drawn}"
        );
        let widths: Vec<f64> = drawn
            .split("y=\"")
            .filter_map(|part| part.split_once("width=\"")?.1.split('"').next()?.parse().ok())
            .collect();
        let scale = (WIDTH - LABEL - 70.0) / 4.0;
        for width in [2.0 * scale, scale] {
            assert!(widths.iter().any(|found| (found - width).abs() < 0.1), "{widths:?}");
        }
        assert!(!dir.path().join("peers.svg").exists());
    }
}
