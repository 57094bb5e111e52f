//! What is wrong with a request that reached the target, if anything: whether every reader would
//! read the same.

use support::recorder::Message;

/// Fields that the bridge's own connection has no use for.
const OF_ANOTHER_HOP: [&str; 4] = ["keep-alive", "proxy-connection", "te", "upgrade"];

/// The path and query that the target was asked for.
pub(crate) fn path(seen: &Message) -> String {
    let line = String::from_utf8_lossy(&seen.first_line);
    line.split(' ').nth(1).unwrap_or_default().to_owned()
}

/// All that is not as it should be, a line each.
pub(crate) fn faults(seen: &Message) -> Vec<String> {
    let head = String::from_utf8_lossy(&seen.head);
    let mut faults = Vec::new();
    let mut check = |is_right: bool, what: &str| {
        if !is_right {
            faults.push(format!("{what}: {}", head.escape_debug()));
        }
    };
    let first_line = String::from_utf8_lossy(&seen.first_line);
    let words: Vec<&str> = first_line.split(' ').collect();
    let is_plain =
        |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic());
    check(
        words.len() == 3 && words.iter().all(is_plain),
        "no request line",
    );
    check(words.last() == Some(&"HTTP/1.1"), "another version");
    let path = path(seen);
    check(
        path.starts_with('/') && !path.contains('#'),
        "no path and query",
    );
    let mut lines = head.split("\r\n");
    check(
        !lines.any(|line| line.contains(['\r', '\n', '\0'])),
        "a line end or NUL inside of a line",
    );
    for (name, _) in &seen.fields {
        check(is_token(name), "a name that is none");
        check(
            !OF_ANOTHER_HOP.contains(&name.as_str()),
            "a field of another hop",
        );
    }
    let count = |name: &str| seen.fields.iter().filter(|(own, _)| own == name).count();
    check(count("host") == 1, "not one host");
    let framings = count("content-length") + count("transfer-encoding");
    check(framings <= 1, "more than one framing");
    let is_number = |length: &[u8]| !length.is_empty() && length.iter().all(u8::is_ascii_digit);
    check(
        seen.values("content-length").all(is_number),
        "a length that is none",
    );
    faults
}

/// RFC 9110, 5.6.2; names are in lower case here.
fn is_token(name: &str) -> bool {
    let is_one = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_one)
}
