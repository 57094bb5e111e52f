-- Calls that expire, retry times that survive a clock that steps back, and a row by which the relay
-- tests whether it can write.

-- When `due_ms` was computed, by the same clock. A clock that now says less has stepped back.
ALTER TABLE calls ADD COLUMN due_set_ms BIGINT NOT NULL DEFAULT 0;
-- How long a call may wait before it expires, and when that is; none: it never expires.
ALTER TABLE calls ADD COLUMN expires_in_ms BIGINT;
ALTER TABLE calls ADD COLUMN expires_ms BIGINT;
CREATE INDEX calls_expiring ON calls (expires_ms)
    WHERE expires_ms IS NOT NULL AND state IN ('pending', 'waiting_for_bridge');

-- The tenant's own default for it, in seconds; zero: never; none: the relay's default.
ALTER TABLE tenants ADD COLUMN expires_in BIGINT;

CREATE TABLE readiness (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    at_ms   BIGINT NOT NULL,
    payload BLOB
);
INSERT INTO readiness (id, at_ms) VALUES (1, 0);
