//! The OpenAPI 3.1 document, generated from the table of operations.

use super::page::{LIMIT, LIMIT_MAX};
use super::{Operation, ParameterKind, operations};
use protocol::{Code, Execution};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::LazyLock;

static DOCUMENT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));

/// Returns the document as text, as it is served and checked in.
pub(crate) fn text() -> &'static str {
    &DOCUMENT
}

/// Errors that any request can get before its operation handles it.
const ALWAYS: &[Code] = &[
    Code::InvalidRequest,
    Code::HeadersTooLarge,
    Code::Overloaded,
    Code::Internal,
];

/// Errors that any request with a key can get.
const KEYED: &[Code] = &[
    Code::RateLimited,
    Code::Unauthorized,
    Code::Forbidden,
    Code::TenantSuspended,
    Code::NotFound,
];

fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in operations() {
        let shown = shown(operation, &mut generator);
        let method = operation.method.as_str().to_lowercase();
        let path = paths.entry(operation.path).or_default();
        path.insert(method, shown);
        path.entry("parameters")
            .or_insert_with(|| path_parameters(operation.path));
    }
    let mut schemas = generator.take_definitions(true);
    // By hand, since its codes and execution states come from the protocol crate.
    schemas.insert("Problem".to_owned(), problem());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Integration Bridge relay",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Tenants, API keys, bridges, calls and deliveries of a relay. Instants are \
                            RFC 3339 in UTC. Durations are numbers, with the unit in their names.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "Client id and client secret of an API key. A client can send them \
                                    in Bridge-Authorization instead; Authorization then belongs to \
                                    the target.",
                },
            },
            "responses": problems(),
            "schemas": schemas,
        },
    })
}

fn path_parameters(path: &str) -> Value {
    let names = path.split('/').filter_map(|part| {
        let name = part.strip_prefix('{')?.strip_suffix('}')?;
        Some(json!({
            "name": name,
            "in": "path",
            "required": true,
            "schema": {"type": "string", "minLength": 1},
        }))
    });
    names.collect()
}

fn shown(operation: &Operation, generator: &mut schemars::SchemaGenerator) -> Value {
    let mut out = Map::new();
    out.insert("operationId".into(), json!(operation.id));
    out.insert("tags".into(), json!([operation.tag]));
    out.insert("summary".into(), json!(operation.summary));
    let roles: Vec<_> = operation
        .permission
        .roles
        .iter()
        .map(|role| role.as_str())
        .collect();
    let required = match roles.is_empty() {
        true => "Needs no key.".to_owned(),
        false => format!("Needs a key with the role {}.", roles.join(" or ")),
    };
    let description = format!("{required} {}", operation.description);
    out.insert("description".into(), json!(description.trim()));
    if roles.is_empty() {
        out.insert("security".into(), json!([]));
    }
    let mut parameters: Vec<Value> = operation
        .query
        .iter()
        .map(|parameter| {
            let schema = match parameter.kind {
                ParameterKind::Text => json!({"type": "string"}),
                ParameterKind::Flag => json!({"type": "boolean"}),
                ParameterKind::Instant => json!({"type": "string", "format": "date-time"}),
                ParameterKind::PageSize => {
                    json!({"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT})
                }
            };
            json!({
                "name": parameter.name,
                "in": "query",
                "required": false,
                "description": parameter.description,
                "schema": schema,
            })
        })
        .collect();
    let mut header = |name: &str, description: &str, schema: Value| {
        parameters.push(json!({
            "name": name,
            "in": "header",
            "required": false,
            "description": description,
            "schema": schema,
        }));
    };
    if operation.is_idempotent {
        header(
            "Idempotency-Key",
            "A repeated request with the same key gets the first response for ten minutes, with Idempotency-Replayed, also after a restart of the relay. `outcome_unknown` if the relay stopped before it knew the outcome.",
            json!({"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[\\x21-\\x7e]+$"}),
        );
    }
    if operation.has_if_match {
        header(
            "If-Match",
            "The ETag of the version to change. The request fails if the current version has another one.",
            json!({"type": "string"}),
        );
    }
    if !parameters.is_empty() {
        out.insert("parameters".into(), Value::Array(parameters));
    }
    if let Some(request) = operation.request_body {
        let schema = request(generator);
        out.insert(
            "requestBody".into(),
            json!({"required": true, "content": {"application/json": {"schema": schema}}}),
        );
    }
    out.insert("responses".into(), responses(operation, generator));
    Value::Object(out)
}

fn responses(operation: &Operation, generator: &mut schemars::SchemaGenerator) -> Value {
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    for success in operation.success {
        let mut response = json!({"description": success.description});
        if let Some(schema) = success.schema {
            let schema = schema(generator);
            response["content"] = json!({"application/json": {"schema": schema}});
        }
        if let Some(media) = success.media_type {
            let schema = match media {
                "text/plain" => json!({"type": "string"}),
                _ => json!({"type": "object"}),
            };
            response["content"] = json!({media: {"schema": schema}});
        }
        if operation.has_if_match && success.schema.is_some() {
            response["headers"] = json!({"ETag": {"schema": {"type": "string"}}});
        }
        all.insert(success.status.to_string(), response);
    }
    let mut codes: Vec<Code> = ALWAYS.to_vec();
    if !operation.permission.roles.is_empty() {
        codes.extend(KEYED);
    }
    if operation.request_body.is_some() {
        codes.push(Code::RequestTooLarge);
    }
    if operation.is_idempotent {
        codes.push(Code::Conflict);
    }
    if operation.has_if_match {
        codes.push(Code::PreconditionFailed);
    }
    codes.extend(operation.errors);
    for code in codes {
        let status = code.http_status().to_string();
        let name = format!("#/components/responses/Problem{status}");
        // Several codes share a status, and a status has one response object that lists them all.
        all.entry(status).or_insert(json!({ "$ref": name }));
    }
    json!(all)
}

/// Returns the error responses of each status.
fn problems() -> Value {
    let mut by_status: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for code in Code::ALL {
        let names = by_status.entry(code.http_status()).or_default();
        names.push(code.as_str());
    }
    let all = by_status.into_iter().map(|(status, names)| {
        let described = json!({
            "description": format!("Error codes: {}.", names.join(", ")),
            "headers": {"Bridge-Error": {"schema": {"type": "string"}}},
            "content": {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}},
            },
        });
        (format!("Problem{status}"), described)
    });
    Value::Object(all.collect())
}

/// Returns the schema of a problem document (RFC 9457).
fn problem() -> Value {
    let codes: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let executions = [
        Execution::NotSent,
        Execution::NotDispatched,
        Execution::PossiblyExecuted,
        Execution::Executed,
    ];
    let executions = executions.map(Execution::as_str);
    json!({
        "type": "object",
        "description": "A problem document (RFC 9457) with the error code and the execution status of the request.",
        "required": ["type", "title", "status", "detail", "code", "execution"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"type": "string", "enum": codes},
            "execution": {"type": "string", "enum": executions},
            "help": {"type": "string", "description": "The path of the code's entry in the troubleshooting guide, at this relay."},
            "id": {"type": "string", "description": "The id of the call or request, as in `Bridge-Request-Id`."},
            "retry_after": {"type": "integer", "description": "Seconds after which the client can retry."},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checked_in_document_is_the_served_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto/openapi.json");
        let checked_in = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            checked_in == text(),
            "proto/openapi.json is out of date: run `cargo xtask openapi`"
        );
    }

    #[test]
    fn references_resolve() {
        let document = document();
        let text = document.to_string();
        for part in text.split("\"$ref\":\"").skip(1) {
            let target = part.split('"').next().unwrap();
            let pointer = target.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{target}");
        }
        assert_eq!(document["openapi"], "3.1.0");
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if method != "parameters" {
                    assert!(operation["responses"].is_object(), "{method} {path}");
                }
            }
        }
    }
}
