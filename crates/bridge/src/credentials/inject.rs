//! A credential on its way into one request, and out of its answer.

use super::alm::{Jar, Login, SignIn, paths};
use super::{Credential, Kind, Origin};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use http_client::ClientCert;
use policy::Target;
use protocol::{Code, Failure};
use std::sync::Arc;

/// A credential that was chosen for a request.
#[derive(Debug)]
pub(crate) struct Injection {
    credential: Arc<Credential>,
    /// Where it is signed in, for those that sign in.
    jar: Option<Arc<Jar>>,
}

fn refused(code: Code, detail: String) -> Failure {
    Failure::not_dispatched(code, detail)
}

impl Injection {
    /// Of a credential, if it may be sent there.
    ///
    /// # Errors
    /// `refused_by_policy` when it may not, or when the request would have the target repeat it.
    pub(crate) fn new(
        credential: Arc<Credential>,
        target: &Target,
        method: &str,
    ) -> Result<Self, Failure> {
        let origin = Origin::of(target);
        if !credential.origins.contains(&origin) {
            let detail = format!(
                "the credential {} may not be sent to {origin}: its own list of origins does not have it",
                credential.name
            );
            return Err(refused(Code::RefusedByPolicy, detail));
        }
        if method.eq_ignore_ascii_case("TRACE") {
            let detail = "TRACE would have the target repeat the credential".to_owned();
            return Err(refused(Code::RefusedByPolicy, detail));
        }
        Ok(Self {
            credential,
            jar: None,
        })
    }

    /// Whether a caller may ask for this target with it. A session of ALM is one for all callers: none of
    /// them may open, change or end it.
    ///
    /// # Errors
    /// `refused_by_policy` for a path that signs in or out.
    pub(crate) fn check_caller(&self, target: &Target) -> Result<(), Failure> {
        let Kind::Alm { .. } = self.credential.kind else {
            return Ok(());
        };
        let Some(why) = paths::rejection(target) else {
            return Ok(());
        };
        let detail = format!(
            "the bridge itself signs in to ALM on this endpoint, and {why}: such a path is not \
             forwarded; send requests without a sign-in or a sign-out of your own"
        );
        Err(refused(Code::RefusedByPolicy, detail))
    }

    /// What to show in TLS.
    pub(crate) fn client_cert(&self) -> Option<&Arc<ClientCert>> {
        match &self.credential.kind {
            Kind::Certificate(certificate) => Some(certificate),
            Kind::Basic { .. } | Kind::Bearer { .. } | Kind::Header { .. } | Kind::Alm { .. } => {
                None
            }
        }
    }

    /// What has to be done before the request, if it is a credential that signs in.
    pub(crate) fn sign_in(&self) -> Option<SignIn> {
        let Kind::Alm { login, sessions } = &self.credential.kind else {
            return None;
        };
        Some(SignIn {
            name: self.credential.name.clone(),
            login: login.clone(),
            sessions: sessions.clone(),
        })
    }

    /// It is signed in there.
    pub(crate) fn signed_in(&mut self, jar: Arc<Jar>) {
        self.jar = Some(jar);
    }

    /// The sign-in that is in use.
    pub(crate) fn jar(&self) -> Option<&Arc<Jar>> {
        self.jar.as_ref()
    }

    /// The field that it writes.
    fn field(&self) -> Option<HeaderName> {
        match &self.credential.kind {
            Kind::Basic { .. } | Kind::Bearer { .. } | Kind::Alm { .. } => Some(AUTHORIZATION),
            Kind::Header { name, .. } => Some(name.clone()),
            Kind::Certificate(_) => None,
        }
    }

    /// The name of the field that the caller brings of its own where this writes one.
    pub(crate) fn clash(&self, headers: &HeaderMap) -> Option<HeaderName> {
        self.field().filter(|name| headers.contains_key(name))
    }

    /// Writes it into a request's fields, in place of what the caller brought.
    ///
    /// # Errors
    /// `invalid_request` when it cannot stand in a field.
    pub(crate) fn apply(
        &self,
        method: &http::Method,
        headers: &mut HeaderMap,
    ) -> Result<(), Failure> {
        if let Some(name) = self.field() {
            headers.remove(name);
        }
        if let Some((name, value)) = self.value()? {
            headers.insert(name, value);
        }
        if let Some(jar) = &self.jar {
            jar.apply(method, headers);
        }
        Ok(())
    }

    fn value(&self) -> Result<Option<(HeaderName, HeaderValue)>, Failure> {
        let (name, text) = match &self.credential.kind {
            Kind::Basic { user, password } => {
                let pair = STANDARD.encode(format!("{user}:{}", password.expose()));
                (AUTHORIZATION, format!("Basic {pair}"))
            }
            Kind::Bearer { token } => (AUTHORIZATION, format!("Bearer {}", token.expose())),
            Kind::Header { name, value } => (name.clone(), value.expose().to_owned()),
            Kind::Certificate(_) | Kind::Alm { .. } => return Ok(None),
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| {
            let detail = format!(
                "the credential {} cannot stand in a header field",
                self.credential.name
            );
            refused(Code::InvalidRequest, detail)
        })?;
        value.set_sensitive(true);
        Ok(Some((name, value)))
    }

    /// Takes out of a response's fields what would give it away: fields that repeat it, and the cookies
    /// of a session, which stay here.
    pub(crate) fn clean(&self, headers: &mut HeaderMap) {
        if self.jar.is_some() {
            headers.remove(http::header::SET_COOKIE);
        }
        let secrets = self.secrets();
        let tells = |value: &HeaderValue| {
            let value = value.as_bytes();
            let has = |part: &Vec<u8>| value.windows(part.len()).any(|window| window == part);
            secrets.iter().any(has)
        };
        let telling: Vec<HeaderName> = headers
            .iter()
            .filter(|(_, value)| tells(value))
            .map(|(name, _)| name.clone())
            .collect();
        for name in telling {
            headers.remove(name);
        }
    }

    /// What must not be in an answer. Very short ones would be found everywhere.
    fn secrets(&self) -> Vec<Vec<u8>> {
        let mut all: Vec<String> = Vec::new();
        match &self.credential.kind {
            Kind::Basic { user, password } => {
                all.push(STANDARD.encode(format!("{user}:{}", password.expose())));
                all.push(password.expose().to_owned());
            }
            Kind::Bearer { token: secret } | Kind::Header { value: secret, .. } => {
                all.push(secret.expose().to_owned());
            }
            Kind::Alm { login, .. } => {
                if let Login::Password { user, password } = login {
                    all.push(STANDARD.encode(format!("{user}:{}", password.expose())));
                }
                all.push(login.secret().expose().to_owned());
            }
            Kind::Certificate(_) => {}
        }
        if let Some(jar) = &self.jar {
            all.extend(jar.secrets());
        }
        all.retain(|text| text.len() >= 6);
        all.into_iter().map(String::into_bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::store::{checked, make_kind};
    use crate::secret::Secret;
    use http::Method;

    fn of(kind: &str, header: Option<&str>) -> Injection {
        let user = Some("me".to_owned());
        let kind = make_kind(kind, user, None, header, None, Secret::new("open-sesame")).unwrap();
        let origin = vec!["https://alm.corp.example".parse().unwrap()];
        let credential = Arc::new(checked("alm", kind, origin).unwrap());
        let target = Target::parse("https://alm.corp.example/qcbin/rest").unwrap();
        Injection::new(credential, &target, "GET").unwrap()
    }

    #[test]
    fn it_goes_to_its_own_origins_alone() {
        let credential = of("basic", None).credential;
        for url in [
            "https://evil.example/",
            "http://alm.corp.example/",
            "https://alm.corp.example:8443/",
        ] {
            let target = Target::parse(url).unwrap();
            let failure = Injection::new(credential.clone(), &target, "GET").unwrap_err();
            assert_eq!(failure.code, Code::RefusedByPolicy, "{url}");
        }
        let target = Target::parse("https://alm.corp.example/").unwrap();
        assert!(Injection::new(credential, &target, "TRACE").is_err());
    }

    #[test]
    fn it_replaces_what_the_caller_brought() {
        for (kind, header, name, value) in [
            ("basic", None, "authorization", "Basic bWU6b3Blbi1zZXNhbWU="),
            ("bearer", None, "authorization", "Bearer open-sesame"),
            ("header", Some("X-Api-Key"), "x-api-key", "open-sesame"),
        ] {
            let injection = of(kind, header);
            let mut headers = HeaderMap::new();
            assert_eq!(injection.clash(&headers), None);
            headers.append(name.parse::<HeaderName>().unwrap(), "own".parse().unwrap());
            headers.append(name.parse::<HeaderName>().unwrap(), "two".parse().unwrap());
            assert!(injection.clash(&headers).is_some());
            injection.apply(&Method::GET, &mut headers).unwrap();
            assert_eq!(headers.get_all(name).iter().count(), 1);
            assert_eq!(headers[name], value);
        }
    }

    #[test]
    fn a_field_of_the_answer_that_repeats_it_is_taken_out() {
        let injection = of("basic", None);
        let mut headers = HeaderMap::new();
        headers.insert("x-echo", "Basic bWU6b3Blbi1zZXNhbWU=".parse().unwrap());
        headers.insert("x-plain", "it was open-sesame!".parse().unwrap());
        headers.insert("set-cookie", "own=1".parse().unwrap());
        injection.clean(&mut headers);
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key("set-cookie"));
    }
}
