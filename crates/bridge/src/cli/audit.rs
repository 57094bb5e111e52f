//! `audit verify`: checks that the audit file is exactly what this bridge wrote, and says what cannot be concluded.

use super::common::{ConfigArg, DONE, FAILED, Outcome, UNPROVED, complain, print};
use super::status::status_of;
use crate::audit::verify::{Anchor, Broken, Unproved, verify};
use crate::identity::Identity;
use crate::text::unhex;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `audit`.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Check the chain of all lines, the signed head and start, and lines that the relay has stored.
    Verify(VerifyArgs),
}

/// `audit verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 valid; 1 not valid; 4 no defect was found, but lines may be missing.

Examples:
  integration-bridge audit verify
  integration-bridge audit verify --file copy/audit.jsonl --head-file copy/audit.head.json
  integration-bridge audit verify \\
    --head 1200:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The audit file. Defaults to `audit.file` of the config.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The signed head of the audit file. Defaults to the file next to it, `audit.head.json`.
    #[arg(long, value_name = "FILE")]
    head_file: Option<PathBuf>,
    /// Number and SHA-256 of a line that the relay has stored (GET /v1/bridges/NAME). May be repeated.
    #[arg(long, value_name = "NUMBER:HASH", value_parser = anchor)]
    head: Vec<Anchor>,
    /// Fingerprint of a key that this bridge had before it was paired again. May be repeated.
    #[arg(long, value_name = "FINGERPRINT", value_parser = former_key)]
    former_key: Vec<String>,
}

fn former_key(text: &str) -> Result<String, String> {
    if unhex(text).is_none_or(|bytes| bytes.len() != 32) {
        return Err("a fingerprint is a SHA-256 in hexadecimal, 64 digits".into());
    }
    Ok(text.to_ascii_lowercase())
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
    let mut anchors = args.head.clone();
    let file = match &args.file {
        Some(file) => file.clone(),
        None => {
            // The head in the memory of the running bridge: a change of the disk does not reach it.
            let running = status_of(data_dir)
                .ok()
                .and_then(|status| status.audit_head);
            anchors.extend(running.map(|head| Anchor {
                seq: head.seq,
                hash: head.hash,
            }));
            config.audit.path(data_dir)
        }
    };
    let head_file = args.head_file.as_deref();
    let mut found = match verify(&file, head_file, identity.key.public(), &anchors) {
        Ok(found) => found,
        // A wrong name is no finding about the file.
        Err(broken @ Broken::Io { .. }) => {
            complain(&broken.to_string());
            return Ok(FAILED);
        }
        Err(broken) => {
            complain(&format!("the audit file is not valid: {broken}"));
            return Ok(FAILED);
        }
    };
    found.unproved.retain(|unproved| match unproved {
        Unproved::OtherKey {
            former: Some(former),
            ..
        } => !args.former_key.contains(former),
        Unproved::OtherKey { former: None, .. }
        | Unproved::NoHead
        | Unproved::NothingSigned
        | Unproved::NoStart => true,
    });
    let verdict = match found.unproved.is_empty() {
        true => "valid",
        false => "no defect was found",
    };
    print(&format!(
        "{}: {verdict}. {}, lines {} to {}, signed up to line {}; the hash of the last line is {}",
        file.display(),
        runtime::output::counted(found.files, "file"),
        found.first,
        found.last,
        found.signed,
        found.hash
    ));
    for number in &found.missing_numbers {
        print(&format!(
            "no file has the number {number}, as after a crash during a rotation; the bridge renames the files when it \
             starts or rotates the next time"
        ));
    }
    if found.unfinished_bytes > 0 {
        print(&format!(
            "the last line is not complete ({} after line {}), as after a crash; the bridge removes it at its next \
             start",
            runtime::output::counted(found.unfinished_bytes, "byte"),
            found.last
        ));
    }
    for unproved in &found.unproved {
        print(&format!("it cannot be concluded {unproved}"));
    }
    if !found.unproved.is_empty() {
        return Ok(UNPROVED);
    }
    if found.first > 1 {
        print(
            "earlier lines were in files that rotation has removed (audit.files) or that another program moved",
        );
    }
    if found.signed < found.last {
        print("lines that are not signed yet will be within a minute, while the bridge runs");
    }
    Ok(DONE)
}
