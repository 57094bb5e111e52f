//! The table of operations.

use super::call_schema as call;
use super::page::{CURSOR_PARAMETER, LIMIT_PARAMETER};
use super::{
    Handler, Operation, Parameter, SchemaOf, Success, audit, bridges, calls, keys, schema, secrets,
    services, tenants,
};
use crate::access::{CALLING, Resource, SENDING};
use crate::api::explain;
use crate::api::pairing;
use crate::notices;
use crate::storage::Role;
use http::Method;
use protocol::Code;
use std::sync::LazyLock;

const ADMIN: &[Role] = &[Role::Admin, Role::SiteAdmin];
const SITE: &[Role] = &[Role::SiteAdmin];
const CALLS: &[Role] = &[Role::Caller, Role::Admin, Role::SiteAdmin];
const READING: &[Role] = &[
    Role::Caller,
    Role::Synchronizer,
    Role::Admin,
    Role::SiteAdmin,
];
const REPORTING: &[Role] = &[Role::Synchronizer];
const PAIRING: &[Role] = &[Role::Bridge];

const fn text(name: &'static str, description: &'static str) -> Parameter {
    Parameter {
        name,
        description,
        kind: "string",
    }
}

const fn moment(name: &'static str, description: &'static str) -> Parameter {
    Parameter {
        name,
        description,
        kind: "integer",
    }
}

const TENANT: Parameter = text(
    "tenant",
    "The tenant's name; for site administrators, whose keys have none.",
);
const OF_TENANT: &[Parameter] = &[TENANT];
const PAGED: &[Parameter] = &[LIMIT_PARAMETER, CURSOR_PARAMETER];
const PAGED_OF_TENANT: &[Parameter] = &[TENANT, LIMIT_PARAMETER, CURSOR_PARAMETER];

/// What one answer is.
fn answers<T: schemars::JsonSchema>(status: u16, description: &'static str) -> &'static [Success] {
    let success = Success {
        status,
        description,
        schema: Some(schema::<T>),
        media: None,
    };
    // A few dozen, once.
    Box::leak(Box::new([success]))
}

/// What is no document of ours, of this media type.
fn plainly(status: u16, media: &'static str, description: &'static str) -> &'static [Success] {
    let success = Success {
        status,
        description,
        schema: None,
        media: Some(media),
    };
    Box::leak(Box::new([success]))
}

fn nothing(status: u16, description: &'static str) -> &'static [Success] {
    let success = Success {
        status,
        description,
        schema: None,
        media: None,
    };
    Box::leak(Box::new([success]))
}

/// An operation that says the rest.
fn operation(
    id: &'static str,
    method: Method,
    path: &'static str,
    (roles, resource): (&'static [Role], Resource),
    success: &'static [Success],
    handler: Option<Handler>,
) -> Operation {
    let tag = path.trim_start_matches("/v1/").split('/').next();
    Operation {
        id,
        tag: tag.unwrap_or_default(),
        method,
        path,
        roles,
        resource,
        summary: "",
        description: "",
        query: &[],
        request: None,
        success,
        problems: &[],
        is_once: false,
        takes_match: false,
        handler,
    }
}

impl Operation {
    fn says(self, summary: &'static str) -> Self {
        Self { summary, ..self }
    }

    fn more(self, description: &'static str) -> Self {
        Self {
            description,
            ..self
        }
    }

    fn query(self, query: &'static [Parameter]) -> Self {
        Self { query, ..self }
    }

    fn takes(self, request: SchemaOf) -> Self {
        Self {
            request: Some(request),
            ..self
        }
    }

    fn may(self, problems: &'static [Code]) -> Self {
        Self { problems, ..self }
    }

    fn once(self) -> Self {
        Self {
            is_once: true,
            ..self
        }
    }

    fn matched(self) -> Self {
        Self {
            takes_match: true,
            ..self
        }
    }
}

/// The codes that a request to a target may end with.
static SENT: LazyLock<Vec<Code>> = LazyLock::new(|| {
    let all = Code::ALL.iter().copied();
    all.filter(|code| code.is_exchange_outcome()).collect()
});

fn all() -> Vec<Operation> {
    let mut all = tenants_and_keys();
    all.extend(bridges_and_services());
    all.extend(stored_calls());
    all.extend(data_path());
    all
}

fn tenants_and_keys() -> Vec<Operation> {
    vec![
        operation("listTenants", Method::GET, "/v1/tenants", (SITE, Resource::Site), answers::<tenants::TenantPage>(200, "A page of tenants."), Some(tenants::list))
            .says("List tenants, with the versions of their bridge and synchronizer services")
            .query(PAGED),
        operation("createTenant", Method::POST, "/v1/tenants", (SITE, Resource::Site), answers::<tenants::TenantView>(201, "The tenant."), Some(tenants::create))
            .says("Create a tenant")
            .takes(schema::<tenants::NewTenant>)
            .may(&[Code::Conflict])
            .once(),
        operation("showTenant", Method::GET, "/v1/tenants/{tenant}", (SITE, Resource::Site), answers::<tenants::TenantView>(200, "The tenant."), Some(tenants::show))
            .says("Show a tenant")
            .more("Its `ETag` goes into `If-Match` of a change."),
        operation("changeTenant", Method::PATCH, "/v1/tenants/{tenant}", (SITE, Resource::Site), answers::<tenants::TenantView>(200, "The tenant as it is now."), Some(tenants::change))
            .says("Suspend or resume a tenant, or change what it may do")
            .takes(schema::<tenants::TenantPatch>)
            .matched(),
        operation("deleteTenant", Method::DELETE, "/v1/tenants/{tenant}", (SITE, Resource::Site), nothing(204, "It is gone, with its keys, bridges, stored calls and secrets."), Some(tenants::delete))
            .says("Delete a tenant and everything that is its own")
            .matched(),
        operation("listKeys", Method::GET, "/v1/keys", (ADMIN, Resource::Keys), answers::<keys::KeyPage>(200, "A page of keys."), Some(keys::list))
            .says("List API keys, without their secrets")
            .query(PAGED_OF_TENANT),
        operation("createKey", Method::POST, "/v1/keys", (ADMIN, Resource::Keys), answers::<keys::KeyWithSecret>(201, "The key, with its secret this one time."), Some(keys::create))
            .says("Create an API key")
            .takes(schema::<keys::NewKeyDocument>)
            .once(),
        operation("showKey", Method::GET, "/v1/keys/{client_id}", (ADMIN, Resource::Keys), answers::<keys::KeyView>(200, "The key."), Some(keys::show))
            .says("Show an API key")
            .query(OF_TENANT),
        operation("revokeKey", Method::DELETE, "/v1/keys/{client_id}", (ADMIN, Resource::Keys), answers::<keys::RevokedKey>(200, "It is revoked; what uses it is cut off within two seconds."), Some(keys::revoke))
            .says("Revoke an API key")
            .query(const { &[TENANT, Parameter { name: "keep_bridges", description: "Leave the bridges alone that were paired with it.", kind: "boolean" }] }),
        operation("rotateKey", Method::POST, "/v1/keys/{client_id}/rotate", (ADMIN, Resource::Keys), answers::<keys::KeyWithSecret>(200, "The key, with its new secret this one time."), Some(keys::rotate))
            .says("Give an API key another secret; the one before stays good for a while")
            .query(OF_TENANT)
            .takes(schema::<keys::Rotation>)
            .once(),
        operation("listSigningSecrets", Method::GET, "/v1/signing-secrets", (ADMIN, Resource::Tenant), answers::<secrets::SecretList>(200, "The secrets."), Some(secrets::list))
            .says("Show what signs the tenant's deliveries")
            .more("Made when it is first needed. That somebody looked is written into the audit record.")
            .query(OF_TENANT),
        operation("rotateSigningSecret", Method::POST, "/v1/signing-secrets", (ADMIN, Resource::Tenant), answers::<secrets::SecretView>(201, "The secret that signs from now on."), Some(secrets::rotate))
            .says("Sign deliveries with another secret; those before sign beside it for a while")
            .query(OF_TENANT)
            .takes(schema::<secrets::NewSecret>)
            .may(&[Code::Conflict])
            .once(),
        operation("listAudit", Method::GET, "/v1/audit", (ADMIN, Resource::Tenant), answers::<audit::AuditPage>(200, "A page of the audit record."), Some(audit::list))
            .says("Read the audit record, newest first")
            .more("Administrative acts, the outcome of every call, and sums of endpoint exchanges; never a body, a header value or a secret.")
            .query(const { &[
                TENANT,
                LIMIT_PARAMETER,
                CURSOR_PARAMETER,
                text("action", "Only this action, such as `key.create`."),
                text("actor", "Only of this actor."),
                moment("since", "At or after this moment, in seconds since 1970."),
                moment("until", "Before this moment."),
            ] }),
        operation("listNotices", Method::GET, "/v1/notices", (ADMIN, Resource::Tenant), answers::<notices::NoticePage>(200, "A page of notices."), Some(notices::list))
            .says("List what needs somebody's attention, newest first")
            .query(const { &[
                TENANT,
                LIMIT_PARAMETER,
                CURSOR_PARAMETER,
                Parameter { name: "open", description: "Only those whose cause is not gone.", kind: "boolean" },
            ] }),
        operation("showNoticeUrl", Method::GET, "/v1/notice-url", (ADMIN, Resource::Tenant), answers::<notices::NoticeUrl>(200, "The URL, or null."), Some(notices::show_url))
            .says("Show where a tenant's notices are sent")
            .query(OF_TENANT),
        operation("changeNoticeUrl", Method::PUT, "/v1/notice-url", (ADMIN, Resource::Tenant), answers::<notices::NoticeUrl>(200, "The URL as it is now."), Some(notices::change_url))
            .says("Say where a tenant's notices are sent, as signed deliveries")
            .more("A notice about a bridge that is away is sent only if another route leads to the URL.")
            .query(OF_TENANT)
            .takes(schema::<notices::NoticeUrl>),
    ]
}

fn bridges_and_services() -> Vec<Operation> {
    vec![
        operation("listBridges", Method::GET, "/v1/bridges", (READING, Resource::Bridges), answers::<bridges::BridgePage>(200, "A page of bridges."), Some(bridges::list))
            .says("List a tenant's bridges and what they are doing")
            .query(PAGED_OF_TENANT),
        operation("showBridge", Method::GET, "/v1/bridges/{bridge}", (READING, Resource::Bridges), answers::<bridges::BridgeView>(200, "The bridge."), Some(bridges::show))
            .says("Show a bridge")
            .query(OF_TENANT),
        operation("revokeBridge", Method::POST, "/v1/bridges/{bridge}/revoke", (ADMIN, Resource::BridgeChanges), answers::<bridges::BridgeDone>(200, "It is revoked and cut off; its name is free."), Some(bridges::revoke))
            .says("Revoke a bridge with all its installations")
            .query(OF_TENANT),
        operation("disableBridge", Method::POST, "/v1/bridges/{bridge}/disable", (ADMIN, Resource::BridgeChanges), answers::<bridges::BridgeDone>(200, "It is cut off."), Some(bridges::disable))
            .says("Cut a bridge off until it is enabled again")
            .query(OF_TENANT),
        operation("enableBridge", Method::POST, "/v1/bridges/{bridge}/enable", (ADMIN, Resource::BridgeChanges), answers::<bridges::BridgeDone>(200, "It may come back, and does within about a minute."), Some(bridges::enable))
            .says("Let a disabled bridge come back")
            .query(OF_TENANT),
        operation("markInspected", Method::PUT, "/v1/bridges/{bridge}/inspection", (ADMIN, Resource::BridgeChanges), answers::<bridges::InspectionView>(200, "It may come through TLS inspection."), Some(bridges::inspected))
            .says("Say that something between a bridge and the relay ends TLS")
            .more("Its tunnels are then no longer bound to the relay's own TLS connection: who inspects could carry a proof on to the relay.")
            .query(OF_TENANT),
        operation("unmarkInspected", Method::DELETE, "/v1/bridges/{bridge}/inspection", (ADMIN, Resource::BridgeChanges), answers::<bridges::InspectionView>(200, "It may not any more, from its next tunnel on."), Some(bridges::not_inspected))
            .says("Take that back")
            .query(OF_TENANT),
        operation("assignEndpoint", Method::PUT, "/v1/bridges/{bridge}/endpoints/{endpoint}", (ADMIN, Resource::BridgeChanges), answers::<bridges::EndpointHolders>(200, "The bridges that have the name now."), Some(bridges::assign_endpoint))
            .says("Give an endpoint's name to a bridge")
            .more("A name belongs to the bridge that declared it first. From then on only that bridge gets the endpoint's requests, until an administrator assigns or releases the name. With `also`, the bridges that have it keep it, as for a redundant pair.")
            .query(const { &[TENANT, Parameter { name: "also", description: "Leave it to the bridges that have it, too.", kind: "boolean" }] })
            .may(&[Code::Conflict]),
        operation("releaseEndpoint", Method::DELETE, "/v1/bridges/{bridge}/endpoints/{endpoint}", (ADMIN, Resource::BridgeChanges), answers::<bridges::EndpointHolders>(200, "The bridges that have the name still."), Some(bridges::release_endpoint))
            .says("Take an endpoint's name from a bridge")
            .more("A name that no bridge has goes to the first connected bridge that declares it.")
            .query(OF_TENANT),
        operation("pairBridge", Method::POST, "/v1/pair", (PAIRING, Resource::Pairing), answers::<pairing::PairedView>(200, "It is registered."), Some(pairing::pair))
            .says("Register a bridge's public key under a name")
            .more("What `integration-bridge pair` sends. The proof is an Ed25519 signature that is explained in WIRE.md.")
            .takes(schema::<pairing::PairDocument>)
            .may(&[Code::Conflict])
            .once(),
        operation("listServices", Method::GET, "/v1/services", (ADMIN, Resource::Tenant), answers::<services::ServiceList>(200, "The services."), Some(services::list))
            .says("List what reported itself in a tenant")
            .query(OF_TENANT),
        operation("reportService", Method::PUT, "/v1/services/{service}", (REPORTING, Resource::OwnService), answers::<services::ServiceView>(200, "It is noted."), Some(services::report))
            .says("Report a service, such as `synchronizer`, with its version; again every minute as a heartbeat")
            .takes(schema::<services::Report>),
    ]
}

fn stored_calls() -> Vec<Operation> {
    vec![
        operation(
            "listCalls",
            Method::GET,
            "/v1/calls",
            (CALLS, Resource::StoredCalls),
            answers::<calls::CallPage>(200, "A page of stored calls."),
            Some(calls::list),
        )
        .says("List stored calls, newest first")
        .query(
            const {
                &[
                    TENANT,
                    LIMIT_PARAMETER,
                    CURSOR_PARAMETER,
                    text("state", "Only in this state."),
                    text("host", "Only to this host."),
                    moment(
                        "since",
                        "Handed over at or after this moment, in seconds since 1970.",
                    ),
                    moment("until", "Handed over before this moment."),
                ]
            },
        ),
        operation(
            "showCall",
            Method::GET,
            "/v1/calls/{id}",
            (CALLS, Resource::StoredCalls),
            answers::<calls::CallWithAttempts>(200, "The call."),
            Some(calls::show),
        )
        .says("Show a stored call with its attempts")
        .query(OF_TENANT),
        operation(
            "redeliverCall",
            Method::POST,
            "/v1/calls/{id}/redeliver",
            (CALLS, Resource::StoredCalls),
            answers::<calls::CallWithAttempts>(202, "It is pending again."),
            Some(calls::redeliver),
        )
        .says("Deliver a call again that came to its end")
        .query(OF_TENANT)
        .may(&[Code::Conflict]),
        operation(
            "redeliverCalls",
            Method::POST,
            "/v1/calls/redeliver",
            (CALLS, Resource::StoredCalls),
            answers::<calls::Redelivered>(202, "They are pending again."),
            Some(calls::redeliver_all),
        )
        .says("Deliver all calls again that match and did not succeed, up to 1000 at once")
        .query(OF_TENANT)
        .takes(schema::<calls::Matching>),
        operation(
            "cancelCall",
            Method::POST,
            "/v1/calls/{id}/cancel",
            (CALLS, Resource::StoredCalls),
            answers::<calls::Cancelled>(200, "It is taken back."),
            Some(calls::cancel),
        )
        .says("Take a call back that is not finished")
        .query(OF_TENANT)
        .may(&[Code::Conflict]),
        operation(
            "cancelCalls",
            Method::POST,
            "/v1/calls/cancel",
            (CALLS, Resource::StoredCalls),
            answers::<calls::Cancelled>(200, "They are taken back."),
            Some(calls::cancel_all),
        )
        .says("Take all calls back that match and are not finished, up to 1000 at once")
        .query(OF_TENANT)
        .takes(schema::<calls::Matching>),
        operation(
            "explainCall",
            Method::POST,
            "/v1/calls/explain",
            (CALLING, Resource::Hosts),
            answers::<explain::Explained>(200, "The way, and why."),
            Some(explain::handle),
        )
        .says("Say which way a URL would go, and why; nothing is sent")
        .takes(schema::<explain::Question>),
    ]
}

fn data_path() -> Vec<Operation> {
    let mut all = vec![
        operation(
            "makeCall",
            Method::POST,
            "/v1/calls",
            (CALLING, Resource::Hosts),
            call::responses(),
            None,
        )
        .says("Make a Call URL request, or hand it over to be delivered")
        .takes(schema::<call::CallDocument>)
        .may(&SENT),
        operation(
            "openTunnel",
            Method::GET,
            "/v1/tunnel",
            (&[], Resource::Public),
            nothing(101, "The tunnel is open."),
            None,
        )
        .says("Open a bridge's tunnel (WebSocket, WIRE.md)"),
        operation(
            "health",
            Method::GET,
            "/healthz",
            (&[], Resource::Public),
            plainly(200, "text/plain", "The process runs."),
            None,
        )
        .says("Whether the process runs"),
        operation(
            "readiness",
            Method::GET,
            "/readyz",
            (&[], Resource::Public),
            plainly(200, "text/plain", "It takes requests."),
            None,
        )
        .says("Whether it takes requests")
        .may(&[Code::Overloaded]),
        operation(
            "openapi",
            Method::GET,
            "/openapi.json",
            (&[], Resource::Public),
            plainly(200, "application/json", "This document."),
            None,
        )
        .says("This document"),
    ];
    let methods = [
        ("getEndpoint", Method::GET),
        ("headEndpoint", Method::HEAD),
        ("postEndpoint", Method::POST),
        ("putEndpoint", Method::PUT),
        ("patchEndpoint", Method::PATCH),
        ("deleteEndpoint", Method::DELETE),
        ("optionsEndpoint", Method::OPTIONS),
    ];
    for (id, method) in methods {
        let endpoint = operation(
            id,
            method,
            "/v1/endpoints/{endpoint}/{path}",
            (SENDING, Resource::Endpoints),
            nothing(
                200,
                "The target's answer, whatever it is: any status, any type.",
            ),
            None,
        );
        all.push(
            endpoint
                .says("Use a named endpoint, as a reverse proxy")
                .more("Path and query pass byte for byte. The relay's own errors carry `Bridge-Error`.")
                .may(&SENT),
        );
    }
    all
}

static OPERATIONS: LazyLock<Vec<Operation>> = LazyLock::new(all);

/// Every operation.
pub fn operations() -> &'static [Operation] {
    &OPERATIONS
}
