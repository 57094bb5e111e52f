//! A real squid with authentication, on its own port: Basic, NTLM by Samba's helper, and Negotiate by a keytab.

use crate::kdc::Kdc;
use crate::ports;
use crate::process::Running;
use crate::tempdir::TempDir;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long squid may take to listen.
const TIMEOUT: Duration = Duration::from_secs(60);

/// CONNECT to port 443 alone: the rule that squid is shipped with.
const STRICT: &str = "acl SSL_ports port 443\nhttp_access deny CONNECT !SSL_ports\n";

/// A scheme that squid offers, and who may log in.
#[derive(Debug, Clone, Copy)]
pub enum SquidLogin<'a> {
    /// User and password.
    Basic(&'a str, &'a str),
    /// User and password, checked by the NTLM server of Samba (`ntlm_auth` of Debian's `winbind`).
    Ntlm(&'a str, &'a str),
    /// Users of this realm, with tickets for `HTTP/localhost`.
    Negotiate(&'a Kdc),
}

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
        Self::start_with(&[SquidLogin::Basic(user, password)], "").await
    }

    /// The same, with the rule that squid is shipped with: CONNECT to port 443 alone.
    pub async fn start_strict(user: &str, password: &str) -> Self {
        Self::start_with(&[SquidLogin::Basic(user, password)], STRICT).await
    }

    /// Starts one that offers these schemes, in this order.
    pub async fn start_with_logins(logins: &[SquidLogin<'_>]) -> Self {
        Self::start_with(logins, "").await
    }

    /// The same, with the rule that squid is shipped with: CONNECT to port 443 alone.
    pub async fn start_strict_with_logins(logins: &[SquidLogin<'_>]) -> Self {
        Self::start_with(logins, STRICT).await
    }

    async fn start_with(logins: &[SquidLogin<'_>], rules: &str) -> Self {
        let dir = TempDir::new("squid");
        let program = ["/usr/sbin/squid", "/usr/local/sbin/squid"]
            .into_iter()
            .map(PathBuf::from)
            .find(|path| path.exists())
            .expect("squid is installed");
        let schemes = logins.iter().map(|login| parameters(*login, &dir));
        let schemes: String = schemes.collect();
        let port = ports::free();
        let config = format!(
            "http_port 127.0.0.1:{port}\n\
             {schemes}\
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

    /// The same by its name, which tickets are for.
    pub fn named_authority(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

/// Returns the lines of a scheme, and writes the files that they name.
fn parameters(login: SquidLogin<'_>, dir: &TempDir) -> String {
    match login {
        SquidLogin::Basic(user, password) => {
            let script = format!(
                "#!/bin/sh\nwhile read -r who; do\n  if [ \"$who\" = \"{user} {password}\" ]; then echo OK; else echo ERR; fi\ndone\n"
            );
            let helper = dir.write("auth.sh", script);
            let helper = helper.display();
            format!("auth_param basic program /bin/sh {helper}\nauth_param basic realm test\n")
        }
        SquidLogin::Ntlm(user, password) => format!(
            "auth_param ntlm program /usr/bin/ntlm_auth --helper-protocol=squid-2.5-ntlmssp --username={user} \
             --domain=CORP --password={password} --configfile=/dev/null\nauth_param ntlm children 2\n"
        ),
        SquidLogin::Negotiate(kdc) => {
            let principal = format!("HTTP/localhost@{}", Kdc::REALM);
            let keytab = fs::read(kdc.keytab("HTTP/localhost")).expect("a keytab of the KDC");
            let keytab = dir.write("http.keytab", keytab);
            // Without a file for replayed tickets, which would stay after the test.
            format!(
                "auth_param negotiate program /usr/bin/env KRB5_CONFIG={config} KRB5RCACHENAME=none: \
                 /usr/lib/squid/negotiate_kerberos_auth -k {keytab} -s {principal}\nauth_param negotiate children 2\n",
                config = dir.write("krb5.conf", kdc.client_config()).display(),
                keytab = keytab.display(),
            )
        }
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
