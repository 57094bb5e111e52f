//! Errors in a URL, with what its author should write instead.

use super::URL_MAX_BYTES;
use super::host::HostError;
use thiserror::Error;

/// Why a text is not a URL that the bridge may call. The messages do not repeat the text, which may
/// hold secrets.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TargetError {
    /// Longer than [`URL_MAX_BYTES`].
    #[error("the URL has {bytes} bytes; at most {URL_MAX_BYTES} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A byte outside 0x21 to 0x7e.
    #[error(
        "the URL has {what} (byte {offset}): percent-encode it, or write a host in its xn-- form", what = kind_of(*.byte)
    )]
    Byte {
        /// Its offset, from 0.
        offset: usize,
        /// Its value.
        byte: u8,
    },
    /// No `scheme://` at the beginning.
    #[error("the URL is not absolute: it must begin with http:// or https://")]
    NotAbsolute,
    /// Another scheme than these two.
    #[error("the URL's scheme is neither http nor https")]
    Scheme,
    /// Something before an `@`.
    #[error("the URL holds user information (before an @): send credentials as headers")]
    UserInfo,
    /// A `#`.
    #[error("the URL has a fragment (#), which is never sent: leave it out, or encode it as %23")]
    Fragment,
    /// A `\` before the query.
    #[error("the URL has a backslash, which programs read differently: write / or %5C")]
    Backslash,
    /// The text after an endpoint's name begins with neither `/` nor `?`.
    #[error("the path does not begin with /")]
    Path,
    /// The port is missing after its colon, not a number, 0, or above 65535.
    #[error("the URL's port is not a number from 1 to 65535 without leading zeros")]
    Port,
    /// The host is invalid.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Describes a byte that no URL may have, without the byte.
fn kind_of(byte: u8) -> &'static str {
    match byte {
        b' ' => "a blank",
        0x80.. => "a character that is not ASCII",
        _ => "a control character",
    }
}
