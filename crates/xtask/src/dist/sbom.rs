//! The list of what a program is made of (SBOM), in the format CycloneDX 1.5 (<https://cyclonedx.org/docs/1.5/json/>).

use super::crates::{Crate, Crates, Id};
use super::native::Native;
use super::sums::sha256;
use super::{Item, cannot};
use crate::step::Failed;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Returns the name of the list.
pub(super) fn file_name(item: &Item<'_>) -> String {
    let (name, version) = (item.program.name, item.release.version);
    format!("{name}-{version}-{}.cdx.json", item.target.label())
}

/// Writes the list of a program.
pub(super) fn make(
    item: &Item<'_>,
    crates: &Crates,
    native: &[Native],
    to: &Path,
) -> Result<(), Failed> {
    let linked = crates.linked(item.program);
    let mut components = Vec::new();
    let mut dependencies = Vec::new();
    for (id, found) in &linked {
        let url = package_url(id, found);
        let mut component = component("library", &id.0, &id.1, &url, &found.licence);
        if let Some(sum) = &found.checksum {
            component["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
        }
        components.push(component);
        dependencies.push(json!({
            "ref": url,
            "dependsOn": package_urls(&found.dependencies, &linked),
        }));
    }
    let program = item.program.name;
    let version = item.release.version;
    let url = generic_url(program, version);
    let mut depends_on = package_urls(crates.direct(item.program), &linked);
    for part in native {
        let url = generic_url(part.name, &part.version);
        components.push(component(
            "library",
            part.name,
            &part.version,
            &url,
            part.licence,
        ));
        dependencies.push(json!({"ref": url, "dependsOn": []}));
        depends_on.insert(url);
    }
    dependencies.push(json!({"ref": url, "dependsOn": depends_on}));
    let mut application = component("application", program, version, &url, "Apache-2.0");
    application["description"] = json!(item.program.summary);
    application["hashes"] = json!([{"alg": "SHA-256", "content": sha256(item.built)?}]);
    let list = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": item.release.timestamp()?,
            "component": application,
            "properties": [{"name": "target", "value": item.target.triple()}],
        },
        "components": components,
        "dependencies": dependencies,
    });
    fs::write(to, format!("{list:#}\n")).map_err(|error| cannot("write", to, &error))
}

fn component(kind: &str, name: &str, version: &str, url: &str, licence: &str) -> Value {
    let mut component = json!({
        "type": kind,
        "bom-ref": url,
        "purl": url,
        "name": name,
        "version": version,
    });
    if !licence.is_empty() {
        component["licenses"] = json!([{"expression": licence}]);
    }
    component
}

fn package_urls<'a>(
    ids: impl IntoIterator<Item = &'a Id>,
    linked: &BTreeMap<&Id, &Crate>,
) -> BTreeSet<String> {
    let known = ids.into_iter().filter_map(|id| {
        let found = linked.get(id)?;
        Some(package_url(id, found))
    });
    known.collect()
}

/// Returns the name of a crate in lists of vulnerabilities. A crate of this repository is in no registry, where another crate
/// may have its name.
fn package_url((name, version): &Id, found: &Crate) -> String {
    match found.checksum {
        Some(_) => format!("pkg:cargo/{name}@{version}"),
        None => generic_url(name, version),
    }
}

fn generic_url(name: &str, version: &str) -> String {
    format!("pkg:generic/{name}@{}", version.replace('+', "%2B"))
}
