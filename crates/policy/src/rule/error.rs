//! Errors in the text of a rule, with what the administrator should write instead.

use super::ENTRIES_MAX;
use crate::rule::methods::METHOD_MAX_BYTES;
use crate::target::host::HostError;
use ipnet::IpNet;
use thiserror::Error;

/// Why a part of a rule is invalid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatternError {
    /// `*` as a host.
    #[error(
        "\"*\" would allow every host: name hosts, such as \"*.corp.example\", or networks, such as \"10.0.0.0/8\""
    )]
    AnyHost,
    /// `*` in a host, other than as its first label.
    #[error(
        "\"*\" stands for whole labels at the beginning of a name only, as in \"*.corp.example\""
    )]
    HostStar,
    /// A range of addresses.
    #[error("a range of addresses is written as a network, as in \"10.0.0.0/24\"")]
    HostRange,
    /// A URL, or a host with a path.
    #[error("a host is needed here, without scheme and path: these go into schemes and paths")]
    HostUrl,
    /// A host with a port.
    #[error("a host is needed here without its port: ports go into ports = [...]")]
    HostPort,
    /// Neither a name nor an address.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A network whose prefix is not a number, or too long.
    #[error(
        "the prefix of a network is a number, at most 32 for IPv4 and 128 for IPv6, as in \"10.0.0.0/8\""
    )]
    Prefix,
    /// A network with bits set after its prefix.
    #[error("the network has bits set after its prefix: write \"{network}\", or the address alone")]
    HostBits {
        /// The network without them.
        network: IpNet,
    },
    /// A path without `/` at its beginning.
    #[error("a path begins with /")]
    PathStart,
    /// `*` in a path, other than as its last segment.
    #[error("\"*\" stands for everything below a path, at its end only, as in \"/hooks/*\"")]
    PathStar,
    /// A path with a query, a fragment, or bytes that a URL cannot hold.
    #[error("a path holds visible ASCII without ? and #: percent-encode the rest, as the URLs do")]
    PathBytes,
    /// A path that no request could match.
    #[error("the path holds {why}, and such requests are refused")]
    PathAmbiguous {
        /// What it holds.
        why: String,
    },
    /// `*` among other methods.
    #[error("\"*\" allows any method: leave the others out")]
    MethodStar,
    /// Not a token of RFC 9110, or too long.
    #[error("a method is a token of at most {METHOD_MAX_BYTES} bytes, such as \"GET\"")]
    Method,
    /// A method with small letters.
    #[error("methods are case-sensitive: write \"{upper}\"")]
    MethodCase {
        /// The same in capitals.
        upper: String,
    },
    /// `CONNECT` among the methods.
    #[error("CONNECT is not listed among the methods: connect = true allows raw streams")]
    MethodConnect,
    /// Port 0.
    #[error("0 is not a port")]
    PortZero,
    /// An empty list.
    #[error("{what} is empty, so that nothing could match: leave it out, or list something")]
    Empty {
        /// Which list.
        what: &'static str,
    },
    /// More than [`ENTRIES_MAX`] in one list.
    #[error("{what} has {entries} entries; at most {ENTRIES_MAX} are allowed")]
    TooMany {
        /// Which list.
        what: &'static str,
        /// How many.
        entries: usize,
    },
    /// A duplicate entry.
    #[error("{what} lists something twice")]
    Twice {
        /// Which list.
        what: &'static str,
    },
    /// A part that was not parsed, and differs from what its `parse` would return.
    #[error("{what} is not in canonical form")]
    NotCanonical {
        /// Which part.
        what: &'static str,
    },
}
