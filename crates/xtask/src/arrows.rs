//! `cargo xtask arrows`: which module and which crate may import which.
//!
//! ```text
//! crates/*/src/**.rs --> imports between top-level modules --> no cycle; relay: no arrow against a plane
//! crates/*/Cargo.toml --> dependencies between our crates  --> only those in the table
//! ```
//!
//! A top-level module and its children count as one. Tests are left out: a test may import anything. `source`
//! reads a file's imports, `graph` finds the cycles, and the tables of what is allowed are here.

mod graph;
mod source;

use crate::step::{Failed, root};
use graph::Graph;
use source::Source;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Our crates, and those of ours that each may depend on. `dev-dependencies` are free, for tests.
const CRATES: &[(&str, &[&str])] = &[
    ("malloc-trim", &["windows"]),
    ("manual", &[]),
    ("policy", &[]),
    ("proxy-auth", &[]),
    ("protocol", &[]),
    ("runtime", &["windows"]),
    ("store", &[]),
    ("transport", &["protocol", "runtime"]),
    (
        "http-client",
        &["policy", "protocol", "runtime", "transport"],
    ),
    (
        "bridge",
        &[
            "http-client",
            "malloc-trim",
            "manual",
            "policy",
            "protocol",
            "proxy-auth",
            "runtime",
            "transport",
            "windows",
        ],
    ),
    (
        "relay",
        &[
            "http-client",
            "malloc-trim",
            "manual",
            "policy",
            "protocol",
            "runtime",
            "store",
            "transport",
        ],
    ),
    // Nothing on other systems than Windows.
    ("windows", &[]),
    // Both programs in one process, for a first try.
    (
        "quickstart",
        &[
            "bridge",
            "http-client",
            "malloc-trim",
            "policy",
            "protocol",
            "relay",
            "runtime",
            "store",
            "transport",
        ],
    ),
    ("xtask", &[]),
];

/// The part of the relay that a module belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plane {
    /// Used by both planes, and knows neither.
    Shared,
    /// What requests and tunnels pass through.
    Data,
    /// Tenants, keys, stored calls, the API, the audit record.
    Control,
    /// Puts both together: dispatches a request, starts the process.
    Edge,
}

impl Plane {
    fn may_import(self, other: Self) -> bool {
        match self {
            Self::Shared => other == Self::Shared,
            Self::Data => matches!(other, Self::Shared | Self::Data),
            Self::Control => matches!(other, Self::Shared | Self::Data | Self::Control),
            Self::Edge => true,
        }
    }
}

/// The crate that has planes.
const WITH_PLANES: &str = "relay";

/// The plane of each of its modules.
const PLANES: &[(Plane, &[&str])] = &[
    (
        Plane::Shared,
        &[
            "access",
            "config",
            "metrics",
            "request_name",
            "storage",
            "telemetry",
            "testing",
            "throttle",
            "trace",
        ],
    ),
    (
        Plane::Data,
        &[
            "admission",
            "body",
            "capacity",
            "connection",
            "data_plane",
            "direct",
            "exchange",
            "ingress",
            "listener",
            "problem",
            "progress",
            "registry",
            "routing",
            "sending",
        ],
    ),
    (
        Plane::Control,
        &[
            "api",
            "audit",
            "auth",
            "bridge_versions",
            "control_plane",
            "deliveries",
            "denials",
            "directory",
            "generation",
            "idempotency",
            "notices",
            "ownership",
            "recent_calls",
            "serving",
            "vault",
        ],
    ),
    (
        Plane::Edge,
        &["calls", "cli", "reload", "running", "service", "tunnel"],
    ),
];

/// Checks all crates under `crates/`.
pub(crate) fn check() -> Result<(), Failed> {
    println!("== arrows: no import cycle in a crate, no forbidden one between crates or planes");
    let started = Instant::now();
    let mut findings = Vec::new();
    for dir in crate_dirs()? {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let manifest = read(&dir.join("Cargo.toml"))?;
        findings.extend(crate_findings(&name, &manifest)?);
        let graph = module_graph(&dir.join("src"))?;
        findings.extend(cycle_findings(&name, &graph));
        if name == WITH_PLANES {
            findings.extend(plane_findings(&graph));
        }
    }
    if findings.is_empty() {
        println!("   done in {:.1} s", started.elapsed().as_secs_f64());
        return Ok(());
    }
    for finding in &findings {
        eprintln!("   {finding}");
    }
    Err(Failed::new(format!(
        "{} forbidden arrows or cycles",
        findings.len()
    )))
}

fn crate_dirs() -> Result<Vec<PathBuf>, Failed> {
    let crates = root().join("crates");
    let mut dirs = entries(&crates)?;
    dirs.retain(|dir| dir.join("Cargo.toml").is_file());
    Ok(dirs)
}

/// Returns the entries of a directory, sorted.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, Failed> {
    let failed = |error| Failed::new(format!("{}: {error}", dir.display()));
    let found: Result<Vec<PathBuf>, _> = fs::read_dir(dir)
        .map_err(failed)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect();
    let mut found = found.map_err(failed)?;
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<String, Failed> {
    fs::read_to_string(path).map_err(|error| Failed::new(format!("{}: {error}", path.display())))
}

/// Reads the import graph of one crate.
fn module_graph(src: &Path) -> Result<Graph, Failed> {
    let mut files = Vec::new();
    collect(src, &mut files)?;
    let mut sources = Vec::new();
    for file in files {
        let path = file.strip_prefix(src).unwrap_or(&file);
        let path = path.to_string_lossy().replace('\\', "/");
        sources.push(Source::parse(&path, &read(&file)?));
    }
    Ok(Graph::of(&sources))
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failed> {
    for path in entries(dir)? {
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Returns the dependencies of a crate that the table does not allow.
fn crate_findings(name: &str, manifest: &str) -> Result<Vec<String>, Failed> {
    let Some((_, allowed)) = CRATES.iter().find(|(known, _)| *known == name) else {
        return Ok(vec![format!(
            "crates/{name}: not in the table of xtask/src/arrows.rs"
        )]);
    };
    let manifest: toml::Table = manifest
        .parse()
        .map_err(|error| Failed::new(format!("crates/{name}/Cargo.toml: {error}")))?;
    let ours: BTreeSet<String> = dependencies(&manifest)
        .into_iter()
        .filter(|dependency| CRATES.iter().any(|(known, _)| known == dependency))
        .collect();
    let forbidden = ours
        .iter()
        .filter(|dependency| !allowed.contains(&dependency.as_str()));
    Ok(forbidden
        .map(|dependency| format!("crates/{name} must not depend on {dependency}"))
        .collect())
}

/// Returns the names of the dependencies of a manifest, those of build scripts and of single targets included.
/// The prefixes of our packages are removed.
fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let targets = targets.into_iter().flat_map(|targets| targets.values());
    let tables = targets
        .filter_map(toml::Value::as_table)
        .chain(std::iter::once(manifest));
    let dependencies = tables.flat_map(|table| {
        ["dependencies", "build-dependencies"]
            .into_iter()
            .filter_map(|key| table.get(key)?.as_table())
    });
    dependencies
        .flat_map(|table| table.iter())
        .map(|(key, value)| {
            let package = value.get("package").and_then(toml::Value::as_str);
            let name = package.unwrap_or(key);
            let short = name
                .strip_prefix("integration-")
                .or_else(|| name.strip_prefix("bridge-"));
            short.unwrap_or(name).to_owned()
        })
        .collect()
}

/// Returns every cycle, with the files that make it.
fn cycle_findings(name: &str, graph: &Graph) -> Vec<String> {
    let cycles = graph.cycles().into_iter();
    cycles
        .map(|cycle| {
            let mut text = format!("crates/{name}: import cycle of {}", cycle.join(", "));
            for (from, to, files) in graph.edges_within(&cycle) {
                text.push_str(&format!("\n      {from} -> {to}: {}", files.join(", ")));
            }
            text
        })
        .collect()
}

/// Returns the imports that a plane must not have.
fn plane_findings(graph: &Graph) -> Vec<String> {
    let plane = |module: &str| {
        let found = PLANES.iter().find(|(_, modules)| modules.contains(&module));
        found.map(|(plane, _)| *plane)
    };
    let mut findings: Vec<String> = graph
        .modules()
        .filter(|module| plane(module).is_none())
        .map(|module| format!("crates/{WITH_PLANES}: {module} has no plane in xtask/src/arrows.rs"))
        .collect();
    for (from, to, files) in graph.edges() {
        if let (Some(from_plane), Some(to_plane)) = (plane(from), plane(to))
            && !from_plane.may_import(to_plane)
        {
            findings.push(format!(
                "crates/{WITH_PLANES}: {from} ({from_plane:?}) must not import {to} ({to_plane:?}): {}",
                files.join(", ")
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(files: &[(&str, &str)]) -> Graph {
        let sources: Vec<Source> = files
            .iter()
            .map(|(path, text)| Source::parse(path, text))
            .collect();
        Graph::of(&sources)
    }

    #[test]
    fn cycle_is_reported_with_its_files() {
        let graph = graph(&[
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "mod inner;"),
            ("b/inner.rs", "fn f() { crate::a::f(); }"),
            ("c.rs", "use crate::{a, b::B};"),
        ]);
        let findings = cycle_findings("x", &graph);
        assert_eq!(
            findings,
            ["crates/x: import cycle of a, b\n      a -> b: a.rs\n      b -> a: b/inner.rs"]
        );
    }

    #[test]
    fn data_plane_must_not_import_control_plane() {
        let graph = graph(&[
            ("lib.rs", ""),
            ("api.rs", "use crate::exchange::run;"),
            ("config.rs", ""),
            ("directory.rs", ""),
            ("exchange.rs", "use crate::{config, directory::Directory};"),
            ("unheard_of.rs", ""),
        ]);
        let findings = plane_findings(&graph);
        assert_eq!(
            findings,
            [
                "crates/relay: unheard_of has no plane in xtask/src/arrows.rs",
                "crates/relay: exchange (Data) must not import directory (Control): exchange.rs"
            ]
        );
    }

    #[test]
    fn crate_depends_only_on_those_in_the_table() {
        let manifest = "[dependencies]\nruntime.workspace = true\nhttp = \"1\"\n\
                        [target.'cfg(unix)'.dependencies]\nx = { package = \"bridge-policy\", path = \"p\" }\n\
                        [dev-dependencies]\nintegration-relay.workspace = true\n";
        let findings = crate_findings("transport", manifest).unwrap();
        assert_eq!(findings, ["crates/transport must not depend on policy"]);
        let both = "[dependencies]\nintegration-relay.workspace = true\n";
        let findings = crate_findings("bridge", both).unwrap();
        assert_eq!(findings, ["crates/bridge must not depend on relay"]);
        let unknown = crate_findings("new", "").unwrap();
        assert_eq!(unknown.len(), 1);
    }
}
