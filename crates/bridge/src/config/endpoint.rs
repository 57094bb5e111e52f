//! `[[endpoint]]` and `[[allow]]`: what callers may reach, and the quota keys that both have.

use super::{Rate, Window};
use runtime::config::{BoundedInt, ByteSize, FilePath, Timeout};
use runtime::from_text;
use serde::Deserialize;
use toml::Spanned;

/// Defines a section that has its own keys and those of a quota. serde's `flatten` would lose the lines of
/// mistakes and the check for unknown keys.
macro_rules! with_quota {
    ($($section:tt)*) => {
        define! {
            [$($section)*]
            /// Concurrent exchanges, 1 to 65536; more are rejected with `overloaded`. Defaults to no limit.
            concurrent_max: Option<BoundedInt<1, 65536>>;
            /// Exchanges in a time, as in `"10/s"`. Defaults to no limit.
            rate: Option<Rate>;
            /// Largest request body, in addition to the limit in `[limits]`. Defaults to no limit.
            request_max: Option<ByteSize>;
            /// Largest response body, in addition to the limit in `[limits]`. Defaults to no limit.
            response_max: Option<ByteSize>;
            /// Time for a TCP connection, and again for its TLS handshake. Defaults to the value in `[targets]`.
            connect_timeout: Option<Timeout>;
            /// Time from the end of a request to the response's head. Defaults to the value in `[targets]`.
            head_timeout: Option<Timeout>;
            /// Time between two pieces of a response's body. Defaults to the value in `[targets]`.
            idle_timeout: Option<Timeout>;
            /// Time for a whole exchange. Defaults to 24 hours.
            total_timeout: Option<Timeout>;
            /// Times in UTC in which nothing is accepted, as in `"daily 02:00-02:30"` or `"sat 22:00-23:30"`.
            /// Defaults to none.
            maintenance: Vec<Window>;
        }
    };
}

macro_rules! define {
    (
        [$(#[$meta:meta])* pub struct $name:ident { $($own:tt)* }]
        $($(#[$doc:meta])* $key:ident: $type:ty;)*
    ) => {
        $(#[$meta])*
        pub struct $name {
            $($own)*
            $($(#[$doc])* #[serde(default)] pub $key: $type,)*
        }

        impl From<&$name> for QuotaSection {
            fn from(section: &$name) -> Self {
                Self { $($key: section.$key.clone(),)* }
            }
        }
    };
}

with_quota! {
    /// The keys that limit how much may go to one endpoint, or by one rule.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
    pub struct QuotaSection {}
}

with_quota! {
    /// One `[[endpoint]]`: a named base URL.
    #[derive(Debug, Clone, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct EndpointSection {
        /// The name in URLs: callers reach it as `/v1/endpoints/{name}/...`. Has no default.
        pub name: Spanned<String>,
        /// The base URL; callers reach it and everything below it. Has no default.
        pub url: Spanned<String>,
        /// The methods that callers may use. Defaults to all.
        pub methods: Option<Spanned<Vec<String>>>,
        /// PEM certificates that are trusted for this endpoint, in addition to those of `[targets]`. Defaults
        /// to none.
        pub ca_file: Option<FilePath>,
        /// The name of the credential that the bridge adds to every request. Defaults to none.
        pub credential: Option<Spanned<String>>,
        /// Whether requests are accepted without a signature where `[signed_calls]` requires one. Defaults to
        /// false.
        #[serde(default)]
        pub unsigned: bool,
        /// How a request that has its own credential is treated. Defaults to `"refuse"`.
        #[serde(default)]
        pub caller_credentials: CallerCredentials,
        /// The target of health checks by GET: a path below `url`, beginning with `/` or `?`. A status below
        /// 500 is healthy. Defaults to none: a connection is healthy, and no request is sent.
        pub health_path: Option<Spanned<String>>,
        /// What of a response is rewritten for browsers: `"location"`, `"cookies"`. Defaults to nothing.
        pub rewrite: Option<Spanned<Vec<String>>>,
        /// Whether the relay may retry a PUT or DELETE whose tunnel was lost while it ran. Defaults to false.
        #[serde(default)]
        pub repeatable: bool,
        /// Whether fields that replace the method or the path at some targets (`X-HTTP-Method-Override`,
        /// `X-Original-URL`) are sent although `methods` or the path of `url` restricts callers. Defaults to false.
        #[serde(default)]
        pub pass_overrides: bool,
    }
}

with_quota! {
    /// One `[[allow]]`: hosts that Call URLs may reach.
    #[derive(Debug, Clone, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct AllowSection {
        /// An exact name, `*.corp.example`, an address, or a network like `10.0.0.0/8`. Has no default.
        pub host: Spanned<String>,
        /// `["http"]` or `["https"]`. Defaults to both.
        pub schemes: Option<Spanned<Vec<String>>>,
        /// The ports. Defaults to that of the scheme.
        pub ports: Option<Spanned<Vec<i64>>>,
        /// The methods; `["*"]` allows all. Has no default.
        pub methods: Spanned<Vec<String>>,
        /// The paths; `/hooks/*` covers everything below. Defaults to all.
        pub paths: Option<Spanned<Vec<String>>>,
        /// Whether a network also allows names that resolve into it. Defaults to false.
        #[serde(default)]
        pub resolved: bool,
        /// Whether raw streams (CONNECT) may be opened. Defaults to false.
        #[serde(default)]
        pub connect: bool,
        /// As for an endpoint, where `methods` or `paths` restricts callers. Defaults to false.
        #[serde(default)]
        pub pass_overrides: bool,
    }
}

/// How a request that has its own credential is treated where the bridge adds one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallerCredentials {
    /// The request is rejected.
    #[default]
    Refuse,
    /// The caller's credential is removed, and the bridge's is sent.
    Override,
}

from_text! {
    Rate, "a rate in quotes, like \"10/s\"";
    Window, "a maintenance window in quotes, like \"daily 02:00-02:30\"";
}
