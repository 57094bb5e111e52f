//! A request's path and query, with their percent-encoding undone.

/// The parameters of a query, in order.
#[derive(Debug, Default)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    pub(super) fn of(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = |text: &str| decoded(&text.replace('+', " "));
            (decoded(name), decoded(value))
        });
        Self(pairs.collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut all = self.0.iter();
        all.find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn is(&self, name: &str, value: &str) -> bool {
        self.get(name) == Some(value)
    }
}

/// The segments of a path.
pub(super) fn segments(path: &str) -> Vec<String> {
    let all = path.split('/').filter(|segment| !segment.is_empty());
    all.map(decoded).collect()
}

/// Undoes percent-encoding (RFC 3986, 2.1); what is none stays as it is.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_decoded_once() {
        let params = Params::of("query=%7Bname%5B%22a+b%2525%22%5D%7D&x&y=%zz");
        assert_eq!(params.get("query"), Some("{name[\"a b%25\"]}"));
        assert_eq!(params.get("x"), Some(""));
        assert_eq!(params.get("y"), Some("%zz"));
        assert_eq!(segments("/a/b%2Fc%20%C3%BC/"), ["a", "b/c ü"]);
    }
}
