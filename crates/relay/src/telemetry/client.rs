//! Requests to the collector, each on a connection of its own: there is one every few seconds.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Limited};
use http_client::{
    AddressRule, Attempts, ClientOptions, Executed, OwnRequest, PoolLimits, Replay, RequestBody,
    RequestPlan, ResolveError, Resolver, ResponseBody,
};
use opentelemetry_http::{HttpClient, HttpError};
use policy::{Approved, Candidate};
use protocol::Failure;
use protocol::frame::BodyLength;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;
use transport::dial::Proxy;
use transport::lookup::Owner;
use transport::tls::{Oldest, TlsSetupError};

/// Bytes of a collector's response that are read.
const RESPONSE_MAX_BYTES: usize = 64 * 1024;

/// How long a connection may take, and then its TLS handshake. The exporter limits the whole request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Lookups at a time. Batches are sent one after the other; a second one covers a lookup that hangs.
const LOOKUPS_MAX: usize = 2;

/// The config key of the collector's URL.
const ENDPOINT_KEY: &str = "telemetry.otlp_endpoint";

/// Makes requests to the collector.
#[derive(Debug)]
pub(super) struct Client {
    client: http_client::Client,
    resolver: Resolver,
}

impl Client {
    /// Trusts a CA file in addition to the system's roots, and reads it now.
    pub(super) fn new(ca_file: Option<PathBuf>) -> Result<Self, TlsSetupError> {
        let client = http_client::Client::new(ClientOptions {
            ca_file,
            tls_oldest: Oldest::default(),
            proxy: Proxy::Direct,
            proxy_names: false,
            connect_timeout: CONNECT_TIMEOUT,
            http2: false,
            title_case: true,
            pool: PoolLimits::default(),
        });
        // Now, so that a wrong file stops the start instead of every export.
        client.load_certificates()?;
        Ok(Self {
            client,
            resolver: Resolver::new(LOOKUPS_MAX),
        })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string();
        // The operator configured this URL, so it needs no rule.
        let candidate = Candidate::for_configured(ENDPOINT_KEY, parts.method.as_str(), &url)?;
        let owner = || Owner {
            group: "telemetry".into(),
            member: "".into(),
        };
        let approving = self.resolver.approved(&candidate, AddressRule::Any, owner);
        let approved = approving.await.map_err(|error| match error {
            ResolveError::Lookup(failure) => failed(failure),
            ResolveError::Refused(refusal) => refusal.into(),
        })?;
        let authority = parts
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        let host = HeaderValue::from_str(authority)?;
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let path: Uri = path.parse()?;
        let own = OwnRequest {
            approved,
            head: |_: &Approved| {
                let mut request = Request::new(());
                *request.method_mut() = parts.method.clone();
                *request.uri_mut() = path.clone();
                *request.headers_mut() = parts.headers.clone();
                request.headers_mut().insert(header::HOST, host.clone());
                Ok(request)
            },
        };
        let plan = RequestPlan::new(
            &candidate,
            http_client::Client::pool_key(candidate.target(), None, None),
        );
        let length = BodyLength::Known(body.len() as u64);
        let body = RequestBody::from_bytes(body, length);
        // Once: a batch that was sent twice would show its spans twice.
        let attempts = Attempts::new(Replay::Never, 1);
        let executed = self.client.execute_own(&plan, own, body, attempts).await;
        let Executed {
            response,
            mut connection,
            ..
        } = executed.map_err(|error| failed(error.into()))?;
        let (parts, incoming) = response.into_parts();
        let body = ResponseBody::new(incoming, &mut connection);
        let body = Limited::new(body, RESPONSE_MAX_BYTES).collect().await?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    }
}

fn failed(failure: Failure) -> HttpError {
    failure.detail.into()
}

type Sending<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(&'a self, request: Request<Bytes>) -> Sending<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.send(request))
    }
}
