//! Durations and sizes as people write them.

use std::time::Duration;

/// Reads `200ms`, `2s`, `5m`, `1h`, `7d`.
///
/// # Errors
/// What is wrong, and how it is written.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let millis = parse(text, &units).ok_or_else(|| {
        format!("not a duration: {text:?}; write a whole number and ms, s, m, h or d, such as \"200ms\" or \"2s\"")
    })?;
    Ok(Duration::from_millis(millis))
}

/// Reads `512KiB`, `64MiB`, `1GiB`, `4096B`.
///
/// # Errors
/// What is wrong, and how it is written.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("B", 1)];
    parse(text, &units)
        .ok_or_else(|| format!("not a size: {text:?}; write a whole number and B, KiB, MiB or GiB, such as \"64MiB\""))
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_others_refused() {
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("1 KiB"), Ok(1024));
        for bad in ["", "5", "ms", "-1s", "1.5s", "2 fortnights", "99999999999999999999s"] {
            assert!(parse_duration(bad).is_err() && parse_size(bad).is_err(), "{bad}");
        }
    }
}
