//! `[storage]`: the database, and the key file.

mod postgres_url;

use ring::digest::SHA256;
use runtime::config::{FilePath, Mistake};
use runtime::pem;
use runtime::secret::Zeroizing;
use runtime::userinfo;
use runtime::value::{self, Form};
use serde::Deserialize;
use serde::ser::Serializer;
use std::path::Path;
use store::Database;

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
            (Some(url), None) => of_key(parse(url, base)),
            (None, None) => of_key(parse("sqlite://relay.db", base)),
            (None, Some(file)) => read(file, base).map_err(|message| {
                Mistake::of_key("storage.url_file", format!("names {file}{message}"))
            }),
        }
    }
}

fn of_key(parsed: Result<Database, String>) -> Result<Database, Mistake> {
    parsed.map_err(|message| Mistake::of_key("storage.url", message))
}

/// Reads the URL in a file. The error continues a sentence that ends with the file's name.
fn read(file: &FilePath, base: &Path) -> Result<Database, String> {
    let bytes =
        pem::read_file(file.get()).map_err(|error| format!(", which {}", error.detail()))?;
    let bytes = Zeroizing::new(bytes);
    let url = value::read(Form::Setting, &bytes).map_err(|error| format!(": {error}"))?;
    let url = Zeroizing::new(url);
    if url.is_empty() {
        return Err(", which is empty: write the database's URL into it".to_owned());
    }
    parse(&url, base).map_err(|message| format!(", whose URL {message}"))
}

/// Writes a digest of the URL, for [`runtime::config::first_change`]: it differs where the URL does, also in its
/// password, and reveals nothing.
pub(super) fn digest<S: Serializer>(database: &Database, serializer: S) -> Result<S::Ok, S::Error> {
    let url = match database {
        Database::Sqlite(path) => path.as_os_str().as_encoded_bytes(),
        Database::Postgres(url) => url.reveal().as_bytes(),
    };
    let hash = ring::digest::digest(&SHA256, url);
    serializer.serialize_str(&runtime::hex::encode(hash.as_ref()))
}

/// Parses a URL. The error has no part of it, which may be a secret, and follows a word for the URL.
fn parse(url: &str, base: &Path) -> Result<Database, String> {
    let scheme = url.split_once("://").map_or(url, |(scheme, _)| scheme);
    // A line of an environment file or of a config.
    if scheme.contains('=') && scheme.len() < url.len() {
        return Err("has a name and an equals sign before it: write the URL alone".to_owned());
    }
    if let Some(path) = url.strip_prefix("sqlite:") {
        check_sqlite(path)?;
    } else {
        userinfo::check(url).map_err(|error| error.to_string())?;
    }
    let database = Database::parse(url, base)?;
    if let Database::Postgres(url) = &database {
        postgres_url::check(url.reveal())?;
    }
    Ok(database)
}

/// Checks what follows `sqlite:`. It is a path, which may have any character, and not a URL of SQLite.
fn check_sqlite(rest: &str) -> Result<(), String> {
    let path = rest.strip_prefix("//");
    if path.unwrap_or(rest) == ":memory:" {
        return Err(
            "is a database in memory, which is not supported: write sqlite:// and the path of a file, as in \
             \"sqlite://relay.db\""
                .to_owned(),
        );
    }
    let Some(path) = path else {
        return Err(
            "has no // after sqlite: write sqlite:// and the path, as in \"sqlite://relay.db\" or \
             \"sqlite:///var/lib/integration-relay/relay.db\""
                .to_owned(),
        );
    };
    // Without this check they would become a part of the file's name.
    match path.split_once('?') {
        Some((_, parameters)) if parameters.contains('=') => Err(
            "has parameters after ?, which a SQLite database does not take: remove them; the relay creates a missing \
             file"
                .to_owned(),
        ),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        parse(url, Path::new("")).unwrap_err()
    }

    #[test]
    fn sqlite_url_is_a_path_alone() {
        for url in [
            "sqlite://relay.db",
            "sqlite:///var/lib/relay.db",
            "sqlite://what?.db",
            "sqlite://a#b@c.db",
        ] {
            assert!(parse(url, Path::new("")).is_ok(), "{url}");
        }
        for (url, said) in [
            ("sqlite://relay.db?mode=rwc", "remove them"),
            ("sqlite:relay.db", "write sqlite:// and the path"),
            ("sqlite:/var/relay.db", "write sqlite:// and the path"),
            ("sqlite::memory:", "not supported"),
            ("sqlite://:memory:", "not supported"),
            ("sqlite://", "is not a database URL"),
        ] {
            let message = refused(url);
            assert!(message.contains(said), "{url}: {message}");
        }
    }

    #[test]
    fn mistake_of_the_url_file_names_the_file() {
        let dir = crate::testing::TempDir::new("url-file");
        let file = dir.path().join("url");
        let config = format!("url_file = {:?}", file.display().to_string());
        let table: StorageTable = toml::from_str(&config).unwrap();
        let base = dir.path();
        let said = |content: &str| {
            std::fs::write(&file, content).unwrap();
            format!("{:?}", table.database(base).unwrap_err())
        };
        for (content, expected) in [
            ("", "which is empty"),
            ("\n", "which is empty"),
            ("postgres://u:s3c#ret@db/relay", "whose URL has a character"),
            (
                "RELAY_STORAGE_URL=postgres://u:s3cret@db/relay",
                "an equals sign before it",
            ),
            (
                "postgres://u:s3cret@db/relay?sslmod=require",
                "did you mean sslmode?",
            ),
            ("mysql://u:s3cret@db/relay", "is not a database URL"),
            ("a\nb", "line break"),
        ] {
            let message = said(content);
            assert!(message.contains("storage.url_file names "), "{message}");
            assert!(message.contains("url-file"), "{message}");
            assert!(message.contains(expected), "{content}: {message}");
            assert!(!message.contains("s3c"), "{message}");
        }
        std::fs::remove_file(&file).unwrap();
        let missing = format!("{:?}", table.database(base).unwrap_err());
        assert!(missing.contains("which does not exist"), "{missing}");
    }
}
