//! The schema of `POST /v1/calls`, for the OpenAPI document. `ingress::calls::document` reads the request.

use super::{Success, schema};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;

/// A Call URL request.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(crate) struct CallDocument {
    /// An absolute `http` or `https` URL.
    url: String,
    /// Method of the request. Default `POST`.
    #[schemars(default)]
    method: Option<String>,
    /// Header fields for the target: a string, or a list of strings for a field that repeats.
    #[schemars(default)]
    headers: BTreeMap<String, HeaderText>,
    /// The body as text.
    #[schemars(default)]
    body: Option<String>,
    /// The body in base64. Not together with `body`.
    #[schemars(default)]
    body_base64: Option<String>,
    /// The bridge that must send it. Default: one that serves the URL's host.
    #[schemars(default)]
    bridge: Option<String>,
    /// Name of a credential that the bridge adds.
    #[schemars(default)]
    credential: Option<String>,
    /// Timeout in milliseconds. Default 30000, at most 300000.
    #[schemars(default, range(min = 1))]
    timeout_ms: Option<u32>,
    /// `wait` (default): the response has the target's response. `deliver`: the call is stored first, and then
    /// delivered.
    #[schemars(default)]
    mode: Option<ModeWord>,
    /// A repeated request with the same key gets the same response, without a second call.
    #[schemars(
        default,
        length(min = 1, max = 128),
        regex(pattern = r"^[\x21-\x7e]+$")
    )]
    idempotency_key: Option<String>,
    /// For `deliver`: the call may be repeated if it is unknown whether it was executed (at-least-once delivery).
    #[schemars(default)]
    at_least_once: bool,
    /// For `deliver`: seconds after which the call expires, by wall clock, also while it waits for a bridge. 0: never.
    /// Default: the setting of its tenant, else `deliveries.expires_in`.
    #[schemars(default, range(max = 315_360_000))]
    expires_in: Option<u32>,
}

/// One value or several.
#[expect(dead_code, reason = "only the schema uses it")]
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum HeaderText {
    /// One value.
    One(String),
    /// Several values.
    Many(Vec<String>),
}

/// Whether the caller waits.
#[expect(dead_code, reason = "only the schema uses it")]
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ModeWord {
    /// The caller waits.
    Wait,
    /// The call is stored.
    Deliver,
}

/// The result of a call in mode `wait`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CallResponse {
    /// The call's id.
    id: String,
    /// Execution status: `executed`.
    execution: String,
    /// `bridge` or `direct`.
    route: String,
    /// The bridge that sent it.
    bridge: Option<String>,
    /// The target's response.
    response: TargetResponse,
    /// How long it took.
    timing: Timing,
}

/// The target's response.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TargetResponse {
    /// Its status.
    status: u16,
    /// Its header fields.
    headers: BTreeMap<String, HeaderText>,
    /// Its body, if it is UTF-8 text.
    body: Option<String>,
    /// Its body in base64, if it is not text.
    body_base64: Option<String>,
    /// Whether the body was too large to be stored for a repeated request.
    body_omitted: Option<bool>,
}

/// How long a call took.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Timing {
    /// Milliseconds until the head of the response.
    head_ms: f64,
    /// Milliseconds until its end.
    total_ms: f64,
}

/// A stored call.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CallReceipt {
    /// Its id.
    pub id: String,
    /// `deliver`.
    pub mode: &'static str,
    /// Its state.
    pub state: &'static str,
}

/// Returns the successful responses of `POST /v1/calls`.
pub(crate) fn responses() -> &'static [Success] {
    &[
        Success {
            status: 200,
            description: "The target has responded, with any status.",
            schema: Some(schema::<CallResponse>),
            media: None,
        },
        Success {
            status: 202,
            description: "The call is stored and will be delivered.",
            schema: Some(schema::<CallReceipt>),
            media: None,
        },
    ]
}
