//! A private PostgreSQL: a server of its own on a spare port, and databases in it.
//!
//! `cargo xtask test` starts one for all tests (`test-postgres`) and sets [`SHARED`]. A test that runs alone
//! starts its own. Either ends with its parent, also when the parent is killed.

use crate::ports;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

/// The environment variable with the URL of the shared server, without a database.
pub const SHARED: &str = "TEST_POSTGRES";

/// How long a server may take to accept connections.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The account that runs the server where we are root, which it refuses to be.
const ACCOUNT: &str = "postgres";

/// A server that runs as long as this value lives.
#[derive(Debug)]
pub struct PostgresServer {
    child: Child,
    dir: PathBuf,
    port: u16,
}

impl PostgresServer {
    /// Makes a new cluster and starts it.
    ///
    /// # Panics
    /// Where PostgreSQL is not installed (Debian: `apt-get install postgresql`), or does not start.
    pub fn start() -> Self {
        let programs = programs();
        let dir = env::temp_dir().join(format!("test-postgres-{}", process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).expect("a directory for the server can be made");
        if is_root() {
            run(Command::new("chown").arg(ACCOUNT).arg(&dir));
        }
        let data = dir.join("data");
        let mut initdb = as_account(&programs.join("initdb"));
        initdb.args(["--auth=trust", "--username=test", "--encoding=UTF8"]);
        run(initdb
            .args(["--no-sync", "--no-locale", "--pgdata"])
            .arg(&data));
        let port = ports::free();
        let mut server = as_account(&programs.join("postgres"));
        server.arg("-D").arg(&data).arg("-k").arg(&dir);
        server.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
        // No crash safety: the tests are about the programs that use it, not about the server.
        for setting in ["fsync=off", "max_connections=300", "log_min_messages=fatal"] {
            server.args(["-c", setting]);
        }
        let child = server.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("cannot start {server:?}: {error}"));
        let deadline = Instant::now() + TIMEOUT;
        let mut ready = Command::new(programs.join("pg_isready"));
        ready.args(["-q", "-U", "test", "-d", "postgres", "-h", "127.0.0.1"]);
        ready.args(["-p", &port.to_string()]);
        while !ready.status().is_ok_and(|status| status.success()) {
            let ended = child.try_wait().expect("our own child");
            assert!(ended.is_none(), "{server:?} ended: {ended:?}");
            assert!(Instant::now() < deadline, "{server:?} does not answer");
            thread::sleep(Duration::from_millis(50));
        }
        Self { child, dir, port }
    }

    /// Where it is: a URL without a database.
    pub fn url(&self) -> String {
        format!("postgres://test@127.0.0.1:{}", self.port)
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // Fast shutdown: it disconnects all clients.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-INT", &pid]).status();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// An empty database, on the shared server or on one of its own.
#[derive(Debug)]
pub struct PostgresDatabase {
    url: String,
    _server: Option<PostgresServer>,
}

impl PostgresDatabase {
    /// Makes one.
    ///
    /// # Panics
    /// As [`PostgresServer::start`].
    pub fn create() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (server, origin) = match env::var(SHARED) {
            Ok(origin) => (None, origin),
            Err(_) => {
                let server = PostgresServer::start();
                let origin = server.url();
                (Some(server), origin)
            }
        };
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{number}", process::id());
        let maintenance = format!("--maintenance-db={origin}/postgres");
        run(Command::new(programs().join("createdb")).args([&maintenance, &name]));
        Self {
            url: format!("{origin}/{name}"),
            _server: server,
        }
    }

    /// The value for `storage.url`.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Where the server's programs are: Debian keeps them off the path, a directory for each version.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            let programs = entry.path().join("bin");
            programs
                .join("initdb")
                .exists()
                .then_some((version, programs))
        })
        .collect();
    found.sort();
    if let Some((_, programs)) = found.pop() {
        return programs;
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs = env::split_paths(&path);
    dirs.find(|dir| dir.join("initdb").exists())
        .expect("PostgreSQL is installed (on Debian: apt-get install postgresql)")
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// A program that does not run as root, and ends with us.
fn as_account(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if is_root() {
        command.args(["--reuid", ACCOUNT, "--regid", ACCOUNT, "--clear-groups"]);
    }
    command.args(["--pdeathsig", "INT"]).arg(program);
    command.current_dir("/");
    command
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
