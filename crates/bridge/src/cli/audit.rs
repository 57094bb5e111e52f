//! `audit verify`: whether the audit file is what this bridge wrote.

use super::{ConfigArg, DONE, FAILED, Outcome, complain, say};
use crate::audit::verify::{Known, verify};
use crate::data_dir::PrivateDir;
use crate::identity::Identity;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What can be done.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Check the chain of all lines, the signed head, and heads that were kept elsewhere
    Verify(VerifyArgs),
}

/// `audit verify`.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The file, instead of the config's
    #[arg(long)]
    file: Option<PathBuf>,
    /// A line's number and hash as the relay was told them (GET /v1/bridges/NAME), like 1200:9f86...; may
    /// be repeated
    #[arg(long, value_name = "SEQ:HASH", value_parser = known)]
    head: Vec<Known>,
}

fn known(text: &str) -> Result<Known, String> {
    let (seq, hash) = text.split_once(':').ok_or("write NUMBER:HASH")?;
    let seq = seq
        .parse()
        .map_err(|_| "the part before ':' is no number")?;
    if crate::text::unhex(hash).is_none_or(|bytes| bytes.len() != 32) {
        return Err("the part behind ':' is no SHA-256 in hexadecimal".into());
    }
    Ok(Known {
        seq,
        hash: hash.to_ascii_lowercase(),
    })
}

pub(super) fn run(command: &AuditCommand) -> Outcome {
    let AuditCommand::Verify(args) = command;
    let config = args.config.load()?;
    let data_dir = config.bridge.data_dir.get();
    let identity = Identity::load(&PrivateDir::open(data_dir)?)?;
    let file = args
        .file
        .clone()
        .unwrap_or_else(|| config.audit.path(data_dir));
    match verify(&file, identity.key.public(), &args.head) {
        Ok(found) => {
            say(&format!(
                "{}: holds. {} files, lines {} to {}, signed up to {}; the last line's hash is {}",
                file.display(),
                found.files,
                found.first,
                found.last,
                found.signed,
                found.hash
            ));
            if found.first > 1 {
                say("lines before the first one were in files that are kept no more");
            }
            Ok(DONE)
        }
        Err(broken) => {
            complain(&format!("the audit file does not hold: {broken}"));
            Ok(FAILED)
        }
    }
}
