//! `[storage]`: which database.

use std::fmt;
use std::path::{Path, PathBuf};

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

/// `postgres://user:password@host:port/database?...`. What is shown of it has neither user nor
/// password.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(String);

impl PostgresUrl {
    /// Begins with `postgres://` or `postgresql://`; the rest is looked at when it is opened.
    pub fn new(url: &str) -> Self {
        Self(url.to_owned())
    }

    /// With everything in it.
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

impl Database {
    /// Reads `storage.url`; a path in it is beside the file in `base`.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub(super) fn parse(url: &str, base: &Path) -> Result<Self, String> {
        match url.split_once("://") {
            Some(("sqlite", path)) if !path.is_empty() => Ok(Self::Sqlite(base.join(path))),
            Some(("postgres" | "postgresql", rest)) if !rest.is_empty() => {
                Ok(Self::Postgres(PostgresUrl::new(url)))
            }
            // Not repeated: it may hold a password.
            _ => Err(
                "storage.url is not understood: write \"sqlite://relay.db\", a path beside this \
                 file, \"sqlite:///var/lib/integration-relay/relay.db\", or \
                 \"postgres://user@host/database\""
                    .into(),
            ),
        }
    }

    /// Where a file that belongs to the database is kept, if it is not said: beside a SQLite file,
    /// else in `base`.
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
    fn a_password_is_not_shown() {
        let url = "postgres://relay:s3cret@db.example:5432/relay?password=s3cret";
        let database = Database::parse(url, Path::new("")).unwrap();
        assert_eq!(database.to_string(), "postgres://db.example:5432/relay");
        assert!(!format!("{database:?}").contains("s3cret"));
        let broken = Database::parse("mysql://a:s3cret@b/c", Path::new("")).unwrap_err();
        assert!(!broken.contains("s3cret"), "{broken}");
    }
}
