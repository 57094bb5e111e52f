//! The paths of ALM that open, change or end a session. A caller must not use them on an endpoint whose session
//! all callers share.
//!
//! Servers decode and normalise paths differently. A path is therefore compared in every layer of its
//! percent-encoding, without parameters, without empty segments, and without case. A path that is still ambiguous
//! (dot segments, backslashes, control characters) is rejected as well.

use policy::Target;

/// Layers of percent-encoding that are compared. The policy rejects deeper ones as ambiguous.
const LAYERS_MAX: usize = 6;

/// Segments that belong to ALM's authentication anywhere in a path, with all paths below. Names of domains and
/// projects have no hyphen, so they cannot be among them.
const ANYWHERE: [&str; 4] = [
    "authentication-point",
    "alm-authenticate",
    "site-session",
    "is-authenticated",
];

/// Segments that do so directly below `rest` or `api`.
const BELOW_REST: [&str; 3] = ["oauth2", "authentication", "session"];

/// Last segments of paths that sign in or out, whatever the segments before.
const LAST: [&str; 9] = [
    "authenticate",
    "login",
    "log-in",
    "sign-in",
    "signin",
    "logout",
    "log-out",
    "sign-out",
    "signout",
];

/// After this segment comes the name of an attachment, which may be any text.
const ATTACHMENTS: &str = "attachments";

/// Returns why a caller's path must not be forwarded, or `None` where it may.
pub(crate) fn rejection(target: &Target) -> Option<String> {
    let path = target.path();
    if let Some(why) = policy::path_ambiguity(path) {
        return Some(format!("its path has {why}"));
    }
    let mut layer = path.as_bytes().to_vec();
    for _ in 0..LAYERS_MAX {
        if let Some(name) = reserved(&layer) {
            return Some(format!("{name} signs in or out"));
        }
        let decoded = decoded(&layer);
        // Fully decoded: no server can read more into it.
        if decoded == layer {
            return None;
        }
        layer = decoded;
    }
    Some("its path has too many layers of percent-encoding".into())
}

/// Returns the segment of this layer that belongs to ALM's authentication.
fn reserved(path: &[u8]) -> Option<&'static str> {
    let segments: Vec<String> = path
        .split(|byte| matches!(byte, b'/' | b'\\'))
        .map(folded)
        .filter(|segment| !segment.is_empty())
        .collect();
    let is = |segment: &str, word: &&str| {
        // A server may read a suffix like `.xml` as the format of the response.
        let rest = segment.strip_prefix(word);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '?', '#', '&']))
    };
    let among = |words: &'static [&'static str], segment: &str| {
        words.iter().find(|word| is(segment, word)).copied()
    };
    let anywhere = segments.iter().find_map(|one| among(&ANYWHERE, one));
    let below_rest = segments.windows(2).find_map(|pair| {
        matches!(pair[0].as_str(), "rest" | "api")
            .then(|| among(&BELOW_REST, &pair[1]))
            .flatten()
    });
    let is_attachment = segments.iter().any(|segment| segment == ATTACHMENTS);
    let last = segments.last().filter(|_| !is_attachment);
    anywhere.or(below_rest).or_else(|| among(&LAST, last?))
}

/// Returns a segment in lower case, without its parameters and the characters that servers trim.
fn folded(segment: &[u8]) -> String {
    let end = segment.iter().position(|byte| *byte == b';');
    let segment = String::from_utf8_lossy(&segment[..end.unwrap_or(segment.len())]);
    // Upper case first: servers compare characters like U+017F, whose upper case is S.
    let folded: String = segment
        .chars()
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .collect();
    let is_trimmed = |one: char| one.is_whitespace() || one.is_control() || one == '.';
    folded.trim_matches(is_trimmed).to_owned()
}

/// Removes one layer of percent-encoding. A `%` without two digits stays.
fn decoded(bytes: &[u8]) -> Vec<u8> {
    let digit = |at: usize| {
        let byte = bytes.get(at).copied()?;
        char::from(byte).to_digit(16)
    };
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if *byte == b'%'
            && let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2))
            && let Ok(byte) = u8::try_from(high * 16 + low)
        {
            out.push(byte);
            at += 3;
        } else {
            out.push(*byte);
            at += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_rejected(path: &str) -> bool {
        let url = format!("https://alm.corp.example{path}");
        rejection(&Target::parse(&url).unwrap()).is_some()
    }

    #[test]
    fn sign_in_paths_are_rejected_in_every_spelling() {
        for path in [
            "/qcbin/authentication-point/logout",
            "/qcbin/authentication-point/alm-authenticate",
            "/qcbin/authentication-point/authenticate?login-form-required=y",
            "/qcbin/authentication-point",
            "/qcbin/authentication-point/",
            "/authentication-point/logout",
            "/qcbin/AUTHENTICATION-POINT/Logout",
            "/qcbin//authentication-point//logout/",
            "/qcbin/authentication-point;x=1/logout;jsessionid=2",
            "/qcbin/authentication%2dpoint/logout",
            "/qcbin/authentication-point%2Flogout",
            "/qcbin%2fauthentication-point%2flogout",
            "/qcbin/%61uthentication-point/logout",
            "/qcbin/%2561uthentication-point/logout",
            "/qcbin/%252561uthentication-point/logout",
            "/qcbin/authentication-point%3Bx/logout",
            "/qcbin/authentication-point%20/logout",
            "/qcbin/authentication-point./logout",
            "/qcbin/authentication-point%00/logout",
            "/qcbin/x/../authentication-point/logout",
            "/qcbin/./authentication-point/logout",
            "/qcbin/rest/%2e%2e/authentication-point/logout",
            "/qcbin/rest/..;/authentication-point/logout",
            "/qcbin/%c0%aeauthentication-point/logout",
            "/qcbin/authentication-point%5clogout",
            "/qcbin/rest/site-session",
            "/qcbin/rest/site-session/",
            "/qcbin/rest/Site-Session?x=1",
            "/qcbin/rest/site-session;v=1",
            "/qcbin/rest/%73ite-session",
            "/qcbin/rest/%C5%BFite-%C5%BFession",
            "/qcbin/rest/site-session.xml",
            "/qcbin/v2/rest/site-session",
            "/qcbin/rest/oauth2/login",
            "/qcbin/rest/oauth2/logout",
            "/qcbin/rest//oauth2/login",
            "/qcbin/rest/is-authenticated",
            "/qcbin/rest/is-authenticated?login-form-required=y",
            "/qcbin/v2/rest/is-authenticated",
            "/qcbin/api/authentication/sign-in",
            "/qcbin/api/authentication/sign-out",
            "/qcbin/rest/logout",
            "/qcbin/logout",
            "/logout",
            "/qcbin/alm-authenticate",
            "/qcbin/osp/a/au/auth/oauth2/logout",
        ] {
            assert!(is_rejected(path), "{path}");
        }
    }

    #[test]
    fn other_paths_of_alm_are_forwarded() {
        for path in [
            "/",
            "/qcbin/rest/domains",
            "/qcbin/rest/domains/D/projects/P/defects",
            "/qcbin/rest/domains/D/projects/P/defects;type=collection",
            "/qcbin/rest/domains/D/projects/P/defects/1/attachments/logout",
            "/qcbin/rest/domains/D/projects/P/defects/1/attachments/a%20b%25.txt",
            "/qcbin/rest/domains/D/projects/P/defects?query={name[logout]}",
            "/qcbin/rest/domains/D/projects/P/customization/users",
            "/qcbin/rest/domains/logout/projects/login/defects/1/lock",
            "/qcbin/rest/sessions",
            "/qcbin/authentication-points",
        ] {
            assert!(!is_rejected(path), "{path}");
        }
    }
}
