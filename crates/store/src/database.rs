//! Which database: a SQLite file or a PostgreSQL server.

use std::fmt;
use std::path::{Path, PathBuf};

/// The database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// A SQLite file on this host.
    Sqlite(PathBuf),
    /// A PostgreSQL server, version 15 or newer.
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

/// `postgres://user:password@host:port/database?...`. `Display` and `Debug` leave out the user, the password
/// and the parameters.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(String);

impl PostgresUrl {
    /// Takes a URL that begins with `postgres://` or `postgresql://`. The rest is parsed when the database is
    /// opened.
    pub fn new(url: &str) -> Self {
        Self(url.to_owned())
    }

    /// Returns the whole URL, with its secrets.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A password that is not percent-encoded can end the authority early, and a URL without a host has the
        // password where the port should be: then nothing of it is shown.
        let Some((host, path)) = plain_parts(&self.0) else {
            return f.write_str("postgres://(not shown)");
        };
        write!(f, "postgres://{host}/{path}")
    }
}

/// Returns hosts and database, if no part of a user or password can be among them.
fn plain_parts(url: &str) -> Option<(&str, &str)> {
    let (_, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(end);
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let is_host = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'.' | b'-' | b'_' | b'%' | b'[' | b']' | b':' | b',')
    };
    let has_port = |host: &str| match host.rsplit_once(':') {
        Some((_, port)) if !port.contains(']') => port.bytes().all(|byte| byte.is_ascii_digit()),
        Some(_) | None => true,
    };
    let path = after.split(['?', '#']).next()?.trim_start_matches('/');
    let is_plain =
        !after.contains('@') && host.bytes().all(is_host) && host.split(',').all(has_port);
    is_plain.then_some((host, path))
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Database {
    /// Parses the config key `storage.url`. A relative path is resolved against `base`, the config file's
    /// directory.
    ///
    /// # Errors
    /// A message that names the accepted forms.
    pub fn parse(url: &str, base: &Path) -> Result<Self, String> {
        match url.split_once("://") {
            Some(("sqlite", path)) if !path.is_empty() => Ok(Self::Sqlite(base.join(path))),
            Some(("postgres" | "postgresql", rest)) if !rest.is_empty() => {
                Ok(Self::Postgres(PostgresUrl::new(url)))
            }
            // The message does not quote the value, which may contain a password.
            _ => Err(
                "is not a database URL: write \"sqlite://relay.db\" for a path relative to \
                 the config file, \"sqlite:///var/lib/PROGRAM/relay.db\", or \
                 \"postgres://user@host/database\""
                    .into(),
            ),
        }
    }

    /// Returns the default directory of a file that belongs to the database: that of the SQLite file, else
    /// `base`.
    pub fn dir(&self, base: &Path) -> PathBuf {
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
    fn display_and_errors_hide_the_password() {
        let url = "postgres://relay:s3cret@db.example:5432/relay?password=s3cret";
        let database = Database::parse(url, Path::new("")).unwrap();
        assert_eq!(database.to_string(), "postgres://db.example:5432/relay");
        assert!(!format!("{database:?}").contains("s3cret"));
        for url in [
            "postgres://relay:s3c/ret@db.example/relay",
            "postgres://relay:s3c#ret@db.example/relay",
            "postgres://relay:s3c?ret@db.example/relay",
            "postgres://relay:s3c@ret/x@db.example/relay",
            "postgres://relay:s3cret/relay",
        ] {
            let shown = PostgresUrl::new(url).to_string();
            assert!(!shown.contains("s3c") && !shown.contains("ret@"), "{shown}");
        }
        let broken = Database::parse("mysql://a:s3cret@b/c", Path::new("")).unwrap_err();
        assert!(!broken.contains("s3cret"), "{broken}");
    }
}
