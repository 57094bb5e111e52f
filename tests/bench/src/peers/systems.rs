//! Starting each system: the command lines and files that its documentation gives for carrying one
//! TCP port to the server side, encrypted.

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use support::setup::Endpoint;
use support::{Running, TempDir, TestEnv, ThrowawayCa, ports};

use super::usage::Usage;
use crate::bulk::Bulk;
use crate::load::Load;

const ENDPOINT: &str = "app";
/// From the start of a system to its first answer.
const START: Duration = Duration::from_secs(15);

/// A system that runs, and how to reach the target through it.
pub(super) struct System {
    name: &'static str,
    version: String,
    pub(super) bulk: Bulk,
    /// Its own processes, by id.
    roots: Vec<u32>,
    _keeps: (Vec<Running>, Option<TestEnv>, Option<TempDir>),
}

/// What a system is started with.
struct Place {
    dir: TempDir,
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    /// Where its server side takes its client side, and where it takes callers.
    control: SocketAddr,
    front: SocketAddr,
    target: SocketAddr,
}

type Starter = fn(&Place) -> Result<Vec<Running>, Box<dyn Error>>;

/// Name, the programs that it needs, what shows its version, how it is started.
const PEERS: [(&str, &[&str], &[&str], Starter); 5] = [
    (
        "rathole, TLS",
        &["rathole", "openssl"],
        &["rathole", "--version"],
        rathole,
    ),
    (
        "ssh -R",
        &["ssh", "sshd", "ssh-keygen"],
        &["ssh", "-V"],
        ssh,
    ),
    (
        "wstunnel, wss",
        &["wstunnel"],
        &["wstunnel", "--version"],
        wstunnel,
    ),
    (
        "chisel, https",
        &["chisel"],
        &["chisel", "--version"],
        chisel,
    ),
    ("frp, TLS", &["frps", "frpc"], &["frps", "--version"], frp),
];

impl System {
    pub(super) fn label(&self) -> String {
        format!("{} {}", self.name, self.version).trim().to_owned()
    }

    pub(super) fn small(&self) -> Load {
        let Bulk {
            addr,
            prefix,
            authorization,
        } = &self.bulk;
        Load::get(*addr, &format!("{prefix}/small"), authorization.as_deref())
    }

    pub(super) fn usage(&self) -> Usage {
        Usage::of(&self.roots)
    }
}

/// The target itself, us, and every peer that is there; and the names of the others, with what
/// they lack.
pub(super) async fn start() -> Result<(Vec<System>, Vec<String>), Box<dyn Error>> {
    let (running, target) = crate::target::start().await?;
    let mut systems = vec![direct(running, target), ours(target).await];
    let mut missing = Vec::new();
    for (name, needs, version, starter) in PEERS {
        match need(needs) {
            Err(program) => missing.push(format!("{name}: no {program} on the PATH")),
            Ok(()) => match peer(name, target, starter).await {
                Ok(system) => systems.push(System {
                    version: version_of(version),
                    ..system
                }),
                Err(error) => missing.push(format!("{name}: {error}")),
            },
        }
    }
    Ok((systems, missing))
}

fn direct(running: Running, target: SocketAddr) -> System {
    System {
        name: "direct",
        version: String::new(),
        bulk: plain(target),
        roots: Vec::new(),
        _keeps: (vec![running], None, None),
    }
}

async fn ours(target: SocketAddr) -> System {
    let site = TestEnv::bare()
        .endpoint(Endpoint::new(ENDPOINT, format!("http://{target}/")))
        .start()
        .await;
    System {
        name: "integration bridge",
        version: env!("CARGO_PKG_VERSION").to_owned(),
        bulk: Bulk {
            addr: site.relay.internal().addr(),
            prefix: format!("/v1/endpoints/{ENDPOINT}"),
            authorization: Some(site.caller.basic()),
        },
        roots: vec![site.relay.process().pid(), site.bridge.process().pid()],
        _keeps: (Vec::new(), Some(site), None),
    }
}

async fn peer(
    name: &'static str,
    target: SocketAddr,
    starter: Starter,
) -> Result<System, Box<dyn Error>> {
    let dir = TempDir::new("peer");
    let ca = ThrowawayCa::new();
    let issued = ca
        .issue(&["localhost", "127.0.0.1"])
        .write_to(dir.path(), "server");
    let place = Place {
        ca: ca.write_to(dir.path()),
        cert: issued.cert_file,
        key: issued.key_file,
        control: ports::free_addr(),
        front: ports::free_addr(),
        target,
        dir,
    };
    let running = starter(&place)?;
    let load = Load::get(place.front, "/small", None);
    let deadline = tokio::time::Instant::now() + START;
    while let Err(error) = load.first_latencies(Duration::from_millis(1)).await {
        if tokio::time::Instant::now() > deadline {
            return Err(format!("does not answer: {error}").into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(System {
        name,
        version: String::new(),
        bulk: plain(place.front),
        roots: running.iter().map(Running::pid).collect(),
        _keeps: (running, None, Some(place.dir)),
    })
}

/// Requests as the target takes them.
fn plain(addr: SocketAddr) -> Bulk {
    Bulk {
        addr,
        prefix: String::new(),
        authorization: None,
    }
}

fn rathole(place: &Place) -> Result<Vec<Running>, Box<dyn Error>> {
    let pkcs12 = place.dir.join("server.p12");
    finished(
        Command::new("openssl")
            .args(["pkcs12", "-export", "-passout", "pass:bench", "-in"])
            .arg(&place.cert)
            .arg("-inkey")
            .arg(&place.key)
            .arg("-out")
            .arg(&pkcs12),
    )?;
    let Place {
        control,
        front,
        target,
        ..
    } = place;
    let server = place.file(
        "server.toml",
        &format!(
            "[server]\nbind_addr = \"{control}\"\ndefault_token = \"bench\"\n\
             [server.transport]\ntype = \"tls\"\n\
             [server.transport.tls]\npkcs12 = {pkcs12:?}\npkcs12_password = \"bench\"\n\
             [server.services.app]\nbind_addr = \"{front}\"\n"
        ),
    )?;
    let ca = &place.ca;
    let client = place.file(
        "client.toml",
        &format!(
            "[client]\nremote_addr = \"{control}\"\ndefault_token = \"bench\"\n\
             [client.transport]\ntype = \"tls\"\n\
             [client.transport.tls]\ntrusted_root = {ca:?}\nhostname = \"localhost\"\n\
             [client.services.app]\nlocal_addr = \"{target}\"\n"
        ),
    )?;
    let mut commands = [Command::new("rathole"), Command::new("rathole")];
    commands[0].arg("--server").arg(server);
    commands[1].arg("--client").arg(client);
    for command in &mut commands {
        command.env("RUST_LOG", "error");
    }
    Ok(spawn("rathole", commands))
}

/// A server of its own, with keys that live as long as it does.
fn ssh(place: &Place) -> Result<Vec<Running>, Box<dyn Error>> {
    let [host_key, user_key] = ["host_key", "user_key"].map(|name| place.dir.join(name));
    for key in [&host_key, &user_key] {
        finished(
            Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(key),
        )?;
    }
    let port = place.control.port();
    let public = fs::read_to_string(host_key.with_extension("pub"))?;
    let known = place.file("known_hosts", &format!("[127.0.0.1]:{port} {public}"))?;
    let config = place.file(
        "sshd_config",
        &format!(
            "ListenAddress {}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\nAllowTcpForwarding remote\nLogLevel ERROR\n",
            place.control,
            host_key.display(),
            user_key.with_extension("pub").display(),
        ),
    )?;
    // It insists on being started by its whole path.
    let mut server = Command::new(program("sshd").ok_or("no sshd")?);
    server.args(["-D", "-e", "-f"]).arg(config);
    let mut client = Command::new("ssh");
    client
        .args(["-N", "-T", "-F", "none", "-p", &port.to_string(), "-i"])
        .arg(user_key)
        .args(["-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"])
        .args([
            "-o",
            "ExitOnForwardFailure=yes",
            "-o",
            "ConnectionAttempts=10",
        ])
        .arg("-o")
        .arg(format!("UserKnownHostsFile={}", known.display()))
        .arg("-R")
        .arg(format!("{}:{}", place.front, place.target))
        .arg(format!(
            "{}@127.0.0.1",
            finished(Command::new("id").arg("-un"))?
        ));
    Ok(spawn("ssh", [server, client]))
}

fn wstunnel(place: &Place) -> Result<Vec<Running>, Box<dyn Error>> {
    let url = format!("wss://{}", place.control);
    let mut server = Command::new("wstunnel");
    server
        .args(["--log-lvl", "ERROR", "server", "--tls-certificate"])
        .arg(&place.cert)
        .arg("--tls-private-key")
        .arg(&place.key)
        .arg(&url);
    let mut client = Command::new("wstunnel");
    client
        .args([
            "--log-lvl",
            "ERROR",
            "client",
            "--tls-verify-certificate",
            "-R",
        ])
        .arg(format!("tcp://{}:{}", place.front, place.target))
        .arg(&url)
        .env("SSL_CERT_FILE", &place.ca);
    Ok(spawn("wstunnel", [server, client]))
}

fn chisel(place: &Place) -> Result<Vec<Running>, Box<dyn Error>> {
    let mut server = Command::new("chisel");
    server
        .args(["server", "--reverse", "--host", "127.0.0.1", "--port"])
        .arg(place.control.port().to_string())
        .arg("--tls-cert")
        .arg(&place.cert)
        .arg("--tls-key")
        .arg(&place.key);
    let mut client = Command::new("chisel");
    client
        .args(["client", "--tls-ca"])
        .arg(&place.ca)
        .arg(format!("https://{}", place.control))
        .arg(format!("R:{}:{}", place.front, place.target));
    Ok(spawn("chisel", [server, client]))
}

fn frp(place: &Place) -> Result<Vec<Running>, Box<dyn Error>> {
    let (control, front, target) = (place.control, place.front, place.target);
    let (cert, key, ca) = (&place.cert, &place.key, &place.ca);
    let server = place.file(
        "frps.toml",
        &format!(
            "bindAddr = \"127.0.0.1\"\nbindPort = {}\nproxyBindAddr = \"127.0.0.1\"\n\
             auth.token = \"bench\"\nlog.level = \"error\"\n\
             transport.tls.certFile = {cert:?}\ntransport.tls.keyFile = {key:?}\n",
            control.port()
        ),
    )?;
    let client = place.file(
        "frpc.toml",
        &format!(
            "serverAddr = \"127.0.0.1\"\nserverPort = {}\nauth.token = \"bench\"\n\
             loginFailExit = false\nlog.level = \"error\"\n\
             transport.tls.trustedCaFile = {ca:?}\n\
             [[proxies]]\nname = \"app\"\ntype = \"tcp\"\nlocalIP = \"127.0.0.1\"\n\
             localPort = {}\nremotePort = {}\n",
            control.port(),
            target.port(),
            front.port()
        ),
    )?;
    let mut commands = [Command::new("frps"), Command::new("frpc")];
    commands[0].arg("-c").arg(server);
    commands[1].arg("-c").arg(client);
    Ok(spawn("frp", commands))
}

/// Server side and client side. The second dials until the first listens.
fn spawn(name: &str, commands: [Command; 2]) -> Vec<Running> {
    let [server, client] = commands;
    let server = Running::spawn(format!("{name} server"), server);
    std::thread::sleep(Duration::from_millis(500));
    vec![server, Running::spawn(format!("{name} client"), client)]
}

impl Place {
    fn file(&self, name: &str, content: &str) -> std::io::Result<PathBuf> {
        let path = self.dir.join(name);
        fs::write(&path, content)?;
        Ok(path)
    }
}

/// What it wrote, if it succeeded.
fn finished(command: &mut Command) -> Result<String, Box<dyn Error>> {
    let output = command.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {said}").into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The first that is not installed.
fn need<'a>(programs: &[&'a str]) -> Result<(), &'a str> {
    match programs.iter().find(|name| program(name).is_none()) {
        Some(absent) => Err(absent),
        None => Ok(()),
    }
}

/// Where a program is: on the `PATH`, or where administrators' programs are.
fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join(name))
        .find(|path| is_file(path))
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file())
}

/// The first word with a number and a dot in the output of its version command.
fn version_of(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let Ok(output) = output else {
        return String::new();
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let is_version = |word: &&str| {
        let word = word.trim_start_matches("OpenSSH_").trim_start_matches('v');
        word.starts_with(|first: char| first.is_ascii_digit())
            && word.contains('.')
            && !word.contains(':')
    };
    let word = said.split_whitespace().find(is_version).unwrap_or_default();
    word.trim_end_matches(',').to_owned()
}
