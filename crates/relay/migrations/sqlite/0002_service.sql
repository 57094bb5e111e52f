-- The relay as a service: site administrators, rotation of keys, bridges' state, services, audit,
-- notices, and deliveries. Times are milliseconds since 1970 where a name ends in `_ms`, else
-- seconds. `sealed` is encrypted under the tenant's own key, and that under the key file.

ALTER TABLE meta ADD COLUMN deliveries_paused BIGINT NOT NULL DEFAULT 0;
-- Tells whether the key file is the one that sealed what is here.
ALTER TABLE meta ADD COLUMN key_check BLOB;
-- Counts what may not be taken back: an older copy of the database shows by it.
ALTER TABLE meta ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;

-- What one process does at a time. Whoever takes it over raises the epoch, and what an older epoch
-- still wants to write is refused.
CREATE TABLE leases (
    name     TEXT PRIMARY KEY,
    epoch    BIGINT NOT NULL,
    holder   TEXT NOT NULL,
    until_ms BIGINT NOT NULL
);
INSERT INTO leases (name, epoch, holder, until_ms) VALUES ('deliveries', 0, '', 0);

-- JSON list of URL patterns that the relay may call itself.
ALTER TABLE tenants ADD COLUMN direct_urls TEXT NOT NULL DEFAULT '[]';
-- Where notices are sent, if anywhere.
ALTER TABLE tenants ADD COLUMN notice_url TEXT;
-- The relay's operators have keys of their own in a tenant that no customer can name.
INSERT INTO tenants (id, name, state, created, revision) VALUES ('site', '@site', 'active', 0, 1);

-- After a rotation the secret before stays good until a moment.
ALTER TABLE api_keys ADD COLUMN previous_hash BLOB;
ALTER TABLE api_keys ADD COLUMN previous_until BIGINT;
ALTER TABLE api_keys ADD COLUMN last_used BIGINT;
-- JSON {bridges, endpoints, hosts, credentials}: what the key is narrowed to; empty: nothing of it.
ALTER TABLE api_keys ADD COLUMN scope TEXT NOT NULL DEFAULT '{}';

ALTER TABLE bridges ADD COLUMN disabled BIGINT;
ALTER TABLE bridges ADD COLUMN last_seen BIGINT;

-- What reports itself with a key, such as a synchronizer.
CREATE TABLE services (
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    name      TEXT NOT NULL,
    version   TEXT NOT NULL,
    seen      BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, name)
);

CREATE TABLE audit (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms      BIGINT NOT NULL,
    tenant_id  TEXT NOT NULL,
    -- A client id, or `cli` and the account, or `relay`.
    actor      TEXT NOT NULL,
    -- `key.create`, `bridge.revoke`, `call`, `endpoint`, ...
    action     TEXT NOT NULL,
    -- What it was done to: an id or a name.
    object     TEXT NOT NULL,
    bridge     TEXT NOT NULL DEFAULT '',
    -- `ok`, or the code of the failure.
    result     TEXT NOT NULL,
    execution  TEXT NOT NULL DEFAULT '',
    bytes_up   BIGINT NOT NULL DEFAULT 0,
    bytes_down BIGINT NOT NULL DEFAULT 0,
    took_ms    BIGINT NOT NULL DEFAULT 0,
    -- Of how many exchanges this row is the sum.
    count      BIGINT NOT NULL DEFAULT 1,
    -- JSON; never a body, a header value or a secret.
    detail     TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_by_tenant ON audit (tenant_id, seq);
CREATE INDEX audit_by_time ON audit (at_ms);
CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'audit is append only'); END;

CREATE TABLE notices (
    id        TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    kind      TEXT NOT NULL,
    object    TEXT NOT NULL,
    detail    TEXT NOT NULL,
    raised    BIGINT NOT NULL,
    cleared   BIGINT,
    -- The delivery that carries it, if it is sent anywhere.
    call_id   TEXT
);
CREATE INDEX notices_by_tenant ON notices (tenant_id, raised, id);
CREATE UNIQUE INDEX notices_open ON notices (tenant_id, kind, object) WHERE cleared IS NULL;

-- A tenant's own key, sealed under the key file: gone with the tenant, and what it sealed with it.
CREATE TABLE tenant_keys (
    tenant_id TEXT PRIMARY KEY REFERENCES tenants (id),
    sealed    BLOB NOT NULL
);

-- Secrets with which deliveries are signed (Standard Webhooks); several while they are rotated.
CREATE TABLE signing_secrets (
    id        TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    sealed    BLOB NOT NULL,
    created   BIGINT NOT NULL,
    expires   BIGINT
);
CREATE INDEX signing_secrets_by_tenant ON signing_secrets (tenant_id, created);

CREATE TABLE calls (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    id              TEXT NOT NULL UNIQUE,
    tenant_id       TEXT NOT NULL REFERENCES tenants (id),
    client_id       TEXT NOT NULL,
    created_ms      BIGINT NOT NULL,
    state           TEXT NOT NULL,
    method          TEXT NOT NULL,
    -- Host of the URL; the URL itself is sealed.
    host            TEXT NOT NULL,
    -- The bridge that was asked for, or none.
    bridge          TEXT,
    at_least_once   BIGINT NOT NULL DEFAULT 0,
    idempotency_key TEXT,
    -- Hash of the request, to tell another call with the same idempotency key.
    digest          BLOB NOT NULL,
    -- URL, header fields, body, credential.
    sealed          BLOB NOT NULL,
    bytes           BIGINT NOT NULL,
    -- Attempts that were begun, and steps of the schedule that were used up.
    attempt         BIGINT NOT NULL DEFAULT 0,
    step            BIGINT NOT NULL DEFAULT 0,
    -- When a pending one is due.
    due_ms          BIGINT NOT NULL,
    -- What was left of that when it began to wait for a bridge.
    left_ms         BIGINT NOT NULL DEFAULT 0,
    -- Where the attempt that runs went: id of the bridge, installation.
    via_bridge      TEXT,
    via_instance    BLOB,
    -- Cancelled while an attempt ran: nothing follows it.
    cancelled       BIGINT NOT NULL DEFAULT 0,
    -- What became of the last attempt.
    finished_ms     BIGINT,
    status          BIGINT,
    code            TEXT,
    execution       TEXT,
    detail          TEXT
);
CREATE INDEX calls_by_tenant ON calls (tenant_id, seq);
CREATE INDEX calls_by_state ON calls (tenant_id, state, seq);
CREATE INDEX calls_due ON calls (tenant_id, due_ms, seq) WHERE state = 'pending';
CREATE INDEX calls_waiting ON calls (tenant_id, host, bridge) WHERE state = 'waiting_for_bridge';
CREATE INDEX calls_in_flight ON calls (via_bridge, via_instance) WHERE state = 'attempting';
CREATE INDEX calls_finished ON calls (finished_ms) WHERE finished_ms IS NOT NULL;
CREATE UNIQUE INDEX calls_by_idempotency ON calls (tenant_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE TABLE call_attempts (
    call_id   TEXT NOT NULL,
    attempt   BIGINT NOT NULL,
    tenant_id TEXT NOT NULL,
    began_ms  BIGINT NOT NULL,
    took_ms   BIGINT NOT NULL,
    -- `bridge` or `direct`, and which bridge.
    route     TEXT NOT NULL,
    bridge    TEXT NOT NULL DEFAULT '',
    status    BIGINT,
    code      TEXT,
    execution TEXT NOT NULL,
    detail    TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (call_id, attempt)
);
CREATE INDEX call_attempts_by_tenant ON call_attempts (tenant_id);

-- How far each installation's journal is known to be.
CREATE TABLE journals (
    bridge_id TEXT NOT NULL,
    instance  BLOB NOT NULL,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    journal   BLOB NOT NULL,
    sequence  BIGINT NOT NULL,
    seen_ms   BIGINT NOT NULL,
    PRIMARY KEY (bridge_id, instance)
);
CREATE INDEX journals_by_tenant ON journals (tenant_id);
