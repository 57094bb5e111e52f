//! A realm of Kerberos with a real KDC (MIT Kerberos) on its own port, and users with passwords or keytabs.

use crate::ports;
use crate::process::Running;
use crate::tempdir::TempDir;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long the KDC may take to listen.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A running KDC; it and its files are gone with the value.
#[derive(Debug)]
pub struct Kdc {
    running: Running,
    dir: TempDir,
    port: u16,
}

impl Kdc {
    /// The realm.
    pub const REALM: &str = "TEST.EXAMPLE";

    /// Starts one with the encryption types that MIT Kerberos prefers (AES with SHA-2).
    ///
    /// # Panics
    ///
    /// Where it is not installed (Debian: `krb5-kdc`, `krb5-admin-server`, `krb5-user`), or does not start.
    pub async fn start() -> Self {
        Self::start_with("aes256-cts-hmac-sha384-192:normal").await
    }

    /// Starts one with those of Active Directory (AES with SHA-1).
    pub async fn start_like_active_directory() -> Self {
        Self::start_with("aes256-cts-hmac-sha1-96:normal aes128-cts-hmac-sha1-96:normal").await
    }

    async fn start_with(key_types: &str) -> Self {
        let (dir, port) = (TempDir::new("kdc"), ports::free());
        let config = format!(
            "[kdcdefaults]\n\
             kdc_listen = \"\"\n\
             kdc_tcp_listen = 127.0.0.1:{port}\n\
             [realms]\n\
             {realm} = {{\n\
             database_name = {home}/principal\n\
             key_stash_file = {home}/stash\n\
             acl_file = {home}/acl\n\
             max_life = 10h\n\
             supported_enctypes = {key_types}\n\
             default_principal_flags = +preauth\n\
             }}\n\
             [logging]\n\
             kdc = STDERR\n",
            realm = Self::REALM,
            home = dir.path().display(),
        );
        dir.write("kdc.conf", config);
        dir.write("krb5.conf", client_config(port));
        let made = ["create", "-s", "-P", "master", "-r", Self::REALM];
        run(in_realm(&dir, "/usr/sbin/kdb5_util").args(made));
        let mut command = in_realm(&dir, "/usr/sbin/krb5kdc");
        command.args(["-n", "-r", Self::REALM]);
        let running = Running::spawn("krb5kdc", command);
        running.wait_log("commencing operation", TIMEOUT).await;
        Self { running, dir, port }
    }

    /// `host:port`.
    pub fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The config of a client or service, for `KRB5_CONFIG`.
    pub fn client_config(&self) -> String {
        client_config(self.port)
    }

    /// Adds a user with a password.
    pub fn add_user(&self, name: &str, password: &str) {
        self.administer(&["addprinc", "-pw", password, name]);
    }

    /// Adds a user or service with random keys, and returns its keytab.
    pub fn keytab(&self, name: &str) -> PathBuf {
        let file = self.dir.join(format!("{}.keytab", name.replace('/', "-")));
        if !file.exists() {
            self.administer(&["addprinc", "-randkey", name]);
            self.administer(&["ktadd", "-k", text(&file), name]);
        }
        file
    }

    /// Logs a user with a keytab in, and returns its credential cache.
    pub fn cache(&self, name: &str) -> PathBuf {
        let (keytab, file) = (self.keytab(name), self.dir.join(format!("{name}.cache")));
        let login = ["-c", text(&file), "-k", "-t", text(&keytab), name];
        run(in_realm(&self.dir, "/usr/bin/kinit").args(login));
        file
    }

    /// Kills it.
    pub async fn stop(&self) {
        self.running.kill9();
        self.running.wait_exit(TIMEOUT).await;
    }

    fn administer(&self, args: &[&str]) {
        let mut command = in_realm(&self.dir, "/usr/sbin/kadmin.local");
        run(command.args(["-r", Self::REALM]).args(args));
    }
}

fn client_config(port: u16) -> String {
    let realm = Kdc::REALM;
    format!(
        "[libdefaults]\ndefault_realm = {realm}\ndns_lookup_kdc = false\nrdns = false\n\
         dns_canonicalize_hostname = false\n[realms]\n{realm} = {{\nkdc = 127.0.0.1:{port}\n}}\n"
    )
}

/// A program with the files of this realm.
fn in_realm(dir: &TempDir, program: &str) -> Command {
    assert!(Path::new(program).exists(), "{program} is installed");
    let mut command = Command::new(program);
    command
        .env("KRB5_CONFIG", dir.join("krb5.conf"))
        .env("KRB5_KDC_PROFILE", dir.join("kdc.conf"))
        .env("LC_ALL", "C");
    command
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program can be started");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("our own directory has a plain name")
}
