//! Container images as archives (OCI image layout), without an engine: one layer on nothing.
//!
//! ```text
//! oci-layout   index.json --> blobs/sha256/MANIFEST --> blobs/sha256/CONFIG   (settings, of the Dockerfile)
//! manifest.json (for `docker load` before 25)       \-> blobs/sha256/LAYER    (the files below)
//! ```
//!
//! `podman load`, `docker load` and `skopeo copy oci-archive:FILE` read it. See
//! <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>.

use super::Item;
use super::archive::{Owner, ROOT, add_to_tar, gzip};
use super::dockerfile::Settings;
use super::notices;
use super::sums::sha256;
use super::tree::{self, EXECUTABLE, READABLE, Tree};
use crate::step::{Failed, root};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// The Dockerfile that has the settings.
pub(super) const DOCKERFILE: &str = "deploy/container/Dockerfile";

/// Certificates of public CAs. Those of the package, and none that this machine's administrator added.
const CERTIFICATES: &str = "/usr/share/ca-certificates/mozilla";

/// Where programs look for them.
const CERTIFICATES_FILE: &str = "etc/ssl/certs/ca-certificates.crt";

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

// Docker's types, which all engines read as well: with the OCI's, podman ignores the health check.
const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";
const LAYER_TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// Returns the name of the archive.
pub(super) fn file_name(item: &Item<'_>) -> String {
    let (name, version) = (item.program.name, item.release.version);
    format!("{name}-{version}-{}.oci.tar", item.target.label())
}

/// Makes the archive.
pub(super) fn make(item: &Item<'_>, to: &Path) -> Result<(), Failed> {
    let text = tree::read_text(&root().join(DOCKERFILE))?;
    let settings = Settings::of_stage(&text, item.program.part)?;
    let work = format!("oci-{}", item.name());
    let layer = layer(item, &settings, &work)?;
    let image = Tree::new(&work)?;
    let unpacked_sum = sha256(&layer)?;
    let packed = layer.with_extension("tar.gz");
    gzip(&["--best", "--no-name"], &layer, &packed)?;
    let layer = add_blob(&image, LAYER_TYPE, &tree::read(&packed)?)?;
    let created = item.release.timestamp()?;
    let config = json!({
        "architecture": item.target.debian_machine(),
        "os": "linux",
        "created": created,
        "config": settings.config(),
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{unpacked_sum}")]},
        "history": [{"created": created, "created_by": "cargo xtask dist"}],
    });
    let config = add_blob(&image, CONFIG_TYPE, config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config,
        "layers": [layer],
    });
    let mut manifest = add_blob(&image, MANIFEST_TYPE, manifest.to_string().as_bytes())?;
    let reference = format!("{}:{}", item.program.name, item.release.version);
    manifest["platform"] = json!({"architecture": item.target.debian_machine(), "os": "linux"});
    manifest["annotations"] = json!({
        // The name for containerd and Docker, then the one of the specification.
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": item.release.version,
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [manifest]});
    image.write("index.json", index.to_string(), READABLE)?;
    image.write("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#, READABLE)?;
    let old = json!([{
        "Config": blob_path(&config),
        "RepoTags": [reference],
        "Layers": [blob_path(&layer)],
    }]);
    image.write("manifest.json", old.to_string(), READABLE)?;
    image.finish(item.release)?;
    let _ = fs::remove_file(to);
    let names = tree::names_in(image.root())?;
    add_to_tar(to, image.root(), &names, ROOT, item.release)
}

/// Writes the files of the image as `.tar`. Returns where it is.
fn layer(item: &Item<'_>, settings: &Settings, work: &str) -> Result<PathBuf, Failed> {
    let files = Tree::new(&format!("{work}-files"))?;
    let program = settings.entrypoint[0].trim_start_matches('/');
    files.copy(program, item.built, EXECUTABLE)?;
    files.write(CERTIFICATES_FILE, certificates()?, READABLE)?;
    let (user, group) = settings
        .user
        .split_once(':')
        .unwrap_or((settings.user.as_str(), "65532"));
    // Names for the user, which some programs of administrators ask for.
    files.write(
        "etc/passwd",
        format!(
            "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:{user}:{group}:nonroot:/:/sbin/nologin\n"
        ),
        READABLE,
    )?;
    files.write(
        "etc/group",
        format!("root:x:0:\nnonroot:x:{group}:\n"),
        READABLE,
    )?;
    let documents = format!("usr/share/doc/{}", item.program.name);
    files.copy(
        &format!("{documents}/LICENSE"),
        &root().join("LICENSE"),
        READABLE,
    )?;
    let notices = format!("{documents}/{}", notices::FILE);
    files.write(&notices, item.notices, READABLE)?;
    let volumes = Tree::new(&format!("{work}-volumes"))?;
    let mut names = Vec::new();
    for volume in &settings.volumes {
        let name = Path::new(volume.trim_start_matches('/'));
        // The directories above it are root's.
        if let Some(parent) = name.parent() {
            files.directory(parent)?;
        }
        volumes.directory(name)?;
        names.push(name.to_string_lossy().into_owned());
    }
    files.finish(item.release)?;
    let tar = files.root().with_extension("tar");
    let _ = fs::remove_file(&tar);
    let all = tree::names_in(files.root())?;
    add_to_tar(&tar, files.root(), &all, ROOT, item.release)?;
    let owner = Owner {
        user,
        group,
        mode: "0700",
    };
    add_to_tar(&tar, volumes.root(), &names, owner, item.release)?;
    Ok(tar)
}

/// Returns the certificates of public CAs, in the order of their names.
fn certificates() -> Result<Vec<u8>, Failed> {
    let directory = Path::new(CERTIFICATES);
    if !directory.exists() {
        return Err(Failed::new(format!(
            "no {CERTIFICATES}: apt-get install ca-certificates"
        )));
    }
    let mut all = Vec::new();
    for name in tree::files_below(directory)? {
        all.extend(tree::read(&directory.join(name))?);
    }
    Ok(all)
}

/// Adds a part of the image. Returns its description.
fn add_blob(image: &Tree, media_type: &str, content: &[u8]) -> Result<Value, Failed> {
    let unnamed = "blobs/sha256/unnamed";
    image.write(unnamed, content, READABLE)?;
    let sum = sha256(&image.root().join(unnamed))?;
    image.rename(unnamed, &format!("blobs/sha256/{sum}"))?;
    Ok(json!({
        "mediaType": media_type,
        "digest": format!("sha256:{sum}"),
        "size": content.len(),
    }))
}

fn blob_path(description: &Value) -> String {
    let digest = description["digest"].as_str().unwrap_or_default();
    format!("blobs/{}", digest.replace(':', "/"))
}
