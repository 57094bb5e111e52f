//! How log lines and audit entries name a request: by the relay's id and the caller's label, and by what the relay
//! asked for. A path comes without its query, which may hold secrets.

use protocol::frame::{ContextText, RequestContext, RequestHead, RequestTarget};
use runtime::peer_text::PeerText;

/// Characters of a path in a log line.
const PATH_MAX_CHARS: usize = 256;

/// What a request is called, and where it goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NamedRequest {
    /// The relay's id of the request, which its caller has as well.
    pub(super) id: Option<String>,
    /// The caller's label.
    pub(super) label: Option<String>,
    /// The target's host, with a port that is not the scheme's own.
    pub(super) host: Option<String>,
    /// The endpoint.
    pub(super) endpoint: Option<String>,
    /// The path, without the query.
    pub(super) path: Option<String>,
}

impl NamedRequest {
    /// Returns how a request is named.
    pub(super) fn new(head: &RequestHead, context: &RequestContext) -> Self {
        let (host, endpoint, path) = match &head.target {
            // A URL that cannot be parsed may hold anything.
            RequestTarget::Url(url) => match policy::Target::parse(url) {
                Ok(target) => (
                    Some(target.authority().to_owned()),
                    None,
                    Some(printable(target.path())),
                ),
                Err(_) => (None, None, None),
            },
            RequestTarget::Endpoint {
                name,
                path_and_query,
            } => {
                let path = path_and_query.split('?').next().unwrap_or_default();
                (None, Some(printable(name)), Some(printable(path)))
            }
            RequestTarget::Connect { host, port } => {
                (Some(format!("{}:{port}", printable(host))), None, None)
            }
        };
        Self {
            id: id(head, context),
            label: context
                .label
                .as_ref()
                .map(|label| label.as_str().to_owned()),
            host,
            endpoint,
            path,
        }
    }
}

/// Returns the id of a request. An attempt of a delivery has that of its call, also from a relay that sends no
/// context.
pub(super) fn id(head: &RequestHead, context: &RequestContext) -> Option<String> {
    match (&context.id, head.call) {
        (Some(id), _) => Some(ContextText::as_str(id).to_owned()),
        (None, Some(attempt)) => Some(format!("call_{}", crate::text::hex(&attempt.call))),
        (None, None) => None,
    }
}

/// Returns a text of the relay for the log: bounded, and without characters that a terminal interprets.
fn printable(text: &str) -> String {
    PeerText::bounded(text, PATH_MAX_CHARS).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::frame::{BodyLength, CallAttempt, CallerWeight, Class, Headers, TimeLeft};

    fn head(target: RequestTarget) -> RequestHead {
        RequestHead {
            class: Class::Interactive,
            share: CallerWeight::default(),
            target,
            method: "GET".to_owned(),
            headers: Headers::default(),
            body: BodyLength::None,
            expect_continue: false,
            time_left: TimeLeft::default(),
            call: None,
            credential: None,
        }
    }

    #[test]
    fn query_and_control_characters_are_not_named() {
        let context = RequestContext::new("req_1", Some("nightly"));
        let url = RequestTarget::Url("http://ci.corp.example:8080/a/b?token=s".to_owned());
        let named = NamedRequest::new(&head(url), &context);
        assert_eq!(named.id.as_deref(), Some("req_1"));
        assert_eq!(named.label.as_deref(), Some("nightly"));
        assert_eq!(named.host.as_deref(), Some("ci.corp.example:8080"));
        assert_eq!(named.path.as_deref(), Some("/a/b"));
        let endpoint = RequestTarget::Endpoint {
            name: "alm".to_owned(),
            path_and_query: format!("/x\u{1b}[31m{}?q=1", "y".repeat(1000)),
        };
        let named = NamedRequest::new(&head(endpoint), &RequestContext::default());
        assert_eq!(named.endpoint.as_deref(), Some("alm"));
        let path = named.path.unwrap();
        assert!(
            path.starts_with("/x\\u001b[31my") && path.ends_with("y..."),
            "{path}"
        );
        assert_eq!(named.id, None);
    }

    #[test]
    fn delivery_has_the_id_of_its_call() {
        let attempt = CallAttempt {
            call: [0xab; 16],
            attempt: 2,
        };
        let head = RequestHead {
            call: Some(attempt),
            ..head(RequestTarget::Url("http://ci/".to_owned()))
        };
        let named = NamedRequest::new(&head, &RequestContext::default());
        assert_eq!(named.id, Some(format!("call_{}", "ab".repeat(16))));
    }
}
