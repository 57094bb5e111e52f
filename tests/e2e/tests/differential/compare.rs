//! What both ends saw on a way through the tunnel, beside what they saw without it.

use crate::case::{Case, Check, Way};
use std::collections::{BTreeMap, BTreeSet};
use support::recorder::{Field, Framing, Heard, Message};

/// What a case did on one way.
pub(crate) struct Run {
    /// The requests that the target saw.
    pub(crate) seen: Vec<Message>,
    /// What the client heard, or why nothing.
    pub(crate) heard: Result<Heard, String>,
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

/// Those of them that the next hop may have, too: they say how its own messages end.
const OF_EVERY_HOP: [&str; 2] = ["connection", "transfer-encoding"];

/// Carries the relay's own key.
const KEY: &str = "bridge-authorization";

/// Bytes of a value or a body that are shown.
const SHOWN_BYTES: usize = 160;

/// What is known of a body's length before it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    /// There is no body.
    Bodiless,
    Known,
    Unknown,
}

/// A message without what may differ.
struct Sight<'a> {
    /// Method and request target, or the status.
    start: &'a [u8],
    fields: BTreeMap<&'a str, Vec<&'a [u8]>>,
    length: Length,
    body: &'a [u8],
    trailers: BTreeMap<&'a str, Vec<&'a [u8]>>,
    is_whole: bool,
}

/// What makes a run without the tunnel no yardstick: then the case is wrong.
pub(crate) fn unsound(case: &Case, direct: &Run) -> Vec<String> {
    let mut found = Vec::new();
    if direct.seen.len() != 1 {
        found.push(format!("the target saw {} requests", direct.seen.len()));
    }
    if !case.is_early && direct.seen.iter().any(|request| !request.is_whole) {
        found.push("the target saw a request that is not whole".to_owned());
    }
    let answer = match &direct.heard {
        Ok(heard) => heard.answer.as_ref(),
        Err(error) => {
            found.push(error.clone());
            return found;
        }
    };
    let is_whole = answer.is_some_and(|answer| answer.is_whole);
    match case.check {
        Check::BrokenOff if is_whole => found.push("the answer is whole".to_owned()),
        Check::BrokenOff | Check::Unusable | Check::OneLength => {}
        Check::Same | Check::SameOrRefused | Check::Informational if is_whole => {}
        Check::Same | Check::SameOrRefused | Check::Informational => {
            found.push("there is no whole answer".to_owned());
        }
    }
    found
}

/// What differs from the run without the tunnel, and should not.
pub(crate) fn differences(case: &Case, way: Way, direct: &Run, tunnelled: &Run) -> Vec<String> {
    let heard = match (&direct.heard, &tunnelled.heard) {
        (_, Err(error)) => return vec![error.clone()],
        // That was said already.
        (Err(_), Ok(_)) => return Vec::new(),
        (Ok(direct), Ok(tunnelled)) => (direct, tunnelled),
    };
    let seen = (&*direct.seen, &*tunnelled.seen);
    if way == Way::Connect {
        return bytes_differ(case, seen, heard);
    }
    match case.check {
        Check::Same => [requests_differ(case, seen, &[]), answers_differ(heard)].concat(),
        Check::SameOrRefused if tunnelled.seen.is_empty() => not_refused(heard.1),
        Check::SameOrRefused => [requests_differ(case, seen, &[]), answers_differ(heard)].concat(),
        Check::Informational => {
            let requests = requests_differ(case, seen, &[]);
            [requests, informational_differ(direct, heard)].concat()
        }
        Check::BrokenOff => not_broken_off(heard),
        Check::Unusable => not_unusable(heard.1),
        Check::OneLength => not_one_length(heard.1),
    }
}

/// By CONNECT every byte is the same, up to where it breaks off.
fn bytes_differ(
    case: &Case,
    seen: (&[Message], &[Message]),
    heard: (&Heard, &Heard),
) -> Vec<String> {
    let bytes_of = |requests: &[Message]| {
        let parts = requests.iter().flat_map(|request| {
            let body: &[u8] = if case.is_early {
                b""
            } else {
                &request.raw_body
            };
            [request.head.as_slice(), body]
        });
        parts.collect::<Vec<_>>().concat()
    };
    let mut found = Vec::new();
    let (direct, tunnelled) = (bytes_of(seen.0), bytes_of(seen.1));
    found.extend(bytes_shown("the target saw", &direct, &tunnelled));
    let (direct, tunnelled) = (heard.0.raw(), heard.1.raw());
    if case.check != Check::BrokenOff {
        found.extend(bytes_shown("the client saw", &direct, &tunnelled));
        return found;
    }
    // A reset may take what was on its way.
    if !direct.starts_with(&tunnelled) && !tunnelled.starts_with(&direct) {
        found.extend(bytes_shown("the client saw", &direct, &tunnelled));
    }
    if heard
        .1
        .answer
        .as_ref()
        .is_some_and(|answer| answer.is_whole)
    {
        found.push("the client saw a whole answer".to_owned());
    }
    found
}

fn requests_differ(
    case: &Case,
    (direct, tunnelled): (&[Message], &[Message]),
    also: &[&str],
) -> Vec<String> {
    let ([direct], [tunnelled]) = (direct, tunnelled) else {
        return vec![format!("the target saw {} requests", tunnelled.len())];
    };
    let mut found: Vec<_> = passed_on(tunnelled)
        .map(|name| format!("the target saw `{name}`, which is of one hop"))
        .collect();
    let (mut direct, mut tunnelled) = (Sight::of_request(direct), Sight::of_request(tunnelled));
    for sight in [&mut direct, &mut tunnelled] {
        sight.fields.retain(|name, _| !also.contains(name));
        if case.is_early {
            sight.body = b"";
            sight.is_whole = false;
            sight.trailers.clear();
        }
    }
    found.extend(direct.differences("the target saw", &tunnelled));
    found
}

fn answers_differ((direct, tunnelled): (&Heard, &Heard)) -> Vec<String> {
    let mut found = final_answers_differ(direct, tunnelled);
    let statuses = |heard: &Heard| -> Vec<u16> {
        let answers = heard.informational.iter();
        answers.map(Message::status).collect()
    };
    let (before, now) = (statuses(direct), statuses(tunnelled));
    if before != now {
        found.push(format!("before the answer came {now:?}, not {before:?}"));
    }
    found
}

fn final_answers_differ(direct: &Heard, tunnelled: &Heard) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(bytes_shown(
        "behind the answer came",
        &direct.rest,
        &tunnelled.rest,
    ));
    let (Some(direct), Some(tunnelled)) = (&direct.answer, &tunnelled.answer) else {
        found.push("there is no answer".to_owned());
        return found;
    };
    found.extend(
        passed_on(tunnelled).map(|name| format!("the client saw `{name}`, which is of one hop")),
    );
    let (direct, mut tunnelled) = (Sight::of_answer(direct), Sight::of_answer(tunnelled));
    if !direct.fields.contains_key("date") {
        tunnelled.fields.remove("date");
    }
    found.extend(direct.differences("the client saw", &tunnelled));
    found
}

/// The answers with a status of 1xx, and the last.
fn informational_differ(run: &Run, (direct, tunnelled): (&Heard, &Heard)) -> Vec<String> {
    let mut found = final_answers_differ(direct, tunnelled);
    let mut requests = run.seen.iter();
    let expects = requests.any(|request| request.values("expect").next().is_some());
    let mut sent = direct.informational.iter();
    for came in &tunnelled.informational {
        let is_same = |sent: &Message| {
            let (sent, came) = (Sight::of_answer(sent), Sight::of_answer(came));
            sent.differences("", &came).is_empty()
        };
        let is_own = expects && came.status() == 100;
        if !is_own && !sent.any(is_same) {
            let came = came.head.escape_ascii();
            found.push(format!("the target did not send, or not here: {came}"));
        }
    }
    found
}

fn not_refused(heard: &Heard) -> Vec<String> {
    match &heard.answer {
        Some(answer) if (400..500).contains(&answer.status()) => Vec::new(),
        _ => vec![format!("it was not refused with 4xx, but {}", told(heard))],
    }
}

fn not_broken_off((direct, tunnelled): (&Heard, &Heard)) -> Vec<String> {
    let (Some(direct), Some(answer)) = (&direct.answer, &tunnelled.answer) else {
        return vec![format!("there is no answer: {}", told(tunnelled))];
    };
    if answer.status() == 502 && answer.is_whole {
        return Vec::new();
    }
    let mut found = Vec::new();
    if answer.is_whole {
        found.push(format!("the answer looks whole: {}", told(tunnelled)));
    }
    if answer.status() != direct.status() {
        found.push(format!("another status: {}", told(tunnelled)));
    }
    if !direct.body.starts_with(&answer.body) {
        let shown = bytes_shown("the client saw", &direct.body, &answer.body);
        found.extend(shown);
    }
    found
}

/// What the bodies of answers hold that are none.
pub(crate) const NEVER_SEEN: &str = "never to be seen";

fn not_unusable(heard: &Heard) -> Vec<String> {
    let raw = heard.raw();
    let mut parts = raw.windows(NEVER_SEEN.len());
    let has_body = parts.any(|part| part == NEVER_SEEN.as_bytes());
    match &heard.answer {
        Some(answer) if answer.status() == 502 && answer.is_whole && !has_body => Vec::new(),
        _ => vec![format!("it was not answered with 502: {}", told(heard))],
    }
}

fn not_one_length(heard: &Heard) -> Vec<String> {
    let Some(answer) = &heard.answer else {
        return vec![format!("there is no answer: {}", told(heard))];
    };
    let lengths: Vec<_> = answer.values("content-length").collect();
    let own = answer.body.len().to_string();
    let has_one = answer.status() == 200 && lengths == [own.as_bytes()];
    if answer.is_whole && (has_one || answer.status() == 502) {
        return Vec::new();
    }
    vec![format!("not one length: {}", told(heard))]
}

/// The beginning of what the client heard.
fn told(heard: &Heard) -> String {
    shown(&heard.raw())
}

/// The names of fields that should have stayed on the hop before.
fn passed_on(message: &Message) -> impl Iterator<Item = String> {
    let names = message.fields.iter().map(|(name, _)| name.as_str());
    let of_one_hop = names
        .filter(|name| *name == KEY || (OF_ONE_HOP.contains(name) && !OF_EVERY_HOP.contains(name)));
    // What is nominated is of this hop; nothing here nominates anything by itself.
    let nominated = nominated(message).into_iter();
    let nominated = nominated.filter(|token| token != "close" && token != "keep-alive");
    of_one_hop.map(str::to_owned).chain(nominated)
}

/// The tokens of `Connection`.
fn nominated(message: &Message) -> BTreeSet<String> {
    let values = message.values("connection");
    let tokens = values.flat_map(|value| value.split(|byte| *byte == b','));
    let tokens = tokens.map(|token| String::from_utf8_lossy(token).trim().to_ascii_lowercase());
    tokens.filter(|token| !token.is_empty()).collect()
}

fn by_name(fields: &[Field]) -> BTreeMap<&str, Vec<&[u8]>> {
    let mut named: BTreeMap<&str, Vec<&[u8]>> = BTreeMap::new();
    for (name, value) in fields {
        let values = named.entry(name.as_str()).or_default();
        values.push(value.as_slice());
    }
    named
}

impl<'a> Sight<'a> {
    fn of(message: &'a Message, start: &'a [u8]) -> Self {
        let mut fields = by_name(&message.fields);
        if fields.contains_key("transfer-encoding") {
            fields.remove("content-length");
        }
        let nominated = nominated(message);
        fields.retain(|name, _| !OF_ONE_HOP.contains(name) && !nominated.contains(*name));
        Self {
            start,
            fields,
            length: match message.framing {
                Framing::Bodiless => Length::Bodiless,
                Framing::Length(_) => Length::Known,
                Framing::Chunked | Framing::Close => Length::Unknown,
            },
            body: &message.body,
            trailers: by_name(&message.trailers),
            is_whole: message.is_whole,
        }
    }

    fn of_request(request: &'a Message) -> Self {
        let line = &*request.first_line;
        let mut sight = Self::of(request, line.strip_suffix(b" HTTP/1.1").unwrap_or(line));
        sight.fields.remove("host");
        sight
    }

    fn of_answer(answer: &'a Message) -> Self {
        let mut words = answer.first_line.split(|byte| *byte == b' ');
        Self::of(answer, words.nth(1).unwrap_or(&answer.first_line))
    }

    /// What is different in another sight of what should be the same message.
    fn differences(&self, who: &str, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        found.extend(bytes_shown(who, self.start, other.start));
        found.extend(fields_shown(
            &format!("{who} the field"),
            &self.fields,
            &other.fields,
        ));
        if self.length != other.length {
            let (own, other) = (self.length, other.length);
            found.push(format!("{who} a body of length {other:?}, not {own:?}"));
        }
        found.extend(bytes_shown(
            &format!("{who} the body"),
            self.body,
            other.body,
        ));
        let what = format!("{who} the trailer");
        found.extend(fields_shown(&what, &self.trailers, &other.trailers));
        if self.is_whole != other.is_whole {
            let (own, other) = (self.is_whole, other.is_whole);
            found.push(format!("{who} all of it: {other}, not {own}"));
        }
        found
    }
}

fn fields_shown(
    what: &str,
    direct: &BTreeMap<&str, Vec<&[u8]>>,
    tunnelled: &BTreeMap<&str, Vec<&[u8]>>,
) -> Vec<String> {
    let names: BTreeSet<_> = direct.keys().chain(tunnelled.keys()).collect();
    let differ = names
        .into_iter()
        .filter(|name| direct.get(*name) != tunnelled.get(*name));
    let all = |values: Option<&Vec<&[u8]>>| {
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
