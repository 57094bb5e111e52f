//! Errors by ALM's ids, in three formats.
//!
//! ```text
//! Accept: application/xml   <QCRestException><Id>qccore.…</Id><Title>…</Title></QCRestException>
//! Accept: application/json  {"Id":"qccore.…","Title":"…","ExceptionProperties":null,"StackTrace":null}
//! neither                   a page of HTML
//! ```

use http::StatusCode;
use http::header::WWW_AUTHENTICATE;
use serde_json::json;

use super::media::{Accept, Format};
use super::reply::{self, Reply};
use super::xml::escaped;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) status: StatusCode,
    /// Without `qccore.`.
    pub(super) id: &'static str,
    pub(super) title: String,
    challenge: Option<Challenge>,
}

/// The value of `WWW-Authenticate` in a 401.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Challenge {
    AlmAuth,
    Lwsso,
}

impl Fault {
    fn new(status: StatusCode, id: &'static str, title: impl Into<String>) -> Self {
        let title = title.into();
        Self {
            status,
            id,
            title,
            challenge: None,
        }
    }

    /// A user or password that is not right.
    pub(super) fn refused_sign_in() -> Self {
        Self {
            challenge: Some(Challenge::AlmAuth),
            ..Self::general(StatusCode::UNAUTHORIZED, "Authentication failed")
        }
    }

    /// No user has signed in.
    pub(super) fn not_signed_in() -> Self {
        Self {
            challenge: Some(Challenge::Lwsso),
            ..Self::general(StatusCode::UNAUTHORIZED, "Authentication is required")
        }
    }

    /// The user has signed out.
    pub(super) fn logged_out() -> Self {
        Self::business("TokenId is invalid because it has logged out")
    }

    /// A write without the session's token.
    pub(super) fn xsrf() -> Self {
        let title = "Unauthorized request. The XSRF token is missing or wrong";
        Self::general(StatusCode::UNAUTHORIZED, title)
    }

    /// The generic id.
    pub(super) fn general(status: StatusCode, title: impl Into<String>) -> Self {
        Self::new(status, "general-error", title)
    }

    /// A violated data rule, which ALM reports with its own id.
    pub(super) fn business(title: impl Into<String>) -> Self {
        Self::general(StatusCode::INTERNAL_SERVER_ERROR, title)
    }

    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self::general(StatusCode::BAD_REQUEST, what)
    }

    pub(super) fn no_such_resource() -> Self {
        Self::general(StatusCode::NOT_FOUND, "Not Found")
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::general(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
    }

    pub(super) fn unsupported_media_type() -> Self {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::general(status, "Unsupported Media Type")
    }

    pub(super) fn not_found(entity_type: &str, key: &str) -> Self {
        let title = format!("Entity of type '{entity_type}' with key '{key}' does not exist");
        Self::new(StatusCode::NOT_FOUND, "entity-not-found", title)
    }

    pub(super) fn session_expired() -> Self {
        let title = "Session has expired. Sign in again";
        Self::new(StatusCode::UNAUTHORIZED, "session-has-expired", title)
    }

    pub(super) fn required(field: &str) -> Self {
        let title = format!("The required field '{field}' is missing");
        Self::new(StatusCode::BAD_REQUEST, "required-field-missing", title)
    }

    pub(super) fn unknown_field(field: &str) -> Self {
        let title = format!("There is no active field '{field}'");
        Self::new(StatusCode::BAD_REQUEST, "unknown-field-name", title)
    }

    pub(super) fn list_value(field: &str, value: &str) -> Self {
        let title = format!("'{value}' is not in the list of field '{field}'");
        Self::new(StatusCode::BAD_REQUEST, "invalid-list-field-value", title)
    }

    pub(super) fn value_type(field: &str, value: &str) -> Self {
        let title = format!("'{value}' is not of the type of field '{field}'");
        let id = "invalid-value-type-for-field";
        Self::new(StatusCode::BAD_REQUEST, id, title)
    }

    /// Filters, orders and pages that cannot be read are answered like a resource that is not there.
    pub(super) fn filter(why: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "invalid-filter-expression", why)
    }

    pub(super) fn forbidden(why: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "operation-forbidden", why)
    }

    pub(super) fn locked(by: &str) -> Self {
        let title = format!("The entity is locked by {by}");
        Self::new(StatusCode::FORBIDDEN, "lock-failure", title)
    }

    pub(super) fn check_out(why: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "check-out-failure", why)
    }

    pub(super) fn check_in(why: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "check-in-failure", why)
    }

    pub(super) fn undo_check_out(why: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "undo-check-out-failure", why)
    }

    /// Told as the client wants to have it, by a server at `origin`.
    pub(super) fn reply(&self, accept: Accept, origin: &str) -> Reply {
        let reply = match accept.named {
            Some(format) => reply::data(self.status, format, self.written(format)),
            None => reply::text(self.status, "text/html;charset=UTF-8", self.page()),
        };
        match self.challenge {
            None => reply,
            Some(Challenge::AlmAuth) => reply::with(reply, WWW_AUTHENTICATE, "ALMAUTH"),
            Some(Challenge::Lwsso) => {
                let realm = format!("LWSSO realm={origin}/qcbin/authentication-point");
                reply::with(reply, WWW_AUTHENTICATE, &realm)
            }
        }
    }

    fn written(&self, format: Format) -> String {
        let id = format!("qccore.{}", self.id);
        match format {
            Format::Xml => format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>\
                 <QCRestException><Id>{id}</Id><Title>{}</Title></QCRestException>",
                escaped(&self.title)
            ),
            Format::Json => json!({
                "Id": id,
                "Title": self.title,
                "ExceptionProperties": null,
                "StackTrace": null,
            })
            .to_string(),
        }
    }

    fn page(&self) -> String {
        format!(
            "<!DOCTYPE html><html><head><title>ALM</title></head><body><h1>{}</h1>\
             <p>Exception Id: qccore.{}</p></body></html>",
            escaped(&self.title),
            self.id
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_envelopes_hold_id_and_title() {
        let fault = Fault::required("name");
        let xml = super::super::xml::read(&fault.written(Format::Xml)).expect("it is XML");
        assert_eq!(xml.name, "QCRestException");
        assert_eq!(xml.text_of("Id"), Some("qccore.required-field-missing"));
        let json: serde_json::Value =
            serde_json::from_str(&fault.written(Format::Json)).expect("it is JSON");
        assert_eq!(json["Id"], "qccore.required-field-missing");
        assert_eq!(json["Title"], xml.text_of("Title").expect("it has one"));
        assert!(json["StackTrace"].is_null() && json["ExceptionProperties"].is_null());
    }
}
