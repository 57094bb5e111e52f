//! What both ends saw on a way through the tunnel, beside what they saw without it.

use crate::caller::Reply;
use crate::case::{Case, Check, KEY};
use hyper::Version;
use std::collections::{BTreeMap, BTreeSet};
use support::h2_target::{BodyEnd, Seen};
use support::recorder::Field;

/// What a case did on one way.
pub(crate) struct Run {
    /// The requests that the target saw.
    pub(crate) seen: Vec<Seen>,
    /// What the caller heard, or why nothing.
    pub(crate) heard: Result<Reply, String>,
}

/// Fields of one hop: they stay there.
const OF_ONE_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Bytes of a value or a body that are shown.
const SHOWN_BYTES: usize = 160;

type Named = BTreeMap<String, Vec<Vec<u8>>>;

/// A message without what may differ.
struct Sight<'a> {
    /// Method, path and authority, or the status.
    start: String,
    fields: Named,
    body: &'a [u8],
    trailers: Named,
    is_whole: bool,
}

/// What makes a run without the tunnel no yardstick: then the case is wrong.
pub(crate) fn unsound(case: &Case, direct: &Run) -> Vec<String> {
    let mut found = Vec::new();
    if direct.seen.len() != 1 {
        found.push(format!("the target saw {} requests", direct.seen.len()));
    }
    let is_cut = |seen: &Seen| seen.body_end != BodyEnd::Whole;
    if !case.is_early && direct.seen.iter().any(is_cut) {
        found.push("the target saw a request that is not whole".to_owned());
    }
    match &direct.heard {
        Err(error) => found.push(error.clone()),
        Ok(heard) => match case.check {
            Check::BrokenOff if heard.is_whole => found.push("the answer is whole".to_owned()),
            Check::Same | Check::SameOrRefused if !heard.is_whole => {
                found.push("the answer is not whole".to_owned());
            }
            Check::BrokenOff | Check::Same | Check::SameOrRefused => {}
        },
    }
    found
}

/// What differs from the run without the tunnel, and should not.
pub(crate) fn differences(case: &Case, key: &str, direct: &Run, tunnelled: &Run) -> Vec<String> {
    let heard = match (&direct.heard, &tunnelled.heard) {
        (_, Err(error)) => return vec![error.clone()],
        // That was said already.
        (Err(_), Ok(_)) => return Vec::new(),
        (Ok(direct), Ok(tunnelled)) => (direct, tunnelled),
    };
    let mut found = match case.check {
        Check::SameOrRefused if tunnelled.seen.is_empty() => not_refused(heard.1),
        Check::Same | Check::SameOrRefused => [
            requests_differ(case, &direct.seen, &tunnelled.seen),
            answers_differ(heard.0, heard.1),
        ]
        .concat(),
        Check::BrokenOff => not_broken_off(heard.0, heard.1),
    };
    if tunnelled.seen.iter().any(|seen| has_leaked(seen, key)) {
        found.push("the target saw the relay's key".to_owned());
    }
    found
}

/// Whether the key is in a field.
fn has_leaked(seen: &Seen, key: &str) -> bool {
    let key = key.as_bytes();
    seen.fields
        .iter()
        .any(|(name, value)| name == KEY || value.windows(key.len()).any(|part| part == key))
}

fn requests_differ(case: &Case, direct: &[Seen], tunnelled: &[Seen]) -> Vec<String> {
    let ([direct], [tunnelled]) = (direct, tunnelled) else {
        return vec![format!("the target saw {} requests", tunnelled.len())];
    };
    let mut found = Vec::new();
    // What brings this goes by HTTP/1.1: there the target can say whether it wants the body.
    let is_expecting = direct.fields.iter().any(|(name, _)| name == "expect");
    if tunnelled.version != Version::HTTP_2 && !is_expecting {
        let version = tunnelled.version;
        found.push(format!("the target was spoken to by {version:?}"));
    }
    let (direct, tunnelled) = (
        Sight::of_request(case, direct),
        Sight::of_request(case, tunnelled),
    );
    found.extend(direct.differences("the target saw", &tunnelled));
    found
}

fn answers_differ(direct: &Reply, tunnelled: &Reply) -> Vec<String> {
    let (direct, mut tunnelled) = (Sight::of_answer(direct), Sight::of_answer(tunnelled));
    if !direct.fields.contains_key("date") {
        tunnelled.fields.remove("date");
    }
    direct.differences("the caller saw", &tunnelled)
}

fn not_refused(heard: &Reply) -> Vec<String> {
    if (400..500).contains(&heard.status) {
        return Vec::new();
    }
    vec![format!("it was not refused with 4xx, but {}", told(heard))]
}

fn not_broken_off(direct: &Reply, tunnelled: &Reply) -> Vec<String> {
    if tunnelled.status == 502 && tunnelled.is_whole {
        return Vec::new();
    }
    let mut found = Vec::new();
    if tunnelled.is_whole {
        found.push(format!("the answer looks whole: {}", told(tunnelled)));
    }
    if tunnelled.status != direct.status {
        found.push(format!("another status: {}", told(tunnelled)));
    }
    // A reset may take what was on its way, here or there.
    let (before, now) = (&direct.body, &tunnelled.body);
    if !before.starts_with(now) && !now.starts_with(before) {
        found.extend(bytes_shown("the caller saw", before, now));
    }
    found
}

/// The beginning of what the caller heard.
fn told(heard: &Reply) -> String {
    format!("{} {}", heard.status, shown(&heard.body))
}

fn by_name(fields: &[Field]) -> Named {
    let mut named = Named::new();
    for (name, value) in fields {
        let values = named.entry(name.to_ascii_lowercase()).or_default();
        values.push(value.clone());
    }
    named
}

impl<'a> Sight<'a> {
    fn new(start: String, fields: &[Field], body: &'a [u8], trailers: &[Field]) -> Self {
        let mut fields = by_name(fields);
        fields.retain(|name, _| !OF_ONE_HOP.contains(&name.as_str()));
        let lengths = fields.get("content-length");
        if body.is_empty() && lengths.is_some_and(|lengths| *lengths == [b"0"]) {
            fields.remove("content-length");
        }
        Self {
            start,
            fields,
            body,
            trailers: by_name(trailers),
            is_whole: true,
        }
    }

    fn of_request(case: &Case, seen: &'a Seen) -> Self {
        let start = format!("{} {} at {}", seen.method, seen.path, seen.authority);
        if case.is_early {
            let mut sight = Self::new(start, &seen.fields, b"", &[]);
            sight.tidy();
            return sight;
        }
        let mut sight = Self::new(start, &seen.fields, &seen.body, &seen.trailers);
        sight.is_whole = seen.body_end == BodyEnd::Whole;
        sight.tidy();
        sight
    }

    /// What is the bridge's to write, and cookies that may be cut.
    fn tidy(&mut self) {
        self.fields.remove("host");
        if let Some(crumbs) = self.fields.get_mut("cookie") {
            *crumbs = vec![crumbs.join(&b"; "[..])];
        }
    }

    fn of_answer(answer: &'a Reply) -> Self {
        let start = answer.status.to_string();
        let mut sight = Self::new(start, &answer.fields, &answer.body, &answer.trailers);
        sight.is_whole = answer.is_whole;
        sight
    }

    /// What is different in another sight of what should be the same message.
    fn differences(&self, who: &str, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let (own, others) = (self.start.as_bytes(), other.start.as_bytes());
        found.extend(bytes_shown(who, own, others));
        let what = format!("{who} the field");
        found.extend(fields_shown(&what, &self.fields, &other.fields));
        let what = format!("{who} the body");
        found.extend(bytes_shown(&what, self.body, other.body));
        let what = format!("{who} the trailer");
        found.extend(fields_shown(&what, &self.trailers, &other.trailers));
        if self.is_whole != other.is_whole {
            let (own, other) = (self.is_whole, other.is_whole);
            found.push(format!("{who} all of it: {other}, not {own}"));
        }
        found
    }
}

fn fields_shown(what: &str, direct: &Named, tunnelled: &Named) -> Vec<String> {
    let names: BTreeSet<_> = direct.keys().chain(tunnelled.keys()).collect();
    let differ = names
        .into_iter()
        .filter(|name| direct.get(*name) != tunnelled.get(*name));
    let all = |values: Option<&Vec<Vec<u8>>>| {
        let values = values.into_iter().flatten().map(|value| shown(value));
        values.collect::<Vec<_>>().join(", ")
    };
    differ
        .map(|name| {
            let (direct, tunnelled) = (all(direct.get(name)), all(tunnelled.get(name)));
            format!("{what} {name}: [{tunnelled}], not [{direct}]")
        })
        .collect()
}

/// Both, if they differ; of long ones the lengths, and what is around the first difference.
fn bytes_shown(what: &str, direct: &[u8], tunnelled: &[u8]) -> Option<String> {
    if direct == tunnelled {
        return None;
    }
    let mut pairs = direct.iter().zip(tunnelled);
    let at = pairs.position(|(own, other)| own != other);
    let at = at.unwrap_or(direct.len().min(tunnelled.len()));
    let from = at.saturating_sub(SHOWN_BYTES / 2);
    let (own, other) = (shown(&direct[from..]), shown(&tunnelled[from..]));
    let (own_bytes, other_bytes) = (direct.len(), tunnelled.len());
    Some(format!(
        "{what} {other_bytes} bytes, not {own_bytes}, and from byte {from} on {other}, not {own}"
    ))
}

/// The beginning of bytes.
fn shown(bytes: &[u8]) -> String {
    let some = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let more = if some.len() < bytes.len() { "..." } else { "" };
    format!("\"{}\"{more}", some.escape_ascii())
}
