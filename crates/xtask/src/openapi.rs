//! `cargo xtask openapi`: writes `proto/openapi.json` from the code.

use crate::step::{Failed, Step, root};

pub(crate) fn run() -> Result<(), Failed> {
    let text = Step::cargo([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "integration-relay",
    ])
    .args(["--", "openapi"])
    .output()?;
    let path = root().join("proto/openapi.json");
    std::fs::write(&path, text)
        .map_err(|error| Failed::new(format!("{} cannot be written: {error}", path.display())))
}
