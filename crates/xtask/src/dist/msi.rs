//! `.msi`: a package of Windows Installer, for tools that distribute software. `wixl` of msitools makes it.
//!
//! It installs the program and its documents, stops a service of the same name during an upgrade, starts it again, and
//! removes it at the end. Config, pairing and the service itself are commands of the program, as with the `.zip`.

use super::release::Release;
use super::sums::sha256;
use super::tree::{READABLE, Tree};
use super::{Item, bundle};
use crate::step::{Failed, Step};
use crate::tool;
use std::collections::BTreeMap;
use std::path::Path;

/// The definition, without what differs between versions.
const DEFINITION: &str = include_str!("msi.wxs");

/// By which Windows knows that one version replaces another. It never changes.
const UPGRADE_CODE: &str = "8F3F7C0E-5A9D-4D7B-9D55-3B1C0A0A4A11";

/// The service that the program installs.
const SERVICE: &str = "IntegrationBridge";

/// Returns the name of the package.
pub(super) fn file_name(item: &Item<'_>) -> String {
    format!("{}.msi", bundle::directory(item))
}

/// Makes the package.
pub(super) fn make(item: &Item<'_>, to: &Path) -> Result<(), Failed> {
    let missing = [
        ("wixl", "wixl"),
        ("msibuild", "msitools"),
        ("faketime", "faketime"),
    ]
    .iter()
    // `msibuild` has no option that succeeds without a file.
    .filter(|(program, _)| !Path::new("/usr/bin").join(program).exists())
    .map(|(_, package)| *package);
    tool::install_packages(&missing.collect::<Vec<_>>())?;
    let tree = Tree::new(&format!("msi-{}", item.name()))?;
    bundle::add_windows_files(&tree, "", item)?;
    // The program's own `update` then refuses, and names the package.
    tree.write("managed-by", "msi\n", READABLE)?;
    tree.finish(item.release)?;
    let made = Tree::new(&format!("msi-{}-made", item.name()))?;
    made.write("package.wxs", definition(item, &tree)?, READABLE)?;
    let package = made.root().join("made.msi");
    at_time_of(item.release, "wixl")?
        .args(["--arch", "x64", "--output"])
        .args([&package, &made.root().join("package.wxs")])
        .directory(tree.root())
        .run()?;
    // By which Windows tells files apart: a random one otherwise.
    let code = identifier(&sha256(item.built)?, 0);
    at_time_of(item.release, "msibuild")?
        .args([&package])
        .args([
            "-s",
            &format!("{} {}", item.program.name, item.release.version),
        ])
        .args(["Integration Bridge maintainers", "x64;1033"])
        .args([format!("{{{code}}}")])
        .run()?;
    super::replace(&package, to)
}

/// Both tools write the current time, and have no option for another.
fn at_time_of(release: &Release, program: &str) -> Result<Step, Failed> {
    let time = release.timestamp()?.replace('T', " ").replace('Z', "");
    Ok(Step::program("faketime")
        .args(["-f", &time, program])
        .env("TZ", "UTC"))
}

/// Returns the definition of the package: its files are those of the tree.
fn definition(item: &Item<'_>, tree: &Tree) -> Result<String, Failed> {
    let mut directories: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in tree.files()? {
        let directory = file.rsplit_once('/').map_or("", |(directory, _)| directory);
        directories
            .entry(directory.to_owned())
            .or_default()
            .push(file);
    }
    let sum = sha256(item.built)?;
    let mut files = String::new();
    let mut features = String::new();
    for (index, (directory, names)) in directories.iter().enumerate() {
        let code = identifier(&sum, index + 2);
        let mut open = 0;
        for (depth, part) in directory
            .split('/')
            .filter(|part| !part.is_empty())
            .enumerate()
        {
            files.push_str(&format!(
                "<Directory Id=\"D{index}_{depth}\" Name=\"{part}\">\n"
            ));
            open += 1;
        }
        files.push_str(&format!(
            "<Component Id=\"C{index}\" Guid=\"{{{code}}}\" Win64=\"yes\">\n"
        ));
        for (place, name) in names.iter().enumerate() {
            let short = name.rsplit('/').next().unwrap_or_default();
            let is_program = short == item.target.file_name(item.program);
            let id = match is_program {
                true => "Program".to_owned(),
                false => format!("F{index}_{place}"),
            };
            let key = if place == 0 { " KeyPath=\"yes\"" } else { "" };
            files.push_str(&format!(
                "<File Id=\"{id}\" Name=\"{short}\" Source=\"{name}\"{key} />\n"
            ));
            if is_program {
                files.push_str(&format!(
                    "<ServiceControl Id=\"Service\" Name=\"{SERVICE}\" Stop=\"both\" Wait=\"yes\" />\n"
                ));
            }
        }
        files.push_str("</Component>\n");
        files.push_str(&"</Directory>\n".repeat(open));
        features.push_str(&format!("<ComponentRef Id=\"C{index}\" />\n"));
    }
    Ok(DEFINITION
        .replace("@VERSION@", item.release.version)
        .replace("@PRODUCT_CODE@", &identifier(&sum, 1))
        .replace("@UPGRADE_CODE@", UPGRADE_CODE)
        .replace("@FILES@", &files)
        .replace("@FEATURES@", &features))
}

/// Returns an identifier that is the same for the same program: a part of its hash.
fn identifier(sum: &str, number: usize) -> String {
    let digits: String = sum.chars().cycle().skip(number * 5).take(32).collect();
    let digits = digits.to_uppercase();
    let parts = [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ];
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_differ_and_have_their_form() {
        let sum = "0123456789abcdef0011223344556677889900aabbccddeeff13579bdf02468a";
        let first = identifier(sum, 0);
        assert_eq!(first, "01234567-89AB-CDEF-0011-223344556677");
        assert_ne!(identifier(sum, 1), first);
    }
}
