//! The PROXY protocol: a load balancer that passes bytes on says in front of them from which address they come.
//!
//! Versions 1 and 2, <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. A listed balancer must send a header,
//! because a client could write one if it were optional. From any other address it is not read, and its bytes are a
//! request that fails.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How every header of version 2 begins (section 2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// How every header of version 1 begins (section 2.1).
const WORD: &[u8] = b"PROXY ";

/// Bytes of a header of version 1, with its CRLF (section 2.1).
const LINE_MAX_BYTES: usize = 107;

/// Bytes of a header of version 2 after its first 16. The addresses take 36 at most, and the rest are additions of the
/// balancer, which are skipped.
const REST_MAX_BYTES: usize = 2048;

/// The bytes that tell both versions apart. A shorter header of version 1 is not valid.
const FIRST_BYTES: usize = SIGNATURE.len();

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    /// The connection ended, or failed.
    #[error("the connection ended before its PROXY header")]
    Lost(#[source] io::Error),
    /// Other bytes.
    #[error("it does not begin with a PROXY header")]
    Missing,
    /// A header that breaks the protocol.
    #[error("its PROXY header is not valid: {0}")]
    Invalid(&'static str),
}

impl From<io::Error> for HeaderError {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

/// Reads the header, and no byte more. Returns the client's address; `None` if the balancer speaks for itself, as in a
/// health check, or does not know it.
///
/// # Errors
/// See [`HeaderError`]. Not cancel safe.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<SocketAddr>, HeaderError> {
    let mut first = [0; FIRST_BYTES];
    stream.read_exact(&mut first).await?;
    if first == SIGNATURE {
        let mut fixed = [0; 4];
        stream.read_exact(&mut fixed).await?;
        let [command, family, high, low] = fixed;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > REST_MAX_BYTES {
            return Err(HeaderError::Invalid("it is too long"));
        }
        let mut rest = vec![0; length];
        stream.read_exact(&mut rest).await?;
        return binary(command, family, &rest);
    }
    if !first.starts_with(WORD) {
        return Err(HeaderError::Missing);
    }
    let mut line = first.to_vec();
    // Byte by byte: what follows the line is the client's.
    while !line.ends_with(b"\n") {
        if line.len() == LINE_MAX_BYTES {
            return Err(HeaderError::Invalid("it is too long"));
        }
        line.push(stream.read_u8().await?);
    }
    text(&line)
}

/// Reads a line of version 1: `PROXY TCP4 source destination source-port destination-port`.
fn text(line: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    let invalid = HeaderError::Invalid;
    let line = line
        .strip_suffix(b"\r\n")
        .and_then(|line| std::str::from_utf8(line).ok())
        .ok_or(invalid("its line has no end"))?;
    let words: Vec<&str> = line.split(' ').collect();
    match *words.as_slice() {
        // The rest of the line may be anything.
        [_, "UNKNOWN", ..] => Ok(None),
        [_, "TCP4", source, destination, port, to] => {
            address::<Ipv4Addr>(source, destination, port, to).map(Some)
        }
        [_, "TCP6", source, destination, port, to] => {
            address::<Ipv6Addr>(source, destination, port, to).map(Some)
        }
        _ => Err(invalid("its line has other words")),
    }
}

fn address<A: FromStr + Into<IpAddr>>(
    source: &str,
    destination: &str,
    source_port: &str,
    destination_port: &str,
) -> Result<SocketAddr, HeaderError> {
    let wrong = || HeaderError::Invalid("an address or a port is wrong");
    let ip = |text: &str| text.parse::<A>().map_err(|_| wrong());
    let port = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u16>().map_err(|_| wrong()),
        false => Err(wrong()),
    };
    // The relay has its own address, but a header with a wrong one is not from a balancer.
    ip(destination)?;
    port(destination_port)?;
    Ok(SocketAddr::new(ip(source)?.into(), port(source_port)?))
}

/// Reads what follows the signature of version 2.
fn binary(command: u8, family: u8, rest: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    match command {
        // LOCAL: the balancer's own connection.
        0x20 => return Ok(None),
        // PROXY
        0x21 => {}
        _ => return Err(HeaderError::Invalid("its version or command is unknown")),
    }
    let short = HeaderError::Invalid("its addresses are too short");
    match family {
        // TCP over IPv4: two addresses, two ports.
        0x11 => match rest {
            [a, b, c, d, _, _, _, _, high, low, _, _, ..] => {
                let ip = Ipv4Addr::new(*a, *b, *c, *d);
                let port = u16::from_be_bytes([*high, *low]);
                Ok(Some(SocketAddr::new(ip.into(), port)))
            }
            _ => Err(short),
        },
        // TCP over IPv6.
        0x21 => match (rest.first_chunk::<16>(), rest.get(32..36)) {
            (Some(ip), Some(&[high, low, _, _])) => {
                let port = u16::from_be_bytes([high, low]);
                Ok(Some(SocketAddr::new(Ipv6Addr::from(*ip).into(), port)))
            }
            _ => Err(short),
        },
        // Not specified, UDP, Unix sockets: no address that means anything here (section 2.2).
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of these bytes, and what stays.
    async fn read_of(bytes: &[u8]) -> (Result<Option<SocketAddr>, String>, usize) {
        let mut rest = bytes;
        let read = read(&mut rest).await.map_err(|error| error.to_string());
        (read, rest.len())
    }

    fn version2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    fn some(address: &str) -> Result<Option<SocketAddr>, String> {
        Ok(Some(address.parse().unwrap()))
    }

    #[tokio::test]
    async fn header_is_read_and_no_byte_more() {
        let ipv4 = [203, 0, 113, 7, 10, 0, 0, 1, 0xdc, 0x04, 0x01, 0xbb];
        let ipv6: Vec<u8> = [
            &"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets()[..],
            &Ipv6Addr::LOCALHOST.octets(),
            &[0xdc, 0x04, 0x01, 0xbb],
        ]
        .concat();
        let with_additions = [&ipv4[..], &[0x04, 0, 1, 0]].concat();
        for (header, expected) in [
            (
                b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r\n".to_vec(),
                some("203.0.113.7:56324"),
            ),
            (
                b"PROXY TCP6 2001:db8::7 ::1 56324 443\r\n".to_vec(),
                some("[2001:db8::7]:56324"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), Ok(None)),
            (b"PROXY UNKNOWN ff:: :: 1 2\r\n".to_vec(), Ok(None)),
            (version2(0x21, 0x11, &ipv4), some("203.0.113.7:56324")),
            (
                version2(0x21, 0x11, &with_additions),
                some("203.0.113.7:56324"),
            ),
            (version2(0x21, 0x21, &ipv6), some("[2001:db8::7]:56324")),
            (version2(0x20, 0x00, &[]), Ok(None)),
            (version2(0x20, 0x11, &ipv4), Ok(None)),
            (version2(0x21, 0x31, &[0; 216]), Ok(None)),
        ] {
            let bytes = [&header[..], b"GET /"].concat();
            assert_eq!(
                read_of(&bytes).await,
                (expected, 5),
                "{}",
                header.escape_ascii()
            );
        }
    }

    #[tokio::test]
    async fn invalid_header_is_no_address() {
        let long = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
        for header in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00".to_vec(),
            b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\n".to_vec(),
            b"PROXY TCP4 203.0.113.7  10.0.0.1 56324 443\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.7 10.0.0.1 +1 443\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.7 10.0.0.1 70000 443\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::7 ::1 1 443\r\n".to_vec(),
            b"PROXY TCP6 203.0.113.7 10.0.0.1 1 443\r\n".to_vec(),
            b"PROXY UDP4 203.0.113.7 10.0.0.1 1 443\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.7\r\n".to_vec(),
            long,
            version2(0x11, 0x11, &[0; 12]),
            version2(0x22, 0x11, &[0; 12]),
            version2(0x21, 0x11, &[0; 11]),
            version2(0x21, 0x21, &[0; 35]),
            version2(0x21, 0x11, &[0; REST_MAX_BYTES + 1]),
        ] {
            let (read, _) = read_of(&header).await;
            assert!(read.is_err(), "{}: {read:?}", header.escape_ascii());
        }
        // Every part of a valid one.
        let line = b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r\n";
        for length in 0..line.len() {
            let (read, _) = read_of(&line[..length]).await;
            assert!(read.is_err(), "{length}: {read:?}");
        }
    }
}
