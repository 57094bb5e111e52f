//! Which credential goes with a request, and whether it may.

use super::exchange::Exchange;
use super::refusal::limited;
use crate::config::CallerCredentials;
use crate::credentials::Injection;
use crate::upstream::request_head;
use http::Request;
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
        let before = injection.jar().cloned();
        let jar = sign_in.at(&self.active, name, before.as_ref()).await?;
        injection.signed_in(jar);
        Ok(())
    }

    /// The head of the request, with its credential.
    pub(super) fn head_for(
        &self,
        approved: &Approved,
        injection: Option<&Injection>,
    ) -> Result<Request<()>, Failure> {
        let mut request = request_head(approved, &self.head)?;
        if self.must_be_signed() {
            for field in crate::signed::OWN_FIELDS {
                request.headers_mut().remove(field);
            }
        }
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
