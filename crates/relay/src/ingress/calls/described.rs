//! The documents of `POST /v1/calls`, as the OpenAPI document describes them. `document` checks what the
//! parsed [`CallDocument`] asks for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A Call URL request.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CallDocument {
    /// An absolute `http` or `https` URL.
    pub(super) url: String,
    /// The request's method. Defaults to `POST`.
    #[schemars(default)]
    pub(super) method: Option<String>,
    /// Header fields for the target: a text, or a list of texts for a field that repeats.
    // Values are parsed one by one, so that an error can name the field.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, HeaderText>")]
    pub(super) headers: Map<String, Value>,
    /// Header fields for the target whose values are bytes in base64, for values that are not UTF-8. Excludes
    /// fields of the same name in `headers`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, HeaderText>")]
    pub(super) headers_base64: Map<String, Value>,
    /// The body as text.
    #[schemars(default)]
    pub(super) body: Option<String>,
    /// The body as bytes in base64. Excludes `body`.
    #[schemars(default)]
    pub(super) body_base64: Option<String>,
    /// The bridge that sends the request. Defaults to one that serves the URL's host.
    #[schemars(default)]
    pub(super) bridge: Option<String>,
    /// Name of a credential that the bridge adds.
    #[schemars(default)]
    pub(super) credential: Option<String>,
    /// Time limit in milliseconds, at most 300000. Defaults to 30000.
    #[schemars(default, range(min = 1))]
    pub(super) timeout_ms: Option<u32>,
    /// `wait`: the response comes when the target has responded. `deliver`: the relay stores the call
    /// and delivers it later. Defaults to `wait`.
    #[schemars(default, with = "Option<ModeName>")]
    pub(super) mode: Option<String>,
    /// A repeated request with the same key gets the same response, without a second call. The header
    /// `Idempotency-Key` has the same effect.
    #[schemars(
        default,
        length(min = 1, max = 128),
        regex(pattern = r"^[\x21-\x7e]+$")
    )]
    pub(super) idempotency_key: Option<String>,
    /// The caller's own name for the call, by which it is found in lists, audit records and logs.
    #[schemars(
        default,
        length(min = 1, max = 128),
        regex(pattern = r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$")
    )]
    pub(super) label: Option<String>,
    /// For `deliver`: the relay may repeat the request when its outcome is unknown. Defaults to false.
    #[serde(default)]
    pub(super) at_least_once: bool,
    /// For `deliver`: seconds after which the call expires, including the time it waits for a bridge;
    /// 0 for never. Defaults to the tenant's setting, or to `deliveries.expires_in`.
    #[schemars(default, range(max = 315_360_000))]
    pub(super) expires_in: Option<u32>,
}

/// One text or several.
#[expect(dead_code, reason = "only the OpenAPI document uses it")]
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum HeaderText {
    /// A field that occurs once.
    One(String),
    /// A field that repeats.
    Many(Vec<String>),
}

/// Whether the caller waits for the target's response.
#[expect(dead_code, reason = "only the OpenAPI document uses it")]
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ModeName {
    /// The caller waits.
    Wait,
    /// The relay stores the call and delivers it.
    Deliver,
}

/// The result of a call with mode `wait`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CallResponse {
    /// The call's id.
    id: String,
    /// Execution status: `executed`.
    execution: String,
    /// `bridge` or `direct`.
    route: String,
    /// The bridge that sent the request.
    bridge: Option<String>,
    /// The target's response.
    response: TargetResponse,
    /// Time taken.
    timing: Timing,
}

/// The target's response.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TargetResponse {
    /// Status code.
    status: u16,
    /// Header fields. A byte that is not UTF-8 is shown as U+FFFD.
    headers: BTreeMap<String, HeaderText>,
    /// The values in base64 of each field that has a value that is not UTF-8.
    headers_base64: Option<BTreeMap<String, HeaderText>>,
    /// The body, if it is text.
    body: Option<String>,
    /// The body in base64, if it is not text.
    body_base64: Option<String>,
    /// The stored response of a repeated request was too large to keep its body.
    body_omitted: Option<bool>,
}

/// Time that a call took.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Timing {
    /// Milliseconds until the response head.
    head_ms: f64,
    /// Milliseconds until the end of the response.
    total_ms: f64,
}

/// A stored call.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CallReceipt {
    /// The call's id.
    pub id: String,
    /// `deliver`.
    pub mode: &'static str,
    /// The call's state.
    pub state: &'static str,
}
