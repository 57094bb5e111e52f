//! `[storage]`: the database, and the key file.

use ring::digest::{SHA256, digest};
use runtime::config::{FilePath, Mistake};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// `[storage]` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StorageTable {
    /// `sqlite://` with a path, or `postgres://`. Defaults to `"sqlite://relay.db"`.
    url: Option<String>,
    /// A file that holds the URL, for one with a password. Defaults to none.
    url_file: Option<FilePath>,
    /// The key under which stored calls are encrypted. Defaults to `relay-secrets.key` next to the database.
    pub(super) key_file: Option<FilePath>,
}

impl StorageTable {
    /// Returns the database; a relative path is resolved against `base`.
    ///
    /// # Errors
    /// The first mistake.
    pub(super) fn database(&self, base: &Path) -> Result<Database, Mistake> {
        match (&self.url, &self.url_file) {
            (Some(_), Some(_)) => Err(Mistake::of_key(
                "storage.url",
                "conflicts with storage.url_file: write either",
            )),
            (Some(url), None) => Database::parse(url, base),
            (None, None) => Database::parse("sqlite://relay.db", base),
            (None, Some(file)) => {
                // Secrets that are mounted as files often end in a line break, which `trim` removes below.
                let url = std::fs::read_to_string(file.get()).map_err(|error| {
                    let message = format!("{file} cannot be read: {error}");
                    Mistake::of_key("storage.url_file", message)
                })?;
                Database::parse(url.trim(), base)
            }
        }
    }
}

/// The database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A PostgreSQL server.
    Postgres(PostgresUrl),
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "{}", path.display()),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

/// `postgres://user:password@host:port/database?...`. `Display` and `Debug` omit user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(String);

impl PostgresUrl {
    /// Takes a URL that begins with `postgres://` or `postgresql://`; the rest is checked when it is opened.
    pub fn new(url: &str) -> Self {
        Self(url.to_owned())
    }

    /// Returns the URL with user and password.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = self.0.split_once("://").map_or("", |(_, rest)| rest);
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        write!(f, "postgres://{host}/{path}")
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Database {
    /// Writes a digest: it differs where the URL does, also in its password, and reveals nothing.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let url = match self {
            Self::Sqlite(path) => path.as_os_str().as_encoded_bytes(),
            Self::Postgres(url) => url.0.as_bytes(),
        };
        let digest = digest(&SHA256, url);
        serializer.serialize_str(&runtime::hex::encode(digest.as_ref()))
    }
}

impl Database {
    /// Reads `storage.url`; a path in it is resolved against `base`.
    ///
    /// # Errors
    /// The mistake; it does not repeat the URL, which may have a password.
    fn parse(url: &str, base: &Path) -> Result<Self, Mistake> {
        match url.split_once("://") {
            Some(("sqlite", path)) if !path.is_empty() => Ok(Self::Sqlite(base.join(path))),
            Some(("postgres" | "postgresql", rest)) if !rest.is_empty() => {
                Ok(Self::Postgres(PostgresUrl::new(url)))
            }
            _ => Err(Mistake::of_key(
                "storage.url",
                "is not a database URL: write \"sqlite://relay.db\", a path relative to this file, \
                 \"sqlite:///var/lib/integration-relay/relay.db\", or \"postgres://user@host/database\"",
            )),
        }
    }

    /// Returns the directory for files that belong to the database: that of a SQLite file, else `base`.
    pub(super) fn dir(&self, base: &Path) -> PathBuf {
        match self {
            Self::Sqlite(path) => path.parent().unwrap_or(base).to_owned(),
            Self::Postgres(_) => base.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_not_shown() {
        let url = "postgres://relay:s3cret@db.example:5432/relay?password=s3cret";
        let database = Database::parse(url, Path::new("")).unwrap();
        assert_eq!(database.to_string(), "postgres://db.example:5432/relay");
        assert!(!format!("{database:?}").contains("s3cret"));
        let broken = Database::parse("mysql://a:s3cret@b/c", Path::new("")).unwrap_err();
        assert!(!format!("{broken:?}").contains("s3cret"), "{broken:?}");
    }
}
