//! Adds a credential to a request, and removes the response fields that reveal it.

use super::alm::{Jar, SignIn, paths};
use super::{Credential, FORM_MIN_BYTES, Kind, Origin};
use crate::redact::Forms;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use http_client::ClientCert;
use policy::{Overrides, Target};
use protocol::{Code, Failure};
use std::sync::Arc;

/// A credential for one request.
#[derive(Debug)]
pub(crate) struct Injection {
    credential: Arc<Credential>,
    /// The session, for a credential that signs in.
    jar: Option<Arc<Jar>>,
}

/// Removes the fields of a response that would reveal a credential: in its head, in the informational heads
/// before it, and in its trailers.
pub(crate) struct Cleaner {
    forms: Arc<Forms>,
    /// Values of the session's cookies, for a credential that signs in.
    session: Option<Vec<String>>,
}

impl std::fmt::Debug for Cleaner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cleaner")
            .field("has_session", &self.session.is_some())
            .finish_non_exhaustive()
    }
}

impl Cleaner {
    /// Removes fields that repeat the credential in any of its forms, and the cookies of its session, which stay on
    /// this machine.
    pub(crate) fn clean(&self, headers: &mut HeaderMap) {
        if self.session.is_some() {
            // The session is the bridge's: with its cookies, a caller could use it without the bridge.
            headers.remove(http::header::SET_COOKIE);
        }
        let cookies = self.session.as_deref().unwrap_or_default();
        let revealing: Vec<HeaderName> = headers
            .iter()
            .filter(|(_, value)| self.forms.are_in(value.as_bytes(), cookies))
            .map(|(name, _)| name.clone())
            .collect();
        for name in revealing {
            headers.remove(name);
        }
    }
}

fn refused(code: Code, detail: String) -> Failure {
    Failure::not_dispatched(code, detail)
}

impl Injection {
    /// Prepares a credential, if it may be sent to the target.
    ///
    /// # Errors
    /// `refused_by_policy` when it may not, or when the target would repeat it in its response.
    pub(crate) fn new(
        credential: Arc<Credential>,
        target: &Target,
        method: &str,
    ) -> Result<Self, Failure> {
        let origin = Origin::of(target);
        if !credential.origins.contains(&origin) {
            let detail = format!(
                "the credential {} may not be sent to {origin}: it is not in the credential's own list of origins",
                credential.name
            );
            return Err(refused(Code::RefusedByPolicy, detail));
        }
        // A response to TRACE is the request itself (RFC 9110, 9.3.8).
        if method.eq_ignore_ascii_case("TRACE") {
            let detail = "a response to TRACE would repeat the credential".to_owned();
            return Err(refused(Code::RefusedByPolicy, detail));
        }
        Ok(Self {
            credential,
            jar: None,
        })
    }

    /// Checks that a caller may request this target with it. All callers share one ALM session, so none of them
    /// may open, change or end it.
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

    /// Removes the caller's fields that would make a target answer with the credential, or act on another path
    /// of the session's site, although the request line says otherwise.
    pub(crate) fn remove_overrides(&self, headers: &mut HeaderMap) {
        let paths = Overrides {
            no_method: false,
            no_path: matches!(self.credential.kind, Kind::Alm { .. }),
        };
        let removed: Vec<HeaderName> = headers
            .iter()
            .filter(|(name, value)| {
                let is_trace = value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"TRACE");
                paths.drops(name.as_str()) || (is_trace && Overrides::is_method(name.as_str()))
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in removed {
            headers.remove(name);
        }
    }

    /// Returns the certificate for TLS.
    pub(crate) fn client_cert(&self) -> Option<&Arc<ClientCert>> {
        match &self.credential.kind {
            Kind::Certificate(certificate) => Some(certificate),
            Kind::Basic { .. } | Kind::Bearer { .. } | Kind::Header { .. } | Kind::Alm { .. } => {
                None
            }
        }
    }

    /// Returns the sign-in that the request needs, if the credential signs in.
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

    /// Sets the session of the sign-in.
    pub(crate) fn signed_in(&mut self, jar: Arc<Jar>) {
        self.jar = Some(jar);
    }

    /// Returns the session in use.
    pub(crate) fn jar(&self) -> Option<&Arc<Jar>> {
        self.jar.as_ref()
    }

    /// Returns the header field that it writes.
    fn field(&self) -> Option<HeaderName> {
        match &self.credential.kind {
            Kind::Basic { .. } | Kind::Bearer { .. } | Kind::Alm { .. } => Some(AUTHORIZATION),
            Kind::Header { name, .. } => Some(name.clone()),
            Kind::Certificate(_) => None,
        }
    }

    /// Returns the caller's own field that this credential would replace.
    pub(crate) fn clash(&self, headers: &HeaderMap) -> Option<HeaderName> {
        self.field().filter(|name| headers.contains_key(name))
    }

    /// Writes it into a request's fields, instead of the caller's own.
    ///
    /// # Errors
    /// `invalid_request` when it is not valid in a header field.
    pub(crate) fn apply(
        &self,
        method: &http::Method,
        headers: &mut HeaderMap,
    ) -> Result<(), Failure> {
        if let Some(name) = self.field() {
            // The caller's own value goes even if this credential writes none, as ALM's cookies do.
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
                "the credential {} is not valid in a header field",
                self.credential.name
            );
            refused(Code::InvalidRequest, detail)
        })?;
        // It is then redacted in `Debug`, and not indexed in HTTP/2 (RFC 7541, 7.1.3).
        value.set_sensitive(true);
        Ok(Some((name, value)))
    }

    /// Returns what removes it from the fields of a response.
    pub(crate) fn cleaner(&self) -> Cleaner {
        let cookies = |jar: &Arc<Jar>| {
            let mut values = jar.secrets();
            values.retain(|value| value.len() >= FORM_MIN_BYTES);
            values
        };
        Cleaner {
            forms: self.credential.forms().clone(),
            session: self.jar.as_ref().map(cookies),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::store::{checked, make_kind};
    use crate::secret::Secret;
    use http::Method;

    fn of(kind: &str, header: Option<&str>) -> Injection {
        with_secret(kind, header, "open-sesame")
    }

    fn with_secret(kind: &str, header: Option<&str>, secret: &str) -> Injection {
        let user = Some("me".to_owned());
        let kind = make_kind(kind, user, None, header, None, Secret::new(secret)).unwrap();
        let origin = vec!["https://alm.corp.example".parse().unwrap()];
        let credential = Arc::new(checked("alm", kind, origin).unwrap());
        let target = Target::parse("https://alm.corp.example/qcbin/rest").unwrap();
        Injection::new(credential, &target, "GET").unwrap()
    }

    #[test]
    fn credential_goes_to_its_own_origins_only() {
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
    fn credential_replaces_the_callers_own() {
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
    fn override_to_trace_is_removed() {
        let injection = of("basic", None);
        let mut headers = HeaderMap::new();
        headers.insert("x-http-method-override", "trace".parse().unwrap());
        headers.insert("x_method_override", "DELETE".parse().unwrap());
        headers.insert("x-original-url", "/other".parse().unwrap());
        injection.remove_overrides(&mut headers);
        assert_eq!(headers.len(), 2);
        assert!(!headers.contains_key("x-http-method-override"));
    }

    #[test]
    fn response_field_with_secret_is_removed() {
        let injection = of("basic", None);
        let mut headers = HeaderMap::new();
        headers.insert("x-echo", "Basic bWU6b3Blbi1zZXNhbWU=".parse().unwrap());
        headers.insert("x-plain", "it was open-sesame!".parse().unwrap());
        headers.insert("set-cookie", "own=1".parse().unwrap());
        injection.cleaner().clean(&mut headers);
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key("set-cookie"));
    }

    /// Returns which of the values a cleaner leaves in a response.
    fn left<'a>(injection: &Injection, values: &[&'a str]) -> Vec<&'a str> {
        let cleaner = injection.cleaner();
        let stays = |value: &&&str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-echo", value.parse().unwrap());
            cleaner.clean(&mut headers);
            !headers.is_empty()
        };
        values.iter().filter(stays).copied().collect()
    }

    #[test]
    fn encoded_secret_in_a_response_is_removed() {
        let injection = with_secret("basic", None, "p@ss/word+1 %x");
        let revealing = [
            "https://x.example/cb?pw=p%40ss%2Fword%2B1%20%25x",
            "https://x.example/cb?pw=p%40ss%2fword%2b1+%25x",
            "https://x.example/cb?pw=p@ss/word%2B1%20%25x&a=1",
            "/login?return=%2Fcb%3Fpw%3Dp%2540ss%252Fword%252B1%2520%2525x",
            "p@ss/word+1 %x",
            "{\"pw\":\"p@ss\\/word+1 %x\"}",
            "p&#64;ss/word+1 %x",
            // The password alone, and with its user, in base64 and base64url.
            "cEBzcy93b3JkKzEgJXg=",
            "a cEBzcy93b3JkKzEgJXg here",
            "bWU6cEBzcy93b3JkKzEgJXg=",
            "bWU6cEBzcy93b3JkKzEgJXg",
            "bWU6cEBzcy93b3JkKzEgJXg%3D",
            "704073732f776f72642b31202578",
            "704073732F776F72642B31202578",
        ];
        assert!(left(&injection, &revealing).is_empty());
        let others = [
            "https://x.example/cb?pw=p%40ss%2Fother&n=100%",
            "W/\"704073732f\"",
            "a=1&b=%2F",
        ];
        assert_eq!(left(&injection, &others), others);
        // base64 and base64url differ here.
        let injection = with_secret("basic", None, "???>>>~~~");
        let revealing = ["Pz8/Pj4+fn5+", "Pz8_Pj4-fn5-", "bWU6Pz8_Pj4-fn5-"];
        assert!(left(&injection, &revealing).is_empty());
    }

    #[test]
    fn header_secret_without_its_scheme_is_removed() {
        let header = Some("authorization");
        let token = with_secret("header", header, "Token abcdef123456");
        let revealing = [
            "Token abcdef123456",
            "abcdef123456",
            "token=abcdef123456",
            "616263646566313233343536",
        ];
        assert!(left(&token, &revealing).is_empty());
        assert_eq!(left(&token, &["Token", "abcdef"]), ["Token", "abcdef"]);
        let basic = with_secret("header", header, "Basic bWU6b3Blbi1zZXNhbWU=");
        let revealing = ["open-sesame", "bWU6b3Blbi1zZXNhbWU", "me:open-sesame"];
        assert!(left(&basic, &revealing).is_empty());
        // A short part may be an ordinary word.
        let short = with_secret("header", header, "Secret on");
        assert_eq!(left(&short, &["on", "Secret"]), ["on", "Secret"]);
    }
}
