//! `config check`: the meaning of a config, and what is wrong with the files and the database that it names. They
//! are read as at a start, and nothing is created or changed.

use super::{CliError, output, serve};
use crate::config::{Config, Database, Tls};
use crate::vault::{self, MasterKey};
use runtime::findings::Findings;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use store::Probe;
use transport::tls::{PairFile, inspect_ca_file, inspect_chain, inspect_hosts, inspect_pair};

/// How long the database may take to respond.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(5);

/// Prints the meaning of a config, what was found, and the note about the environment.
pub(super) fn run(config: &Config, path: &Path, note: Option<String>) -> Result<(), CliError> {
    let mut found = Findings::default();
    certificates(config, &mut found);
    key_file(&config.key_file, &mut found);
    database_files(config, &mut found);
    database(config, &mut found)?;
    if let Some(file) = &config.log.file {
        found.written("log.file", &file.in_dir(&config.data_dir()), true);
    }
    for collision in config.colliding_files(path) {
        found.error(&collision.key, collision.text);
    }
    combinations(config, &mut found);
    let verdict = match found.errors() {
        0 => "is valid",
        _ => "has no mistake in itself",
    };
    let mut lines = vec![match &config.source {
        source if source.variables == 0 => format!("{} {verdict}.", path.display()),
        source => format!("The config {verdict}: {source}."),
    }];
    lines.extend(serve::explain(config));
    lines.extend(found.lines().iter().cloned());
    lines.extend(note);
    output::lines(&lines)?;
    match found.errors() {
        0 => Ok(()),
        count => Err(CliError::Check {
            path: path.to_owned(),
            count,
        }),
    }
}

fn certificates(config: &Config, found: &mut Findings) {
    match &config.tls {
        Some(Tls::Files {
            cert_file,
            key_file,
        }) => {
            certificate(cert_file, key_file, found);
            // Behind a balancer, bridges see the balancer's certificate.
            if !config.listen.behind_balancer {
                authorities(&config.listen.authorities, cert_file, key_file, found);
            }
        }
        Some(Tls::SelfSigned { dir, .. }) => found.directory("tls.self_signed", dir),
        None => {}
    }
    let files = [
        ("direct.ca_file", &config.direct.ca_file),
        ("telemetry.ca_file", &config.telemetry.ca_file),
        ("listen.public_ca_file", &config.listen.public_ca_file),
    ];
    for (key, file) in files {
        if let Some(file) = file {
            found.read(key, inspect_ca_file(file));
        }
    }
}

fn certificate(cert_file: &Path, key_file: &Path, found: &mut Findings) {
    match inspect_pair(cert_file, key_file) {
        Ok(warnings) => {
            for warning in warnings {
                found.warning(format!("tls.cert_file: {warning}"));
            }
            // Only of a file that is used: the mode of another one may be meant.
            found.secret("tls.key_file", key_file);
        }
        Err((PairFile::Certificate, error)) => found.error("tls.cert_file", error.to_string()),
        Err((PairFile::Key, error)) => found.error("tls.key_file", error.to_string()),
    }
}

/// Warns of names by which bridges may dial, and which the certificate does not have.
fn authorities(names: &[String], cert_file: &Path, key_file: &Path, found: &mut Findings) {
    let host = |name: &String| match name.rsplit_once(':') {
        // The last colon of an IPv6 address is within its brackets.
        Some((host, port)) if !port.contains(']') => host.to_owned(),
        Some(_) | None => name.clone(),
    };
    let hosts: Vec<String> = names.iter().map(host).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    if let Some(warning) = inspect_hosts(cert_file, key_file, &hosts) {
        found.warning(format!("listen.authorities: {warning}"));
    }
}

fn key_file(path: &Path, found: &mut Findings) {
    let key = "storage.key_file";
    if !path.exists() {
        found.written(key, path, true);
        return;
    }
    match MasterKey::check(path) {
        Ok(_) => found.secret(key, path),
        Err(error) => found.error(key, error.to_string()),
    }
}

/// Checks that the key file is that of the database, and that it may be made if it does not exist.
async fn key_of_database(config: &Config, found: &mut Findings) {
    let (key, path) = ("storage.key_file", &config.key_file);
    match vault::inspect(&config.database, path).await {
        Some(mistake) => found.error(key, mistake),
        None if !path.exists() => found.note(format!("{key}: {} will be created", path.display())),
        None => {}
    }
}

fn database(config: &Config, found: &mut Findings) -> Result<(), CliError> {
    let key = "storage.url";
    if let Database::Sqlite(path) = &config.database {
        found.written(key, path, true);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    let probing = async {
        let probing = store::probe(&config.database);
        tokio::time::timeout(DATABASE_TIMEOUT, probing).await
    };
    let probed = runtime.block_on(probing);
    let is_ready = matches!(probed, Ok(Ok(Probe::Ready)));
    let key_file = async {
        match is_ready {
            true => key_of_database(config, found).await,
            false if config.key_file.exists() => {}
            false => found.note(format!(
                "storage.key_file: {} will be created",
                config.key_file.display()
            )),
        }
    };
    // A database that does not respond any more is reported by the next start.
    let _ = runtime.block_on(async { tokio::time::timeout(DATABASE_TIMEOUT, key_file).await });
    match probed {
        Ok(Ok(Probe::Absent)) => found.note(format!("{key}: the database will be created")),
        Ok(Ok(Probe::Empty)) => found.note(format!("{key}: the tables will be created")),
        Ok(Ok(Probe::Ready)) => {}
        Ok(Err(error)) => found.error(key, error.to_string()),
        Err(_) => found.error(
            key,
            format!(
                "{} did not respond within {DATABASE_TIMEOUT:?}: check host, port and firewall",
                config.database
            ),
        ),
    }
    Ok(())
}

/// The files that the parameters of a PostgreSQL URL name. The database's library reads them itself, and its error
/// names no cause.
fn database_files(config: &Config, found: &mut Findings) {
    let Database::Postgres(url) = &config.database else {
        return;
    };
    let query = url.reveal().split_once('?').map_or("", |(_, query)| query);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let key = format!("storage.url: {name}");
        match &*name {
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => {
                found.read(&key, inspect_ca_file(Path::new(&*value)));
            }
            "sslcert" | "ssl-cert" => {
                let read = runtime::pem::certificates(Path::new(&*value));
                found.read(&key, read.map(|chain| inspect_chain(&chain.all)));
            }
            "sslkey" | "ssl-key" => {
                let read = runtime::pem::private_key(Path::new(&*value));
                found.read(&key, read.map(|_| Vec::new()));
            }
            _ => {}
        }
    }
}

/// Keys that are right alone and may not be meant together.
fn combinations(config: &Config, found: &mut Findings) {
    let listen = &config.listen;
    let all = [
        ("listen.public", listen.public),
        ("listen.internal", listen.internal),
        ("listen.proxy", listen.proxy),
        ("listen.admin", listen.admin),
    ];
    for (index, (key, address)) in all.iter().enumerate() {
        let same = all[..index]
            .iter()
            .find(|(_, other)| collide(*address, *other));
        if let (Some((other, _)), Some(address)) = (same, address) {
            found.error(
                key,
                format!("{address} is also {other}: each listener needs a port of its own"),
            );
        }
    }
    if config.deliveries.schedule.is_empty() {
        found.warning(
            "deliveries.schedule is empty: a stored call is attempted once and never again",
        );
    }
}

/// Returns whether two listeners cannot exist together: an address of all interfaces covers each of them.
fn collide(one: Option<SocketAddr>, other: Option<SocketAddr>) -> bool {
    let (Some(one), Some(other)) = (one, other) else {
        return false;
    };
    // Port 0 lets the system choose, a different one each time.
    let is_same_port = one.port() == other.port() && one.port() != 0;
    let is_covered =
        one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    is_same_port && is_covered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage;
    use crate::testing::TempDir;

    #[test]
    fn listeners_of_one_port_collide() {
        let collide = |one: &str, other: &str| {
            collide(Some(one.parse().unwrap()), Some(other.parse().unwrap()))
        };
        assert!(collide("127.0.0.1:80", "127.0.0.1:80"));
        assert!(collide("0.0.0.0:80", "127.0.0.1:80"));
        assert!(!collide("127.0.0.2:80", "127.0.0.1:80"));
        assert!(!collide("127.0.0.1:81", "127.0.0.1:80"));
        assert!(!collide("127.0.0.1:0", "127.0.0.1:0"));
    }

    #[test]
    fn empty_schedule_and_shared_port_are_reported() {
        let mut config = Config::local(Path::new("data"));
        config.listen.public = Some(([127, 0, 0, 1], 8443).into());
        config.listen.admin = config.listen.public;
        config.deliveries.schedule.clear();
        let mut found = Findings::default();
        combinations(&config, &mut found);
        assert_eq!(found.errors(), 1, "{found:?}");
        assert!(found.lines()[0].contains("listen.admin"), "{found:?}");
        assert!(found.lines()[1].contains("schedule is empty"), "{found:?}");
    }

    #[test]
    fn mistake_of_the_key_file_has_its_key() {
        let dir = TempDir::new("check-pair");
        let files = support::ThrowawayCa::new()
            .issue(&["localhost"])
            .write_to(dir.path(), "leaf");
        let directory = dir.path().join("dir.pem");
        std::fs::create_dir(&directory).unwrap();
        for wrong in [&dir.path().join("none"), &directory, &files.cert_file] {
            let mut found = Findings::default();
            certificate(&files.cert_file, wrong, &mut found);
            let [line] = found.lines() else {
                panic!("{found:?}");
            };
            assert!(line.starts_with("error: tls.key_file: "), "{line}");
        }
        let mut found = Findings::default();
        certificate(&files.key_file, &files.key_file, &mut found);
        assert!(
            found.lines()[0].starts_with("error: tls.cert_file: "),
            "{found:?}"
        );
    }

    #[test]
    fn authority_beyond_the_certificate_is_warned_of() {
        let dir = TempDir::new("check-authorities");
        let files = support::ThrowawayCa::new()
            .issue(&["relay.example", "::1"])
            .write_to(dir.path(), "leaf");
        let said = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let mut found = Findings::default();
            authorities(&names, &files.cert_file, &files.key_file, &mut found);
            assert_eq!(found.errors(), 0);
            found.lines().to_vec()
        };
        let own = ["relay.example", "Relay.example:8443", "[::1]", "[::1]:443"];
        assert_eq!(said(&own), Vec::<String>::new());
        let lines = said(&["relay.example", "relay.other:8443"]);
        let [line] = lines.as_slice() else {
            panic!("{lines:?}");
        };
        assert!(
            line.starts_with("warning: listen.authorities: the certificate in"),
            "{line}"
        );
        assert!(line.contains("is not for relay.other:"), "{line}");
    }

    #[test]
    fn lost_key_file_of_a_database_is_an_error() {
        let dir = TempDir::new("check-lost-key");
        let config = Config::local(dir.path());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let found = || {
            let mut found = Findings::default();
            key_file(&config.key_file, &mut found);
            database(&config, &mut found).unwrap();
            found
        };
        assert_eq!(found().errors(), 0);
        runtime.block_on(async {
            let storage = Storage::open(&config.database).await.unwrap();
            let tenant = storage.create_tenant("acme").await.unwrap();
            let master = vault::master_key(&storage, &config.key_file).await.unwrap();
            let vault = vault::Vault::new(storage.clone(), master).await.unwrap();
            vault.of_tenant(&tenant.id.as_str().into()).await.unwrap();
            storage.close().await;
        });
        assert_eq!(found().errors(), 0, "{:?}", found());
        std::fs::remove_file(&config.key_file).unwrap();
        let lost = found();
        assert_eq!(lost.errors(), 1, "{lost:?}");
        assert!(
            lost.lines()[0].contains("calls of 1 tenant are"),
            "{lost:?}"
        );
        assert!(
            !lost
                .lines()
                .iter()
                .any(|line| line.contains("will be created")),
            "{lost:?}"
        );
    }
}
