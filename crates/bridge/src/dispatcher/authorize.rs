//! Which credential goes with a request, and whether it may.

use super::exchange::Exchange;
use super::refusal::limited;
use crate::config::CallerCredentials;
use crate::credentials::Injection;
use crate::credentials::alm::{Over, SignIn};
use crate::upstream::request_head;
use http::{HeaderMap, Request};
use policy::{Approved, Candidate};
use protocol::frame::RequestTarget;
use protocol::{Code, Failure};

fn invalid(detail: impl Into<String>) -> Failure {
    Failure::not_dispatched(Code::InvalidRequest, detail)
}

impl Exchange {
    /// The credential for a request that the policy allows: the endpoint's own, or the one that the caller
    /// asks for by name.
    pub(super) fn injection(&self, candidate: &Candidate) -> Result<Option<Injection>, Failure> {
        let asked = self.head.credential.as_deref();
        let name = match &self.head.target {
            RequestTarget::Endpoint { name, .. } => {
                let settings = self.active.config.rules.settings(name);
                let own = settings.and_then(|settings| settings.credential.as_deref());
                if asked.is_some() && asked != own {
                    return Err(invalid(format!(
                        "the endpoint {name} has its credential from this bridge's config"
                    )));
                }
                own
            }
            RequestTarget::Url(_) => asked,
            RequestTarget::Connect { .. } if asked.is_some() => {
                return Err(invalid("a raw stream takes no credential"));
            }
            RequestTarget::Connect { .. } => None,
        };
        let Some(name) = name else { return Ok(None) };
        let Some(credential) = self.active.credentials.get(name) else {
            return Err(invalid(format!(
                "this bridge keeps no credential named {name:?}: its administrator sets one with \
                 `integration-bridge credential set`"
            )));
        };
        let method = &self.head.method;
        let injection = Injection::new(credential.clone(), candidate.target(), method)
            .inspect_err(|failure| {
                limited(|| tracing::warn!(detail = failure.detail, "refused"));
            })?;
        injection.check_caller(candidate.target())?;
        let is_url = matches!(self.head.target, RequestTarget::Url(_));
        if is_url && injection.sign_in().is_some() {
            return Err(invalid(
                "a credential that signs in to ALM goes with an endpoint, not with a URL",
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

    /// Takes changed cookies of the session that a request used from its response, and ends the session
    /// for the reason that the response gives, or because a core cookie was deleted. True where that
    /// reason is that the request had no effect, and a new session may be opened.
    pub(super) fn follow_session(
        &self,
        injection: &Injection,
        headers: &HeaderMap,
        reason: Option<Over>,
    ) -> bool {
        let RequestTarget::Endpoint { name, .. } = &self.head.target else {
            return false;
        };
        let Some((sign_in, jar)) = injection.sign_in().zip(injection.jar()) else {
            return false;
        };
        let over = |why| sign_in.end_session(&self.active.access, name, jar, why);
        if !jar.follow(headers) {
            over(Over::Deleted);
        }
        reason.is_some_and(over)
    }

    /// Whether ALM's identity behind a request's session is signed in, for a response that does not show
    /// it.
    pub(super) async fn is_alive(&self, injection: &Injection) -> bool {
        let RequestTarget::Endpoint { name, .. } = &self.head.target else {
            return true;
        };
        match injection.jar() {
            Some(jar) => SignIn::is_alive(&self.active, name, jar).await,
            None => true,
        }
    }

    /// The head of the request, with its credential.
    pub(super) fn head_for(
        &self,
        approved: &Approved,
        injection: Option<&Injection>,
    ) -> Result<Request<()>, Failure> {
        let mut request = request_head(approved, &self.head)?;
        let Some(injection) = injection else {
            return Ok(request);
        };
        if let Some(field) = injection.clash(request.headers())
            && self.callers_own() == CallerCredentials::Refuse
        {
            return Err(invalid(format!(
                "this bridge adds the credential itself: send the request without {field}, or have \
                 its administrator write caller_credentials = \"override\""
            )));
        }
        let method = request.method().clone();
        injection.apply(&method, request.headers_mut())?;
        Ok(request)
    }

    fn callers_own(&self) -> CallerCredentials {
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
