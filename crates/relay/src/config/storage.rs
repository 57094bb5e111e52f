//! `[storage]`: the database, and the key file.

use ring::digest::SHA256;
use runtime::config::{FilePath, Mistake};
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
            (Some(url), None) => parse(url, base),
            (None, None) => parse("sqlite://relay.db", base),
            (None, Some(file)) => {
                let mistake = |error: &dyn std::fmt::Display| {
                    Mistake::of_key("storage.url_file", format!("names {file}: {error}"))
                };
                let bytes = std::fs::read(file.get()).map_err(|error| mistake(&error))?;
                let url = value::read(Form::Setting, &bytes).map_err(|error| mistake(&error))?;
                parse(&url, base)
            }
        }
    }
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

fn parse(url: &str, base: &Path) -> Result<Database, Mistake> {
    // A path of SQLite may have any character.
    if !url.starts_with("sqlite://") {
        userinfo::check(url).map_err(|error| Mistake::of_key("storage.url", error))?;
    }
    Database::parse(url, base).map_err(|message| Mistake::of_key("storage.url", message))
}
