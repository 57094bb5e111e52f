//! The files that the relay writes and reads: `log.file` and those of `[storage]` may be none of the others.

use super::{Config, Database, Tls};
use runtime::written::{Collision, collisions};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What SQLite and the relay keep next to a database.
const OF_DATABASE: [&str; 4] = ["-wal", "-shm", "-journal", ".lock"];

/// What the relay keeps next to the key file, by extension: the database's generation and the control socket.
const OF_KEY_FILE: [&str; 2] = ["generation", "sock"];

/// What it makes for `tls.self_signed`.
const SELF_SIGNED: [&str; 4] = [
    "relay-ca.pem",
    "relay-ca-key.pem",
    "relay-cert.pem",
    "relay-key.pem",
];

impl Config {
    /// Returns the keys with a file that is also another file of the relay, which would be destroyed. `path` is the
    /// config file.
    pub(crate) fn colliding_files(&self, path: &Path) -> Vec<Collision> {
        let mut written = vec![("storage.key_file", self.key_file.clone())];
        let mut own = vec![("the config (--config)".to_owned(), path.to_owned())];
        if let Database::Sqlite(database) = &self.database {
            written.push(("storage.url", database.clone()));
            let parts = OF_DATABASE.map(|part| {
                let mut name = OsString::from(database);
                name.push(part);
                ("the database (storage.url)".to_owned(), PathBuf::from(name))
            });
            own.extend(parts);
        }
        if let Some(file) = &self.log.file {
            written.push(("log.file", file.in_dir(&self.data_dir())));
        }
        let next_to_key = OF_KEY_FILE.map(|extension| {
            let purpose = "the relay's own state (storage.key_file)".to_owned();
            (purpose, self.key_file.with_extension(extension))
        });
        own.extend(next_to_key);
        own.extend(self.certificate_files());
        collisions(&written, &own)
    }

    fn certificate_files(&self) -> Vec<(String, PathBuf)> {
        let mut files = Vec::new();
        let mut add = |key: &str, path: PathBuf| files.push((key.to_owned(), path));
        match &self.tls {
            Some(Tls::Files {
                cert_file,
                key_file,
            }) => {
                add("tls.cert_file", cert_file.clone());
                add("tls.key_file", key_file.clone());
            }
            Some(Tls::SelfSigned { dir, .. }) => {
                for name in SELF_SIGNED {
                    add("tls.self_signed", dir.join(name));
                }
            }
            None => {}
        }
        let ca_files = [
            ("direct.ca_file", &self.direct.ca_file),
            ("telemetry.ca_file", &self.telemetry.ca_file),
            ("listen.public_ca_file", &self.listen.public_ca_file),
        ];
        for (key, file) in ca_files {
            if let Some(file) = file {
                add(key, file.clone());
            }
        }
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn log_in_place_of_another_file_is_refused() {
        let dir = TempDir::new("relay-files");
        let path = dir.path().join("relay.toml");
        let keys = |more: &str| {
            let text = format!("[listen]\npublic = \"127.0.0.1:8443\"\n[tls]\n{more}");
            let config = Config::parse(&text, &path).unwrap();
            let found = config.colliding_files(&path);
            found.into_iter().map(|one| one.key).collect::<Vec<_>>()
        };
        let log = |name: &str| keys(&format!("self_signed = true\n[log]\nfile = \"{name}\""));
        assert!(log("relay.log").is_empty());
        for name in [
            "relay-secrets.key",
            "relay-secrets.generation",
            "relay-secrets.sock",
            "relay.db",
            "relay.db-wal",
            "relay.db-shm",
            "relay.db.lock",
            "relay-key.pem",
            "relay.toml",
        ] {
            assert_eq!(log(name), ["log.file"], "{name}");
        }
        let files = "cert_file = \"a.crt\"\nkey_file = \"a.key\"\n[log]\nfile = \"a.key\"";
        assert_eq!(keys(files), ["log.file"]);
        let storage = "self_signed = true\n[storage]\nkey_file = \"relay.db\"";
        assert_eq!(keys(storage), ["storage.url"]);
    }
}
