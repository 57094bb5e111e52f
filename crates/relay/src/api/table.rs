//! The table of operations.

use super::page::{CURSOR_PARAMETER, LIMIT_PARAMETER};
use super::{
    Handler, Operation, Parameter, ParameterKind, SchemaOf, Success, audit, bridges, calls,
    explain, keys, notices, pairing, pairing_files, schema, secrets, services, tenants,
};
use crate::access::Permission;
use crate::ingress::calls::described as call;
use http::Method;
use protocol::Code;
use std::sync::LazyLock;

const fn text(name: &'static str, description: &'static str) -> Parameter {
    Parameter {
        name,
        description,
        kind: ParameterKind::Text,
    }
}

const fn instant(name: &'static str, description: &'static str) -> Parameter {
    Parameter {
        name,
        description,
        kind: ParameterKind::Instant,
    }
}

const fn flag(name: &'static str, description: &'static str) -> Parameter {
    Parameter {
        name,
        description,
        kind: ParameterKind::Flag,
    }
}

const TENANT: Parameter = text(
    "tenant",
    "The tenant's name. Required for site administrators, whose keys belong to no tenant.",
);
const OF_TENANT: &[Parameter] = &[TENANT];
const PAGED: &[Parameter] = &[LIMIT_PARAMETER, CURSOR_PARAMETER];
const PAGED_OF_TENANT: &[Parameter] = &[TENANT, LIMIT_PARAMETER, CURSOR_PARAMETER];

/// A response with one of our documents.
fn document<T: schemars::JsonSchema>(status: u16, description: &'static str) -> &'static [Success] {
    leaked(Success {
        status,
        description,
        schema: Some(schema::<T>),
        media_type: None,
    })
}

/// A response with a body of this media type that has no schema of ours.
fn media(status: u16, media_type: &'static str, description: &'static str) -> &'static [Success] {
    leaked(Success {
        status,
        description,
        schema: None,
        media_type: Some(media_type),
    })
}

/// A response whose body is not described.
fn undescribed(status: u16, description: &'static str) -> &'static [Success] {
    leaked(Success {
        status,
        description,
        schema: None,
        media_type: None,
    })
}

fn leaked(success: Success) -> &'static [Success] {
    // The table is made once in a process and has about fifty rows.
    Box::leak(Box::new([success]))
}

fn operation(
    id: &'static str,
    method: Method,
    path: &'static str,
    permission: Permission,
    success: &'static [Success],
    handler: Option<Handler>,
) -> Operation {
    // Derived from the path, so that a new operation cannot be in a wrong group.
    let tag = path.trim_start_matches("/v1/").split('/').next();
    Operation {
        id,
        tag: tag.unwrap_or_default(),
        method,
        path,
        permission,
        summary: "",
        description: "",
        query: &[],
        request_body: None,
        success,
        errors: &[],
        is_idempotent: false,
        has_if_match: false,
        handler,
    }
}

impl Operation {
    fn summary(self, summary: &'static str) -> Self {
        Self { summary, ..self }
    }

    fn description(self, description: &'static str) -> Self {
        Self {
            description,
            ..self
        }
    }

    fn query(self, query: &'static [Parameter]) -> Self {
        Self { query, ..self }
    }

    fn request_body(self, schema: SchemaOf) -> Self {
        Self {
            request_body: Some(schema),
            ..self
        }
    }

    fn errors(self, errors: &'static [Code]) -> Self {
        Self { errors, ..self }
    }

    fn idempotent(self) -> Self {
        Self {
            is_idempotent: true,
            ..self
        }
    }

    fn if_match(self) -> Self {
        Self {
            has_if_match: true,
            ..self
        }
    }
}

/// Errors of a request that goes to a target.
const TARGET_ERRORS: &[Code] = &[
    Code::NoBridge,
    Code::BridgeOffline,
    Code::RefusedByPolicy,
    Code::UnknownEndpoint,
    Code::TargetDns,
    Code::TargetRefused,
    Code::TargetTls,
    Code::TargetTimeout,
    Code::TargetClosed,
    Code::TargetProtocol,
    Code::ResponseTooLarge,
    Code::TunnelLost,
    Code::Timeout,
    Code::Conflict,
    Code::RequestTooLarge,
];

fn all() -> Vec<Operation> {
    let mut all = tenants_and_keys();
    all.extend(tenant_wide());
    all.extend(bridges_and_services());
    all.extend(stored_calls());
    all.extend(data_path());
    all
}

fn tenants_and_keys() -> Vec<Operation> {
    vec![
        operation(
            "listTenants",
            Method::GET,
            "/v1/tenants",
            Permission::SITE,
            document::<tenants::TenantPage>(200, "A page of tenants."),
            Some(tenants::list),
        )
        .summary("List tenants, with the versions of their bridge and synchronizer services")
        .query(PAGED),
        operation(
            "createTenant",
            Method::POST,
            "/v1/tenants",
            Permission::SITE,
            document::<tenants::TenantView>(201, "The new tenant."),
            Some(tenants::create),
        )
        .summary("Create a tenant")
        .request_body(schema::<tenants::NewTenant>)
        .errors(&[Code::Conflict])
        .idempotent(),
        operation(
            "showTenant",
            Method::GET,
            "/v1/tenants/{tenant}",
            Permission::SITE,
            document::<tenants::TenantView>(200, "The tenant."),
            Some(tenants::show),
        )
        .summary("Show a tenant")
        .description("Send the `ETag` of the response as `If-Match` with a change."),
        operation(
            "changeTenant",
            Method::PATCH,
            "/v1/tenants/{tenant}",
            Permission::SITE,
            document::<tenants::TenantView>(200, "The changed tenant."),
            Some(tenants::change),
        )
        .summary("Suspend or resume a tenant, or change its settings")
        .request_body(schema::<tenants::TenantPatch>)
        .if_match(),
        operation(
            "deleteTenant",
            Method::DELETE,
            "/v1/tenants/{tenant}",
            Permission::SITE,
            undescribed(
                204,
                "The tenant was deleted with its keys, bridges, stored calls and secrets.",
            ),
            Some(tenants::delete),
        )
        .summary("Delete a tenant with everything that belongs to it")
        .if_match(),
        operation(
            "listKeys",
            Method::GET,
            "/v1/keys",
            Permission::KEYS,
            document::<keys::KeyPage>(200, "A page of keys."),
            Some(keys::list),
        )
        .summary("List API keys, without their secrets")
        .query(PAGED_OF_TENANT),
        operation(
            "createKey",
            Method::POST,
            "/v1/keys",
            Permission::KEYS,
            document::<keys::KeyWithSecret>(
                201,
                "The new key with its secret, which is shown only once.",
            ),
            Some(keys::create),
        )
        .summary("Create an API key")
        .request_body(schema::<keys::NewKeyDocument>)
        .idempotent(),
        operation(
            "showKey",
            Method::GET,
            "/v1/keys/{client_id}",
            Permission::KEYS,
            document::<keys::KeyView>(200, "The key."),
            Some(keys::show),
        )
        .summary("Show an API key")
        .query(OF_TENANT),
        operation(
            "revokeKey",
            Method::DELETE,
            "/v1/keys/{client_id}",
            Permission::KEYS,
            document::<keys::RevokedKey>(
                200,
                "The key was revoked. The relay closes what uses it within two seconds.",
            ),
            Some(keys::revoke),
        )
        .summary("Revoke an API key")
        .query(
            const {
                &[
                    TENANT,
                    flag(
                        "keep_bridges",
                        "Do not revoke the bridges that were paired with the key.",
                    ),
                ]
            },
        ),
        operation(
            "rotateKey",
            Method::POST,
            "/v1/keys/{client_id}/rotate",
            Permission::KEYS,
            document::<keys::KeyWithSecret>(
                200,
                "The key with its new secret, which is shown only once.",
            ),
            Some(keys::rotate),
        )
        .summary("Replace the secret of an API key")
        .description("The previous secret stays valid for `overlap_s` seconds.")
        .query(OF_TENANT)
        .request_body(schema::<keys::Rotation>)
        .idempotent(),
        operation(
            "createPairingFile",
            Method::POST,
            "/v1/pairing-files",
            Permission::KEYS,
            document::<pairing_files::PairingFile<'_>>(
                201,
                "The file, with the secret of its new key, which is shown only once.",
            ),
            Some(pairing_files::create),
        )
        .summary("Create a file with which one bridge is paired")
        .description(
            "Store the response as it is, in a file that only its receiver can read. The bridge's administrator runs \
             `integration-bridge pair --bundle FILE`. The key in it is listed and revoked like any other.",
        )
        .request_body(schema::<pairing_files::NewPairingFile>)
        .idempotent(),
    ]
}

fn tenant_wide() -> Vec<Operation> {
    vec![
        operation("listSigningSecrets", Method::GET, "/v1/signing-secrets", Permission::TENANT, document::<secrets::SecretList>(200, "The secrets."), Some(secrets::list))
            .summary("Show the secrets that sign the tenant's deliveries")
            .description("The relay creates the first secret when it is needed. Each request is recorded in the audit record.")
            .query(OF_TENANT),
        operation("rotateSigningSecret", Method::POST, "/v1/signing-secrets", Permission::TENANT, document::<secrets::SecretView>(201, "The new secret, which signs from now on."), Some(secrets::rotate))
            .summary("Add a new signing secret")
            .description("The previous secrets sign next to the new one for `overlap_s` seconds.")
            .query(OF_TENANT)
            .request_body(schema::<secrets::NewSecret>)
            .errors(&[Code::Conflict])
            .idempotent(),
        operation("listAudit", Method::GET, "/v1/audit", Permission::TENANT, document::<audit::AuditPage>(200, "A page of the audit record."), Some(audit::list))
            .summary("Read the audit record, newest first")
            .description("Administrative operations, the outcome of every call, and sums of endpoint exchanges. It never has a body, a header value or a secret.")
            .query(const { &[
                TENANT,
                LIMIT_PARAMETER,
                CURSOR_PARAMETER,
                text("action", "Only this action, such as `key.create`."),
                text("actor", "Only this actor."),
                text("object", "Only this object: an id, a name or a host."),
                text("result", "Only this result: `ok`, a code, or `failed` for every code."),
                text("status", "Only requests that the target answered with this status."),
                instant("since", "Only rows at or after this time."),
                instant("until", "Only rows before this time."),
            ] }),
        operation("listNotices", Method::GET, "/v1/notices", Permission::TENANT, document::<notices::NoticePage>(200, "A page of notices."), Some(notices::list))
            .summary("List conditions that need attention, newest first")
            .query(const { &[
                TENANT,
                LIMIT_PARAMETER,
                CURSOR_PARAMETER,
                flag("open", "Only notices whose cause persists."),
            ] }),
        operation("showNoticeUrl", Method::GET, "/v1/notice-url", Permission::TENANT, document::<notices::NoticeUrl>(200, "The URL, or null."), Some(notices::show_url))
            .summary("Show the URL that receives a tenant's notices")
            .query(OF_TENANT),
        operation("changeNoticeUrl", Method::PUT, "/v1/notice-url", Permission::TENANT, document::<notices::NoticeUrl>(200, "The changed URL."), Some(notices::change_url))
            .summary("Set the URL that receives a tenant's notices as signed deliveries")
            .description("The relay sends a notice about an offline bridge only if another route leads to the URL.")
            .query(OF_TENANT)
            .request_body(schema::<notices::NoticeUrl>),
    ]
}

fn bridges_and_services() -> Vec<Operation> {
    vec![
        operation("listBridges", Method::GET, "/v1/bridges", Permission::BRIDGES, document::<bridges::BridgePage>(200, "A page of bridges."), Some(bridges::list))
            .summary("List a tenant's bridges and their current state")
            .query(PAGED_OF_TENANT),
        operation("showBridge", Method::GET, "/v1/bridges/{bridge}", Permission::BRIDGES, document::<bridges::BridgeView>(200, "The bridge."), Some(bridges::show))
            .summary("Show a bridge")
            .query(OF_TENANT),
        operation("revokeBridge", Method::POST, "/v1/bridges/{bridge}/revoke", Permission::BRIDGE_CHANGES, document::<bridges::BridgeDone>(200, "The bridge was revoked and disconnected. Its name is free."), Some(bridges::revoke))
            .summary("Revoke a bridge with all its installations")
            .query(OF_TENANT),
        operation("disableBridge", Method::POST, "/v1/bridges/{bridge}/disable", Permission::BRIDGE_CHANGES, document::<bridges::BridgeDone>(200, "The bridge was disconnected."), Some(bridges::disable))
            .summary("Disconnect a bridge until it is enabled again")
            .query(OF_TENANT),
        operation("enableBridge", Method::POST, "/v1/bridges/{bridge}/enable", Permission::BRIDGE_CHANGES, document::<bridges::BridgeDone>(200, "The bridge may connect, which it does within about a minute."), Some(bridges::enable))
            .summary("Let a disabled bridge connect again")
            .query(OF_TENANT),
        operation("allowTlsInspection", Method::PUT, "/v1/bridges/{bridge}/tls-inspection", Permission::BRIDGE_CHANGES, document::<bridges::TlsInspectionView>(200, "The bridge may connect through TLS inspection."), Some(bridges::allow_tls_inspection))
            .summary("Allow TLS inspection between a bridge and the relay")
            .description("The bridge's tunnels are then not bound to the relay's own TLS connection. A middlebox that terminates TLS could relay the bridge's authentication.")
            .query(OF_TENANT),
        operation("forbidTlsInspection", Method::DELETE, "/v1/bridges/{bridge}/tls-inspection", Permission::BRIDGE_CHANGES, document::<bridges::TlsInspectionView>(200, "TLS inspection is forbidden from the bridge's next tunnel on."), Some(bridges::forbid_tls_inspection))
            .summary("Remove the TLS-inspection exemption")
            .query(OF_TENANT),
        operation("assignEndpoint", Method::PUT, "/v1/bridges/{bridge}/endpoints/{endpoint}", Permission::BRIDGE_CHANGES, document::<bridges::EndpointHolders>(200, "The bridges that own the name now."), Some(bridges::assign_endpoint))
            .summary("Assign an endpoint name to a bridge")
            .description("A name belongs to the bridge that declared it first. Only that bridge gets the endpoint's requests until an administrator assigns or releases the name. With `also`, the current owners keep the name, as for a redundant pair.")
            .query(const { &[TENANT, flag("also", "The current owners keep the name.")] })
            .errors(&[Code::Conflict]),
        operation("releaseEndpoint", Method::DELETE, "/v1/bridges/{bridge}/endpoints/{endpoint}", Permission::BRIDGE_CHANGES, document::<bridges::EndpointHolders>(200, "The bridges that still own the name."), Some(bridges::release_endpoint))
            .summary("Release an endpoint name from a bridge")
            .description("A name without an owner goes to the first connected bridge that declares it.")
            .query(OF_TENANT),
        operation("pairBridge", Method::POST, "/v1/pair", Permission::PAIRING, document::<pairing::PairedView>(200, "The bridge is registered."), Some(pairing::pair))
            .summary("Register a bridge's public key under a name")
            .description("`integration-bridge pair` sends this request. The proof is an Ed25519 signature, which WIRE.md describes.")
            .request_body(schema::<pairing::PairDocument>)
            .errors(&[Code::Conflict, Code::KeySpent])
            .idempotent(),
        operation("listServices", Method::GET, "/v1/services", Permission::TENANT, document::<services::ServiceList>(200, "The services."), Some(services::list))
            .summary("List the services of a tenant that reported themselves")
            .query(OF_TENANT),
        operation("reportService", Method::PUT, "/v1/services/{service}", Permission::OWN_SERVICE, document::<services::ServiceView>(200, "The report is recorded."), Some(services::report))
            .summary("Report a service with its version")
            .description("A service such as `synchronizer` repeats the request every minute as a heartbeat.")
            .request_body(schema::<services::Report>),
    ]
}

fn stored_calls() -> Vec<Operation> {
    vec![
        operation(
            "listCalls",
            Method::GET,
            "/v1/calls",
            Permission::STORED_CALLS,
            document::<calls::CallPage>(200, "A page of calls."),
            Some(calls::list),
        )
        .summary("List calls, newest first")
        .description(
            "Stored calls, and calls with mode `wait` as far as they are kept: in memory, bounded by \
             `calls.recent_max` and `calls.recent_keep`, until the relay restarts.",
        )
        .query(
            const {
                &[
                    TENANT,
                    LIMIT_PARAMETER,
                    CURSOR_PARAMETER,
                    text("state", "Only calls in this state."),
                    text("host", "Only calls to this host."),
                    text("label", "Only calls with this label."),
                    instant("since", "Only calls submitted at or after this time."),
                    instant("until", "Only calls submitted before this time."),
                ]
            },
        ),
        operation(
            "showCall",
            Method::GET,
            "/v1/calls/{id}",
            Permission::STORED_CALLS,
            document::<calls::CallWithAttempts>(200, "The call."),
            Some(calls::show),
        )
        .summary("Show a call with its attempts")
        .query(OF_TENANT),
        operation(
            "redeliverCall",
            Method::POST,
            "/v1/calls/{id}/redeliver",
            Permission::STORED_CALLS,
            document::<calls::CallWithAttempts>(202, "The call is pending again."),
            Some(calls::redeliver),
        )
        .summary("Deliver a finished call again")
        .query(OF_TENANT)
        .errors(&[Code::Conflict]),
        operation(
            "redeliverCalls",
            Method::POST,
            "/v1/calls/redeliver",
            Permission::STORED_CALLS,
            document::<calls::Redelivered>(202, "The calls are pending again."),
            Some(calls::redeliver_all),
        )
        .summary("Deliver all matching calls that did not succeed again, at most 1000 a request")
        .query(OF_TENANT)
        .request_body(schema::<calls::CallSelection>),
        operation(
            "cancelCall",
            Method::POST,
            "/v1/calls/{id}/cancel",
            Permission::STORED_CALLS,
            document::<calls::Cancelled>(200, "The call is cancelled."),
            Some(calls::cancel),
        )
        .summary("Cancel an unfinished call")
        .query(OF_TENANT)
        .errors(&[Code::Conflict]),
        operation(
            "cancelCalls",
            Method::POST,
            "/v1/calls/cancel",
            Permission::STORED_CALLS,
            document::<calls::Cancelled>(200, "The calls are cancelled."),
            Some(calls::cancel_all),
        )
        .summary("Cancel all matching unfinished calls, at most 1000 a request")
        .query(OF_TENANT)
        .request_body(schema::<calls::CallSelection>),
        operation(
            "explainCall",
            Method::POST,
            "/v1/calls/explain",
            Permission::CALLS,
            document::<explain::RouteExplanation>(200, "The route and its reason."),
            Some(explain::handle),
        )
        .summary("Explain routing for a URL (dry run)")
        .request_body(schema::<explain::RouteQuery>),
    ]
}

/// Operations that the service handles itself, before it dispatches by this table.
fn data_path() -> Vec<Operation> {
    let mut all = vec![
        operation(
            "makeCall",
            Method::POST,
            "/v1/calls",
            Permission::CALLS,
            CALL_RESPONSES,
            None,
        )
        .summary("Make a Call URL request, or submit it for delivery")
        .idempotent()
        .request_body(schema::<call::CallDocument>)
        .errors(TARGET_ERRORS),
        operation(
            "openTunnel",
            Method::GET,
            "/v1/tunnel",
            Permission::PUBLIC,
            undescribed(101, "The tunnel is open."),
            None,
        )
        .summary("Open a bridge's tunnel (WebSocket, WIRE.md)"),
        operation(
            "health",
            Method::GET,
            "/healthz",
            Permission::PUBLIC,
            media(200, "text/plain", "The process runs."),
            None,
        )
        .summary("Check that the process runs"),
        operation(
            "readiness",
            Method::GET,
            "/readyz",
            Permission::PUBLIC,
            media(200, "text/plain", "The relay accepts requests."),
            None,
        )
        .summary("Check that the relay accepts requests")
        .errors(&[Code::Overloaded]),
        operation(
            "openapi",
            Method::GET,
            "/openapi.json",
            Permission::PUBLIC,
            media(200, "application/json", "This document."),
            None,
        )
        .summary("Return this document"),
        operation(
            "explainError",
            Method::GET,
            "/errors/{code}",
            Permission::PUBLIC,
            media(
                200,
                "text/markdown",
                "The code's entry in the troubleshooting guide.",
            ),
            None,
        )
        .summary("Explain an error code")
        .errors(&[Code::NotFound]),
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
            Permission::ENDPOINTS,
            undescribed(
                200,
                "The target's response, with any status and media type.",
            ),
            None,
        );
        all.push(
            endpoint
                .summary("Send a request to a named endpoint (reverse proxy)")
                .description(
                    "Path and query pass byte for byte. The relay's own errors carry `Bridge-Error`.",
                )
                .errors(TARGET_ERRORS),
        );
    }
    all
}

const CALL_RESPONSES: &[Success] = &[
    Success {
        status: 200,
        description: "The target has responded, with any status.",
        schema: Some(schema::<call::CallResponse>),
        media_type: None,
    },
    Success {
        status: 202,
        description: "The call is stored and will be delivered.",
        schema: Some(schema::<call::CallReceipt>),
        media_type: None,
    },
];

static OPERATIONS: LazyLock<Vec<Operation>> = LazyLock::new(all);

/// Returns every operation.
pub(crate) fn operations() -> &'static [Operation] {
    &OPERATIONS
}
