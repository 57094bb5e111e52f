//! What the target does with a request, as a test writes it.

use std::time::Duration;

use h2::Reason;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::recorder::Field;

/// The head of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its status.
    pub status: u16,
    /// Its fields in their order; names in lower case.
    pub fields: Vec<Field>,
}

/// What the target does with a request whose head it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Reads the body to its end. Without this step it is read after the last one, and until then the
    /// stream's window is not extended.
    ReadBody,
    /// Sends a head with a status of 1xx. By HTTP/1.1 it is left out.
    Inform(Head),
    /// Sends the response's head, which is not all of it.
    Head(Head),
    /// Sends the response's head, which is all of it.
    Bodiless(Head),
    /// Sends these bytes of the response's body, as far as the client reads them.
    Send(Vec<u8>),
    /// Ends the response.
    End,
    /// Ends the response with these trailers.
    Trailers(Vec<Field>),
    /// Waits, or notices that the client has left.
    Pause(Duration),
    /// Announces that the connection accepts no more requests (GOAWAY). Running ones are finished.
    GoAway,
    /// Resets the stream (RST_STREAM) for this reason; by HTTP/1.1 it closes the connection. What was
    /// sent in the same moment may be lost.
    Reset(Reason),
    /// Closes the connection without a frame.
    Close,
}

/// Reads the request, and responds with this head, the body's length and the body.
pub fn whole(head: Head, body: impl AsRef<[u8]>) -> Vec<Step> {
    let body = body.as_ref();
    let head = head.field("content-length", body.len().to_string());
    vec![
        Step::ReadBody,
        Step::Head(head),
        Step::Send(body.to_vec()),
        Step::End,
    ]
}

impl Head {
    /// Without any field.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            fields: Vec::new(),
        }
    }

    /// With one more field; a name may come several times.
    pub fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.fields.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// As the libraries have it.
    pub(super) fn response(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(self.status).expect("a status");
        *response.headers_mut() = map_of(&self.fields);
        response
    }
}

/// Fields as the libraries have them.
pub(super) fn map_of(fields: &[Field]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a field's name");
        let value = HeaderValue::from_bytes(value).expect("a field's value");
        map.append(name, value);
    }
    map
}

/// Fields as a test has them. Values of equal names are in their order, and stand together.
pub(super) fn fields_of(map: &HeaderMap) -> Vec<Field> {
    let fields = map.iter();
    fields
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}
