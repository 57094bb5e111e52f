-- Names that belong to bridges: an endpoint's to the bridge that declared it first, or to those that an
-- administrator says. Times are seconds since 1970.

CREATE TABLE bridge_claims (
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    -- `endpoint`.
    kind      TEXT NOT NULL,
    name      TEXT NOT NULL,
    bridge_id TEXT NOT NULL REFERENCES bridges (id),
    created   BIGINT NOT NULL,
    -- A claim that ended stays, so that running relays learn of it.
    removed   BIGINT,
    revision  BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, kind, name, bridge_id)
);
CREATE INDEX bridge_claims_by_bridge ON bridge_claims (bridge_id);
CREATE INDEX bridge_claims_by_revision ON bridge_claims (revision);

-- JSON list: the endpoints that an installation may declare, from the key that it was paired with;
-- empty for any.
ALTER TABLE bridge_identities ADD COLUMN endpoints TEXT NOT NULL DEFAULT '[]';
