//! What is released: the programs, and the targets that each is compiled for.

use clap::ValueEnum;
use std::env;

/// A program that is released. Its cargo package and its packages for Linux have the same name.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) name: &'static str,
    /// Its directory in `deploy/package`, its stage in the Dockerfile, and the stem of its config.
    pub(super) part: &'static str,
    /// One line, without a dot.
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    runs_on_windows: bool,
}

/// The programs that are released.
pub(super) static PROGRAMS: [Program; 2] = [
    Program {
        name: "integration-relay",
        part: "relay",
        summary: "Server that bridges inside company networks dial to",
        description: "Callers send requests to the relay. It passes them through the tunnel of a bridge \
                      to systems inside a company's network, and needs no way into that network.",
        runs_on_windows: false,
    },
    Program {
        name: "integration-bridge",
        part: "bridge",
        summary: "Makes approved requests inside a network for callers outside",
        description: "The bridge dials out to a relay and keeps one tunnel open. Through it, the relay \
                      passes requests to the systems that the administrator allows. No inbound port is \
                      needed.",
        runs_on_windows: true,
    },
];

/// A system and architecture that programs are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// Linux on x86_64, without a C library of the system
    #[value(name = "x86_64-unknown-linux-musl")]
    LinuxX86_64,
    /// Linux on aarch64, without a C library of the system
    #[value(name = "aarch64-unknown-linux-musl")]
    LinuxAarch64,
    /// Windows on x86_64, from Windows 7 and Server 2008 R2 on
    #[value(name = "x86_64-win7-windows-gnu")]
    WindowsX86_64,
}

impl Program {
    /// Returns the name of its config.
    pub(super) fn config(&self) -> String {
        format!("{}.toml", self.part)
    }
}

impl Target {
    /// Every target, in the order of the artefacts.
    pub(super) const ALL: [Self; 3] = [Self::LinuxX86_64, Self::LinuxAarch64, Self::WindowsX86_64];

    /// Returns the compiler's name of the target.
    pub(crate) fn triple(self) -> &'static str {
        match self {
            Self::LinuxX86_64 => "x86_64-unknown-linux-musl",
            Self::LinuxAarch64 => "aarch64-unknown-linux-musl",
            Self::WindowsX86_64 => "x86_64-win7-windows-gnu",
        }
    }

    /// Returns the part of an archive's name that says for which machines it is.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::LinuxX86_64 => "linux-x86_64",
            Self::LinuxAarch64 => "linux-aarch64",
            Self::WindowsX86_64 => "windows-x86_64",
        }
    }

    /// Returns the architecture's name in `.rpm`, and in names of GNU tools.
    pub(super) fn machine(self) -> &'static str {
        match self {
            Self::LinuxX86_64 | Self::WindowsX86_64 => "x86_64",
            Self::LinuxAarch64 => "aarch64",
        }
    }

    /// Returns the architecture's name on Debian and in container images.
    pub(super) fn debian_machine(self) -> &'static str {
        match self {
            Self::LinuxX86_64 | Self::WindowsX86_64 => "amd64",
            Self::LinuxAarch64 => "arm64",
        }
    }

    /// Returns the C compiler, which is also the linker.
    pub(super) fn c_compiler(self) -> &'static str {
        match self {
            Self::LinuxX86_64 => "x86_64-linux-gnu-gcc",
            Self::LinuxAarch64 => "aarch64-linux-gnu-gcc",
            Self::WindowsX86_64 => "x86_64-w64-mingw32-gcc",
        }
    }

    /// Returns the Debian package with the C compiler and its tools.
    pub(super) fn c_compiler_package(self) -> &'static str {
        match self {
            Self::WindowsX86_64 => "gcc-mingw-w64-x86-64-posix",
            Self::LinuxX86_64 | Self::LinuxAarch64 if env::consts::ARCH == self.machine() => "gcc",
            Self::LinuxX86_64 => "gcc-x86-64-linux-gnu",
            Self::LinuxAarch64 => "gcc-aarch64-linux-gnu",
        }
    }

    /// Returns whether it is Windows.
    pub(super) fn is_windows(self) -> bool {
        match self {
            Self::LinuxX86_64 | Self::LinuxAarch64 => false,
            Self::WindowsX86_64 => true,
        }
    }

    /// Returns whether its programs run on this machine.
    pub(super) fn runs_here(self) -> bool {
        let system = match self.is_windows() {
            true => "windows",
            false => "linux",
        };
        env::consts::OS == system && env::consts::ARCH == self.machine()
    }

    /// Returns the programs that are released for it.
    pub(super) fn programs(self) -> impl Iterator<Item = &'static Program> {
        let is_windows = self.is_windows();
        PROGRAMS
            .iter()
            .filter(move |program| !is_windows || program.runs_on_windows)
    }

    /// Returns the name of a program's file.
    pub(super) fn file_name(self, program: &Program) -> String {
        match self.is_windows() {
            true => format!("{}.exe", program.name),
            false => program.name.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_named_as_the_compiler_names_it() {
        for target in Target::ALL {
            let value = target.to_possible_value().unwrap();
            assert_eq!(value.get_name(), target.triple());
        }
    }

    #[test]
    fn windows_gets_the_bridge_alone() {
        let names: Vec<_> = Target::WindowsX86_64.programs().map(|it| it.name).collect();
        assert_eq!(names, ["integration-bridge"]);
        assert_eq!(Target::LinuxAarch64.programs().count(), PROGRAMS.len());
    }
}
