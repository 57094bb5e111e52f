-- The caller's own name for a stored call, by which people find it.

ALTER TABLE calls ADD COLUMN label TEXT;

-- What happened to one object, such as a call. A prefix: a long object must not be stored twice.
CREATE INDEX audit_by_object ON audit (substr(object, 1, 64), seq);

-- What an installation served when it was last connected, as JSON.
ALTER TABLE bridge_identities ADD COLUMN serves TEXT;
