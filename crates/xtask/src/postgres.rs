//! A private PostgreSQL for the tests: installs it if it is missing, starts it, and stops it after the
//! tests.

use crate::step::{Failed, Step};
use crate::tool;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The environment variable with its URL, for the tests.
pub(crate) const VARIABLE: &str = "TEST_POSTGRES";

/// A running server. It stops when this value is dropped, because that closes its helper's standard input.
pub(crate) struct Postgres {
    helper: Child,
    url: String,
}

impl Postgres {
    /// Starts a server. The program `test-postgres` must be built.
    pub(crate) fn start() -> Result<Self, Failed> {
        if !Path::new("/usr/lib/postgresql").exists() && !tool::is_installed("initdb") {
            tool::install_packages(&["postgresql"])?;
        }
        let program = Step::built_program("debug", "test-postgres");
        let helper = Command::new(program.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut helper = helper
            .map_err(|error| Failed::new(format!("`test-postgres` cannot be run: {error}")))?;
        let mut url = String::new();
        if let Some(output) = helper.stdout.take() {
            // An error shows as a line that is empty.
            let _ = BufReader::new(output).read_line(&mut url);
        }
        let url = url.trim().to_owned();
        let postgres = Self { helper, url };
        if postgres.url.is_empty() {
            return Err(Failed::new("PostgreSQL did not start"));
        }
        println!("== PostgreSQL for the tests at {}", postgres.url);
        Ok(postgres)
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.helper.stdin.take());
        let _ = self.helper.wait();
    }
}
