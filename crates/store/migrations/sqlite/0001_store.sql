-- The tables that the store itself needs. A program creates them, with more columns if it likes, among its own
-- migrations, and adds a row to `leases` for each lease.

CREATE TABLE meta (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    -- Rises with each change that other processes must follow.
    revision   BIGINT NOT NULL,
    -- Rises with the changes that an older copy of the database does not have.
    generation BIGINT NOT NULL
);
INSERT INTO meta (id, revision, generation) VALUES (1, 1, 0);

CREATE TABLE leases (
    name               TEXT PRIMARY KEY,
    epoch              BIGINT NOT NULL,
    holder             TEXT NOT NULL,
    node               TEXT NOT NULL,
    -- By the database's clock, in milliseconds since 1970.
    until_ms           BIGINT NOT NULL,
    -- Until when another process is known to wait for the lease.
    contended_until_ms BIGINT NOT NULL
);

-- A row by which a process tests whether it can write. No code reads it.
CREATE TABLE readiness (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    at_ms   BIGINT NOT NULL,
    payload BLOB
);
INSERT INTO readiness (id, at_ms) VALUES (1, 0);
