-- The caller's own name for a stored call, by which people find it.

ALTER TABLE calls ADD COLUMN label TEXT;

-- What an installation served when it was last connected, as JSON.
ALTER TABLE bridge_identities ADD COLUMN serves TEXT;
