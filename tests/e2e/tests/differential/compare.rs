//! Compares what both ends saw on a route through the tunnel with what they saw without it.

use super::case::{Case, Check, KEY, Route, Target};
use super::http2_caller::Reply;
use std::collections::{BTreeMap, BTreeSet};
use support::h2_target::{self, BodyEnd};
use support::recorder::{Field, Framing, Message};

/// What a case did on one route.
pub(crate) struct Run {
    /// The requests that the target saw.
    pub(crate) requests: Vec<Sight>,
    /// The same as bytes, where the target records them.
    pub(crate) request_bytes: Vec<u8>,
    /// What the caller got, or why it got nothing.
    pub(crate) heard: Result<Heard, String>,
    /// Whether the target saw the caller's key for the relay.
    pub(crate) has_leaked: bool,
    /// Whether the target saw another version of HTTP than its own.
    pub(crate) is_downgraded: bool,
}

/// What a caller got.
pub(crate) struct Heard {
    pub(crate) response: Option<Sight>,
    /// Responses with a status of 1xx, where the caller records them.
    pub(crate) informational: Option<Vec<Sight>>,
    /// Bytes after the response.
    pub(crate) rest: Vec<u8>,
    /// All of it.
    pub(crate) bytes: Vec<u8>,
}

/// Fields of one hop. They end there (RFC 9110, 7.6.1).
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

/// Those of them that the next hop may have, too: they frame its own messages.
const OF_EVERY_HOP: [&str; 2] = ["connection", "transfer-encoding"];

/// Bytes of a value or a body that are shown.
const SHOWN_BYTES: usize = 160;

/// The body of invalid responses.
pub(crate) const NEVER_SEEN: &str = "never to be seen";

type Named = BTreeMap<String, Vec<Vec<u8>>>;

/// What a receiver knows of a body's length before it reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Bodiless,
    Known,
    Unknown,
}

/// A message without what may differ.
#[derive(Clone)]
pub(crate) struct Sight {
    /// Method and target, or the status.
    start: Vec<u8>,
    fields: Named,
    /// `None` by HTTP/2, whose frames always end the body.
    length: Option<Length>,
    body: Vec<u8>,
    trailers: Named,
    is_whole: bool,
    /// Fields that should have ended at the hop before.
    passed_on: Vec<String>,
}

/// Returns why a run without the tunnel is no yardstick: then the case itself is wrong.
pub(crate) fn unsound(case: &Case, direct: &Run) -> Vec<String> {
    let mut found = Vec::new();
    if direct.requests.len() != 1 {
        let count = direct.requests.len();
        found.push(format!("the target saw {count} requests"));
    }
    if !case.is_early && direct.requests.iter().any(|request| !request.is_whole) {
        found.push("the target saw an incomplete request".to_owned());
    }
    let response = match &direct.heard {
        Ok(heard) => heard.response.as_ref(),
        Err(error) => {
            found.push(error.clone());
            return found;
        }
    };
    let is_whole = response.is_some_and(|response| response.is_whole);
    match case.check {
        Check::BrokenOff if is_whole => found.push("the response is complete".to_owned()),
        Check::BrokenOff | Check::Unusable | Check::OneLength => {}
        Check::Same | Check::SameOrRefused | Check::Informational if is_whole => {}
        Check::Same | Check::SameOrRefused | Check::Informational => {
            found.push("there is no complete response".to_owned());
        }
    }
    found
}

/// Returns what differs from the run without the tunnel, and must not.
pub(crate) fn differences(
    case: &Case,
    target: Target,
    route: Route,
    direct: &Run,
    tunnelled: &Run,
) -> Vec<String> {
    let (before, now) = match (&direct.heard, &tunnelled.heard) {
        (_, Err(error)) => return vec![error.clone()],
        // `unsound` reports this one.
        (Err(_), Ok(_)) => return Vec::new(),
        (Ok(direct), Ok(tunnelled)) => (direct, tunnelled),
    };
    let mut found = match (route, case.check) {
        (Route::Connect, _) => bytes_differ(case, direct, tunnelled, before, now),
        (_, Check::SameOrRefused) if tunnelled.requests.is_empty() => not_refused(now),
        (_, Check::Same | Check::SameOrRefused) => [
            requests_differ(case, direct, tunnelled),
            responses_differ(before, now),
        ]
        .concat(),
        (_, Check::Informational) => [
            requests_differ(case, direct, tunnelled),
            informational_differ(direct, before, now),
        ]
        .concat(),
        (_, Check::BrokenOff) => not_broken_off(target, before, now),
        (_, Check::Unusable) => not_unusable(now),
        (_, Check::OneLength) => not_one_length(now),
    };
    if tunnelled.has_leaked {
        found.push("the target saw the relay's key".to_owned());
    }
    found
}

/// By CONNECT every byte is the same, up to where it breaks off.
fn bytes_differ(
    case: &Case,
    direct: &Run,
    tunnelled: &Run,
    before: &Heard,
    now: &Heard,
) -> Vec<String> {
    let mut found = Vec::new();
    let (seen_before, seen_now) = (&direct.request_bytes, &tunnelled.request_bytes);
    found.extend(bytes_shown("the target saw", seen_before, seen_now));
    let (before, bytes) = (&before.bytes, &now.bytes);
    if case.check != Check::BrokenOff {
        found.extend(bytes_shown("the caller saw", before, bytes));
        return found;
    }
    // A reset may discard what was in flight.
    if !before.starts_with(bytes) && !bytes.starts_with(before) {
        found.extend(bytes_shown("the caller saw", before, bytes));
    }
    if now
        .response
        .as_ref()
        .is_some_and(|response| response.is_whole)
    {
        found.push("the caller saw a complete response".to_owned());
    }
    found
}

fn requests_differ(case: &Case, direct: &Run, tunnelled: &Run) -> Vec<String> {
    let ([before], [now]) = (&*direct.requests, &*tunnelled.requests) else {
        let count = tunnelled.requests.len();
        return vec![format!("the target saw {count} requests")];
    };
    let mut found = now.hop_fields("the target saw");
    // A request with `Expect` goes by HTTP/1.1: only there the target can decline the body.
    if tunnelled.is_downgraded && !before.fields.contains_key("expect") {
        found.push("the target got HTTP/1.1".to_owned());
    }
    let (mut before, mut now) = (before.clone(), now.clone());
    if case.is_early {
        for sight in [&mut before, &mut now] {
            sight.body.clear();
            sight.is_whole = false;
            sight.trailers.clear();
        }
    }
    found.extend(before.differences("the target saw", &now));
    found
}

fn responses_differ(before: &Heard, now: &Heard) -> Vec<String> {
    let mut found = final_responses_differ(before, now);
    let statuses = |heard: &Heard| -> Option<Vec<Vec<u8>>> {
        let responses = heard.informational.as_ref()?.iter();
        Some(responses.map(|one| one.start.clone()).collect())
    };
    if let (Some(before), Some(now)) = (statuses(before), statuses(now))
        && before != now
    {
        let shown = |all: Vec<Vec<u8>>| all.iter().map(|one| shown(one)).collect::<String>();
        let (before, now) = (shown(before), shown(now));
        found.push(format!("before the response came {now}, not {before}"));
    }
    found
}

fn final_responses_differ(before: &Heard, now: &Heard) -> Vec<String> {
    let mut found = Vec::new();
    let after = "after the response came";
    found.extend(bytes_shown(after, &before.rest, &now.rest));
    let (Some(before), Some(now)) = (&before.response, &now.response) else {
        found.push("there is no response".to_owned());
        return found;
    };
    found.extend(now.hop_fields("the caller saw"));
    let mut now = now.clone();
    // The relay adds a date where the target sent none (RFC 9110, 6.6.1).
    if !before.fields.contains_key("date") {
        now.fields.remove("date");
    }
    // The relay names each request that goes to a target.
    now.fields.remove("bridge-request-id");
    found.extend(before.differences("the caller saw", &now));
    found
}

/// The responses with a status of 1xx, and the final one.
fn informational_differ(direct: &Run, before: &Heard, now: &Heard) -> Vec<String> {
    let mut found = final_responses_differ(before, now);
    let (Some(sent), Some(came)) = (&before.informational, &now.informational) else {
        return found;
    };
    let mut requests = direct.requests.iter();
    let is_expecting = requests.any(|request| request.fields.contains_key("expect"));
    let mut sent = sent.iter();
    for came in came {
        let is_own = is_expecting && came.start == b"100";
        if !is_own && !sent.any(|sent| sent.differences("", came).is_empty()) {
            let came = came.summary();
            found.push(format!("the target did not send, or not here: {came}"));
        }
    }
    found
}

fn not_refused(heard: &Heard) -> Vec<String> {
    match &heard.response {
        Some(response) if (400..500).contains(&response.status()) => Vec::new(),
        _ => vec![format!("not rejected with 4xx: {}", summary(heard))],
    }
}

fn not_broken_off(target: Target, before: &Heard, now: &Heard) -> Vec<String> {
    let (Some(before), Some(response)) = (&before.response, &now.response) else {
        return vec![format!("there is no response: {}", summary(now))];
    };
    if response.status() == 502 && response.is_whole {
        return Vec::new();
    }
    let mut found = Vec::new();
    if response.is_whole {
        found.push(format!("the response looks complete: {}", summary(now)));
    }
    if response.start != before.start {
        found.push(format!("another status: {}", summary(now)));
    }
    // By HTTP/2, a reset may discard what was in flight also without the tunnel.
    let is_longer = target == Target::Http2 && response.body.starts_with(&before.body);
    if !before.body.starts_with(&response.body) && !is_longer {
        let shown = bytes_shown("the caller saw", &before.body, &response.body);
        found.extend(shown);
    }
    found
}

fn not_unusable(heard: &Heard) -> Vec<String> {
    let mut parts = heard.bytes.windows(NEVER_SEEN.len());
    let has_body = parts.any(|part| part == NEVER_SEEN.as_bytes());
    match &heard.response {
        Some(response) if response.status() == 502 && response.is_whole && !has_body => Vec::new(),
        _ => vec![format!("not answered with 502: {}", summary(heard))],
    }
}

fn not_one_length(heard: &Heard) -> Vec<String> {
    let Some(response) = &heard.response else {
        return vec![format!("there is no response: {}", summary(heard))];
    };
    let own = response.body.len().to_string().into_bytes();
    let lengths = response.fields.get("content-length");
    let has_one = response.status() == 200 && lengths.is_some_and(|all| *all == [own]);
    if response.is_whole && (has_one || response.status() == 502) {
        return Vec::new();
    }
    vec![format!("not one length: {}", summary(heard))]
}

/// The beginning of what the caller got.
fn summary(heard: &Heard) -> String {
    shown(&heard.bytes)
}

/// The tokens of `Connection`.
fn nominated(message: &Message) -> BTreeSet<String> {
    let values = message.values("connection");
    let tokens = values.flat_map(|value| value.split(|byte| *byte == b','));
    let tokens = tokens.map(|token| String::from_utf8_lossy(token).trim().to_ascii_lowercase());
    tokens.filter(|token| !token.is_empty()).collect()
}

fn by_name(fields: &[Field]) -> Named {
    let mut named = Named::new();
    for (name, value) in fields {
        let values = named.entry(name.to_ascii_lowercase()).or_default();
        values.push(value.clone());
    }
    named
}

impl Sight {
    fn of_http1(message: &Message, start: &[u8]) -> Self {
        let mut fields = by_name(&message.fields);
        // A length next to chunks means nothing, and must not be passed on (RFC 9112, 6.3).
        if fields.contains_key("transfer-encoding") {
            fields.remove("content-length");
        }
        let nominated = nominated(message);
        let is_of_hop = |name: &str| OF_ONE_HOP.contains(&name) && !OF_EVERY_HOP.contains(&name);
        let names = message.fields.iter().map(|(name, _)| name.as_str());
        let of_hop = names.filter(|name| *name == KEY || is_of_hop(name));
        let own = ["close", "keep-alive"];
        let named = nominated.iter().map(String::as_str);
        let named = named.filter(|token| !own.contains(token));
        let passed_on = of_hop.chain(named).map(str::to_owned).collect();
        fields.retain(|name, _| !OF_ONE_HOP.contains(&name.as_str()) && !nominated.contains(name));
        Self {
            start: start.to_vec(),
            fields,
            length: Some(match message.framing {
                Framing::Bodiless => Length::Bodiless,
                Framing::Length(_) => Length::Known,
                Framing::Chunked | Framing::Close => Length::Unknown,
            }),
            body: message.body.clone(),
            trailers: by_name(&message.trailers),
            is_whole: message.is_whole,
            passed_on,
        }
    }

    /// A request that an HTTP/1.1 target recorded.
    pub(crate) fn of_http1_request(request: &Message) -> Self {
        let line = &*request.first_line;
        let mut sight = Self::of_http1(request, line.strip_suffix(b" HTTP/1.1").unwrap_or(line));
        // The bridge writes the authority that its policy approved.
        sight.fields.remove("host");
        sight
    }

    /// A response that an HTTP/1.1 caller recorded.
    pub(crate) fn of_http1_response(response: &Message) -> Self {
        let mut words = response.first_line.split(|byte| *byte == b' ');
        Self::of_http1(response, words.nth(1).unwrap_or(&response.first_line))
    }

    fn of_http2(start: String, fields: &[Field], body: &[u8], trailers: &[Field]) -> Self {
        let mut fields = by_name(fields);
        fields.retain(|name, _| !OF_ONE_HOP.contains(&name.as_str()));
        // END_STREAM states the same (RFC 9113, 8.1).
        let lengths = fields.get("content-length");
        if body.is_empty() && lengths.is_some_and(|lengths| *lengths == [b"0"]) {
            fields.remove("content-length");
        }
        Self {
            start: start.into_bytes(),
            fields,
            length: None,
            body: body.to_vec(),
            trailers: by_name(trailers),
            is_whole: true,
            passed_on: Vec::new(),
        }
    }

    /// A request that an HTTP/2 target recorded.
    pub(crate) fn of_http2_request(case: &Case, seen: &h2_target::Seen) -> Self {
        let start = format!("{} {} at {}", seen.method, seen.path, seen.authority);
        // A length of 0 is compared by the body, which is unknown where the response came early.
        let (body, trailers): (&[u8], &[Field]) = match case.is_early {
            true => (b"", &[]),
            false => (&seen.body, &seen.trailers),
        };
        let mut sight = Self::of_http2(start, &seen.fields, body, trailers);
        sight.is_whole = seen.body_end == BodyEnd::Whole;
        sight.fields.remove("host");
        // HTTP/2 may cut cookies, and receivers join them (RFC 9113, 8.2.3).
        if let Some(crumbs) = sight.fields.get_mut("cookie") {
            *crumbs = vec![crumbs.join(&b"; "[..])];
        }
        sight
    }

    /// A response to a caller of an HTTP/2 target.
    pub(crate) fn of_reply(reply: &Reply) -> Self {
        let start = reply.status.to_string();
        let mut sight = Self::of_http2(start, &reply.fields, &reply.body, &reply.trailers);
        sight.is_whole = reply.is_whole;
        sight
    }

    fn status(&self) -> u16 {
        let status = std::str::from_utf8(&self.start).ok();
        status.and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    fn summary(&self) -> String {
        format!("{} {}", shown(&self.start), shown(&self.body))
    }

    fn hop_fields(&self, who: &str) -> Vec<String> {
        let names = self.passed_on.iter();
        names
            .map(|name| format!("{who} `{name}`, which is of one hop"))
            .collect()
    }

    /// Returns what is different in another sight of what should be the same message.
    fn differences(&self, who: &str, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        found.extend(bytes_shown(who, &self.start, &other.start));
        let what = format!("{who} the field");
        found.extend(fields_shown(&what, &self.fields, &other.fields));
        if self.length != other.length {
            let (own, other) = (self.length, other.length);
            found.push(format!("{who} a body of length {other:?}, not {own:?}"));
        }
        let what = format!("{who} the body");
        found.extend(bytes_shown(&what, &self.body, &other.body));
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

/// Both, if they differ: the lengths, and the bytes around the first difference.
fn bytes_shown(what: &str, direct: &[u8], tunnelled: &[u8]) -> Option<String> {
    if direct == tunnelled {
        return None;
    }
    let same = direct.iter().zip(tunnelled).take_while(|(a, b)| a == b);
    let at = same.count();
    let from = if direct.len().max(tunnelled.len()) > SHOWN_BYTES {
        at.saturating_sub(SHOWN_BYTES / 4)
    } else {
        0
    };
    let (own, other) = (shown(&direct[from..]), shown(&tunnelled[from..]));
    let lengths = (tunnelled.len(), direct.len());
    Some(format!(
        "{what}, from byte {from}: {other}, not {own} ({} and {} bytes)",
        lengths.0, lengths.1
    ))
}

/// The beginning, in quotes, with escapes.
fn shown(bytes: &[u8]) -> String {
    let beginning = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let more = if bytes.len() > SHOWN_BYTES { "…" } else { "" };
    format!("\"{}\"{more}", beginning.escape_ascii())
}
