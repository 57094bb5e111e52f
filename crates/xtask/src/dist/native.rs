//! Code in the programs that is in no crate of cargo: the standard library and libraries in C.

use super::crates::{Crate, Id};
use super::program::Built;
use super::{rustc_says, tree};
use crate::step::Failed;
use std::collections::BTreeMap;
use std::path::Path;

/// The crate with the sources of SQLite.
const SQLITE_CRATE: &str = "libsqlite3-sys";

/// A part of a program.
#[derive(Debug, Clone)]
pub(super) struct Native {
    pub(super) name: &'static str,
    pub(super) version: String,
    /// An SPDX expression.
    pub(super) licence: &'static str,
    /// The notice that must come with it.
    pub(super) notice: &'static str,
}

const STANDARD_LIBRARY_NOTICE: &str = "Copyright (c) The Rust Project Contributors. Used under the Apache License 2.0, which is in \
                                       the file LICENSE.";

const SQLITE_NOTICE: &str = "SQLite is in the public domain: https://sqlite.org/copyright.html";

const UNWINDER_NOTICE: &str = "Copyright (C) Free Software Foundation, Inc. The GCC Runtime Library Exception allows programs under \
                               any licence.";

/// The licence of musl, which its copies must carry.
const MUSL_NOTICE: &str = include_str!("musl-licence.txt");

/// Returns the parts of a program with these crates.
pub(super) fn parts(linked: &BTreeMap<&Id, &Crate>, built: &Built) -> Result<Vec<Native>, Failed> {
    let mut parts = vec![Native {
        name: "rust-std",
        version: rustc_says("release: ")?,
        licence: "MIT OR Apache-2.0",
        notice: STANDARD_LIBRARY_NOTICE,
    }];
    if let Some(version) = &built.gcc {
        parts.push(Native {
            name: "libgcc",
            version: version.clone(),
            licence: "GPL-3.0-or-later WITH GCC-exception-3.1",
            notice: UNWINDER_NOTICE,
        });
    }
    if let Some(version) = &built.musl {
        parts.push(Native {
            name: "musl",
            version: version.clone(),
            licence: "MIT",
            notice: MUSL_NOTICE,
        });
    }
    for ((name, _), found) in linked {
        if name == SQLITE_CRATE {
            parts.push(Native {
                name: "sqlite",
                version: sqlite_version(&found.directory)?,
                licence: "blessing",
                notice: SQLITE_NOTICE,
            });
        }
    }
    Ok(parts)
}

/// Reads the version from the header of the sources that come with the crate.
fn sqlite_version(directory: &Path) -> Result<String, Failed> {
    let header = directory.join("sqlite3/sqlite3.h");
    let text = tree::read_text(&header)?;
    let version = text.lines().find_map(|line| {
        let rest = line.strip_prefix("#define SQLITE_VERSION ")?;
        Some(rest.trim().trim_matches('"').to_owned())
    });
    version.ok_or_else(|| Failed::new(format!("no version in {}", header.display())))
}
