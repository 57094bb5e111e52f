//! Helm charts as archives. `helm package` makes the same, with the current time in it.

use super::archive;
use super::release::Release;
use super::target::Program;
use super::tree::{self, READABLE, Tree};
use crate::step::{Failed, root};
use std::path::Path;

/// Returns the name of the archive, as helm gives it.
pub(super) fn file_name(program: &Program, release: &Release) -> String {
    format!("{}-{}.tgz", program.name, release.version)
}

/// Makes the archive of a program's chart.
pub(super) fn make(program: &Program, release: &Release, to: &Path) -> Result<(), Failed> {
    let chart = root().join("deploy/charts").join(program.name);
    check_version(
        &tree::read_text(&chart.join("Chart.yaml"))?,
        release.version,
    )?;
    let ignored = tree::read_text(&chart.join(".helmignore"))?;
    let archived = Tree::new(&format!("chart-{}", program.part))?;
    for file in tree::files_below(&chart)? {
        if !is_ignored(&ignored, &file) {
            let name = format!("{}/{file}", program.name);
            archived.copy(&name, &chart.join(&file), READABLE)?;
        }
    }
    archived.finish(release)?;
    archive::tar_gz(&archived, to, release)
}

/// The chart's own version, and the one of the program that it installs, are those of the release.
fn check_version(chart: &str, version: &str) -> Result<(), Failed> {
    for key in ["version", "appVersion"] {
        let value = chart.lines().find_map(|line| {
            let value = line.strip_prefix(key)?.strip_prefix(':')?;
            Some(value.trim().trim_matches('"'))
        });
        if value != Some(version) {
            return Err(Failed::new(format!(
                "Chart.yaml: {key} is {}, and the release {version}",
                value.unwrap_or("missing")
            )));
        }
    }
    Ok(())
}

/// Returns whether `.helmignore` has the file: by its name, or by a directory above it. It may have no patterns.
fn is_ignored(ignored: &str, file: &str) -> bool {
    ignored.lines().any(|line| match line.strip_suffix('/') {
        Some(directory) => file.starts_with(&format!("{directory}/")),
        None => !line.is_empty() && file == line,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chart_of_another_version_is_reported() {
        let chart = "name: a\nversion: 1.2.0\nappVersion: \"1.1.0\"\n";
        let failed = check_version(chart, "1.2.0").unwrap_err();
        assert!(
            failed.to_string().contains("appVersion is 1.1.0"),
            "{failed}"
        );
        assert!(check_version("version: 1.2.0\nappVersion: \"1.2.0\"\n", "1.2.0").is_ok());
        assert!(check_version("name: a\n", "1.2.0").is_err());
    }

    #[test]
    fn ignored_directories_are_left_out() {
        assert!(is_ignored("# tests\nci/\n", "ci/all.yaml"));
        assert!(!is_ignored("ci/\n", "templates/ci.yaml"));
    }
}
