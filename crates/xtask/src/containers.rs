//! `cargo xtask containers`: builds the images from given programs, and runs them with podman.
//!
//! ```text
//! curl (in the relay's network namespace) --> relay <== tunnel network == bridge -- targets network --> target
//! ```
//!
//! Both networks are internal: no container has a route to anything else. The file systems are read-only, and the
//! containers have no capability. Only static programs run in an image from nothing, so `cargo xtask dist` must have built them.

use crate::engine::{self, Engine};
use crate::step::{Failed, Step, profile_dir, root};
use crate::tool;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The images' Dockerfile, from the root.
const DOCKERFILE: &str = "deploy/container/prebuilt.Dockerfile";

/// User and group of the images.
const USER: u32 = 65532;

/// Certificates of public CAs.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A static program that serves files: the target.
const BUSYBOX: &str = "/bin/busybox";

/// The target's image.
const TARGET: &str = "\
FROM scratch
COPY busybox /busybox
COPY --chown=65532:65532 www /www
USER 65532:65532
ENTRYPOINT [\"/busybox\", \"httpd\", \"-f\", \"-p\", \"8080\", \"-h\", \"/www\"]
";

/// What the target responds.
const GREETING: &str = "hello from the target";

/// How long a container may take to become healthy. A bridge dials again after up to a few seconds.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);

/// Files that are needed in addition to those of the engine, and the Debian packages that contain them.
const PACKAGES: [(&str, &str); 4] = [
    ("/usr/bin/buildah", "buildah"),
    (BUSYBOX, "busybox-static"),
    ("/usr/bin/curl", "curl"),
    (CERTIFICATES, "ca-certificates"),
];

/// Checks the programs that `cargo xtask dist` has built for this machine.
pub(crate) fn run() -> Result<(), Failed> {
    let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    check(&profile_dir("dist").join(triple))
}

/// Checks the images of static programs in this directory. Without them it reports what was skipped, and fails in CI.
///
/// # Errors
/// The first difference from what must be.
pub(crate) fn check(programs: &Path) -> Result<(), Failed> {
    println!("== containers with the programs in {}", programs.display());
    let what = "images, and relay, bridge and target on internal networks";
    if let Err(why) = prepared(programs) {
        return tool::skipped(what, why);
    }
    let directory = profile_dir("containers");
    let _ = fs::remove_dir_all(&directory);
    make_private(&directory)?;
    let mut engine = Engine::new(&directory)?;
    let checked = build(&mut engine, programs, &directory)
        .and_then(|()| call_through_the_tunnel(&mut engine, &directory));
    if checked.is_err() {
        engine.show_logs();
    }
    checked
}

/// Installs the tools, and returns why the check cannot be made.
fn prepared(programs: &Path) -> Result<(), Failed> {
    for program in ["integration-relay", "integration-bridge"] {
        let path = programs.join(program);
        if !path.exists() {
            return Err(Failed::new(format!(
                "no {}: run `cargo xtask dist`",
                path.display()
            )));
        }
        // A dynamic program does not start in an empty image.
        let (is_dynamic, said) = Step::program("ldd").args([&path]).outcome()?;
        if is_dynamic && !said.contains("statically linked") {
            return Err(Failed::new(format!(
                "{} is not static: run `cargo xtask dist`",
                path.display()
            )));
        }
    }
    if Step::program("id").args(["-u"]).output()?.trim() != "0" {
        return Err(Failed::new("containers with a network need root"));
    }
    tool::install_missing(&[&engine::PACKAGES[..], &PACKAGES].concat())
}

/// Builds the three images.
fn build(engine: &mut Engine, programs: &Path, directory: &Path) -> Result<(), Failed> {
    let context = directory.join("context");
    copy(
        Path::new(CERTIFICATES),
        &context.join("certificates/ca-certificates.crt"),
    )?;
    for part in ["relay", "bridge"] {
        let program = format!("integration-{part}");
        copy(&programs.join(&program), &context.join(part).join(&program))?;
        make_private(&context.join(format!("{part}-state")).join(&program))?;
    }
    let file = root().join(DOCKERFILE);
    for part in ["relay", "bridge"] {
        engine.build(part, &file, Some(part), &context)?;
    }
    let context = directory.join("target");
    copy(Path::new(BUSYBOX), &context.join("busybox"))?;
    write(&context.join("www/index.html"), GREETING)?;
    write(&context.join("Dockerfile"), TARGET)?;
    engine.build("target", &context.join("Dockerfile"), None, &context)
}

fn call_through_the_tunnel(engine: &mut Engine, directory: &Path) -> Result<(), Failed> {
    engine.network("tunnel")?;
    engine.network("targets")?;
    let relay_volume = engine.volume("relay")?;
    let relay = start_relay(engine, directory, &relay_volume)?;
    let bridge_volume = engine.volume("bridge")?;
    let paired = start_bridge(engine, directory, &relay.bridge_key)?;
    check_volume(&bridge_volume)?;
    call(engine, directory, &relay.caller_key)?;
    for part in ["relay", "bridge"] {
        check_confinement(engine, part)?;
    }

    // The identity is in the volume: without the API key the bridge is the same one.
    engine.stop("bridge")?;
    engine.start("bridge", &paired)?;
    engine.wait_healthy("bridge", true, HEALTHY_WITHIN)?;
    call(engine, directory, &relay.caller_key)?;

    engine.stop("relay")?;
    engine.wait_healthy("bridge", false, HEALTHY_WITHIN)?;
    engine.stop("bridge")
}

/// The API keys of a started relay.
struct Keys {
    bridge_key: ApiKey,
    caller_key: ApiKey,
}

/// An API key.
struct ApiKey {
    client_id: String,
    client_secret: String,
}

/// Starts the relay, and creates a tenant with its keys.
fn start_relay(engine: &mut Engine, directory: &Path, volume: &Path) -> Result<Keys, Failed> {
    let options = [
        option("--network", &engine.name("tunnel")),
        option("--network-alias", "relay"),
        option(
            "--volume",
            &format!("{}:/var/lib/integration-relay", engine.name("relay")),
        ),
        option("--env", "RELAY_LISTEN_PUBLIC=0.0.0.0:8443"),
        option("--env", "RELAY_LISTEN_ADMIN=127.0.0.1:9090"),
        option("--env", "RELAY_LISTEN_AUTHORITIES=[\"relay:8443\"]"),
        option("--env", "RELAY_TLS_SELF_SIGNED=true"),
        option("--env", "RELAY_TLS_NAMES=[\"relay\"]"),
        option(
            "--env",
            "RELAY_STORAGE_URL=sqlite:///var/lib/integration-relay/relay.db",
        ),
    ];
    engine.start("relay", &options)?;
    engine.wait_healthy("relay", true, HEALTHY_WITHIN)?;
    check_volume(volume)?;
    engine
        .exec("relay", &["integration-relay", "health", "--ready"])
        .run()?;
    let tenant = ["integration-relay", "tenant", "create", "acme"];
    engine.exec("relay", &tenant).run()?;
    // The bridge runs as another user than the one that makes the file.
    copy(&volume.join("relay-ca.pem"), &directory.join("ca.pem"))?;
    let mode = fs::Permissions::from_mode(0o644);
    fs::set_permissions(directory.join("ca.pem"), mode)
        .map_err(|error| Failed::new(error.to_string()))?;
    Ok(Keys {
        bridge_key: create_key(engine, "bridge")?,
        caller_key: create_key(engine, "caller")?,
    })
}

fn create_key(engine: &Engine, role: &str) -> Result<ApiKey, Failed> {
    let args = [
        "integration-relay",
        "key",
        "create",
        "--tenant",
        "acme",
        "--json",
        "--role",
        role,
    ];
    let document = engine.exec("relay", &args).output()?;
    let field = |name: &str| {
        let start = format!("\"{name}\": \"");
        let value = document
            .split_once(&start)
            .and_then(|(_, rest)| rest.split_once('"'));
        value
            .map(|(value, _)| value.to_owned())
            .ok_or_else(|| Failed::new(format!("`key create --json` has no {name}")))
    };
    Ok(ApiKey {
        client_id: field("client_id")?,
        client_secret: field("client_secret")?,
    })
}

/// Starts the target, and the bridge, which pairs itself. Returns the options of a bridge that is paired.
fn start_bridge(
    engine: &mut Engine,
    directory: &Path,
    key: &ApiKey,
) -> Result<Vec<String>, Failed> {
    let options = [
        option("--network", &engine.name("targets")),
        option("--network-alias", "target"),
    ];
    engine.start("target", &options)?;
    let paired = vec![
        option(
            "--network",
            &format!("{},{}", engine.name("tunnel"), engine.name("targets")),
        ),
        option(
            "--volume",
            &format!("{}:/var/lib/integration-bridge", engine.name("bridge")),
        ),
        option(
            "--volume",
            &format!(
                "{}:/run/secrets/ca.pem:ro",
                directory.join("ca.pem").display()
            ),
        ),
        option("--env", "BRIDGE_RELAY_URL=https://relay:8443"),
        option("--env", "BRIDGE_RELAY_CA_FILE=/run/secrets/ca.pem"),
        option("--env", "BRIDGE_RELAY_PROXY=none"),
        option("--env", "BRIDGE_NAME=box"),
        option(
            "--env",
            "BRIDGE_ENDPOINTS=[{name = \"sample\", url = \"http://target:8080/\"}]",
        ),
        option(
            "--env",
            "BRIDGE_ALLOW=[{host = \"target\", schemes = [\"http\"], ports = [8080], methods = [\"GET\"]}]",
        ),
        option("--env", "BRIDGE_LIMITS_MEMORY_MAX=192MiB"),
    ];
    let secret = directory.join("client-secret");
    write(&secret, &key.client_secret)?;
    let mut options = paired.clone();
    options.extend([
        option(
            "--volume",
            &format!("{}:/run/secrets/client-secret:ro", secret.display()),
        ),
        option("--env", &format!("BRIDGE_CLIENT_ID={}", key.client_id)),
        option(
            "--env",
            "BRIDGE_CLIENT_SECRET_FILE=/run/secrets/client-secret",
        ),
    ]);
    engine.start("bridge", &options)?;
    engine.wait_healthy("bridge", true, HEALTHY_WITHIN)?;
    Ok(paired)
}

/// Sends a request to an endpoint, and a Call URL, and checks the responses.
fn call(engine: &Engine, directory: &Path, key: &ApiKey) -> Result<(), Failed> {
    // The secret is not on a command line, which every user of this machine can read.
    let config = directory.join("curl.conf");
    let ca = directory.join("ca.pem");
    let text = format!(
        "user = \"{}:{}\"\ncacert = \"{}\"\n",
        key.client_id,
        key.client_secret,
        ca.display()
    );
    write(&config, &text)?;
    let pid = engine.inspect("relay", "{{.State.Pid}}")?;
    let curl = |more: &[&str]| {
        Step::program("nsenter")
            .args(["--net", "--target", &pid])
            .args([
                "curl",
                "--silent",
                "--show-error",
                "--fail-with-body",
                "--max-time",
                "30",
                "--config",
            ])
            .args([&config])
            .args(more)
            .output()
    };
    let endpoint = curl(&["https://localhost:8443/v1/endpoints/sample/index.html"])?;
    expect("the endpoint's response", &endpoint, GREETING)?;
    let document = "{\"url\": \"http://target:8080/index.html\", \"method\": \"GET\"}";
    let url = "https://localhost:8443/v1/calls";
    let response = curl(&["--json", document, url])?;
    expect("the response of the Call URL", &response, GREETING)?;
    println!("   an endpoint and a Call URL responded");
    Ok(())
}

fn expect(what: &str, text: &str, part: &str) -> Result<(), Failed> {
    match text.contains(part) {
        true => Ok(()),
        false => Err(Failed::new(format!("{what} has no \"{part}\": {text}"))),
    }
}

/// Checks that a volume belongs to the program's user, and that no other can read it.
fn check_volume(volume: &Path) -> Result<(), Failed> {
    let about = fs::metadata(volume)
        .map_err(|error| Failed::new(format!("{}: {error}", volume.display())))?;
    let found = (about.uid(), about.gid(), about.mode() & 0o777);
    match found {
        (USER, USER, 0o700) => Ok(()),
        (user, group, mode) => Err(Failed::new(format!(
            "the volume {} belongs to {user}:{group} and has mode {mode:04o}",
            volume.display()
        ))),
    }
}

/// Checks the limits that the kernel enforces on a running container, not what was asked for.
fn check_confinement(engine: &Engine, part: &str) -> Result<(), Failed> {
    let pid = engine.inspect(part, "{{.State.Pid}}")?;
    let read = |name: &str| {
        let path = PathBuf::from(format!("/proc/{pid}/{name}"));
        fs::read_to_string(&path)
            .map_err(|error| Failed::new(format!("{}: {error}", path.display())))
    };
    let status = read("status")?;
    for line in [
        format!("Uid:\t{USER}\t{USER}\t{USER}\t{USER}\n"),
        "CapEff:\t0000000000000000\n".to_owned(),
        "CapBnd:\t0000000000000000\n".to_owned(),
        "NoNewPrivs:\t1\n".to_owned(),
        "Seccomp:\t2\n".to_owned(),
    ] {
        expect(&format!("the status of {part}"), &status, &line)?;
    }
    // "36 35 98:0 /mnt1 / ro,noatime master:1 - ext3 ...": the fifth field is the place, the sixth has the options.
    let mounts = read("mountinfo")?;
    let is_read_only = mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(4);
        fields.next() == Some("/")
            && fields
                .next()
                .is_some_and(|options| options.starts_with("ro"))
    });
    if !is_read_only {
        return Err(Failed::new(format!("the root of {part} is writable")));
    }
    let routes = read("net/route")?;
    let is_default = |line: &str| line.split('\t').nth(1) == Some("00000000");
    if routes.lines().skip(1).any(is_default) {
        return Err(Failed::new(format!(
            "{part} has a default route:\n{routes}"
        )));
    }
    println!("   {part}: user {USER}, no capability, read-only root, no default route");
    Ok(())
}

fn option(name: &str, value: &str) -> String {
    format!("{name}={value}")
}

/// Copies a file with its mode, and makes the directories above it.
fn copy(from: &Path, to: &Path) -> Result<(), Failed> {
    let failed = |error| Failed::new(format!("cannot copy {}: {error}", from.display()));
    fs::create_dir_all(to.parent().unwrap_or(Path::new("."))).map_err(failed)?;
    fs::copy(from, to).map(drop).map_err(failed)
}

/// Writes a file that containers may read. The directory above all of them is private.
fn write(to: &Path, text: &str) -> Result<(), Failed> {
    let failed = |error| Failed::new(format!("cannot write {}: {error}", to.display()));
    fs::create_dir_all(to.parent().unwrap_or(Path::new("."))).map_err(failed)?;
    fs::write(to, text).map_err(failed)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o644)).map_err(failed)
}

/// Makes a directory for its owner alone. Those above it get the usual mode.
fn make_private(path: &Path) -> Result<(), Failed> {
    let failed = |error| Failed::new(format!("cannot create {}: {error}", path.display()));
    fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(failed)?;
    fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The instructions of a Dockerfile from the stage `base` on, without the files that they copy.
    fn settings(name: &str) -> Vec<String> {
        let text = fs::read_to_string(root().join("deploy/container").join(name)).unwrap();
        let (_, stages) = text.split_once("FROM scratch AS base\n").unwrap();
        let lines = stages.lines().filter(|line| {
            !line.is_empty() && !line.starts_with('#') && !line.starts_with("COPY ")
        });
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn dockerfiles_have_the_same_settings() {
        let compiled = settings("Dockerfile");
        assert_eq!(compiled, settings("prebuilt.Dockerfile"));
        assert!(
            compiled.contains(&format!("USER {USER}:{USER}")),
            "{compiled:?}"
        );
    }

    #[test]
    fn compose_names_the_images_of_this_version() {
        let file = root().join("deploy/container/compose.yaml");
        let text = fs::read_to_string(file).unwrap();
        for part in ["relay", "bridge"] {
            let image = format!(":-integration-{part}:{}}}", env!("CARGO_PKG_VERSION"));
            assert!(text.contains(&image), "{image}");
        }
    }
}
