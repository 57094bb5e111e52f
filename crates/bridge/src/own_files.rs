//! The files that the bridge writes and reads: `log.file` and `audit.file` may be none of the others.

use crate::config::{CA_FILE, Config, FilePath, KEPT_FILE};
use crate::credentials::store;
use crate::identity::{IDENTITY_FILE, PENDING_FILE};
use runtime::written;
pub(crate) use runtime::written::Collision;
use std::path::PathBuf;

/// The files of the data directory, in addition to the identity, the credentials and one counter for each connection.
/// An end-to-end test compares them with those of a running bridge.
const STATE: [&str; 5] = [
    "lock",
    "journal.redb",
    "nonces.redb",
    "control.sock",
    "credentials.lock",
];

/// The largest `relay.connections`: each connection has a file with its number.
const CONNECTIONS_MAX: u8 = 8;

/// Returns the keys with a file that is also another file of the bridge, which would be destroyed.
pub(crate) fn collisions(config: &Config) -> Vec<Collision> {
    let data_dir = config.bridge.data_dir.get();
    let log = config.log.file.as_ref().map(|file| file.in_dir(data_dir));
    let audit = config.audit.enabled.then(|| config.audit.path(data_dir));
    let head = audit
        .as_ref()
        .map(|audit| audit.with_extension("head.json"));
    let written: Vec<(&str, PathBuf)> = [("audit.file", audit), ("log.file", log)]
        .into_iter()
        .filter_map(|(key, path)| Some((key, path?)))
        .collect();
    let counters = (0..CONNECTIONS_MAX).map(|number| format!("epoch-{number}"));
    let state = [
        IDENTITY_FILE,
        PENDING_FILE,
        store::FILE,
        store::OWN_KEY_FILE,
        KEPT_FILE,
        CA_FILE,
    ]
    .into_iter()
    .chain(STATE)
    .map(str::to_owned)
    .chain(counters)
    .map(|name| {
        (
            "the bridge's own state (bridge.data_dir)".to_owned(),
            data_dir.join(name),
        )
    });
    let given = [
        ("bridge.key_file", &config.bridge.key_file),
        ("kerberos.keytab_file", &config.kerberos.keytab_file),
        ("kerberos.cache_file", &config.kerberos.cache_file),
        (
            "signed_calls.public_key_file",
            &config.signed_calls.public_key_file,
        ),
    ];
    let given = given.into_iter().filter_map(|(key, file)| {
        let path = file.as_ref().map(FilePath::get)?;
        Some((key.to_owned(), path.to_owned()))
    });
    let ca_files = config.ca_files().into_iter();
    let ca_files = ca_files.map(|(key, path)| (key, path.to_owned()));
    let head = head.map(|head| ("the head of the audit record".to_owned(), head));
    let config = ("the config (--config)".to_owned(), config.path.clone());
    let own: Vec<(String, PathBuf)> = state
        .chain(given)
        .chain(ca_files)
        .chain(head)
        .chain([config])
        .collect();
    written::collisions(&written, &own)
}

/// Checks what [`collisions`] finds, before anything is written.
///
/// # Errors
/// The first key and what is wrong with it.
pub(crate) fn check(config: &Config) -> Result<(), String> {
    match collisions(config).first() {
        Some(collision) => Err(collision.to_string()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn log_in_place_of_another_file_is_refused() {
        let dir = TempDir::new("own-files");
        let path = dir.path().join("bridge.toml");
        let keys = |more: &str| {
            let text = format!(
                "[relay]\nurl = \"https://relay.example\"\nca_file = \"ca.pem\"\n[bridge]\nname = \"b\"\n\
                 data_dir = \"data\"\nkey_file = \"own.key\"\n{more}"
            );
            let found = collisions(&Config::parse(&text, &path).unwrap());
            found.into_iter().map(|one| one.key).collect::<Vec<_>>()
        };
        assert!(keys("[log]\nfile = \"bridge.log\"").is_empty());
        for name in [
            "identity.json",
            "journal.redb",
            "credentials.key",
            "epoch-7",
            "audit.head.json",
            "../ca.pem",
            "../own.key",
            "../bridge.toml",
        ] {
            assert_eq!(
                keys(&format!("[log]\nfile = \"{name}\"")),
                ["log.file"],
                "{name}"
            );
        }
        assert_eq!(keys("[log]\nfile = \"audit.jsonl\""), ["log.file"]);
        assert_eq!(keys("[audit]\nfile = \"credentials.json\""), ["audit.file"]);
        let off = "[audit]\nenabled = false\nfile = \"credentials.json\"";
        assert!(keys(off).is_empty());
    }
}
