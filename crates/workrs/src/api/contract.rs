//! What the OpenAPI document says beyond what stands at the handlers: who may ask, which problems each operation can give,
//! the exact shapes of what it takes, and the headers of what it gives.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    kinds::{self, Kind},
    shapes,
};

/// The version of the API's contract: its first number is that of `/api/v1`.
const VERSION: &str = "1.1.0";
const METHODS: [&str; 7] = ["get", "put", "post", "delete", "patch", "head", "options"];

/// Problems that every operation of the API can give.
const EVERYWHERE: &[&str] = &[
    "bad-request",
    "no-token",
    "token-expired",
    "token-revoked",
    "forbidden",
    "rate-limited",
    "damaged",
    "unavailable",
];
/// Problems of what operators and their tools ask.
const FOR_OPERATORS: &[&str] =
    &["no-token", "token-expired", "token-revoked", "forbidden", "rate-limited", "unavailable"];
/// Problems of operations on a job.
const OF_A_JOB: &[&str] = &["bad-name", "not-found"];
/// Problems of bringing an image.
const OF_AN_IMAGE: &[&str] = &[
    "bad-image-name",
    "no-image",
    "registry-refused",
    "registry-unavailable",
    "registry-failed",
    "image-refused",
    "not-found",
    "node-failed",
    "state-full",
    "storage-full",
    "too-large",
];
/// Problems of a submit, but for those of its image.
const OF_A_SUBMIT: &[&str] =
    &["bad-name", "bad-path", "id-taken", "conflict", "no-room", "media-type", "invalid-job", "quota"];

/// Which problems an operation can give beside those that all can.
fn problems(method: &str, path: &str) -> Vec<&'static str> {
    match (method, path) {
        ("post", "/api/v1/jobs") => [OF_A_SUBMIT, OF_AN_IMAGE].concat(),
        ("post", "/api/v1/images") => [OF_AN_IMAGE, &["media-type"]].concat(),
        ("post" | "put", "/api/v1/images/import") => OF_AN_IMAGE.to_vec(),
        ("delete", "/api/v1/images/{name}") => vec!["bad-image-name", "not-found"],
        ("post", path) if path.starts_with("/api/v1/jobs/") => {
            [OF_A_JOB, &["wrong-state", "conflict", "quota"]].concat()
        }
        ("delete", path) if path.starts_with("/api/v1/jobs/") => [OF_A_JOB, &["wrong-state", "conflict"]].concat(),
        (_, "/api/v1/jobs/{id}/outputs") => [OF_A_JOB, &["not-finished"]].concat(),
        (_, "/api/v1/jobs/{id}/outputs/{path}") => [OF_A_JOB, &["not-finished", "bad-range"]].concat(),
        (_, "/api/v1/jobs/{id}/logs") => [OF_A_JOB, &["bad-range"]].concat(),
        ("post", "/api/v1/nodes/{name}/drill") => vec!["bad-name", "not-found", "no-drills"],
        ("post", "/api/v1/tokens") => vec!["bad-name", "no-admin", "conflict", "too-large", "media-type"],
        ("delete", "/api/v1/tokens/{id}") => vec!["bad-name", "not-found", "no-admin"],
        ("put", _) => vec!["bad-name", "not-found", "conflict", "too-large", "media-type"],
        (_, path) if path.contains('{') => vec!["bad-name", "not-found", "conflict", "wrong-state"],
        ("post", _) => vec!["bad-name", "conflict", "too-large", "media-type"],
        _ => Vec::new(),
    }
}

/// Completes the document that was made from the handlers.
pub(super) fn complete(document: &mut Value) {
    document["info"]["version"] = VERSION.into();
    document["info"]["license"] = json!({"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"});
    document["servers"] =
        json!([{"url": "/", "description": "The node that serves this document; any other one will do."}]);
    secure(document);
    shape_submits(document);
    shape_pull(document);
    shape_tokens(document);
    shape_plans(document);
    let Some(paths) = document["paths"].as_object_mut() else { return };
    for (path, operations) in paths {
        let Some(operations) = operations.as_object_mut() else { continue };
        let is_alone = operations.keys().filter(|method| METHODS.contains(&method.as_str())).count() == 1;
        for (method, operation) in operations.iter_mut().filter(|(method, _)| METHODS.contains(&method.as_str())) {
            name_operation(method, path, operation, is_alone);
            refine_parameters(path, operation);
            if path != "/healthz" {
                list_problems(method, path, operation);
            }
            name_headers(method, path, operation);
            for response in operation["responses"].as_object_mut().into_iter().flat_map(serde_json::Map::values_mut) {
                if response["description"].as_str().is_none_or(str::is_empty) {
                    response["description"] = "what was asked for".into();
                }
            }
        }
    }
}

/// Who asks, by a header or by the page's cookie; on loopback nobody needs to say, where no token was made.
fn secure(document: &mut Value) {
    document["components"]["securitySchemes"] = json!({
        "token": {
            "type": "http", "scheme": "bearer",
            "description": "A token of the group, or the one that its nodes were started with."
        },
        "session": {
            "type": "apiKey", "in": "cookie", "name": "workrs_session",
            "description": "What POST /login gives a browser. Changes also need the header x-workrs-csrf."
        },
    });
    document["security"] = json!([{}, {"token": []}, {"session": []}]);
}

/// The exact shapes of a submit, as JSON and as a form.
fn shape_submits(document: &mut Value) {
    let schemas = &mut document["components"]["schemas"];
    let Some(known) = schemas["SubmitRequest"]["properties"].as_object().cloned() else { return };
    let json = shapes::properties(&known, false);
    let not_host = json!({"properties": {"image": {"type": "string", "not": {"const": "host"}}}});
    schemas["SubmitCommand"] = shapes::object(&json, &["args", "entrypoint"], &["command"]);
    schemas["SubmitCommand"]["description"] = "A program of the node or of an image.".into();
    schemas["SubmitImage"] = shapes::object(&json, &["args"], &["image"]);
    schemas["SubmitImage"]["description"] = "What an image runs by itself, or another program of it.".into();
    schemas["SubmitImage"]["allOf"] = json!([not_host]);
    let either = json!([
        {"$ref": "#/components/schemas/SubmitCommand"},
        {"$ref": "#/components/schemas/SubmitImage"},
    ]);
    let description = schemas["SubmitRequest"]["description"].clone();
    schemas["SubmitRequest"] = json!({"description": description, "anyOf": either});

    let mut form = shapes::properties(&known, true);
    form.insert(
        "script".to_owned(),
        json!({
            "type": "string", "contentMediaType": "application/octet-stream", "pattern": "^#!/bin/sh\\n",
            "description": "The program itself, a file: its name's extension or its first line tells how it is run."
        }),
    );
    form.insert(
        "input".to_owned(),
        json!({
            "type": "array", "items": {"type": "string", "contentMediaType": "application/octet-stream"},
            "description": "Files that the job finds below /job, each by its file name, which may have folders."
        }),
    );
    // An id is taken only as the first part of a form, which cannot be said here; the query has it, too.
    schemas["SubmitScriptForm"] = shapes::object(&form, &["command", "entrypoint", "id"], &["script"]);
    schemas["SubmitCommandForm"] = shapes::object(&form, &["script", "args", "entrypoint", "id"], &["command"]);
    let forms = json!({"anyOf": [
        {"$ref": "#/components/schemas/SubmitScriptForm"},
        {"$ref": "#/components/schemas/SubmitCommandForm"},
    ]});
    let body = &mut document["paths"]["/api/v1/jobs"]["post"]["requestBody"];
    body["required"] = true.into();
    body["content"]["application/json"]["example"] =
        json!({"command": ["sh", "-c", "echo hello"], "cpus": 0.5, "memory": "64M", "timeout": "1m"});
    body["content"]["multipart/form-data"] = json!({"schema": forms});
}

/// A plan is one object: what was decided stands in it once there is something.
fn shape_plans(document: &mut Value) {
    let schemas = &mut document["components"]["schemas"];
    let parts = schemas["PlanView"]["allOf"].as_array().cloned().unwrap_or_default();
    let alternatives = parts.iter().filter_map(|part| part["oneOf"].as_array()).flatten();
    let shapes = alternatives.chain(&parts).filter_map(|part| part["properties"].as_object());
    let properties: serde_json::Map<_, _> =
        shapes.flatten().map(|(name, shape)| (name.clone(), shape.clone())).collect();
    if properties.contains_key("policy") {
        let description = schemas["PlanView"]["description"].clone();
        schemas["PlanView"] =
            json!({"type": "object", "description": description, "properties": properties, "required": ["policy"]});
    }
}

/// A new token's owner and time.
fn shape_tokens(document: &mut Value) {
    let properties = &mut document["components"]["schemas"]["TokenRequest"]["properties"];
    if properties.is_object() {
        properties["owner"]["pattern"] = shapes::NAME.into();
        properties["expires"]["pattern"] = shapes::TIME.into();
    }
}

/// Which image to pull stands in the query; the body has what is better not written there.
fn shape_pull(document: &mut Value) {
    let pull = &mut document["components"]["schemas"]["PullRequest"];
    // A reference is understood there, too, for clients that leave the query empty.
    let when = json!({"type": ["string", "null"], "enum": ["missing", "always", null]});
    let (text, nothing) = (json!({"type": "string"}), json!({"type": "null"}));
    let form = |username: &Value, password: &Value, required: &[&str]| {
        json!({
            "type": "object", "additionalProperties": false, "required": required,
            "properties": {"pull": when, "username": username, "password": password},
        })
    };
    let description = pull["description"].clone();
    let forms = [form(&text, &text, &["username", "password"]), form(&nothing, &nothing, &[])];
    *pull = json!({"description": description, "anyOf": forms});
    let parameters = document["paths"]["/api/v1/images"]["post"]["parameters"].as_array_mut();
    for parameter in parameters.into_iter().flatten().filter(|parameter| parameter["name"] == "reference") {
        parameter["required"] = true.into();
    }
}

/// Path parameters by their names, and numbers by what fits them.
fn refine_parameters(path: &str, operation: &mut Value) {
    let Some(parameters) = operation.get_mut("parameters").and_then(Value::as_array_mut) else { return };
    for parameter in parameters {
        let (name, place) = (parameter["name"].clone(), parameter["in"].clone());
        let is_image = path.starts_with("/api/v1/images");
        let shape = match (place.as_str(), name.as_str()) {
            (Some("path"), Some("name")) if is_image => Some((shapes::IMAGE, "An image's name, or `sha256:…`.")),
            (Some("path"), Some("id")) => Some((shapes::NAME, "Its id.")),
            (Some("path"), Some("name" | "owner")) => Some((shapes::NAME, "Its name.")),
            (Some("query"), Some("reference" | "name")) if is_image => Some((shapes::IMAGE, "")),
            (Some("query"), Some("id" | "job")) => Some((shapes::NAME, "")),
            (Some("query"), Some("wait")) => Some((shapes::WAIT, "")),
            (Some("query"), Some("since")) if path == "/api/v1/audit" => Some((shapes::WAIT, "")),
            _ => None,
        };
        let words: Option<&[&str]> = match (place.as_str(), name.as_str()) {
            (Some("query"), Some("format")) => Some(&["text", "events"]),
            (Some("query"), Some("archive")) => Some(&["tar"]),
            (Some("query"), Some("kind")) => Some(&["node", "job"]),
            (Some("query"), Some("pull")) => Some(&["missing", "always"]),
            _ => None,
        };
        let schema = &mut parameter["schema"];
        if let Some(words) = words {
            schema["enum"] = json!(words);
        }
        if let Some((pattern, _)) = shape {
            schema["pattern"] = pattern.into();
        }
        if place == "query" {
            one_type(schema);
        }
        if schema["type"] == "integer" {
            // As large as 64 bits are, which is more than the format says.
            if let Some(schema) = schema.as_object_mut() {
                schema.remove("format");
            }
            if schema["maximum"].is_null() {
                schema["maximum"] = u64::MAX.into();
            }
        }
        if let Some((_, description)) = shape.filter(|(_, description)| !description.is_empty()) {
            parameter["description"] = description.into();
        }
    }
}

/// A query has no nulls: what is not given is left out.
fn one_type(schema: &mut Value) {
    if let Some(types) = schema["type"].as_array() {
        let rest: Vec<_> = types.iter().filter(|kind| *kind != "null").cloned().collect();
        if let [one] = &rest[..] {
            schema["type"] = one.clone();
        }
    }
}

/// An id that no other operation has, made of what handles it and of what it is about, such as `list_jobs`.
fn name_operation(method: &str, path: &str, operation: &mut Value, is_alone: bool) {
    let Some(handler) = operation["operationId"].as_str() else { return };
    let about = path.rsplit('/').find(|part| !part.is_empty() && !part.starts_with('{')).unwrap_or_default();
    let name = match (handler == about, handler.contains('_')) {
        (false, true) => handler.to_owned(),
        (true, _) if is_alone || method == "post" => handler.to_owned(),
        (true, _) => format!("{handler}_by_{method}"),
        (false, false) => format!("{handler}_{}", about.replace(['-', '.'], "_")),
    };
    operation["operationId"] = name.into();
}

/// One response for each status that a problem can have, with the kinds that it can be of.
fn list_problems(method: &str, path: &str, operation: &mut Value) {
    let general = if path.starts_with("/api/v1/") { EVERYWHERE } else { FOR_OPERATORS };
    let names = general.iter().copied().chain(problems(method, path));
    let mut by_status: BTreeMap<u16, Vec<&Kind>> = BTreeMap::new();
    for kind in names.filter_map(kinds::find) {
        by_status.entry(kind.status).or_default().push(kind);
    }
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    responses.remove("default");
    for (status, kinds) in by_status {
        let description: Vec<_> = kinds.iter().map(|kind| format!("`{}`: {}", kind.name, kind.meaning)).collect();
        let types: Vec<_> = kinds.iter().map(|kind| format!("urn:workrs:problem:{}", kind.name)).collect();
        let example = json!({
            "type": types[0], "title": "what failed", "status": status, "detail": "why", "hint": "what to do"
        });
        let schema = json!({"allOf": [
            {"$ref": "#/components/schemas/Problem"},
            {"properties": {"type": {"enum": types}, "status": {"const": status}}},
        ]});
        let mut response = json!({
            "description": description.join("; "),
            "content": {"application/problem+json": {"schema": schema, "example": example}},
        });
        if status == 429 {
            response["headers"] = header("Retry-After", "Seconds until it is worth another try.", false);
        }
        responses.insert(status.to_string(), response);
    }
}

fn header(name: &str, description: &str, required: bool) -> Value {
    json!({name: {"description": description, "required": required, "schema": {"type": "string"}}})
}

/// The headers of what an operation gives, and the answers that need no words of their own at each handler.
fn name_headers(method: &str, path: &str, operation: &mut Value) {
    let responses = &mut operation["responses"];
    if responses["201"].is_object() && path == "/api/v1/jobs" {
        for status in ["200", "201"] {
            responses[status]["headers"] = header("Location", "Where the job is.", true);
        }
        let parameter = json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "Names this submit, so that a retry is the same job, without choosing an id.",
            "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        });
        if let Some(parameters) = operation["parameters"].as_array_mut() {
            parameters.push(parameter);
        }
        return;
    }
    match path {
        "/api/v1/jobs/{id}/logs" => {
            responses["200"]["content"]["application/x-ndjson"] = json!({"schema": {"type": "string"}});
        }
        "/api/v1/jobs/{id}/outputs" => {
            responses["200"]["content"]["application/x-tar"] =
                json!({"schema": {"type": "string", "format": "binary"}});
        }
        _ => {}
    }
    let is_json = responses["200"]["content"]["application/json"].is_object();
    let is_download = matches!(path, "/api/v1/jobs/{id}/outputs/{path}" | "/api/v1/jobs/{id}/logs");
    if method != "get" || !path.starts_with("/api/v1/") || !(is_json || is_download) {
        return;
    }
    responses["200"]["headers"] =
        header("ETag", "Give it as `If-None-Match` to get 304 while nothing has changed.", false);
    responses["304"] = json!({"description": "What the client has is still right."});
    if is_download {
        responses["200"]["headers"]["Accept-Ranges"] =
            header("x", "`bytes`: parts can be asked for.", false)["x"].clone();
        responses["206"] = json!({
            "description": "The part that `Range: bytes=…` asks for.",
            "headers": header("Content-Range", "Which part of how much.", true),
            "content": responses["200"]["content"],
        });
    }
}
