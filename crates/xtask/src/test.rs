//! `cargo xtask test`: builds the programs, then runs every test.

use crate::postgres::{self, Postgres};
use crate::step::{Failed, Step};
use crate::tool;
use std::num::NonZero;
use std::path::Path;

/// Which tests to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Passed on to `cargo nextest run`, or `cargo test` where nextest is not installed: a name, or
    /// `-p CRATE`. Tests in the documentation run only without any
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Files that tests need, and the Debian packages that contain them.
const PACKAGES: [(&str, &str); 18] = [
    ("/usr/sbin/squid", "squid"),
    // The NTLM server of Samba, and a KDC.
    ("/usr/bin/ntlm_auth", "winbind"),
    ("/usr/sbin/krb5kdc", "krb5-kdc"),
    ("/usr/sbin/kadmin.local", "krb5-admin-server"),
    ("/usr/bin/kinit", "krb5-user"),
    ("/usr/sbin/haproxy", "haproxy"),
    ("/usr/sbin/ip", "iproute2"),
    ("/usr/sbin/logrotate", "logrotate"),
    ("/usr/bin/openssl", "openssl"),
    (
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "libfaketime",
    ),
    // HTTP clients and their libraries.
    ("/usr/bin/curl", "curl"),
    ("/usr/lib/git-core/git-http-backend", "git"),
    ("/usr/bin/node", "nodejs"),
    ("/usr/bin/javac", "default-jdk-headless"),
    (
        "/usr/bin/chromium-headless-shell",
        "chromium-headless-shell",
    ),
    (
        "/usr/lib/python3/dist-packages/requests/__init__.py",
        "python3-requests",
    ),
    (
        "/usr/lib/python3/dist-packages/httpx/__init__.py",
        "python3-httpx",
    ),
    (
        "/usr/lib/python3/dist-packages/h2/__init__.py",
        "python3-h2",
    ),
];

/// The variable by which nextest takes the number of tests at a time, unless an option gives it.
const THREADS_VARIABLE: &str = "NEXTEST_TEST_THREADS";

/// Returns how many tests run at a time: one for each core, and at least three, because most end-to-end tests wait.
/// Those that measure run alone (.config/nextest.toml).
fn threads() -> usize {
    std::thread::available_parallelism()
        .map_or(1, NonZero::get)
        .max(3)
}

/// Builds the programs that the end-to-end tests start, then runs the tests.
pub(crate) fn run(args: &Args) -> Result<(), Failed> {
    // Some tests use real HTTP clients; others use a real proxy, make network namespaces, or set a
    // program's clock.
    let missing = PACKAGES
        .iter()
        .filter(|(file, _)| !Path::new(file).exists());
    let missing: Vec<&str> = missing.map(|(_, package)| *package).collect();
    tool::install_packages(&missing)?;
    build()?;
    let runner: &[&str] = if has_nextest() {
        &["nextest", "run"]
    } else {
        println!("   (cargo-nextest is not installed: using `cargo test`, with a shorter report)");
        &["test", "--tests"]
    };
    let postgres = Postgres::start()?;
    let mut tests = Step::cargo(runner)
        .env(postgres::VARIABLE, postgres.url())
        .env(THREADS_VARIABLE, &threads().to_string());
    if !names_package(&args.rest) {
        tests = tests.args(["--workspace"]);
    }
    tests.args(["--locked"]).args(&args.rest).run()?;
    if args.rest.is_empty() {
        // Neither nextest nor `cargo test --tests` runs the tests in the documentation.
        Step::cargo(["test", "--doc", "--workspace", "--locked"]).run()?;
    }
    Ok(())
}

/// Builds the programs and the tests.
pub(crate) fn build() -> Result<(), Failed> {
    // With `--tests`, for then all is built with the same features, and once: tests need more features of tokio.
    Step::cargo(["build", "--workspace", "--bins", "--tests", "--locked"]).run()
}

fn has_nextest() -> bool {
    Step::cargo(["nextest", "--version"]).succeeds()
}

/// Returns whether the arguments choose packages: `--workspace` would override them.
fn names_package(args: &[String]) -> bool {
    args.iter()
        .take_while(|arg| *arg != "--")
        .any(|arg| arg.starts_with("-p") || arg.starts_with("--package"))
}

#[cfg(test)]
mod tests {
    use super::names_package;

    #[test]
    fn package_options_end_at_the_dashes() {
        let args = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(names_package(&args("some_test -p e2e")));
        assert!(names_package(&args("--package=e2e")));
        assert!(!names_package(&args("some_test")));
        assert!(!names_package(&args("-- -p")));
    }
}
