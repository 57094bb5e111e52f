-- What happened to one object, such as a call. A prefix: a long object must not be stored twice.
CREATE INDEX IF NOT EXISTS audit_by_object ON audit (substr(object, 1, 64), seq);
