//! A stage's configuration: from TOML to JSON.

/// Whether there is a number in it that JSON has no word for.
pub(crate) fn is_not_finite(value: &toml::Value) -> bool {
    match value {
        toml::Value::Float(number) => !number.is_finite(),
        toml::Value::Array(values) => values.iter().any(is_not_finite),
        toml::Value::Table(table) => table.values().any(is_not_finite),
        _ => false,
    }
}

/// A table of TOML as JSON.
pub(crate) fn json_of_table(table: toml::Table) -> serde_json::Value {
    serde_json::Value::Object(table.into_iter().map(|(key, value)| (key, json(value))).collect())
}

/// A value of TOML as JSON; times become strings.
pub fn json(value: toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => values.into_iter().map(json).collect::<Vec<_>>().into(),
        toml::Value::Table(table) => json_of_table(table),
    }
}
