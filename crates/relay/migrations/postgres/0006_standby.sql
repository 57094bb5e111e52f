-- Which relay process serves, and what requests with an idempotency key led to.

-- One process at a time serves: it holds the lease `relay`. Times are those of the database's clock.
ALTER TABLE leases ADD COLUMN node TEXT NOT NULL DEFAULT '';
-- Until when another process is known to wait for the lease.
ALTER TABLE leases ADD COLUMN contended_until_ms BIGINT NOT NULL DEFAULT 0;
INSERT INTO leases (name, epoch, holder, until_ms)
SELECT 'relay', epoch, '', 0 FROM leases WHERE name = 'deliveries';
DELETE FROM leases WHERE name = 'deliveries';

-- A request with an idempotency key: begun before anything was sent, done when its outcome is known.
CREATE TABLE idempotency (
    tenant_id  TEXT NOT NULL REFERENCES tenants (id),
    -- `call`, or the id of the operation.
    operation  TEXT NOT NULL,
    key        TEXT NOT NULL,
    -- The API key that made the request.
    client_id  TEXT NOT NULL,
    -- Hash of the request, to tell another request with the same key.
    digest     BYTEA NOT NULL,
    -- Random: only the process that began the request may change its row.
    token      BYTEA NOT NULL,
    expires_ms BIGINT NOT NULL,
    -- The response, sealed; none while the outcome is not known.
    outcome    BYTEA,
    bytes      BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, operation, key)
);
CREATE INDEX idempotency_by_expiry ON idempotency (expires_ms);
