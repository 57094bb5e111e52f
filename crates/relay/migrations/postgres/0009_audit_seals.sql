-- Seals of the audit record: the hash of a range of rows, signed with the relay's key file. They show whether rows were
-- changed or removed otherwise than by age. The database alone cannot make one.

CREATE TABLE audit_seals (
    number       BIGINT PRIMARY KEY,
    -- The range of rows, which follows the previous seal's.
    first_seq    BIGINT NOT NULL,
    last_seq     BIGINT NOT NULL,
    -- Rows in it, their times in milliseconds since 1970, and the SHA-256 of all.
    count        BIGINT NOT NULL,
    min_at_ms    BIGINT NOT NULL,
    max_at_ms    BIGINT NOT NULL,
    hash         TEXT NOT NULL,
    -- When it was made, or the time of its newest row if that is earlier. Rows are deleted by this age.
    sealed_ms    BIGINT NOT NULL,
    -- The first seal that has to exist. Rows of earlier seals may have been deleted by age.
    first_number BIGINT NOT NULL,
    -- The fingerprint of the key file that signed it, and the first seal of that key file.
    key_id       TEXT NOT NULL,
    chain_first  BIGINT NOT NULL,
    -- The previous seal's signature.
    prev         TEXT NOT NULL,
    mac          TEXT NOT NULL
);
