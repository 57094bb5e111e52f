//! Names and TCP.

use super::{Cause, Diagnosis, after_handshake};
use std::io::{self, ErrorKind};

/// Returns why the resolver has no address for a name.
pub fn lookup(error: &io::Error) -> Diagnosis {
    if error.kind() == ErrorKind::TimedOut {
        return Cause::NameServerSilent.into();
    }
    // The standard library keeps the resolver's number in the text alone. The texts are those of glibc, musl,
    // macOS and the BSDs; Windows has numbers.
    let text = error.to_string().to_ascii_lowercase();
    let has = |texts: &[&str]| texts.iter().any(|part| text.contains(part));
    match error.raw_os_error() {
        Some(11001) => return Cause::NameUnknown.into(),
        Some(11002 | 11003) => return Cause::NameServerSilent.into(),
        Some(11004) => return Cause::NameWithoutAddress.into(),
        Some(_) | None => {}
    }
    if has(&[
        "temporary failure",
        "try again",
        "non-recoverable",
        "system error",
        "timed out",
    ]) {
        return Cause::NameServerSilent.into();
    }
    if has(&[
        "no address associated",
        "no usable address",
        "no data of requested type",
    ]) {
        return Cause::NameWithoutAddress.into();
    }
    if has(&[
        "not known",
        "does not resolve",
        "unknown",
        "nodename nor servname",
        "no such host",
    ]) {
        return Cause::NameUnknown.into();
    }
    Diagnosis::new(Cause::NameServerSilent, system_text(error))
}

/// Returns why a host was not reached, by name or address.
pub fn reach(error: &io::Error) -> Diagnosis {
    // An error of the resolver has no number and no kind. On Windows it has a number of its own.
    let is_lookup = match error.raw_os_error() {
        Some(number) => cfg!(windows) && (11001..=11004).contains(&number),
        None => error.to_string().contains("lookup"),
    };
    match is_lookup {
        true => lookup(error),
        false => connect(error),
    }
}

/// Returns why a TCP connection was not made.
pub fn connect(error: &io::Error) -> Diagnosis {
    match error.kind() {
        ErrorKind::ConnectionRefused => Cause::ConnectionRefused.into(),
        ErrorKind::HostUnreachable => Cause::HostUnreachable.into(),
        ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown | ErrorKind::AddrNotAvailable => {
            Cause::NetworkUnreachable.into()
        }
        ErrorKind::TimedOut => Cause::ConnectTimeout.into(),
        ErrorKind::PermissionDenied => Cause::ConnectForbidden.into(),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Cause::ConnectReset.into(),
        _ => Diagnosis::new(Cause::ConnectFailed, system_text(error)),
    }
}

/// Returns why an established connection ended.
pub fn ended(error: &io::Error) -> String {
    // An alert of the peer, inside the I/O error of the TLS library.
    if let Some(alert) = after_handshake(error) {
        return alert.to_string();
    }
    match error.kind() {
        // The TLS library's text for it is a paragraph of documentation.
        ErrorKind::UnexpectedEof => "the connection was closed without a closing handshake".into(),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            "the connection was reset".into()
        }
        ErrorKind::TimedOut => "the peer did not acknowledge what was sent".into(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
            connect(error).to_string()
        }
        ErrorKind::InvalidData => Cause::TlsBroken.words().what.into(),
        _ => system_text(error),
    }
}

/// Returns the system's text without the number that the standard library adds.
fn system_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text
        .strip_prefix("failed to lookup address information: ")
        .unwrap_or(&text);
    match text.rfind(" (os error ") {
        Some(at) => text[..at].to_ascii_lowercase(),
        None => text.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_errors_of_several_systems_have_causes() {
        for (text, cause) in [
            ("Name or service not known", Cause::NameUnknown),
            ("Name does not resolve", Cause::NameUnknown),
            (
                "nodename nor servname provided, or not known",
                Cause::NameUnknown,
            ),
            (
                "Temporary failure in name resolution",
                Cause::NameServerSilent,
            ),
            ("Try again", Cause::NameServerSilent),
            (
                "No address associated with hostname",
                Cause::NameWithoutAddress,
            ),
            ("Name has no usable address", Cause::NameWithoutAddress),
        ] {
            let text = format!("failed to lookup address information: {text}");
            assert_eq!(
                lookup(&io::Error::other(text.clone())).cause(),
                cause,
                "{text}"
            );
        }
        let silent = io::Error::from(ErrorKind::TimedOut);
        assert_eq!(lookup(&silent).cause(), Cause::NameServerSilent);
    }

    #[test]
    fn end_of_a_connection_has_no_number_of_the_system() {
        for (error, text) in [
            (
                io::Error::from_raw_os_error(104),
                "the connection was reset",
            ),
            (ErrorKind::BrokenPipe.into(), "the connection was reset"),
            (
                ErrorKind::UnexpectedEof.into(),
                "the connection was closed without a closing handshake",
            ),
        ] {
            assert_eq!(ended(&error), text);
        }
    }

    #[test]
    #[cfg(unix)]
    fn system_errors_of_a_connection_have_causes() {
        use rustix::io::Errno;
        for (errno, cause) in [
            (Errno::CONNREFUSED, Cause::ConnectionRefused),
            (Errno::HOSTUNREACH, Cause::HostUnreachable),
            (Errno::NETUNREACH, Cause::NetworkUnreachable),
            (Errno::ADDRNOTAVAIL, Cause::NetworkUnreachable),
            (Errno::TIMEDOUT, Cause::ConnectTimeout),
            (Errno::ACCESS, Cause::ConnectForbidden),
            (Errno::PERM, Cause::ConnectForbidden),
            (Errno::CONNRESET, Cause::ConnectReset),
            (Errno::PROTO, Cause::ConnectFailed),
        ] {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            let found = connect(&error);
            assert_eq!(found.cause(), cause, "{errno:?}");
            assert!(!found.to_string().contains("os error"), "{found}");
        }
    }
}
