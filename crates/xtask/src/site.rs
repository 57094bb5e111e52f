//! What a bridge under test connects to: a relay and a target on this machine.

use crate::step::{Failed, Step};
use crate::tool;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a program may take to start, to connect, or to stop.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// How often a state is observed.
pub(crate) const OBSERVE_EVERY: Duration = Duration::from_millis(200);

/// How long the target takes to respond to `/slow`.
pub(crate) const SLOW: Duration = Duration::from_secs(5);

/// What the target responds.
const RESPONSE: &str = "from the target";

/// An API key.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) secret: String,
}

/// A program with what stands before it on the command line, such as an emulator.
#[derive(Debug, Clone)]
pub(crate) struct Program(Vec<OsString>);

impl Program {
    /// Returns a program that is started as it is.
    pub(crate) fn new(file: &Path) -> Self {
        Self(vec![file.into()])
    }

    /// Returns one that another program starts.
    pub(crate) fn started_by<W: AsRef<OsStr>>(
        words: impl IntoIterator<Item = W>,
        file: &Path,
    ) -> Self {
        let words = words.into_iter().map(|word| word.as_ref().to_owned());
        Self(words.chain([file.into()]).collect())
    }

    /// Returns its command.
    pub(crate) fn command(&self) -> Command {
        let mut words = self.0.iter();
        let mut command = Command::new(words.next().map_or(OsStr::new(""), OsString::as_os_str));
        command.args(words).stdin(Stdio::null());
        command
    }
}

/// A relay with a tenant, and a target.
#[derive(Debug)]
pub(crate) struct Site {
    program: Program,
    directory: PathBuf,
    relay: Child,
    port: u16,
    target_port: u16,
    caller: Key,
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.relay.kill();
        let _ = self.relay.wait();
    }
}

impl Site {
    /// Starts both.
    pub(crate) fn start(program: &Program, directory: &Path) -> Result<Self, Failed> {
        tool::install("curl")?;
        let directory = directory.join("relay");
        fs::create_dir_all(&directory).map_err(failed)?;
        let port = free_port()?;
        let config = format!(
            "[listen]\npublic = \"127.0.0.1:{port}\"\n[tls]\nself_signed = true\n[storage]\nurl = \"sqlite://relay.db\"\n"
        );
        fs::write(directory.join("relay.toml"), config).map_err(failed)?;
        of_relay(program, &directory, &["tenant", "create", "acme"])?;
        let caller = key(program, &directory, "caller")?;
        let relay = command(program, &directory, &["serve"])
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join("relay.log")).map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let site = Self {
            program: program.clone(),
            directory,
            relay,
            port,
            target_port: serve_target()?,
            caller,
        };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if began.elapsed() > TIMEOUT {
                return Err(Failed::new("the relay does not listen"));
            }
            thread::sleep(OBSERVE_EVERY);
        }
        Ok(site)
    }

    /// Returns the file with the relay's certificate.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.directory.join("relay-ca.pem")
    }

    /// Returns the port of the target.
    pub(crate) fn target_port(&self) -> u16 {
        self.target_port
    }

    /// Makes a key with which a bridge pairs.
    pub(crate) fn bridge_key(&self) -> Result<Key, Failed> {
        key(&self.program, &self.directory, "bridge")
    }

    /// Returns the bridge's config, with these lines for `[relay]` and `[bridge]`. Its files are next to it.
    pub(crate) fn bridge_config(&self, relay: &str, bridge: &str) -> String {
        format!(
            "[relay]\nurl = \"https://localhost:{}\"\nca_file = \"relay-ca.pem\"\n{relay}\n\
             [bridge]\nname = \"tested\"\ndata_dir = \"data\"\n{bridge}\n\
             [[allow]]\nhost = \"127.0.0.1\"\nports = [{}]\nmethods = [\"GET\"]\n",
            self.port, self.target_port
        )
    }

    /// Sends a call through the tunnel, and checks the response.
    pub(crate) fn expect_call(&self, path: &str) -> Result<(), Failed> {
        self.call(path)()
    }

    /// Sends calls until one succeeds.
    pub(crate) fn eventually_call(&self, path: &str) -> Result<(), Failed> {
        let began = Instant::now();
        loop {
            match self.expect_call(path) {
                Err(_) if began.elapsed() < TIMEOUT => thread::sleep(OBSERVE_EVERY),
                outcome => return outcome,
            }
        }
    }

    /// Sends a call in another thread.
    pub(crate) fn call_in_background(&self, path: &str) -> JoinHandle<Result<(), Failed>> {
        thread::spawn(self.call(path))
    }

    fn call(&self, path: &str) -> impl FnOnce() -> Result<(), Failed> + Send + 'static {
        let url = format!("https://localhost:{}/v1/calls", self.port);
        let login = format!("{}:{}", self.caller.id, self.caller.secret);
        let call = format!(
            r#"{{"url": "http://127.0.0.1:{}{path}", "method": "GET"}}"#,
            self.target_port
        );
        let ca_file = self.ca_file();
        move || {
            let (is_sent, written) = Step::program("curl")
                .args(["--silent", "--show-error", "--max-time", "60", "--cacert"])
                .args([&ca_file])
                .args([
                    "--user",
                    &login,
                    "--header",
                    "Content-Type: application/json",
                ])
                .args(["--data", &call, &url])
                .outcome()?;
            match is_sent && written.contains(RESPONSE) {
                true => Ok(()),
                false => Err(Failed::new(format!("the call {call} failed: {written}"))),
            }
        }
    }
}

fn command(program: &Program, directory: &Path, args: &[&str]) -> Command {
    let mut command = program.command();
    command
        .args(args)
        .args(["--config", "relay.toml"])
        .current_dir(directory);
    command
}

fn of_relay(program: &Program, directory: &Path, args: &[&str]) -> Result<String, Failed> {
    let output = command(program, directory, args).output().map_err(failed)?;
    let written = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(written),
        false => Err(Failed::new(format!(
            "integration-relay {}: {written}{}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        ))),
    }
}

fn key(program: &Program, directory: &Path, role: &str) -> Result<Key, Failed> {
    let args = [
        "key", "create", "--tenant", "acme", "--role", role, "--json",
    ];
    let document = of_relay(program, directory, &args)?;
    let field = |name: &str| {
        let (_, rest) = document.split_once(&format!("\"{name}\""))?;
        let value = rest.split('"').nth(1)?;
        Some(value.to_owned())
    };
    match (field("client_id"), field("client_secret")) {
        (Some(id), Some(secret)) => Ok(Key { id, secret }),
        _ => Err(Failed::new("`key create --json` shows no key")),
    }
}

fn free_port() -> Result<u16, Failed> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    Ok(listener.local_addr().map_err(failed)?.port())
}

/// Starts a target that responds to every request with one text, and to `/slow` after a while. Returns its port.
fn serve_target() -> Result<u16, Failed> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || respond(stream));
        }
    });
    Ok(port)
}

fn respond(mut stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    // The rest of the head. The requests have no body.
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    if first.contains("/slow") {
        thread::sleep(SLOW);
    }
    let length = RESPONSE.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{RESPONSE}"
    )
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn failed(error: std::io::Error) -> Failed {
    Failed::new(error.to_string())
}
