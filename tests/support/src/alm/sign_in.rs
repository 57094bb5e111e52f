//! Signing in, in two steps or in one, staying signed in, and signing out.
//!
//! ```text
//! POST alm-authenticate, XML or JSON     LWSSO_COOKIE_KEY
//! POST rest/site-session                 QCSession, XSRF-TOKEN, ALM_USER
//! POST rest/oauth2/login, JSON           all of them at once
//! ```

use std::time::Duration;

use http::header::{RETRY_AFTER, SET_COOKIE};
use http::{Method, StatusCode};
use serde_json::json;

use super::call::Call;
use super::draft;
use super::fault::Fault;
use super::media::{Content, Format};
use super::reply::{self, Reply};
use super::sessions::{Opened, Sessions, SignedIn, Who};
use super::xml::escaped;

/// `POST authentication-point/alm-authenticate`.
pub(super) fn authenticate(sessions: &mut Sessions, call: &Call) -> Result<Reply, Fault> {
    is_post(call)?;
    sessions.sign_ins += 1;
    if let Some(busy) = busy(sessions) {
        return Ok(busy);
    }
    let (user, password) = credentials(call)?;
    let known = sessions.passwords.get(&user);
    // A test may have written the password as XML has it.
    let is_right = |known: &String| *known == password || *known == escaped(&password);
    if !known.is_some_and(is_right) {
        return Err(Fault::refused_sign_in());
    }
    let cookie = sessions.identify(&user);
    let reply = reply::empty(StatusCode::OK);
    Ok(reply::with_cookie(reply, "LWSSO_COOKIE_KEY", &cookie))
}

/// The response to a sign-in while the server is too busy for it.
fn busy(sessions: &Sessions) -> Option<Reply> {
    let retry_after = sessions.busy?;
    let reply = reply::empty(StatusCode::SERVICE_UNAVAILABLE);
    Some(reply::with(reply, RETRY_AFTER, &retry_after.to_string()))
}

/// The user and the password of a body.
fn credentials(call: &Call) -> Result<(String, String), Fault> {
    let body = call.body.whole();
    let both = if call.content == Content::Entity(Format::Json) {
        let document = draft::json(&body)?;
        let inside = &document["alm-authentication"];
        ["user", "password"].map(|name| inside[name].as_str().map(str::to_owned))
    } else {
        let document = draft::document(&body)?;
        // Not trimmed: a password may begin or end with a space.
        ["user", "password"].map(|name| document.child(name).map(|one| one.text.clone()))
    };
    match both {
        [Some(user), Some(password)] => Ok((user, password)),
        _ => Err(Fault::refused_sign_in()),
    }
}

/// `POST rest/oauth2/login`.
pub(super) fn login(sessions: &mut Sessions, call: &Call) -> Result<Reply, Fault> {
    is_post(call)?;
    sessions.sign_ins += 1;
    if let Some(busy) = busy(sessions) {
        return Ok(busy);
    }
    let document = draft::json(&call.body.whole())?;
    let text = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
    let key = sessions.api_keys.get(&text("clientId"));
    let key = key.filter(|key| key.secret == text("secret"));
    let key = key.ok_or_else(|| {
        Fault::general(
            StatusCode::UNAUTHORIZED,
            "The client id or its secret is wrong",
        )
    })?;
    if !key.is_active {
        return Err(Fault::forbidden("The API key is not active"));
    }
    let user = key.user.clone();
    let cookie = sessions.identify(&user);
    let opened = sessions.open(&user, None);
    let reply = reply::empty(StatusCode::OK);
    let reply = reply::with_cookie(reply, "JSESSIONID", &format!("j{}", opened.session));
    let reply = reply::with_cookie(reply, "LWSSO_COOKIE_KEY", &cookie);
    Ok(with_session(reply, &opened))
}

/// `authentication-point/logout`; by GET it has been switched off.
pub(super) fn log_out(sessions: &mut Sessions, call: &Call) -> Result<Reply, Fault> {
    is_post(call)?;
    user(sessions, call)?;
    sessions.log_out(&call.headers);
    Ok(reply::empty(StatusCode::OK))
}

/// `rest/is-authenticated`, in XML alone, and its successor. They know of identities and not of
/// sessions.
pub(super) fn is_authenticated(
    sessions: &Sessions,
    call: &Call,
    speaks_json: bool,
) -> Result<Reply, Fault> {
    if call.method != Method::GET {
        return Err(Fault::method_not_allowed());
    }
    let format = call.accept.data();
    if format == Format::Json && !speaks_json {
        return Err(Fault::general(StatusCode::NOT_ACCEPTABLE, "Not Acceptable"));
    }
    let user = user(sessions, call)?;
    let text = match format {
        Format::Xml => format!(
            "<AuthenticationInfo><Username>{}</Username></AuthenticationInfo>",
            escaped(&user)
        ),
        Format::Json => json!({ "AuthenticationInfo": { "Username": user } }).to_string(),
    };
    Ok(reply::data(StatusCode::OK, format, text))
}

/// `rest/site-session`: POST opens one, GET and PUT keep it alive, DELETE ends it and its locks.
pub(super) fn site_session(sessions: &mut Sessions, call: &Call) -> Result<Reply, Fault> {
    if call.method == Method::POST {
        let user = user(sessions, call)?;
        let opened = sessions.open(&user, idle_max(call)?);
        return Ok(with_session(reply::empty(StatusCode::CREATED), &opened));
    }
    let who = enter(sessions, call)?;
    match call.method {
        Method::GET | Method::PUT => {
            let format = call.accept.data();
            let text = match format {
                Format::Xml => format!(
                    "<Session><UserName>{}</UserName></Session>",
                    escaped(&who.user)
                ),
                Format::Json => json!({ "UserName": who.user }).to_string(),
            };
            Ok(reply::data(StatusCode::OK, format, text))
        }
        Method::DELETE => {
            sessions.close(&who.session);
            let gone = "QCSession=\"\";Expires=Thu, 01-Jan-1970 00:00:10 GMT;Path=/";
            Ok(reply::with(reply::empty(StatusCode::OK), SET_COOKIE, gone))
        }
        _ => Err(Fault::method_not_allowed()),
    }
}

/// `<time-out>` in minutes, where the client asks for one.
fn idle_max(call: &Call) -> Result<Option<Duration>, Fault> {
    let body = call.body.whole();
    if body.is_empty() || call.content != Content::Entity(Format::Xml) {
        return Ok(None);
    }
    let document = draft::document(&body)?;
    let minutes = document.text_of("time-out").map(str::parse::<u64>);
    let minutes = minutes.transpose();
    let minutes = minutes.map_err(|error| Fault::malformed(error.to_string()))?;
    Ok(minutes.map(|minutes| Duration::from_secs(minutes * 60)))
}

/// Who is signed in.
fn user(sessions: &Sessions, call: &Call) -> Result<String, Fault> {
    match sessions.signed_in(&call.headers) {
        SignedIn::As(user) => Ok(user),
        SignedIn::LoggedOut => Err(Fault::logged_out()),
        SignedIn::NoUser => Err(Fault::not_signed_in()),
    }
}

/// Lets a request in that has a session, and the session's token where it writes.
pub(super) fn enter(sessions: &mut Sessions, call: &Call) -> Result<Who, Fault> {
    user(sessions, call)?;
    let session = sessions.session(&call.headers);
    let (who, xsrf) = session.ok_or_else(Fault::session_expired)?;
    let given = call.headers.get("x-xsrf-token");
    if call.method != Method::GET && given.is_none_or(|given| *given != *xsrf) {
        return Err(Fault::xsrf());
    }
    Ok(who)
}

fn is_post(call: &Call) -> Result<(), Fault> {
    let is_post = call.method == Method::POST;
    is_post.then_some(()).ok_or_else(Fault::method_not_allowed)
}

fn with_session(reply: Reply, opened: &Opened) -> Reply {
    let reply = reply::with_cookie(reply, "QCSession", &opened.session);
    let reply = reply::with_cookie(reply, "XSRF-TOKEN", &opened.xsrf);
    reply::with_cookie(reply, "ALM_USER", &opened.user)
}
