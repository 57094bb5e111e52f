//! `cargo xtask dist`: all artefacts of one version, in `target/dist`.
//!
//! ```text
//! toolchain --> program (load_profile, compiler) --> TRIPLE/PROGRAM --> bundle: .tar.gz, .zip
//!                                                        |              deb, rpm, msi, oci
//! crates, native --> sbom, notices ----------------------/              chart (no program)
//!                                                                       sums, provenance
//! ```
//!
//! Every artefact is made from the sources, the compiler and tools of the system alone, so two builds of one commit should give
//! the same bytes, wherever the repository is. `cargo xtask dist check` compares them, and examines what was made.

mod archive;
mod bundle;
mod chart;
mod check;
mod compiler;
mod crates;
mod deb;
mod debian;
mod dockerfile;
mod documents;
mod imports;
mod load_profile;
mod msi;
mod native;
mod notices;
mod oci;
mod package;
mod program;
mod provenance;
mod release;
mod rpm;
mod sbom;
mod sums;
mod target;
mod toolchain;
mod tree;

pub(crate) use compiler::run as run_as_compiler;
pub(crate) use debian::source as debian_source;
pub(crate) use imports::check as check_imports;
pub(crate) use load_profile::profile;
pub(crate) use target::Target;

use crate::step::{Failed, Step};
use clap::ValueEnum;
use crates::Crates;
use documents::Documents;
use program::Built;
use release::Release;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use target::{PROGRAMS, Program};
use toolchain::Toolchain;

/// What to make.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Makes the artefacts twice, in two directories, compares them and examines the programs
    Check(Selection),
}

/// Which artefacts.
#[derive(Debug, clap::Args)]
pub(crate) struct Selection {
    /// Make only these kinds; `host` alone takes the least time
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Kind>,
    /// Make them only for these targets
    #[arg(long, value_enum, value_delimiter = ',')]
    target: Vec<Target>,
    /// Compile with another profile of Cargo.toml and without the load profile, for tests of packages: `dev` takes the least
    /// time
    #[arg(long, value_name = "NAME", default_value = program::CARGO_PROFILE)]
    cargo_profile: String,
    /// Package programs that exist, as DIR/TRIPLE/PROGRAM, instead of compiling them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// A kind of artefact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Programs for this machine, with its C library
    Host,
    /// Static programs, and those for Windows
    Programs,
    /// Archives for Linux, with install.sh
    Tar,
    /// Packages for Debian and its relatives
    Deb,
    /// Packages for Red Hat, SUSE and their relatives
    Rpm,
    /// Archives for Windows, with install.ps1
    Zip,
    /// Packages of Windows Installer
    Msi,
    /// Container images
    Oci,
    /// Helm charts
    Chart,
    /// Lists of what the programs are made of
    Sbom,
}

/// One program for one target, with all that an archive of it needs.
#[derive(Debug)]
struct Item<'a> {
    program: &'static Program,
    target: Target,
    /// Its file.
    built: &'a Path,
    documents: &'a Documents,
    notices: &'a str,
    release: &'a Release,
}

/// Makes the artefacts.
pub(crate) fn dist(args: &Args) -> Result<(), Failed> {
    match &args.command {
        Some(Command::Check(selection)) => check::run(selection),
        None => make(&args.selection),
    }
}

/// Returns the directory of the programs of a target in `target/dist`. They are built if they are missing.
pub(crate) fn released_programs(target: Target) -> Result<PathBuf, Failed> {
    let directory = release::directory().join(target.triple());
    let is_there = |program: &Program| directory.join(target.file_name(program)).exists();
    if !target.programs().all(is_there) {
        let built = program::build(target, program::CARGO_PROFILE, &Toolchain::default())?;
        collect(target, &built.directory)?;
    }
    Ok(directory)
}

/// Compiles the bridge for Windows with a profile of Cargo.toml. Returns its file.
pub(crate) fn windows_program(profile: &str) -> Result<PathBuf, Failed> {
    let target = Target::WindowsX86_64;
    let built = program::build(target, profile, &Toolchain::default())?;
    let program = target
        .programs()
        .next()
        .ok_or_else(|| Failed::new(format!("no program for {}", target.triple())))?;
    Ok(built.directory.join(target.file_name(program)))
}

fn make(selection: &Selection) -> Result<(), Failed> {
    let release = Release::here()?;
    let toolchain = Toolchain::default();
    let directory = release::directory();
    fs::create_dir_all(&directory).map_err(|error| cannot("create", &directory, &error))?;
    if selection.only.is_empty() {
        // Files of another version.
        for name in sums::artefacts()? {
            remove(&directory.join(name))?;
        }
    }
    if selection.has(Kind::Host) && selection.programs.is_none() && selection.target.is_empty() {
        host(&toolchain)?;
    }
    let mut built = Vec::new();
    for target in selection.targets() {
        built.push((target, programs(selection, target, &toolchain)?));
    }
    if selection.needs_documents() {
        let documents = documents(selection, &built, &toolchain)?;
        for (target, built) in &built {
            archives(selection, *target, built, &documents, &release)?;
        }
    }
    if selection.has(Kind::Chart) {
        for program in &PROGRAMS {
            let to = directory.join(chart::file_name(program, &release));
            chart::make(program, &release, &to)?;
        }
    }
    let only_programs = selection.only.iter().all(|kind| !kind.is_archive());
    if only_programs && !selection.only.is_empty() {
        return Ok(());
    }
    provenance::write(&release, &built)?;
    sums::write()?;
    for name in sums::artefacts()? {
        show(&directory.join(name));
    }
    Ok(())
}

/// Builds the programs for this machine, with its C library.
fn host(toolchain: &Toolchain) -> Result<(), Failed> {
    let built = program::build_for_host(toolchain)?;
    for program in &PROGRAMS {
        let name = Path::new(program.name).with_extension(env::consts::EXE_EXTENSION);
        let to = release::directory().join(&name);
        replace(&built.join(&name), &to)?;
        show(&to);
    }
    Ok(())
}

/// Compiles the programs of a target or takes those that exist, and puts them into a directory of the target.
fn programs(selection: &Selection, target: Target, toolchain: &Toolchain) -> Result<Built, Failed> {
    let mut built = match &selection.programs {
        Some(given) => Built {
            directory: given.join(target.triple()),
            command: None,
            library: None,
            gcc: None,
            musl: None,
        },
        None => program::build(target, &selection.cargo_profile, toolchain)?,
    };
    built.directory = collect(target, &built.directory)?;
    Ok(built)
}

/// Copies the programs of a target into their directory in `target/dist`, and returns it.
fn collect(target: Target, from: &Path) -> Result<PathBuf, Failed> {
    let directory = release::directory().join(target.triple());
    fs::create_dir_all(&directory).map_err(|error| cannot("create", &directory, &error))?;
    for program in target.programs() {
        let name = target.file_name(program);
        let to = directory.join(&name);
        replace(&from.join(&name), &to)?;
        show(&to);
    }
    Ok(directory)
}

/// Lets the programs write their documents: those that run here, which are compiled if they are not among the targets.
fn documents(
    selection: &Selection,
    built: &[(Target, Built)],
    toolchain: &Toolchain,
) -> Result<Vec<(&'static Program, Documents)>, Failed> {
    let runs_here = built.iter().find(|(target, _)| target.runs_here());
    let directory = match runs_here {
        Some((_, built)) => built.directory.clone(),
        None => {
            let here = Target::ALL.into_iter().find(|target| target.runs_here());
            let here = here.ok_or_else(|| Failed::new("no program runs on this machine"))?;
            programs(selection, here, toolchain)?.directory
        }
    };
    let mut written = Vec::new();
    for program in &PROGRAMS {
        let documents = Documents::new(program, &directory.join(program.name))?;
        written.push((program, documents));
    }
    Ok(written)
}

/// Makes the archives of a target's programs.
fn archives(
    selection: &Selection,
    target: Target,
    built: &Built,
    documents: &[(&'static Program, Documents)],
    release: &Release,
) -> Result<(), Failed> {
    let crates = Crates::of_target(target)?;
    for program in target.programs() {
        let of_program = documents
            .iter()
            .find(|(known, _)| known.name == program.name);
        let (_, documents) = of_program.expect("there are documents for each program");
        let native = native::parts(&crates.linked(program), built)?;
        let notices = notices::text(program, &crates, &native)?;
        let item = Item {
            program,
            target,
            built: &built.directory.join(target.file_name(program)),
            documents,
            notices: &notices,
            release,
        };
        let to = |name: String| release::directory().join(name);
        if selection.has(Kind::Sbom) {
            sbom::make(&item, &crates, &native, &to(sbom::file_name(&item)))?;
        }
        if target.is_windows() {
            if selection.has(Kind::Zip) {
                bundle::make(&item, &to(bundle::file_name(&item)))?;
            }
            if selection.has(Kind::Msi) {
                msi::make(&item, &to(msi::file_name(&item)))?;
            }
            continue;
        }
        if selection.has(Kind::Tar) {
            bundle::make(&item, &to(bundle::file_name(&item)))?;
        }
        if selection.has(Kind::Deb) {
            deb::make(&item, &to(deb::file_name(&item)))?;
        }
        if selection.has(Kind::Rpm) {
            rpm::make(&item, &to(rpm::file_name(&item)))?;
        }
        if selection.has(Kind::Oci) {
            oci::make(&item, &to(oci::file_name(&item)))?;
        }
    }
    Ok(())
}

impl Selection {
    fn has(&self, kind: Kind) -> bool {
        self.only.is_empty() || self.only.contains(&kind)
    }

    /// Returns the targets whose programs are needed.
    fn targets(&self) -> Vec<Target> {
        let is_needed = |target: &Target| {
            let own: &[Kind] = match target.is_windows() {
                true => &[Kind::Zip, Kind::Msi],
                false => &[Kind::Tar, Kind::Deb, Kind::Rpm, Kind::Oci],
            };
            let common = [Kind::Programs, Kind::Sbom];
            let is_chosen = self.target.is_empty() || self.target.contains(target);
            let is_given = match &self.programs {
                Some(given) if self.target.is_empty() => given.join(target.triple()).exists(),
                Some(_) | None => true,
            };
            is_chosen && is_given && own.iter().chain(&common).any(|kind| self.has(*kind))
        };
        Target::ALL.into_iter().filter(is_needed).collect()
    }

    /// Returns the options that select the same.
    fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        for kind in &self.only {
            arguments.extend(["--only".to_owned(), value_name(kind)]);
        }
        for target in &self.target {
            arguments.extend(["--target".to_owned(), value_name(target)]);
        }
        arguments.extend(["--cargo-profile".to_owned(), self.cargo_profile.clone()]);
        if let Some(given) = &self.programs {
            // The directory from which it runs is another one.
            let given = std::path::absolute(given).unwrap_or_else(|_| given.clone());
            arguments.extend([
                "--programs".to_owned(),
                given.to_string_lossy().into_owned(),
            ]);
        }
        arguments
    }

    fn needs_documents(&self) -> bool {
        let kinds = [
            Kind::Tar,
            Kind::Deb,
            Kind::Rpm,
            Kind::Zip,
            Kind::Msi,
            Kind::Oci,
            Kind::Sbom,
        ];
        kinds.iter().any(|kind| self.has(*kind))
    }
}

impl Kind {
    /// Returns whether it is a file for publication, and not a program alone.
    fn is_archive(self) -> bool {
        match self {
            Self::Host | Self::Programs => false,
            Self::Tar
            | Self::Deb
            | Self::Rpm
            | Self::Zip
            | Self::Msi
            | Self::Oci
            | Self::Chart
            | Self::Sbom => true,
        }
    }
}

impl Item<'_> {
    /// Returns a name for directories that it is made in.
    fn name(&self) -> String {
        format!("{}-{}", self.program.part, self.target.label())
    }
}

/// Returns the name of a value on the command line.
fn value_name(value: &impl ValueEnum) -> String {
    let known = value.to_possible_value();
    known.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Copies a program. The old file may be running.
fn replace(from: &Path, to: &Path) -> Result<(), Failed> {
    let _ = fs::remove_file(to);
    fs::copy(from, to).map_err(|error| cannot("copy", from, &error))?;
    Ok(())
}

fn remove(path: &Path) -> Result<(), Failed> {
    fs::remove_file(path).map_err(|error| cannot("remove", path, &error))
}

fn show(path: &Path) {
    let bytes = fs::metadata(path).map_or(0, |file| file.len());
    println!("   {} ({:.1} MiB)", path.display(), mib(bytes));
}

/// Returns the rest of the line of `rustc -vV` that begins so.
fn rustc_says(start: &str) -> Result<String, Failed> {
    let said = Step::program("rustc").args(["-vV"]).output()?;
    let found = said.lines().find_map(|line| line.strip_prefix(start));
    found
        .map(str::to_owned)
        .ok_or_else(|| Failed::new(format!("`rustc -vV` has no line `{start}`")))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failed {
    Failed::new(format!("cannot {what} {}: {error}", path.display()))
}
