//! A real squid with Basic authentication, on its own port.

use crate::ports;
use crate::process::Running;
use crate::tempdir::TempDir;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long squid may take to listen.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A running squid; it and its files are gone with the value.
#[derive(Debug)]
pub struct Squid {
    running: Option<Running>,
    dir: TempDir,
    program: PathBuf,
    port: u16,
}

impl Squid {
    /// Starts one that lets `user` with `password` through to anywhere, and closes a tunnel that was idle
    /// for 30 s.
    ///
    /// # Panics
    ///
    /// Where squid is not installed (Debian: `apt-get install squid`), or does not start.
    pub async fn start(user: &str, password: &str) -> Self {
        Self::start_with(user, password, "").await
    }

    /// The same, with the rule that squid is shipped with: CONNECT to port 443 alone.
    pub async fn start_strict(user: &str, password: &str) -> Self {
        let rules = "acl SSL_ports port 443\nhttp_access deny CONNECT !SSL_ports\n";
        Self::start_with(user, password, rules).await
    }

    async fn start_with(user: &str, password: &str, rules: &str) -> Self {
        let dir = TempDir::new("squid");
        let program = ["/usr/sbin/squid", "/usr/local/sbin/squid"]
            .into_iter()
            .map(PathBuf::from)
            .find(|path| path.exists())
            .expect("squid is installed");
        let helper = dir.join("auth.sh");
        let script = format!(
            "#!/bin/sh\nwhile read -r who; do\n  if [ \"$who\" = \"{user} {password}\" ]; then echo OK; else echo ERR; fi\ndone\n"
        );
        fs::write(&helper, script).expect("a file in our own directory");
        let port = ports::free();
        let config = format!(
            "http_port 127.0.0.1:{port}\n\
             auth_param basic program /bin/sh {helper}\n\
             auth_param basic realm test\n\
             acl known proxy_auth REQUIRED\n\
             {rules}\
             http_access allow known\n\
             http_access deny all\n\
             cache deny all\n\
             access_log none\n\
             cache_log stdio:/dev/stderr\n\
             pid_filename none\n\
             coredump_dir {home}\n\
             shutdown_lifetime 0 seconds\n\
             read_timeout 30 seconds\n\
             client_idle_pconn_timeout 30 seconds\n\
             pinger_enable off\n\
             visible_hostname test-squid\n",
            helper = helper.display(),
            home = dir.path().display(),
        );
        fs::write(dir.join("squid.conf"), config).expect("a file in our own directory");
        open_to_squid(dir.path());
        let mut squid = Self {
            running: None,
            dir,
            program,
            port,
        };
        squid.run().await;
        squid
    }

    async fn run(&mut self) {
        let mut command = Command::new(&self.program);
        // In the foreground, one process, without a name that others share.
        command.args(["-N", "-n", &format!("test{}", self.port), "-f"]);
        command.arg(self.dir.join("squid.conf"));
        let running = Running::spawn("squid", command);
        running
            .wait_log("Accepting HTTP Socket connections", TIMEOUT)
            .await;
        self.running = Some(running);
    }

    /// Kills it and starts it again.
    pub async fn restart(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill9();
            running.wait_exit(TIMEOUT).await;
        }
        self.run().await;
    }

    /// `host:port`.
    pub fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// Squid drops root, and reads its files as another user.
fn open_to_squid(dir: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let everybody = fs::Permissions::from_mode(0o755);
    let _ = fs::set_permissions(dir, everybody);
    if let Ok(entries) = fs::read_dir(dir) {
        for entry in entries.flatten() {
            let _ = fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o755));
        }
    }
}
