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
    /// Default `POST`.
    #[schemars(default)]
    method: Option<String>,
    /// Header fields for the target: a text, or a list of texts for a field that repeats.
    #[schemars(default)]
    headers: BTreeMap<String, HeaderText>,
    /// The body as text.
    #[schemars(default)]
    body: Option<String>,
    /// The body as bytes in base64; not beside `body`.
    #[schemars(default)]
    body_base64: Option<String>,
    /// The bridge that shall make it; default: one that serves the URL's host.
    #[schemars(default)]
    bridge: Option<String>,
    /// A credential that the bridge shall add, by name.
    #[schemars(default)]
    credential: Option<String>,
    /// How long it may take, in milliseconds. Default 30000, at most 300000.
    #[schemars(default, range(min = 1))]
    timeout_ms: Option<u32>,
    /// `wait` (the default): the answer comes when the target has answered. `deliver`: the call is
    /// stored first, and delivered from there.
    #[schemars(default)]
    mode: Option<ModeWord>,
    /// The same key again gives the same answer, without a second call.
    #[schemars(
        default,
        length(min = 1, max = 128),
        regex(pattern = r"^[\x21-\x7e]+$")
    )]
    idempotency_key: Option<String>,
    /// For `deliver`: it may be made again when nobody can say whether it was.
    #[schemars(default)]
    at_least_once: bool,
    /// For `deliver`: after how many seconds it is not made any more, by wall clock, also while it
    /// waits for a bridge; 0: never. Default: as its tenant says, or `deliveries.expires_in`.
    #[schemars(default, range(max = 315_360_000))]
    expires_in: Option<u32>,
}

/// One text or several.
#[expect(dead_code, reason = "it is read by the document alone")]
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum HeaderText {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// Whether the caller waits.
#[expect(dead_code, reason = "it is read by the document alone")]
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ModeWord {
    /// It does.
    Wait,
    /// It does not.
    Deliver,
}

/// What became of a call that was waited for.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CallAnswer {
    /// The call's id.
    id: String,
    /// How far it came: `executed`.
    execution: String,
    /// `bridge` or `direct`.
    route: String,
    /// The bridge that made it.
    bridge: Option<String>,
    /// The target's answer.
    response: TargetAnswer,
    /// How long it took.
    timing: Timing,
}

/// The target's answer.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TargetAnswer {
    /// Its status.
    status: u16,
    /// Its header fields.
    headers: BTreeMap<String, HeaderText>,
    /// Its body, where that is text.
    body: Option<String>,
    /// Its body in base64, where it is not.
    body_base64: Option<String>,
    /// A repeat's answer was too large to be remembered with its body.
    body_omitted: Option<bool>,
}

/// How long a call took.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Timing {
    /// Until the head of the answer, in milliseconds.
    head_ms: f64,
    /// Until its end.
    total_ms: f64,
}

/// A call that is stored.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CallReceipt {
    /// Its id.
    pub id: String,
    /// `deliver`.
    pub mode: &'static str,
    /// Where it stands.
    pub state: &'static str,
}

/// What `POST /v1/calls` answers when all is well.
pub(crate) fn answers() -> &'static [Success] {
    &[
        Success {
            status: 200,
            description: "The target has answered, whatever it says.",
            schema: Some(schema::<CallAnswer>),
            media: None,
        },
        Success {
            status: 202,
            description: "The call is stored, and will be delivered.",
            schema: Some(schema::<CallReceipt>),
            media: None,
        },
    ]
}
