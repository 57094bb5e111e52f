//! Man pages and shell completions, made from the command line of a program.
//!
//! ```text
//! PROGRAM man --dir DIR          --> DIR/PROGRAM.1, and a page for each command: DIR/PROGRAM-COMMAND.1
//! PROGRAM completions bash|zsh|fish|powershell --> a script on standard output
//! ```
//!
//! Both are commands of the programs, so that each package has those of its version. Hidden commands and options have no
//! page. The bytes depend on the command line alone: two builds of one version give the same.

#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a test fails by panicking")
)]

use clap::{Args, Command, ValueEnum};
use clap_complete::aot;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The name of the whole manual, in the head of each page.
const MANUAL: &str = "Integration Bridge";

/// The section of the manual that a page belongs to: commands.
const SECTION: &str = "1";

/// The arguments of `man`.
#[derive(Debug, Args)]
pub struct PagesArgs {
    /// The directory that the pages are written to. It is created if it is missing.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// The arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// A shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
    /// PowerShell.
    #[value(name = "powershell")]
    PowerShell,
}

/// Writes a page for the program, and one for each of its commands. Returns their files.
///
/// # Errors
/// The directory or a file cannot be written.
pub fn write_pages(program: Command, dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(dir)?;
    // Each command has `--help`; pages about `help` would only repeat that.
    let mut program = program.disable_help_subcommand(true);
    // Gives each command the name of its page, and the options that it inherits.
    program.build();
    let version = program.get_version().unwrap_or_default();
    let source = format!("{} {version}", program.get_name());
    let mut files = Vec::new();
    write_with_commands(&program, &source, dir, &mut files)?;
    Ok(files)
}

fn write_with_commands(
    command: &Command,
    source: &str,
    dir: &Path,
    files: &mut Vec<PathBuf>,
) -> io::Result<()> {
    let man = Man::new(command.clone())
        .section(SECTION)
        .source(source)
        .manual(MANUAL);
    let file = dir.join(man.get_filename());
    fs::write(&file, page(command, &man)?)?;
    files.push(file);
    for command in command.get_subcommands() {
        if !command.is_hide_set() {
            write_with_commands(command, source, dir, files)?;
        }
    }
    Ok(())
}

/// Returns a page. The order is that of [`Man::render`]. Notes are written here, because that function joins their lines,
/// which are examples and tables.
fn page(command: &Command, man: &Man) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        man.render_options_section(&mut page)?;
    }
    if command
        .get_subcommands()
        .any(|command| !command.is_hide_set())
    {
        man.render_subcommands_section(&mut page)?;
    }
    let notes = command
        .get_after_long_help()
        .or_else(|| command.get_after_help());
    if let Some(notes) = notes {
        let mut roff = Roff::new();
        roff.control("SH", ["NOTES"]);
        roff.control("nf", []);
        for line in notes.to_string().lines() {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
        roff.to_writer(&mut page)?;
    }
    Ok(page)
}

/// Returns the script that completes the program's command line in a shell.
pub fn completions(mut program: Command, shell: Shell) -> String {
    let name = program.get_name().to_owned();
    let generator = match shell {
        Shell::Bash => aot::Shell::Bash,
        Shell::Zsh => aot::Shell::Zsh,
        Shell::Fish => aot::Shell::Fish,
        Shell::PowerShell => aot::Shell::PowerShell,
    };
    let mut script = Vec::new();
    aot::generate(generator, &mut program, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    fn program() -> Command {
        let install = Command::new("install")
            .about("Write the unit.")
            .after_help("Examples:\n  program service install\n.not a request")
            .arg(Arg::new("wait").long("wait").help("How long to wait."));
        let check = Command::new("check").hide(true).about("Not for people.");
        let service = Command::new("service").subcommands([install, check]);
        Command::new("program")
            .version("1.2.3")
            .about("Does something.")
            .subcommand(service)
    }

    fn names(files: &[PathBuf]) -> Vec<&str> {
        let names = files.iter().map(|file| file.file_name().unwrap());
        names.map(|name| name.to_str().unwrap()).collect()
    }

    #[test]
    fn page_is_written_for_each_visible_command() {
        let name = format!("bridge-manual-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let files = write_pages(program(), &dir).unwrap();
        assert_eq!(
            names(&files),
            [
                "program.1",
                "program-service.1",
                "program-service-install.1"
            ]
        );
        let install = fs::read_to_string(&files[2]).unwrap();
        for part in [
            "Write the unit.",
            "program 1.2.3",
            "\\-\\-wait",
            "How long to wait.",
            ".nf",
            "program service install",
        ] {
            assert!(install.contains(part), "{part} is not in\n{install}");
        }
        // A line of the text is no request of the language.
        assert!(!install.contains("\n.not"), "{install}");
        let service = fs::read_to_string(&files[1]).unwrap();
        assert!(!service.contains("check"), "{service}");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn script_of_each_shell_has_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell] {
            let script = completions(program(), shell);
            assert!(script.contains("service"), "{shell:?}: {script}");
            assert!(script.contains("install"), "{shell:?}: {script}");
            assert!(script.contains("wait"), "{shell:?}: {script}");
        }
    }
}
