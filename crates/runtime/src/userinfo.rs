//! User and password in a URL: `scheme://user:password@host`. Checked before any program parses the URL or shows a
//! part of it.
//!
//! A password with `/`, `?`, `#` or `@` makes a URL that parsers read differently: one of them takes the user for the
//! host, and shows it. Such characters must be percent-encoded (RFC 3986, 2.4 and 3.2.1). No message repeats any
//! of the text.

/// Why the user or password of a URL is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserinfoError {
    /// A character that ends the user information, or that no URL may have.
    #[error(
        "has a character in its user or password that must be percent-encoded: write %2F for /, %3F for ?, %23 for #, \
         %40 for @, %5C for \\, %5B for [, %5D for ], %22 for a quotation mark, %20 for a blank"
    )]
    Character,
    /// A `%` without two hexadecimal digits.
    #[error(
        "has a % in its user or password that begins no percent-encoded character: write %25 for %"
    )]
    Percent,
    /// `:` or `/` is missing after the scheme, as in `http:/host` and `http//host`.
    #[error("has no :// after its scheme: write scheme://user:password@host:port")]
    Separator,
    /// What stands where the port should be is no number, as with `user:password` without a host.
    #[error("has no host, or a port that is not a number: write scheme://user:password@host:port")]
    Port,
}

/// Checks that all parsers find the same user, password and host in a URL.
///
/// # Errors
/// [`UserinfoError`], whose text follows a word for the URL.
pub fn check(url: &str) -> Result<(), UserinfoError> {
    if is_separator_incomplete(url) {
        return Err(UserinfoError::Separator);
    }
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(end);
    // An `@` after the authority: the user information has a character that ended the authority early.
    if after.contains('@') {
        return Err(UserinfoError::Character);
    }
    let (userinfo, host) = match authority.rsplit_once('@') {
        Some((userinfo, host)) => (Some(userinfo), host),
        None => (None, authority),
    };
    if let Some(userinfo) = userinfo {
        check_userinfo(userinfo)?;
    }
    // Several hosts are separated by commas in a URL of PostgreSQL.
    let has_port = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => {
            port.bytes().all(|byte| byte.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']'))
        }
        Some(_) | None => true,
    };
    match host.split(',').all(has_port) {
        true => Ok(()),
        false => Err(UserinfoError::Port),
    }
}

/// Whether one of the usual schemes is followed by a part of `://`. What follows would be read as a user or a path.
fn is_separator_incomplete(url: &str) -> bool {
    let end = url.find([':', '/']).unwrap_or(url.len());
    let (scheme, rest) = url.split_at(end);
    let is_scheme = ["http", "https", "postgres", "postgresql"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known));
    let is_part = rest.starts_with('/') || (rest.starts_with(":/") && !rest.starts_with("://"));
    is_scheme && is_part
}

fn check_userinfo(userinfo: &str) -> Result<(), UserinfoError> {
    let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = userinfo.as_bytes();
    for (index, byte) in bytes.iter().enumerate() {
        match byte {
            b'%' if is_digit(bytes.get(index + 1)) && is_digit(bytes.get(index + 2)) => {}
            b'%' => return Err(UserinfoError::Percent),
            // `:` separates user and password, and may also be in the password (RFC 3986, 3.2.1).
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+'
            | b',' | b';' | b'=' | b':' => {}
            byte if byte.is_ascii_alphanumeric() => {}
            _ => return Err(UserinfoError::Character),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unencoded_password_is_refused_without_showing_it() {
        for (password, error) in [
            ("s3cr/et", UserinfoError::Character),
            ("s3cr?et", UserinfoError::Character),
            ("s3cr#et", UserinfoError::Character),
            ("s3cr@et", UserinfoError::Character),
            ("s3cr\\et", UserinfoError::Character),
            ("s3cr[et]", UserinfoError::Character),
            ("s3cr et", UserinfoError::Character),
            ("s3cr\"et", UserinfoError::Character),
            ("s3cr\u{e9}t", UserinfoError::Character),
            ("s3cr%et", UserinfoError::Percent),
            ("100%", UserinfoError::Percent),
        ] {
            for url in [
                format!("http://me:{password}@proxy.example:3128"),
                format!("me:{password}@proxy.example:3128"),
                format!("postgres://relay:{password}@db.example/relay"),
            ] {
                assert_eq!(check(&url), Err(error), "{url}");
            }
            assert!(!error.to_string().contains("s3cr"));
        }
        assert_eq!(check("http://me:s3cret"), Err(UserinfoError::Port));
        assert_eq!(
            check("postgres://relay:s3cret/relay"),
            Err(UserinfoError::Port)
        );
    }

    #[test]
    fn incomplete_separator_is_named() {
        for url in [
            "http:/me:s3cret@proxy.example:3128",
            "http//me:s3cret@proxy.example:3128",
            "HTTP/me:s3cret@proxy.example:3128",
            "postgres:/relay:s3cret@db.example/relay",
        ] {
            assert_eq!(check(url), Err(UserinfoError::Separator), "{url}");
        }
        for url in ["http://http/x", "http:3128", "https", "httpx:/a"] {
            assert_ne!(check(url), Err(UserinfoError::Separator), "{url}");
        }
    }

    #[test]
    fn encoded_password_and_plain_url_are_taken() {
        for url in [
            "http://me:s3cr%2Fet%40@proxy.example:3128",
            "http://me:s3:cr:et@proxy.example",
            "http://proxy.example:3128/",
            "proxy.example:3128",
            "http://[fd00::1]:3128",
            "postgres://relay@/relay?host=/var/run/postgresql",
            "postgres://relay:x@a.example:5432,b.example:5433/relay?sslmode=require",
            "https://collector.example/v1/traces?x=y#z",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
    }
}
