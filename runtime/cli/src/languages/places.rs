//! Where the lines of a bundle of JavaScript come from: stacks name lines of the sources, not of the bundle.

use std::path::Path;

use sluice_node::definitions::tidy;

use crate::exit::Failure;

/// A source map, version 3 (ECMA-426), as far as it is used here.
#[derive(serde::Deserialize)]
struct SourceMap {
    sources: Vec<String>,
    mappings: String,
}

/// Adds to a bundle what the SDK reads when it tells of an error: the sources, and for each line of the bundle which source and line it begins with, or nothing.
pub(super) fn add(bundle: &Path, dir: &Path) -> Result<(), Failure> {
    let map = std::fs::read(bundle.with_extension("js.map"))?;
    let map: SourceMap = serde_json::from_slice(&map).map_err(|error| malformed(&error.to_string()))?;
    let lines = lines(&map.mappings).ok_or_else(|| malformed("its mappings"))?;
    let folder = bundle.parent().unwrap_or(dir);
    let sources: Vec<_> = map.sources.iter().map(|source| name(&folder.join(source), dir)).collect();
    let places = serde_json::json!({ "sources": sources, "lines": lines });
    let mut text = std::fs::read_to_string(bundle)?;
    text.push_str(&format!("globalThis.sluicePlaces = {places};\n"));
    std::fs::write(bundle, text)?;
    Ok(())
}

fn malformed(what: &str) -> Failure {
    Failure::failed(format!("esbuild's source map cannot be read: {what}"))
}

/// A file's name as seen from the plugin's folder, where it is in there.
fn name(file: &Path, dir: &Path) -> String {
    let plain = tidy(file);
    plain.strip_prefix(dir).unwrap_or(&plain).to_string_lossy().into_owned()
}

/// The first place of each line of a map: groups of lines are parted by `;`, segments by `,`, and each is of differences to the one before.
fn lines(mappings: &str) -> Option<Vec<Option<(i64, i64)>>> {
    let (mut source, mut line) = (0, 0);
    let mut places = Vec::new();
    for group in mappings.split(';') {
        let mut first = None;
        for segment in group.split(',').filter(|segment| !segment.is_empty()) {
            let numbers = numbers(segment)?;
            // One of a single number comes from nowhere.
            if let [_, sources, lines, ..] = numbers[..] {
                source += sources;
                line += lines;
                first = first.or(Some((source, line + 1)));
            }
        }
        places.push(first);
    }
    Some(places)
}

/// Numbers in base 64, five bits a digit, the lowest first; the sixth bit says that more come, the lowest of all the sign.
fn numbers(segment: &str) -> Option<Vec<i64>> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut numbers, mut number, mut shift) = (Vec::new(), 0, 0);
    for byte in segment.bytes() {
        let digit = i64::try_from(DIGITS.iter().position(|digit| *digit == byte)?).ok()?;
        number |= (digit & 31).checked_shl(shift).filter(|_| shift < 60)?;
        shift += 5;
        if digit & 32 == 0 {
            numbers.push(if number & 1 == 1 { -(number >> 1) } else { number >> 1 });
            (number, shift) = (0, 0);
        }
    }
    (shift == 0).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_map_are_found() {
        // Line 1 from nowhere, 2 from line 1 of the first source, 3 from line 18 of the second, then back to line 2 of the first.
        assert_eq!(numbers("ACiBA"), Some(vec![0, 1, 17, 0]));
        let found = lines(";AAAA,SAAS;ACiBA;ADhBA");
        assert_eq!(found, Some(vec![None, Some((0, 1)), Some((1, 18)), Some((0, 2))]));
        assert_eq!((lines("A*"), numbers("g"), numbers(&"g".repeat(40))), (None, None, None));
    }
}
