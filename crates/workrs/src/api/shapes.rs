//! The shapes of what a submit takes, for the OpenAPI document: which texts and numbers [`SubmitRequest`] accepts, in the
//! words of JSON Schema. Where more is understood than a pattern says, as with sizes, the pattern is a part that always works.
//!
//! [`SubmitRequest`]: super::SubmitRequest

use serde_json::{Map, Value, json};

/// Ids and names of nodes and owners.
pub(super) const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";
/// Sizes: from 8 MiB to below 16 TiB.
const SIZE: &str = "^([1-9][0-9]{7,12}|[1-9][0-9]{4,9}K|([89]|[1-9][0-9]{1,6})M|[1-9][0-9]{0,3}(\\.[0-9]{1,3})?G|([1-9]|1[0-5])(\\.[0-9]{1,3})?T)$";
/// Times that are not zero, such as `90s` or `1h 30m`; a number alone means seconds.
pub(super) const TIME: &str =
    "^([1-9][0-9]{0,6}|([1-9][0-9]{0,6}(ms|s|m)|[1-9][0-9]{0,4}h|[1-9][0-9]{0,3}d)( [1-9][0-9]{0,3}(ms|s|m))?)$";
/// The same, or zero.
pub(super) const WAIT: &str =
    "^(0|[1-9][0-9]{0,6}|([1-9][0-9]{0,6}(ms|s|m)|[1-9][0-9]{0,4}h|[1-9][0-9]{0,3}d)( [1-9][0-9]{0,3}(ms|s|m))?)$";
/// Names of images as Docker takes them, if they are not too long, and digests. A first part with a dot or a port is a
/// registry.
pub(super) const IMAGE: &str = "^(sha256:[0-9a-f]{64}|([a-z0-9]{1,16}([.-][a-z0-9]{1,8}){0,4}(:[1-9][0-9]{0,3})?/)?[a-z0-9]{1,16}([_-][a-z0-9]{1,8}){0,4}(/[a-z0-9]{1,16}([._-][a-z0-9]{1,8}){0,4}){0,3}(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?)$";
/// Globs; those with brackets and braces in pairs are understood, too.
const GLOB: &str = "^[^\\u0000\\\\\\[\\]{}]*$";
/// No NUL byte.
const NO_NUL: &str = "^[^\\u0000]*$";

/// The properties of a submit, as JSON or as parts of a form, refined from those that stand in `known`.
pub(super) fn properties(known: &Map<String, Value>, in_form: bool) -> Map<String, Value> {
    let shaped = |name: &str, described: &Value| {
        let mut shape = if in_form { in_a_form(name) } else { in_json(name) }.unwrap_or_else(|| described.clone());
        // What refers to another schema says it beside the reference.
        let places = described["oneOf"].as_array().into_iter().flatten().chain([described]);
        if let Some(description) = places.filter_map(|place| place["description"].as_str()).next_back() {
            shape["description"] = description.into();
        }
        (name.to_owned(), shape)
    };
    known.iter().map(|(name, described)| shaped(name, described)).collect()
}

fn text(pattern: &str) -> Value {
    json!({"type": "string", "pattern": pattern})
}

/// What a text may be, alike in JSON and in forms.
fn of_text(name: &str) -> Option<Value> {
    Some(match name {
        "id" => text(NAME),
        "name" => json!({
            "type": "string", "minLength": 1, "maxLength": 100, "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]+$"
        }),
        "image" => text(IMAGE),
        "entrypoint" => text(NO_NUL),
        "checkpoint" => text("^(auto|none|files|every=[1-9][0-9]{0,4}(s|m|h))$"),
        "network" => json!({"type": "string", "enum": ["none", "host"]}),
        "cpus" => text("^(0\\.[0-9]{0,2}[1-9]|[1-9][0-9]{0,2}(\\.[0-9]{1,3})?)$"),
        "memory" | "disk" => text(SIZE),
        "timeout" | "forecast" => text(TIME),
        "retries" => text("^([0-9]|[1-9][0-9]{1,2}|1000)$"),
        "priority" => text("^[0-9]$"),
        _ => return None,
    })
}

fn in_json(name: &str) -> Option<Value> {
    let number = match name {
        "cpus" => json!({"type": "number", "minimum": 0.001, "maximum": 1000}),
        "memory" | "disk" => json!({"type": "integer", "minimum": 8_388_608_u64, "maximum": 17_592_186_044_416_u64}),
        "timeout" => json!({"type": "number", "exclusiveMinimum": 0, "maximum": 10_000_000_000_u64}),
        "forecast" => json!({"type": "number", "minimum": 0, "maximum": 10_000_000_000_u64}),
        "retries" => json!({"type": "integer", "minimum": 0, "maximum": 1000}),
        "priority" => json!({"type": "integer", "minimum": 0, "maximum": 9}),
        _ => Value::Null,
    };
    let nothing = json!({"type": "null"});
    match (name, of_text(name)) {
        (_, Some(text)) if number.is_null() => Some(json!({"anyOf": [text, nothing]})),
        (_, Some(text)) => Some(json!({"anyOf": [number, text, nothing]})),
        ("command", None) => Some(command()),
        ("args", None) => Some(texts(NO_NUL)),
        ("outputs", None) => Some(texts(GLOB)),
        ("env", None) => Some(map("^[^=\\u0000]+$")),
        ("constraints", None) => Some(map("^[^\\u0000]*$")),
        _ => None,
    }
}

fn in_a_form(name: &str) -> Option<Value> {
    match (name, of_text(name)) {
        (_, Some(text)) => Some(text),
        ("command", None) => Some(command()),
        ("args", None) => Some(texts(NO_NUL)),
        ("outputs", None) => Some(texts(GLOB)),
        ("env" | "constraints", None) => Some(texts("^[^=\\u0000]+=[^\\u0000]*$")),
        _ => None,
    }
}

/// Program and arguments.
fn command() -> Value {
    let program = json!({"type": "string", "minLength": 1, "pattern": NO_NUL});
    json!({"type": "array", "minItems": 1, "prefixItems": [program], "items": text(NO_NUL)})
}

fn texts(pattern: &str) -> Value {
    json!({"type": "array", "items": text(pattern)})
}

fn map(keys: &str) -> Value {
    json!({"type": "object", "propertyNames": {"pattern": keys}, "additionalProperties": text(NO_NUL)})
}

/// An object of exactly these properties.
pub(super) fn object(properties: &Map<String, Value>, without: &[&str], required: &[&str]) -> Value {
    let properties: Map<_, _> = properties
        .iter()
        .filter(|(name, _)| !without.contains(&name.as_str()))
        .map(|(name, shape)| (name.clone(), shape.clone()))
        .collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}
