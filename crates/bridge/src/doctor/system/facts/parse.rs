//! The texts in which a Unix kernel reports its facts.

use super::{Kernel, MemoryLimit};

/// A limit above this is none: version 1 of control groups writes the largest number of pages.
const LIMIT_MAX_BYTES: u64 = 1 << 60;

/// Returns the bytes of a line of `/proc/meminfo`, which has them in units of 1024.
pub(super) fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Returns `PRETTY_NAME` of an `os-release` file.
pub(super) fn os_release(text: &str) -> Option<String> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    let name = value.trim().trim_matches(['"', '\'']);
    (!name.is_empty()).then(|| name.to_owned())
}

/// Returns the version in `/proc/sys/kernel/osrelease`.
pub(super) fn kernel(text: &str) -> Option<Kernel> {
    let text = text.trim();
    let mut numbers = text.split(|char: char| !char.is_ascii_digit());
    let mut next = || -> Option<u32> { numbers.next()?.parse().ok() };
    let version = (next()?, next()?);
    Some(Kernel {
        text: text.to_owned(),
        version,
    })
}

/// Returns the smallest limit of the groups that a process is in, by its `/proc/self/cgroup`. `read` returns the text
/// of a file below `/sys/fs/cgroup`. `None` if no file has a limit, not even that there is none.
pub(super) fn memory_limit(
    groups: &str,
    read: impl Fn(&str) -> Option<String>,
) -> Option<MemoryLimit> {
    let mut found = None;
    for line in groups.lines() {
        // `0::/path` in version 2, `4:memory:/path` in version 1.
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (root, file) = match controllers {
            "" => ("", "memory.max"),
            list if list.split(',').any(|one| one == "memory") => {
                ("memory/", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // A group has at most the memory of the groups above it. Inside a container the path may be that of the host,
        // which does not exist here: the container's own limit is then at the root.
        let mut path = path.trim_matches('/');
        loop {
            let name = match path {
                "" => format!("{root}{file}"),
                path => format!("{root}{path}/{file}"),
            };
            if let Some(limit) = read(&name).and_then(|text| limit(&text)) {
                found = Some(match (found, limit) {
                    (Some(MemoryLimit::AtMost(a)), MemoryLimit::AtMost(b)) => {
                        MemoryLimit::AtMost(a.min(b))
                    }
                    (Some(smaller @ MemoryLimit::AtMost(_)), MemoryLimit::Any) => smaller,
                    (Some(MemoryLimit::Any) | None, limit) => limit,
                });
            }
            if path.is_empty() {
                break;
            }
            path = path.rsplit_once('/').map_or("", |(above, _)| above);
        }
    }
    found
}

fn limit(text: &str) -> Option<MemoryLimit> {
    match text.trim() {
        "max" => Some(MemoryLimit::Any),
        number => match number.parse::<u64>().ok()? {
            LIMIT_MAX_BYTES.. => Some(MemoryLimit::Any),
            bytes => Some(MemoryLimit::AtMost(bytes)),
        },
    }
}

/// Returns the program that a command line starts, if it is one of those that should not run next to a bridge.
pub(super) fn neighbour(line: &str) -> Option<&'static str> {
    let line = line.to_ascii_lowercase();
    // Both are Java programs. Without this a text editor with a file of that name would match.
    let is_java = line.contains("java") || line.contains("wrapper");
    if !is_java {
        return None;
    }
    if line.contains("octane") {
        return Some("Octane");
    }
    let alm = ["qcbin", "/alm/", "\\alm\\", "hpalm", "almserver"];
    alm.iter().any(|part| line.contains(part)).then_some("ALM")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads from a list of files and their texts.
    fn among<'a>(files: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| {
            let found = files.iter().find(|(file, _)| *file == name);
            found.map(|(_, text)| (*text).to_owned())
        }
    }

    #[test]
    fn memory_is_in_bytes() {
        let text = "MemTotal:        3991216 kB\nMemFree:   10 kB\nMemAvailable:    2000000 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(3_991_216 * 1024));
        assert_eq!(meminfo(text, "MemAvailable"), Some(2_000_000 * 1024));
        // Kernels before 3.14 have no such line.
        assert_eq!(meminfo("MemTotal: 1 kB\n", "MemAvailable"), None);
        assert_eq!(meminfo("MemAvailable: much kB\n", "MemAvailable"), None);
    }

    #[test]
    fn system_has_the_name_that_it_shows() {
        let debian = "NAME=\"Debian GNU/Linux\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(
            os_release(debian).unwrap(),
            "Debian GNU/Linux 12 (bookworm)"
        );
        assert_eq!(
            os_release("PRETTY_NAME=Alpine\n").unwrap(),
            "Alpine".to_owned()
        );
        assert_eq!(os_release("PRETTY_NAME=\"\"\n"), None);
        assert_eq!(os_release("ID=x\n"), None);
    }

    #[test]
    fn kernel_has_two_numbers() {
        for (text, version) in [
            ("6.1.0-18-amd64\n", (6, 1)),
            ("3.10.0-1160.el7.x86_64\n", (3, 10)),
            ("2.6.32-754.el6.x86_64\n", (2, 6)),
        ] {
            assert_eq!(kernel(text).unwrap().version, version, "{text}");
        }
        assert_eq!(kernel("unknown"), None);
    }

    #[test]
    fn limit_of_version_2_is_the_smallest_above() {
        let groups = "0::/system.slice/integration-bridge.service\n";
        let files = [
            (
                "system.slice/integration-bridge.service/memory.max",
                "max\n",
            ),
            ("system.slice/memory.max", "536870912\n"),
        ];
        assert_eq!(
            memory_limit(groups, among(&files)),
            Some(MemoryLimit::AtMost(512 << 20))
        );
        let free = [("system.slice/memory.max", "max\n")];
        assert_eq!(memory_limit(groups, among(&free)), Some(MemoryLimit::Any));
        assert_eq!(memory_limit(groups, among(&[])), None);
    }

    #[test]
    fn limit_of_a_container_is_at_the_root() {
        let own = [("memory.max", "268435456\n")];
        assert_eq!(
            memory_limit("0::/\n", among(&own)),
            Some(MemoryLimit::AtMost(256 << 20))
        );
        let groups = "12:pids:/docker/ab\n4:cpu,memory:/docker/ab\n0::/docker/ab\n";
        let own = [("memory/memory.limit_in_bytes", "134217728\n")];
        assert_eq!(
            memory_limit(groups, among(&own)),
            Some(MemoryLimit::AtMost(128 << 20))
        );
    }

    #[test]
    fn largest_number_of_version_1_is_no_limit() {
        let groups = "4:memory:/a\n";
        let files = [("memory/a/memory.limit_in_bytes", "9223372036854771712\n")];
        assert_eq!(memory_limit(groups, among(&files)), Some(MemoryLimit::Any));
        let odd = [("memory/a/memory.limit_in_bytes", "-1\n")];
        assert_eq!(memory_limit(groups, among(&odd)), None);
        assert_eq!(memory_limit("nonsense\n::\n", among(&files)), None);
    }

    #[test]
    fn neighbour_is_detected_by_command_line() {
        let alm = "/opt/jre/bin/java\0-Dserver=/var/opt/ALM/webapps/qcbin\0";
        assert_eq!(neighbour(alm), Some("ALM"));
        assert_eq!(
            neighbour("wrapper\0/opt/octane/wrapper.conf"),
            Some("Octane")
        );
        assert_eq!(neighbour("vim\0octane-notes.txt"), None);
        assert_eq!(neighbour("java\0-jar\0app.jar"), None);
    }
}
