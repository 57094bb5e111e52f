//! podman: commands with the settings that work on a machine with few rights, and names that belong to one run.

use crate::step::{Failed, Step};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Pause between two observations.
const PAUSE: Duration = Duration::from_millis(300);

/// Files that it needs, and the Debian packages that contain them.
pub(crate) const PACKAGES: [(&str, &str); 5] = [
    ("/usr/bin/podman", "podman"),
    ("/usr/sbin/runc", "runc"),
    ("/usr/lib/podman/netavark", "netavark"),
    ("/usr/lib/podman/aardvark-dns", "aardvark-dns"),
    ("/usr/sbin/iptables", "iptables"),
];

/// An engine for one run. Dropping it removes what it made.
#[derive(Debug)]
pub(crate) struct Engine {
    /// Begins the name of each container, volume, network and image.
    prefix: String,
    /// The engine's settings.
    settings: PathBuf,
    made: Vec<Made>,
}

/// Something that is removed at the end, in the opposite order.
#[derive(Debug)]
enum Made {
    Container(String),
    Network(String),
    Volume(String),
    Image(String),
}

impl Engine {
    /// Writes the settings into `directory`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn new(directory: &Path) -> Result<Self, Failed> {
        // podman's own default is above the limit of a machine without CAP_SYS_RESOURCE, and crun refuses hybrid cgroups.
        let limit = Step::program("sh").args(["-c", "ulimit -Hn"]).output()?;
        let limit = limit.trim();
        let text = format!(
            "[containers]\ndefault_ulimits = [\"nofile={limit}:{limit}\", \"nproc=4096:4096\"]\n\n\
             [engine]\nruntime = \"runc\"\nevents_logger = \"file\"\n"
        );
        let settings = directory.join("containers.conf");
        fs::write(&settings, text).map_err(|error| {
            Failed::new(format!("cannot write {}: {error}", settings.display()))
        })?;
        Ok(Self {
            prefix: format!("bridge-check-{}", std::process::id()),
            settings,
            made: Vec::new(),
        })
    }

    /// Returns the name of something in this run.
    pub(crate) fn name(&self, part: &str) -> String {
        format!("{}-{part}", self.prefix)
    }

    /// A command of podman.
    pub(crate) fn podman(&self, args: &[&str]) -> Step {
        Step::program("podman")
            .args(args)
            .env("CONTAINERS_CONF", &self.settings.to_string_lossy())
            // Otherwise it wants timers of systemd for health checks, which `wait_healthy` runs itself.
            .env("DISABLE_HC_SYSTEMD", "true")
    }

    /// Builds an image from a stage, or from the only one.
    pub(crate) fn build(
        &mut self,
        part: &str,
        file: &Path,
        stage: Option<&str>,
        context: &Path,
    ) -> Result<(), Failed> {
        let image = self.image(part);
        let mut step = Step::program("buildah")
            .args(["bud", "--isolation", "chroot", "--format", "docker"])
            .args(["--quiet", "--tag", &image, "--file"])
            .args([file]);
        if let Some(stage) = stage {
            step = step.args(["--target", stage]);
        }
        step.args([context])
            .env("CONTAINERS_CONF", &self.settings.to_string_lossy())
            .run()?;
        self.made.push(Made::Image(image));
        Ok(())
    }

    /// Makes an image of an archive with all its files.
    pub(crate) fn import(&mut self, part: &str, archive: &Path) -> Result<(), Failed> {
        let image = self.image(part);
        self.podman(&["import", "--quiet"])
            .args([archive])
            .args([&image])
            .run()?;
        self.made.push(Made::Image(image));
        Ok(())
    }

    /// Returns the name of an image.
    pub(crate) fn image(&self, part: &str) -> String {
        format!("localhost/{}", self.name(part))
    }

    /// Makes a network without a route to any other.
    pub(crate) fn network(&mut self, part: &str) -> Result<(), Failed> {
        let name = self.name(part);
        self.podman(&["network", "create", "--internal", &name])
            .output()?;
        self.made.push(Made::Network(name));
        Ok(())
    }

    /// Makes a volume. Returns where it is on this machine.
    pub(crate) fn volume(&mut self, part: &str) -> Result<PathBuf, Failed> {
        let name = self.name(part);
        self.podman(&["volume", "create", &name]).output()?;
        self.made.push(Made::Volume(name.clone()));
        let format = ["volume", "inspect", "--format", "{{.Mountpoint}}", &name];
        let path = self.podman(&format).output()?;
        Ok(PathBuf::from(path.trim()))
    }

    /// Starts a container of the image with the same name, with no right that it does not need.
    pub(crate) fn start(&mut self, part: &str, options: &[String]) -> Result<(), Failed> {
        let (name, image) = (self.name(part), self.image(part));
        self.made.push(Made::Container(name.clone()));
        self.podman(&["run", "--detach", "--name", &name])
            // Without the directories in memory that podman adds to a read-only container.
            .args(["--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL"])
            .args(["--security-opt=no-new-privileges", "--pids-limit=128"])
            .args(["--memory=256m", "--hostname", part])
            .args(options)
            .args([&image])
            .run()
    }

    /// Boots the image with the same name: a system with systemd as its first process, and no network but its own
    /// loopback. It has all rights, because systemd confines its services by mounts of their own.
    pub(crate) fn boot(&mut self, part: &str) -> Result<(), Failed> {
        let (name, image) = (self.name(part), self.image(part));
        self.made.push(Made::Container(name.clone()));
        self.podman(&["run", "--detach", "--name", &name, "--hostname", part])
            .args(["--network=none", "--systemd=always", "--privileged"])
            .args([image.as_str(), "/lib/systemd/systemd"])
            .run()
    }

    /// Stops a container and removes it.
    ///
    /// # Errors
    /// It did not end in order.
    pub(crate) fn stop(&self, part: &str) -> Result<(), Failed> {
        let name = self.name(part);
        self.podman(&["stop", "--time", "45", &name]).output()?;
        let code = self.inspect(part, "{{.State.ExitCode}}")?;
        if code != "0" {
            return Err(Failed::new(format!(
                "{part} ended with exit code {code} after SIGTERM"
            )));
        }
        self.podman(&["rm", &name]).output().map(drop)
    }

    /// A command in a container, which prints its result.
    pub(crate) fn exec(&self, part: &str, args: &[&str]) -> Step {
        self.podman(&["exec", &self.name(part)]).args(args)
    }

    /// Returns a value of a container.
    pub(crate) fn inspect(&self, part: &str, format: &str) -> Result<String, Failed> {
        let name = self.name(part);
        let value = self.podman(&["container", "inspect", "--format", format, &name]);
        Ok(value.output()?.trim().to_owned())
    }

    /// Waits until the container's own health check succeeds, or until it fails.
    pub(crate) fn wait_healthy(
        &self,
        part: &str,
        expected: bool,
        within: Duration,
    ) -> Result<(), Failed> {
        let began = Instant::now();
        let name = self.name(part);
        while began.elapsed() < within {
            if self.podman(&["healthcheck", "run", &name]).succeeds() == expected {
                println!(
                    "   {part}: {} after {:.1} s",
                    if expected { "healthy" } else { "unhealthy" },
                    began.elapsed().as_secs_f64()
                );
                return Ok(());
            }
            sleep(PAUSE);
        }
        let state = if expected { "healthy" } else { "unhealthy" };
        Err(Failed::new(format!(
            "{part} did not become {state} within {within:?}"
        )))
    }

    /// Shows what the containers wrote, after a failure.
    pub(crate) fn show_logs(&self) {
        for made in &self.made {
            if let Made::Container(name) = made {
                println!("== log of {name}");
                if let Ok((_, text)) = self.podman(&["logs", "--tail", "40", name]).outcome() {
                    print!("{text}");
                }
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for made in self.made.iter().rev() {
            let args: Vec<&str> = match made {
                Made::Container(name) => vec!["rm", "--force", "--time", "0", name],
                Made::Network(name) => vec!["network", "rm", "--force", name],
                Made::Volume(name) => vec!["volume", "rm", "--force", name],
                Made::Image(name) => vec!["image", "rm", "--force", name],
            };
            // A container that `stop` has removed is not there any more.
            let _ = self.podman(&args).outcome();
        }
    }
}
