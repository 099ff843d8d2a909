//! The OpenAPI document.

use std::{collections::BTreeSet, fs};

use serde_json::Value;
use workrs::api::{KINDS, openapi_document};

use crate::{program, repository};

const KEPT: &str = "docs/openapi.json";
const METHODS: [&str; 4] = ["get", "post", "put", "delete"];

#[test]
fn the_kept_document_is_what_the_code_says() {
    let mut text = serde_json::to_string_pretty(openapi_document()).unwrap();
    text.push('\n');
    if std::env::var_os("WORKRS_UPDATE").is_some() {
        fs::write(repository(KEPT), &text).unwrap();
    }
    let kept = fs::read_to_string(repository(KEPT)).unwrap_or_default();
    assert!(kept == text, "{KEPT} is outdated: WORKRS_UPDATE=1 cargo test -p workrs --test contract document");
}

#[test]
fn the_kept_document_is_valid() {
    let Some(mut validator) = program("openapi-spec-validator") else { return };
    let output = validator.args(["--schema", "3.1"]).arg(repository(KEPT)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Every route of the router stands in the document, with each of its methods.
#[test]
fn every_route_is_described() {
    let code = fs::read_to_string(repository("crates/workrs/src/api/mod.rs")).unwrap();
    let (v1, others) = code.split_once(".nest(\"/api/v1\"").unwrap();
    let described = described();
    let mut missing = BTreeSet::new();
    for (prefix, code) in [("/api/v1", v1), ("", others)] {
        for (path, handlers) in routes(code) {
            // The page's own, which programs have no use for.
            if ["/", "/login", "/logout"].contains(&path.as_str()) {
                continue;
            }
            let path = format!("{prefix}{}", path.replace("{*", "{"));
            let methods = METHODS.iter().filter(|method| calls(&handlers, method));
            missing.extend(methods.map(|method| format!("{method} {path}")).filter(|route| !described.contains(route)));
        }
    }
    assert_eq!(missing, BTreeSet::new(), "they are not in the OpenAPI document (api/openapi.rs)");
}

#[test]
fn every_problem_that_is_described_is_a_known_one() {
    let document = openapi_document().to_string();
    let named = document.split("\"urn:workrs:problem:").skip(1).filter_map(|rest| rest.split('"').next());
    let named: BTreeSet<_> = named.collect();
    let known: BTreeSet<_> = KINDS.iter().map(|kind| kind.name).collect();
    let unknown: Vec<_> = named.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    // These can come from no operation of the document.
    let elsewhere = BTreeSet::from(["no-route", "wrong-method", "tls-needed"]);
    let unnamed: Vec<_> = known.difference(&named).filter(|kind| !elsewhere.contains(*kind)).collect();
    assert!(unnamed.is_empty(), "no operation says that it gives {unnamed:?} (api/contract.rs)");
}

/// Method and path of all that is described.
fn described() -> BTreeSet<String> {
    let paths = openapi_document()["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().into_iter().flat_map(serde_json::Map::keys);
        methods.map(move |method| format!("{method} {path}"))
    });
    let described: BTreeSet<_> = operations.collect();
    let mut ids = BTreeSet::new();
    for route in &described {
        let (method, path) = route.split_once(' ').unwrap();
        let operation = &openapi_document()["paths"][path][method];
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id), "{route}: another operation is {id}, too");
        assert_ne!(operation["responses"], Value::Null, "{route} has no responses");
    }
    described
}

/// Paths and what handles them, from the code of a router.
fn routes(code: &str) -> Vec<(String, String)> {
    let routes = code.split(".route(").skip(1).filter_map(|rest| {
        let (path, rest) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
        let handlers = rest.split([';', '}']).next()?.split(".route(").next()?;
        Some((path.to_owned(), handlers.to_owned()))
    });
    routes.collect()
}

/// Whether code calls a function of this name.
fn calls(code: &str, name: &str) -> bool {
    let call = format!("{name}(");
    code.match_indices(&call).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        before.is_none_or(|before| !before.is_alphanumeric() && !matches!(before, '_' | ':'))
    })
}
