-- Keys of pairing files: each pairs one bridge and no second one. Times are seconds since 1970.

-- 1 for the key of a pairing file.
ALTER TABLE api_keys ADD COLUMN one_time BIGINT NOT NULL DEFAULT 0;
-- When such a key paired its bridge.
ALTER TABLE api_keys ADD COLUMN spent BIGINT;
-- When it was first refused after that.
ALTER TABLE api_keys ADD COLUMN reused BIGINT;

-- The address that the pairing came from; empty for pairings before this column.
ALTER TABLE bridge_identities ADD COLUMN address TEXT NOT NULL DEFAULT '';
