//! Where a credential may be sent: scheme, host and port (RFC 6454).

use policy::{Host, Scheme, Target};
use std::fmt;
use std::str::FromStr;

/// An origin, like `https://alm.corp.example:8443`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    scheme: Scheme,
    host: Host,
    port: u16,
}

/// Why a text is not an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OriginError {
    /// It is not a URL.
    #[error("{0}")]
    Url(#[from] policy::TargetError),
    /// It has more parts than an origin.
    #[error("an origin is only scheme, host and port, like https://alm.corp.example:8443")]
    Extra,
}

impl Origin {
    /// Returns the origin of a target.
    pub(crate) fn of(target: &Target) -> Self {
        Self {
            scheme: target.scheme(),
            host: target.host().clone(),
            port: target.port(),
        }
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let target = Target::parse(text)?;
        if target.path_and_query() != "/" {
            return Err(OriginError::Extra);
        }
        Ok(Self::of(&target))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        if self.port == self.scheme.default_port() {
            return Ok(());
        }
        write!(f, ":{}", self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_is_canonical_without_a_path() {
        let origin: Origin = "HTTPS://Alm.Corp.example:443/".parse().unwrap();
        assert_eq!(origin.to_string(), "https://alm.corp.example");
        assert_eq!("https://alm.corp.example".parse(), Ok(origin.clone()));
        assert_ne!("http://alm.corp.example".parse(), Ok(origin.clone()));
        assert_ne!("https://alm.corp.example:8443".parse(), Ok(origin));
        for wrong in [
            "alm.corp.example",
            "https://a/qcbin",
            "https://u@a",
            "ftp://a",
        ] {
            assert!(wrong.parse::<Origin>().is_err(), "{wrong}");
        }
    }
}
