-- no-transaction
-- What happened to one object, such as a call. A prefix: a long object must not be stored twice. The audit record may have
-- millions of rows, and other relays write to it meanwhile. The file has the name of its index: the store removes one that an
-- earlier attempt left incomplete. One statement only, because several would be one transaction.
CREATE INDEX CONCURRENTLY IF NOT EXISTS audit_by_object ON audit (substr(object, 1, 64), seq);
