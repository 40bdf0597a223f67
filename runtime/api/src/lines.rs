//! Keys and timestamps of events whose values are JSON.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::Value;

/// Where a line's key and timestamp come from.
#[derive(Debug, Clone, Copy, Default)]
pub struct LineFormat<'a> {
    /// The field that holds the key.
    pub key: Option<&'a str>,
    /// The field that holds the timestamp.
    pub timestamp: Option<&'a str>,
    /// How that is written, as strptime has it; milliseconds or RFC 3339 without.
    pub timestamp_format: Option<&'a str>,
}

/// What a line says besides its value.
#[derive(Debug, PartialEq, Eq)]
pub struct LineParts {
    /// The event's key.
    pub key: Option<Vec<u8>>,
    /// Its time, ms since the epoch.
    pub timestamp: Option<i64>,
}

impl LineFormat<'_> {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&self, line: &[u8]) -> Result<LineParts, String> {
        if self.key.is_none() && self.timestamp.is_none() {
            return Ok(LineParts { key: None, timestamp: None });
        }
        let value: Value = serde_json::from_slice(line).map_err(|error| format!("not JSON: {error}"))?;
        let field = |name: &str| value.get(name).filter(|field| !field.is_null());
        let key = self.key.and_then(field).map(|field| match field {
            Value::String(text) => text.clone().into_bytes(),
            other => other.to_string().into_bytes(),
        });
        let timestamp = match self.timestamp {
            None => None,
            Some(name) => {
                let field = field(name).ok_or_else(|| format!("no field {name:?}, which is to hold the timestamp"))?;
                Some(self.timestamp(field)?)
            }
        };
        Ok(LineParts { key, timestamp })
    }

    fn timestamp(&self, field: &Value) -> Result<i64, String> {
        match (field, self.timestamp_format) {
            (Value::Number(number), None) => number.as_i64().ok_or_else(|| format!("not a timestamp: {number}")),
            (Value::String(text), None) => {
                let parsed: Result<Timestamp, _> = text.parse();
                let help = "write RFC 3339, or say how with the timestamp format";
                parsed.map(Timestamp::as_millisecond).map_err(|_| format!("not a timestamp: {text:?}; {help}"))
            }
            (Value::String(text), Some(format)) => {
                let time = DateTime::strptime(format, text).and_then(|time| time.to_zoned(TimeZone::UTC));
                time.map(|time| time.timestamp().as_millisecond())
                    .map_err(|error| format!("not a timestamp of the format {format:?}: {text:?}: {error}"))
            }
            (other, _) => Err(format!("not a timestamp: {other}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_timestamps_come_from_fields() {
        let format =
            LineFormat { key: Some("origin"), timestamp: Some("date"), timestamp_format: Some("%Y/%m/%d %H:%M") };
        let line = br#"{"date":"2001/01/01 00:47","origin":"DTW"}"#;
        let parts = LineParts { key: Some(b"DTW".to_vec()), timestamp: Some(978_310_020_000) };
        assert_eq!(format.read(line), Ok(parts));
        assert!(format.read(b"oops").unwrap_err().starts_with("not JSON"));
        assert!(format.read(br#"{"origin":"DTW"}"#).unwrap_err().contains("\"date\""));
    }

    #[test]
    fn timestamps_are_numbers_or_rfc_3339_without_a_format() {
        let format = LineFormat { key: None, timestamp: Some("at"), timestamp_format: None };
        assert_eq!(format.read(br#"{"at":5}"#).unwrap().timestamp, Some(5));
        assert_eq!(format.read(br#"{"at":"1970-01-01T00:00:01Z"}"#).unwrap().timestamp, Some(1000));
        assert!(format.read(br#"{"at":"yesterday"}"#).unwrap_err().contains("RFC 3339"));
    }
}
