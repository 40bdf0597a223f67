//! The OpenAPI description, made from the table of routes.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::auth::Need;
use crate::events::{CLOUD_EVENTS, JSON, STREAM};
use crate::problem::{self, Problem};
use crate::routes::{self, Route};

/// Makes a schema.
pub(crate) type Described = fn(&mut SchemaGenerator) -> Schema;

/// What a route takes and gives, besides what its path says.
#[derive(Default)]
pub(crate) struct Shape {
    pub(crate) query: Option<Described>,
    pub(crate) body: Option<Described>,
    pub(crate) answer: Option<Described>,
    /// The kinds of content that it takes, where these are not JSON alone; and those that it gives.
    pub(crate) takes: &'static [&'static str],
    pub(crate) gives: &'static [&'static str],
    /// The status of an answer, where it is not 200.
    pub(crate) status: Option<u16>,
}

/// A schema of a type.
pub(crate) fn of<T: JsonSchema>() -> Described {
    |generator| generator.subschema_for::<T>()
}

/// An event, as `as_json` writes it.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct Event {
    topic: String,
    partition: u32,
    offset: u64,
    /// Ms since the epoch.
    timestamp: i64,
    key: Option<sluice_node::text::Text>,
    value: sluice_node::text::Text,
    /// In their order; a name may be there twice.
    headers: Vec<Header>,
    origin: Option<Origin>,
}

#[derive(Serialize, JsonSchema)]
struct Header {
    name: String,
    value: sluice_node::text::Text,
}

/// What an event was made from.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct Origin {
    /// None, when it was deleted.
    topic: Option<String>,
    topic_id: u32,
    partition: u32,
    offset: u64,
    /// Counts what was made from the same event.
    ordinal: u32,
    /// It was made when a timer fired before that event.
    timer: bool,
}

/// A range of events.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Range {
    events: Vec<Event>,
    /// Where to read on.
    next: u64,
    /// The first offset that cannot be read yet.
    high_watermark: u64,
}

/// The description of everything that is served on the network.
pub(crate) fn description() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<Problem>();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes::all().iter().filter(|route| !route.is_local) {
        let methods = paths.entry(route.path).or_insert_with(|| json!({}));
        methods[route.method.as_str().to_lowercase()] = operation(route, &mut generator);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sluicegate",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A node: its topics, its pipelines, its tokens.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "responses": {
                "problem": {
                    "description": "What is wrong, and what to do about it (RFC 9457)",
                    "content": { problem::MEDIA_TYPE: { "schema": problem } },
                },
            },
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let Shape { query, body, answer, takes, gives, status } = &route.shape;
    let names = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = names
        .map(|name| {
            let schema = if name == "partition" {
                json!({ "type": "integer", "format": "uint32", "minimum": 0 })
            } else {
                json!({ "type": "string", "minLength": 1 })
            };
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        })
        .collect();
    if let Some(query) = query {
        parameters.extend(parameters_of(*query));
    }
    let content = |kinds: &[&str], schema: Option<Value>| -> Map<String, Value> {
        let kinds = if kinds.is_empty() { &[JSON][..] } else { kinds };
        let of = |kind: &str| match kind {
            JSON => json!({ "schema": schema.clone().unwrap_or(json!({})) }),
            CLOUD_EVENTS => json!({ "schema": { "type": "array" } }),
            STREAM => json!({ "schema": { "type": "string" } }),
            _ => json!({}),
        };
        kinds.iter().map(|kind| ((*kind).to_owned(), of(kind))).collect()
    };
    let answer = answer.map(|answer| answer(generator).into());
    let status = status.unwrap_or(200).to_string();
    let mut told = json!({
        "summary": route.about,
        "operationId": format!("{}{}", route.method.as_str().to_lowercase(), route.path.replace(['/', '{', '}'], "_")),
        "parameters": parameters,
        "responses": {
            status: { "description": "Done", "content": content(gives, answer) },
            "default": { "$ref": "#/components/responses/problem" },
        },
    });
    if let Some(body) = body {
        let schema = body(generator).into();
        told["requestBody"] = json!({ "required": true, "content": content(takes, Some(schema)) });
    }
    if route.need != Need::Nothing {
        let scope = route.need.told("{topic}");
        told["security"] = json!([{}, { "token": [] }]);
        told["description"] =
            json!(format!("Where tokens are asked for: the scope `{scope}`, or one that includes it."));
    }
    told
}

/// Each member of a query is a parameter of its own.
fn parameters_of(query: Described) -> Vec<Value> {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    let schema: Value = query(&mut settings.into_generator()).into();
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().collect();
    let members = schema["properties"].as_object().into_iter().flatten();
    members
        .map(|(name, schema)| {
            let mut schema = schema.clone();
            let about = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            // What is left out is not there; it cannot be null.
            if let Some(Value::Array(kinds)) = schema.get_mut("type") {
                kinds.retain(|kind| kind != "null");
            }
            let required = required.iter().any(|required| *required == name);
            json!({ "name": name, "in": "query", "required": required, "schema": schema, "description": about })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_with_schemas_that_are_there() {
        let told = description();
        let text = told.to_string();
        for reference in text.split("\"$ref\":\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            let found = told.pointer(reference.strip_prefix('#').unwrap());
            assert!(found.is_some(), "{reference} is not there");
        }
        for route in routes::all() {
            let described = &told["paths"][route.path][route.method.as_str().to_lowercase()];
            assert_eq!(described.is_object(), !route.is_local, "{} {}", route.method, route.path);
        }
    }
}
