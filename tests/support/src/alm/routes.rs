//! Which part answers a request.

use http::header::COOKIE;
use http::{Method, StatusCode};
use serde_json::json;

use super::call::Call;
use super::clock::Clock;
use super::fault::Fault;
use super::media::Format;
use super::project::Domains;
use super::reply::{self, Reply};
use super::room::{self, Room};
use super::sessions::{Sessions, Who};
use super::sign_in;
use super::write::Writer;
use super::xml::escaped;

/// Everything that there is.
#[derive(Debug)]
pub(super) struct State {
    pub(super) sessions: Sessions,
    pub(super) domains: Domains,
    pub(super) clock: Clock,
    /// Writes that are still to be committed and answered with an error.
    pub(super) commits_to_fail: u32,
}

pub(super) fn answer(state: &mut State, call: &Call) -> Reply {
    let answered = at_path(state, call);
    answered.unwrap_or_else(|fault| fault.reply(call.accept, &call.origin))
}

fn at_path(state: &mut State, call: &Call) -> Result<Reply, Fault> {
    let segments: Vec<&str> = call.segments.iter().map(String::as_str).collect();
    let sessions = &mut state.sessions;
    match &segments[..] {
        ["qcbin", "authentication-point", "alm-authenticate"] => {
            sign_in::authenticate(sessions, call)
        }
        ["qcbin", "authentication-point", "logout"] => sign_in::log_out(sessions, call),
        ["qcbin", "rest", "oauth2", "login"] => sign_in::login(sessions, call),
        ["qcbin", "rest", "is-authenticated"] => sign_in::is_authenticated(sessions, call, false),
        ["qcbin", "v2", "rest", "is-authenticated"] => {
            sign_in::is_authenticated(sessions, call, true)
        }
        ["qcbin", "rest", "site-session"] => sign_in::site_session(sessions, call),
        ["qcbin", "rest", "domains", rest @ ..] => {
            let who = sign_in::enter(sessions, call)?;
            at_domains(state, call, &who, rest)
        }
        ["qcbin", "rest", ..] => {
            sign_in::enter(sessions, call)?;
            Ok(repeated(sessions, call))
        }
        _ => Err(Fault::no_such_resource()),
    }
}

fn at_domains(state: &mut State, call: &Call, who: &Who, path: &[&str]) -> Result<Reply, Fault> {
    match path {
        [] => Ok(names(call, "Domain", state.domains.keys())),
        [domain, "projects"] => {
            let projects = state.domains.get(*domain);
            let projects = projects.ok_or_else(Fault::no_such_resource)?;
            Ok(names(call, "Project", projects.keys()))
        }
        [domain, "projects", project, rest @ ..] => {
            let now = state.clock.now();
            let projects = state.domains.get_mut(*domain);
            let project = projects.and_then(|projects| projects.get_mut(*project));
            let mut room = Room {
                project: project.ok_or_else(Fault::no_such_resource)?,
                writer: Writer {
                    who,
                    sessions: &state.sessions,
                    now: &now,
                },
                call,
            };
            let reply = room::answer(&mut room, rest)?;
            let is_write = call.method != Method::GET && rest.last() != Some(&"lock");
            if is_write && reply.status().is_success() && state.commits_to_fail > 0 {
                state.commits_to_fail -= 1;
                return Err(Fault::business("General Error"));
            }
            Ok(reply)
        }
        _ => Err(Fault::no_such_resource()),
    }
}

/// `<Domains><Domain Name="…"/></Domains>`, and the same of projects.
fn names<'n>(call: &Call, what: &str, names: impl Iterator<Item = &'n String>) -> Reply {
    let format = call.accept.data();
    let text = match format {
        Format::Xml => {
            let all: String = names
                .map(|name| format!("<{what} Name=\"{}\"/>", escaped(name)))
                .collect();
            format!("<{what}s>{all}</{what}s>")
        }
        Format::Json => {
            let all: Vec<_> = names.map(|name| json!({ "Name": name })).collect();
            json!({ format!("{what}s"): { what: all } }).to_string()
        }
    };
    reply::data(StatusCode::OK, format, text)
}

/// What was asked, for tests of what comes before ALM; with another cookie for the same identity.
fn repeated(sessions: &mut Sessions, call: &Call) -> Reply {
    let what = json!({
        "method": call.method.as_str(),
        "path": call.path,
        "body": String::from_utf8_lossy(&call.body.whole()),
        "cookies": call.headers.get(COOKIE).and_then(|value| value.to_str().ok()),
    });
    let reply = reply::data(StatusCode::OK, Format::Json, what.to_string());
    match sessions.renew(&call.headers) {
        Some(cookie) => reply::with_cookie(reply, "LWSSO_COOKIE_KEY", &cookie),
        None => reply,
    }
}
