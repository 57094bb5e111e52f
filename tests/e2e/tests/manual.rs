//! Man pages and shell completions of both programs, as the packages have them.

use std::process::{Command, Stdio};
use support::process::{command, finish};
use support::{TIMEOUT, TempDir};

/// Each program, with a command that has commands of its own, and one of those.
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("integration-bridge", "service", "install"),
    ("integration-relay", "tenant", "create"),
];

#[tokio::test]
async fn man_pages_describe_each_command() {
    for (program, group, leaf) in PROGRAMS {
        let dir = TempDir::new("man");
        let mut man = command(program);
        man.arg("man").arg("--dir").arg(dir.join("pages"));
        finish("man", man, TIMEOUT).await.success();
        let read = |name: String| std::fs::read_to_string(dir.join("pages").join(name)).unwrap();
        let whole = read(format!("{program}.1"));
        // A hyphen is escaped in this language.
        let page = format!("{program}-{group}(1)").replace('-', "\\-");
        assert!(whole.contains(&page), "{page} is not in\n{whole}");
        let own = read(format!("{program}-{group}-{leaf}.1"));
        for section in [".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS"] {
            assert!(own.contains(section), "{section} is not in\n{own}");
        }
        assert!(!dir.join(format!("pages/{program}-man.1")).exists());
    }
}

#[tokio::test]
async fn completions_are_accepted_by_their_shell() {
    for (program, group, leaf) in PROGRAMS {
        for shell in ["bash", "zsh", "fish", "powershell"] {
            let dir = TempDir::new("completions");
            let mut completions = command(program);
            completions.args(["completions", shell]);
            let script = finish("completions", completions, TIMEOUT).await.success();
            for word in [group, leaf, "config"] {
                assert!(script.contains(word), "{program} {shell}: {word}");
            }
            let file = dir.write("script", &script);
            let mut parse = Command::new(shell);
            parse.arg("-n").arg(&file).stdin(Stdio::null());
            // Only where the shell is installed; PowerShell cannot only parse.
            if shell != "powershell"
                && let Ok(output) = parse.output()
            {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{program} {shell}: {said}");
            }
        }
    }
}
