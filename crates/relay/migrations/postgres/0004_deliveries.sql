-- Whether a stored call may go direct: 1 if its URL matches a pattern of its tenant, 2 if the relay has found
-- that it cannot make the call itself after all, else 0. `direct_mark` tells by which patterns that was
-- decided (0: the tenant had none).

ALTER TABLE calls ADD COLUMN direct BIGINT NOT NULL DEFAULT 0;
ALTER TABLE calls ADD COLUMN direct_mark BIGINT NOT NULL DEFAULT 0;

DROP INDEX calls_waiting;
CREATE INDEX calls_waiting ON calls (tenant_id, host, bridge, direct, direct_mark)
    WHERE state = 'waiting_for_bridge';
