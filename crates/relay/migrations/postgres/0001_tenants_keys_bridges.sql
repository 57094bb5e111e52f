-- Tenants, API keys, bridges and the installations that prove themselves as one.
-- The same as for SQLite, in the words of PostgreSQL.
-- Times are seconds since 1970. `revision` is the change that last touched a row.

CREATE TABLE meta (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    revision BIGINT NOT NULL
);
INSERT INTO meta (id, revision) VALUES (1, 1);

CREATE TABLE tenants (
    id       TEXT PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    state    TEXT NOT NULL,
    created  BIGINT NOT NULL,
    revision BIGINT NOT NULL
);

CREATE TABLE api_keys (
    client_id   TEXT PRIMARY KEY,
    tenant_id   TEXT NOT NULL REFERENCES tenants (id),
    role        TEXT NOT NULL,
    name        TEXT NOT NULL,
    secret_hash BYTEA NOT NULL,
    existing    TEXT NOT NULL,
    created     BIGINT NOT NULL,
    expires     BIGINT,
    revoked     BIGINT,
    revision    BIGINT NOT NULL
);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id);
CREATE INDEX api_keys_by_revision ON api_keys (revision);

CREATE TABLE bridges (
    id        TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    name      TEXT NOT NULL,
    created   BIGINT NOT NULL,
    revoked   BIGINT,
    revision  BIGINT NOT NULL
);
-- A revoked bridge keeps its row and gives its name back.
CREATE UNIQUE INDEX bridges_by_name ON bridges (tenant_id, name) WHERE revoked IS NULL;
CREATE INDEX bridges_by_revision ON bridges (revision);

CREATE TABLE bridge_identities (
    id         TEXT PRIMARY KEY,
    bridge_id  TEXT NOT NULL REFERENCES bridges (id),
    public_key BYTEA NOT NULL,
    instance   BYTEA NOT NULL,
    paired_by  TEXT NOT NULL REFERENCES api_keys (client_id),
    host       TEXT NOT NULL,
    software   TEXT NOT NULL,
    created    BIGINT NOT NULL,
    revoked    BIGINT,
    revision   BIGINT NOT NULL
);
CREATE INDEX bridge_identities_by_bridge ON bridge_identities (bridge_id);
CREATE INDEX bridge_identities_by_key ON bridge_identities (paired_by);
CREATE INDEX bridge_identities_by_revision ON bridge_identities (revision);
