//! What processes and all their descendants have used: some systems start one for each connection.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// What `/proc` counts processor time in.
const TICK: Duration = Duration::from_millis(10);

/// Processor time by process, and the sum of their peaks of memory.
#[derive(Debug, Default)]
pub(super) struct Usage {
    ticks: HashMap<u32, u32>,
    pub(super) peak_kib: u64,
}

impl Usage {
    /// Of these processes and what they started.
    pub(super) fn of(roots: &[u32]) -> Self {
        let stats = stats();
        let mut usage = Self::default();
        let mut to_do = roots.to_vec();
        while let Some(pid) = to_do.pop() {
            let Some((_, ticks)) = stats.get(&pid) else {
                continue;
            };
            if usage.ticks.insert(pid, *ticks).is_none() {
                usage.peak_kib += peak_kib(pid);
                let children = stats.iter().filter(|(_, (parent, _))| *parent == pid);
                to_do.extend(children.map(|(child, _)| *child));
            }
        }
        usage
    }

    /// Of the processes that live now; those that began since have used all of theirs.
    pub(super) fn cpu_since(&self, before: &Self) -> Duration {
        let ticks = self.ticks.iter().map(|(pid, ticks)| {
            ticks.saturating_sub(before.ticks.get(pid).copied().unwrap_or_default())
        });
        TICK * ticks.sum()
    }
}

/// Parent and ticks in user and system mode of every process.
fn stats() -> HashMap<u32, (u32, u32)> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(process.path().join("stat")).ok()?;
            // The name, in parentheses, may hold anything.
            let (_, rest) = stat.rsplit_once(") ")?;
            let fields: Vec<&str> = rest.split_whitespace().collect();
            let number = |at: usize| fields.get(at)?.parse::<u32>().ok();
            Some((pid, (number(1)?, number(11)? + number(12)?)))
        })
        .collect()
}

fn peak_kib(pid: u32) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()
        .and_then(|status| {
            let peak = status
                .lines()
                .find_map(|line| line.strip_prefix("VmHWM:"))?;
            peak.trim().strip_suffix(" kB")?.parse().ok()
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::Usage;

    #[test]
    fn usage_includes_child_processes() {
        let me = std::process::id();
        let alone = Usage::of(&[me]);
        assert!(alone.peak_kib > 0);
        let mut child = std::process::Command::new("sleep")
            .arg("10")
            .spawn()
            .expect("sleep");
        let both = Usage::of(&[me]);
        assert!(both.ticks.contains_key(&child.id()));
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }
}
