-- A bridge whose way to the relay leads through something that ends TLS, as its tenant's administrator
-- has said: since when, in seconds since 1970. Its proof may then be of another connection than ours.

ALTER TABLE bridges ADD COLUMN inspected BIGINT;
