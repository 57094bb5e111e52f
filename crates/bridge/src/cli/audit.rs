//! `audit verify`: checks that the audit file is exactly what this bridge wrote.

use super::common::{ConfigArg, DONE, FAILED, Outcome, complain, print};
use crate::audit::verify::{Anchor, verify};
use crate::identity::Identity;
use crate::text::unhex;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `audit`.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Check the chain of all lines, the signed head, and anchors from the relay.
    Verify(VerifyArgs),
}

/// `audit verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  integration-bridge audit verify \\
    --head 1200:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The audit file. Defaults to `audit.file` of the config.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Number and SHA-256 of a line that the relay has stored (GET /v1/bridges/NAME). May be repeated.
    #[arg(long, value_name = "NUMBER:HASH", value_parser = anchor)]
    head: Vec<Anchor>,
}

fn anchor(text: &str) -> Result<Anchor, String> {
    let (seq, hash) = text.split_once(':').ok_or("write NUMBER:HASH")?;
    let seq = seq
        .parse()
        .map_err(|_| "the part before ':' is not a number")?;
    if unhex(hash).is_none_or(|bytes| bytes.len() != 32) {
        return Err("the part after ':' is not a SHA-256 in hexadecimal".into());
    }
    Ok(Anchor {
        seq,
        hash: hash.to_ascii_lowercase(),
    })
}

pub(super) fn run(command: &AuditCommand) -> Outcome {
    let AuditCommand::Verify(args) = command;
    let config = args.config.load()?;
    let data_dir = config.bridge.data_dir.get();
    let identity = Identity::load(&config.bridge.open_data_dir()?)?;
    let file = args
        .file
        .clone()
        .unwrap_or_else(|| config.audit.path(data_dir));
    match verify(&file, identity.key.public(), &args.head) {
        Ok(found) => {
            print(&format!(
                "{}: valid. {} files, lines {} to {}, signed up to line {}; the hash of the last line is {}",
                file.display(),
                found.files,
                found.first,
                found.last,
                found.signed,
                found.hash
            ));
            if found.first > 1 {
                print("earlier lines were in files that have been removed (audit.files)");
            }
            Ok(DONE)
        }
        Err(broken) => {
            complain(&format!("the audit file is not valid: {broken}"));
            Ok(FAILED)
        }
    }
}
