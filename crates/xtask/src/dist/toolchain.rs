//! What a target needs in addition to the compiler: the standard library's sources, a C compiler and a C library.
//!
//! ```text
//! rust-src of exactly `rustc --version` --> cargo -Zbuild-std          (no prebuilt standard library for these targets)
//! musl-dev of a newer Debian            --> static programs for Linux  (both architectures have the same version)
//! ```
//!
//! Everything is unpacked into the build's output. Only C compilers are installed.

use super::debian::Debian;
use super::target::Target;
use super::{cannot, rustc_says, tree};
use crate::step::{Failed, Step, profile_dir};
use crate::tool;
use std::cell::OnceCell;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

/// Where cargo looks for the sources, from the compiler's directory.
const LIBRARY: &str = "lib/rustlib/src/rust/library";

/// The only C function that gcc's unwinder needs and musl lacks.
const UNWIND_SOURCE: &str = include_str!("unwind.c");

/// Tools and libraries, which are fetched when a target first needs them.
#[derive(Debug, Default)]
pub(super) struct Toolchain {
    debian: OnceCell<Debian>,
}

/// A compiler with the sources of its standard library.
#[derive(Debug)]
pub(super) struct Rust {
    pub(super) compiler: PathBuf,
    /// The directory of the sources.
    pub(super) library: PathBuf,
    /// Who packed them: Debian's have changes of its own.
    pub(super) origin: String,
}

/// What a program for Linux is linked with.
#[derive(Debug)]
pub(super) struct Musl {
    /// Options of gcc for this C library.
    pub(super) specs: PathBuf,
    /// The directory of `libunwind.a`, which the standard library asks for.
    pub(super) unwinder: PathBuf,
    /// The version of its package.
    pub(super) version: String,
}

impl Toolchain {
    /// Returns the compiler and the standard library's sources. They are below the compiler's directory, where cargo looks
    /// for them: names of functions depend on the path from there.
    pub(super) fn rust(&self) -> Result<Rust, Failed> {
        let sysroot = Step::program("rustc")
            .args(["--print", "sysroot"])
            .output()?;
        let sysroot = Path::new(sysroot.trim());
        let version = rustc_says("release: ")?;
        if sysroot.join(LIBRARY).exists() {
            return Ok(Rust {
                compiler: sysroot.join("bin/rustc"),
                library: sysroot.join(LIBRARY),
                origin: format!("rust-src {version} of the toolchain"),
            });
        }
        let copy = directory().join(format!("rust-{version}"));
        let origin_file = copy.join("rust-src.version");
        if !origin_file.exists() {
            let package = self.make_copy(sysroot, &version, &copy)?;
            fs::write(&origin_file, package)
                .map_err(|error| cannot("write", &origin_file, &error))?;
        }
        Ok(Rust {
            compiler: copy.join("bin/rustc"),
            library: copy.join(LIBRARY),
            origin: format!("rust-src {} of Debian", tree::read_text(&origin_file)?),
        })
    }

    /// Copies the compiler and adds the sources that belong to it. Returns the version of their package.
    fn make_copy(&self, sysroot: &Path, version: &str, copy: &Path) -> Result<String, Failed> {
        let how = format!(
            "the sources of the standard library are missing: `rustup component add rust-src`, or a Debian that \
             has rust-src {version}"
        );
        let debian = self
            .debian()
            .map_err(|failed| Failed::new(format!("{how} ({failed})")))?;
        // Other sources do not fit the compiler.
        let Some(package) = debian.version("rust-src", &format!("{version}+"))? else {
            return Err(Failed::new(how));
        };
        let unpacked = directory().join("rust-src");
        let _ = fs::remove_dir_all(&unpacked);
        debian.unpack("rust-src", &package, &unpacked)?;
        let _ = fs::remove_dir_all(copy);
        let host = rustc_says("host: ")?;
        for part in ["bin", "lib/rustlib/src/rust"] {
            let path = copy.join(part);
            fs::create_dir_all(&path).map_err(|error| cannot("create", &path, &error))?;
        }
        let parts = [
            (sysroot.join("bin/rustc"), copy.join("bin")),
            (
                sysroot.join("lib/rustlib").join(host),
                copy.join("lib/rustlib"),
            ),
            (
                unpacked.join(format!("usr/src/rustc-{version}/library")),
                copy.join("lib/rustlib/src/rust"),
            ),
        ];
        for (from, to) in parts {
            copy_tree(&from, &to)?;
        }
        for library in tree::names_in(&sysroot.join("lib"))? {
            if library.contains(".so") {
                copy_tree(&sysroot.join("lib").join(library), &copy.join("lib"))?;
            }
        }
        let _ = fs::remove_dir_all(&unpacked);
        Ok(package)
    }

    /// Makes the library that counts branches, for the profile: the part in C of the one that comes with the compiler.
    pub(super) fn profiler(&self) -> Result<PathBuf, Failed> {
        let rust = self.rust()?;
        let host = rustc_says("host: ")?;
        let sysroot = rust.compiler.ancestors().nth(2).unwrap_or(Path::new(""));
        let libraries = sysroot.join("lib/rustlib").join(host).join("lib");
        let name = tree::names_in(&libraries)?
            .into_iter()
            .find(|name| name.starts_with("libprofiler_builtins-") && name.ends_with(".rlib"))
            .ok_or_else(|| Failed::new("the compiler has no profiler_builtins"))?;
        fs::create_dir_all(directory()).map_err(|error| cannot("create", &directory(), &error))?;
        let library = directory().join("libprofiler.a");
        let from = libraries.join(name);
        fs::copy(&from, &library).map_err(|error| cannot("copy", &from, &error))?;
        let members = Step::program("ar").args(["t"]).args([&library]).output()?;
        let in_rust = members
            .lines()
            .filter(|name| name.ends_with(".rmeta") || name.ends_with(".rcgu.o"));
        Step::program("ar")
            .args(["d"])
            .args([&library])
            .args(in_rust)
            .run()?;
        Ok(library)
    }

    /// Installs the C compiler of a target if it is missing.
    pub(super) fn c_compiler(&self, target: Target) -> Result<&'static str, Failed> {
        let compiler = target.c_compiler();
        if !tool::is_installed(compiler) {
            tool::install_packages(&[target.c_compiler_package()])?;
        }
        Ok(compiler)
    }

    /// Returns the C library of a Linux target.
    pub(super) fn musl(&self, target: Target) -> Result<Musl, Failed> {
        let compiler = self.c_compiler(target)?;
        let directory = directory().join(target.triple());
        let unpacked = directory.join("musl-dev");
        let version_file = directory.join("musl-dev.version");
        if !unpacked.exists() {
            fs::create_dir_all(&directory).map_err(|error| cannot("create", &directory, &error))?;
            let debian = self.debian()?;
            let Some(version) = debian.version("musl-dev", "")? else {
                return Err(Failed::new("Debian has no musl-dev"));
            };
            fs::write(&version_file, &version)
                .map_err(|error| cannot("write", &version_file, &error))?;
            let package = format!("musl-dev:{}", target.debian_machine());
            debian.unpack(&package, &version, &unpacked)?;
        }
        let version = tree::read_text(&version_file)?;
        let text = gcc_specs(&unpacked, target.machine());
        // Named by its content: cargo links again when the name is another one, and does not read the files.
        let directory = directory.join(name_for(&format!("{text}{UNWIND_SOURCE}")));
        fs::create_dir_all(&directory).map_err(|error| cannot("create", &directory, &error))?;
        let specs = directory.join("static-pie.specs");
        fs::write(&specs, text).map_err(|error| cannot("write", &specs, &error))?;
        let unwinder = directory.join("unwinder");
        make_unwinder(compiler, &specs, &unwinder)?;
        Ok(Musl {
            specs,
            unwinder,
            version,
        })
    }

    fn debian(&self) -> Result<&Debian, Failed> {
        if let Some(debian) = self.debian.get() {
            return Ok(debian);
        }
        let debian = Debian::open(&directory().join("apt"))?;
        Ok(self.debian.get_or_init(|| debian))
    }
}

/// Returns a name that is the same for the same content.
fn name_for(content: &str) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Returns the directory of everything that is fetched. It stays when the build's output is made again.
pub(super) fn directory() -> PathBuf {
    profile_dir("dist-toolchain")
}

/// Copies a file or directory into a directory, without using space where the file system can link files.
fn copy_tree(from: &Path, to: &Path) -> Result<(), Failed> {
    let copy = |option: &str| {
        Step::program("cp")
            .args(["--archive", option])
            .args([from, to])
    };
    if copy("--link").succeeds() {
        return Ok(());
    }
    copy("--force").run()
}

/// Makes `libunwind.a` from gcc's unwinder: musl has none, and the standard library asks for one of this name.
fn make_unwinder(compiler: &str, specs: &Path, directory: &Path) -> Result<(), Failed> {
    fs::create_dir_all(directory).map_err(|error| cannot("create", directory, &error))?;
    let gcc_unwinder = Step::program(compiler)
        .args(["-print-file-name=libgcc_eh.a"])
        .output()?;
    let library = directory.join("libunwind.a");
    fs::copy(gcc_unwinder.trim(), &library)
        .map_err(|error| cannot("copy", Path::new(gcc_unwinder.trim()), &error))?;
    fs::write(directory.join("unwind.c"), UNWIND_SOURCE)
        .map_err(|error| cannot("write", directory, &error))?;
    Step::program(compiler)
        .args(["-specs", &specs.to_string_lossy()])
        .args([
            "-O2", "-fPIC", "-Wall", "-Werror", "-c", "unwind.c", "-o", "unwind.o",
        ])
        .directory(directory)
        .run()?;
    let archiver = compiler.replace("-gcc", "-ar");
    Step::program(&archiver)
        .args(["rDs", "libunwind.a", "unwind.o"])
        .directory(directory)
        .run()
}

/// Returns the options by which gcc links with musl instead of its own C library. Debian's `musl-gcc` has the like, but
/// it makes a dynamic program where a static one at any address (static PIE) was asked for. Functions that C code of the crates
/// takes from the compiler are in `libgcc.a`, which the standard library does not ask for.
fn gcc_specs(musl: &Path, machine: &str) -> String {
    let headers = musl.join(format!("usr/include/{machine}-linux-musl"));
    let objects = musl.join(format!("usr/lib/{machine}-linux-musl"));
    let (headers, objects) = (headers.display(), objects.display());
    format!(
        "%rename cpp_options old_cpp_options\n\n\
         *cpp_options:\n-nostdinc -isystem {headers} -isystem include%s %(old_cpp_options)\n\n\
         *cc1:\n%(cc1_cpu) -nostdinc -isystem {headers} -isystem include%s\n\n\
         *link_libgcc:\n-L{objects} -L .%s\n\n\
         *libgcc:\nlibgcc.a%s %:if-exists(libgcc_eh.a%s)\n\n\
         *startfile:\n{objects}/rcrt1.o {objects}/crti.o crtbeginS.o%s\n\n\
         *endfile:\nlibgcc.a%s crtendS.o%s {objects}/crtn.o\n\n\
         *link:\n-static -pie --no-dynamic-linker -z text --eh-frame-hdr -nostdlib\n\n\
         *esp_link:\n\n\n*esp_options:\n\n\n*esp_cpp_options:\n\n\n"
    )
}
