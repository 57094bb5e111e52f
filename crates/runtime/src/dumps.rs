//! Keeps the memory of a process, which holds keys and passwords, out of core dumps.
//!
//! Two settings, because each leaves a gap: a handler that the kernel pipes dumps to ignores the limit of their size, and
//! a program that is started by this one keeps only the limit.

/// Turns core dumps of this process off. Other processes of the same user can then neither trace it nor read its memory
/// and environment; root still can, with a debugger for example. No config key changes this: root can debug the process in any case.
///
/// Systems without these settings keep their own.
pub fn disable() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        // A lower limit is always allowed. A sandbox may forbid the call; the program works without it.
        let _ = setrlimit(Resource::Core, none);
    }
    #[cfg(windows)]
    bridge_windows::system::without_crash_reports();
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::process::{DumpableBehavior, dumpable_behavior};

    #[test]
    fn process_leaves_no_core_dump() {
        super::disable();
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .unwrap();
        let words: Vec<_> = core.split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"], "{core}");
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
