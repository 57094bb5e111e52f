-- The caller's own name for a stored call, by which people find it.

ALTER TABLE calls ADD COLUMN label TEXT;

-- What happened to one object, such as a call.
CREATE INDEX audit_by_object ON audit (object, seq);
