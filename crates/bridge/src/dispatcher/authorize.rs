//! Chooses the credential for a request, and checks that the request may have it.

use super::exchange::Exchange;
use super::refusal::limited;
use crate::config::CallerCredentials;
use crate::credentials::Injection;
use crate::credentials::alm::{SessionEnd, SignIn};
use http::{HeaderMap, Request};
use http_client::request_head;
use policy::{Approved, Candidate};
use protocol::frame::RequestTarget;
use protocol::{Code, Failure};

fn invalid(detail: impl Into<String>) -> Failure {
    Failure::not_dispatched(Code::InvalidRequest, detail)
}

impl Exchange {
    /// Returns the credential for a request that the policy allows: the endpoint's own, or the one that the
    /// caller names.
    pub(super) fn injection(&self, candidate: &Candidate) -> Result<Option<Injection>, Failure> {
        let requested = self.head.credential.as_deref();
        let name = match &self.head.target {
            RequestTarget::Endpoint { name, .. } => {
                let settings = self.active.config.rules.settings(name);
                let own = settings.and_then(|settings| settings.credential.as_deref());
                // A caller must not choose another secret than the administrator bound to this endpoint.
                if requested.is_some() && requested != own {
                    return Err(invalid(format!(
                        "the endpoint {name} has its credential from this bridge's config"
                    )));
                }
                own
            }
            RequestTarget::Url(_) => requested,
            RequestTarget::Connect { .. } if requested.is_some() => {
                return Err(invalid("a raw stream takes no credential"));
            }
            RequestTarget::Connect { .. } => None,
        };
        let Some(name) = name else { return Ok(None) };
        let Some(credential) = self.active.credentials.get(name) else {
            return Err(invalid(format!(
                "this bridge has no credential named {name:?}: its administrator adds one with \
                 `integration-bridge credential set`"
            )));
        };
        let method = &self.head.method;
        let injection = Injection::new(credential.clone(), candidate.target(), method)
            .inspect_err(|failure| {
                limited(|| tracing::warn!(detail = failure.detail, "request refused"));
            })?;
        injection.check_caller(candidate.target())?;
        let is_url = matches!(self.head.target, RequestTarget::Url(_));
        // A session belongs to one base URL, which only an endpoint has.
        if is_url && injection.sign_in().is_some() {
            return Err(invalid(
                "a credential of the kind alm can be used with an endpoint only, not with a URL",
            ));
        }
        Ok(Some(injection))
    }

    /// Signs in where the credential needs that.
    pub(super) async fn sign_in(&self, injection: &mut Injection) -> Result<(), Failure> {
        let RequestTarget::Endpoint { name, .. } = &self.head.target else {
            return Ok(());
        };
        let Some(sign_in) = injection.sign_in() else {
            return Ok(());
        };
        let jar = sign_in.at(&self.active.access, name).await?;
        injection.signed_in(jar);
        Ok(())
    }

    /// Stores the session's changed cookies from a response, and ends the session for `reason`, or because a
    /// core cookie was deleted. Returns true if `reason` means that the request had no effect, and a new
    /// session may be opened.
    pub(super) fn follow_session(
        &self,
        injection: &Injection,
        headers: &HeaderMap,
        reason: Option<SessionEnd>,
    ) -> bool {
        let RequestTarget::Endpoint { name, .. } = &self.head.target else {
            return false;
        };
        let Some((sign_in, jar)) = injection.sign_in().zip(injection.jar()) else {
            return false;
        };
        let end = |why| sign_in.end_session(&self.active.access, name, jar, why);
        if !jar.follow(headers) {
            end(SessionEnd::Deleted);
        }
        reason.is_some_and(end)
    }

    /// Asks ALM whether the identity of a request's session is signed in, for a response that does not show it.
    pub(super) async fn is_alive(&self, injection: &Injection) -> bool {
        let RequestTarget::Endpoint { name, .. } = &self.head.target else {
            return true;
        };
        match injection.jar() {
            Some(jar) => SignIn::is_alive(&self.active, name, jar).await,
            None => true,
        }
    }

    /// Builds the head of the request, with its credential.
    pub(super) fn build_request_head(
        &self,
        approved: &Approved,
        injection: Option<&Injection>,
    ) -> Result<Request<()>, Failure> {
        let mut request = request_head(approved, &self.head)?;
        let Some(injection) = injection else {
            return Ok(request);
        };
        // By default a clash is an error: replacing the caller's own credential would hide a wrong config of
        // the caller.
        if let Some(field) = injection.clash(request.headers())
            && self.caller_credentials() == CallerCredentials::Refuse
        {
            return Err(invalid(format!(
                "this bridge adds the credential itself: send the request without {field}, or have \
                 its administrator write caller_credentials = \"override\""
            )));
        }
        injection.remove_overrides(request.headers_mut());
        let method = request.method().clone();
        injection.apply(&method, request.headers_mut())?;
        Ok(request)
    }

    fn caller_credentials(&self) -> CallerCredentials {
        match &self.head.target {
            RequestTarget::Endpoint { name, .. } => {
                let settings = self.active.config.rules.settings(name);
                settings.map_or(CallerCredentials::Refuse, |settings| {
                    settings.caller_credentials
                })
            }
            RequestTarget::Url(_) | RequestTarget::Connect { .. } => CallerCredentials::Refuse,
        }
    }
}
