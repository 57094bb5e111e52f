//! The graph of imports between the top-level modules of one crate, and its cycles.

use super::source::{Import, Source};
use std::collections::{BTreeMap, BTreeSet};

/// The modules of a crate, and which of them import which.
#[derive(Debug, Default)]
pub(super) struct Graph {
    modules: BTreeSet<String>,
    /// From, to, and the files that import.
    edges: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

impl Graph {
    /// Builds the graph from the files of a crate. Files of tests are left out.
    pub(super) fn of(sources: &[Source]) -> Self {
        let is_test = |source: &Source| {
            let declared = sources.iter().flat_map(|other| &other.test_modules);
            declared
                .into_iter()
                .any(|test| source.module.starts_with(test))
        };
        let sources: Vec<&Source> = sources.iter().filter(|source| !is_test(source)).collect();
        let modules: BTreeSet<String> = sources
            .iter()
            .filter_map(|source| source.module.first().cloned())
            .collect();
        // `crate::Name` is a re-export of the root, and so an import of the module that defines it.
        let reexported: BTreeMap<&str, &str> = sources
            .iter()
            .filter(|source| source.module.is_empty())
            .flat_map(|source| &source.reexports)
            .map(|(name, module)| (name.as_str(), module.as_str()))
            .collect();
        let mut graph = Self {
            modules,
            edges: BTreeMap::new(),
        };
        for source in sources {
            // The root imports every module, and that makes no cycle.
            let Some(from) = source.module.first() else {
                continue;
            };
            for Import(segment) in &source.imports {
                let to = match graph.modules.contains(segment) {
                    true => segment.as_str(),
                    false => match reexported.get(segment.as_str()) {
                        Some(module) => module,
                        None => continue,
                    },
                };
                if to != from {
                    let files = graph.edges.entry(from.clone()).or_default();
                    let files = files.entry(to.to_owned()).or_default();
                    files.insert(source.path.clone());
                }
            }
        }
        graph
    }

    /// Returns the modules.
    pub(super) fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.iter().map(String::as_str)
    }

    /// Returns every edge with its files.
    pub(super) fn edges(&self) -> impl Iterator<Item = (&str, &str, Vec<&str>)> {
        self.edges.iter().flat_map(|(from, to)| {
            to.iter().map(|(to, files)| {
                let files = files.iter().map(String::as_str).collect();
                (from.as_str(), to.as_str(), files)
            })
        })
    }

    /// Returns the edges between members of a cycle.
    pub(super) fn edges_within<'a>(
        &'a self,
        cycle: &'a [String],
    ) -> impl Iterator<Item = (&'a str, &'a str, Vec<&'a str>)> {
        let is_member = |module: &str| cycle.iter().any(|member| member == module);
        self.edges()
            .filter(move |(from, to, _)| is_member(from) && is_member(to))
    }

    /// Returns the sets of modules that reach each other, sorted.
    pub(super) fn cycles(&self) -> Vec<Vec<String>> {
        let reachable: BTreeMap<&str, BTreeSet<&str>> = self
            .modules()
            .map(|module| (module, self.reachable(module)))
            .collect();
        let mut cycles: Vec<Vec<String>> = Vec::new();
        for module in self.modules() {
            // The graph is small, so two searches for each module are cheaper to read than Tarjan's algorithm.
            if !reachable[module].contains(module) || cycles.iter().flatten().any(|m| m == module) {
                continue;
            }
            let members = reachable[module]
                .iter()
                .filter(|other| reachable[**other].contains(module));
            cycles.push(members.map(|member| (*member).to_owned()).collect());
        }
        cycles
    }

    /// Returns the modules that a path of at least one edge leads to.
    fn reachable(&self, from: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut pending: Vec<&str> = vec![from];
        while let Some(module) = pending.pop() {
            for to in self.edges.get(module).into_iter().flat_map(BTreeMap::keys) {
                if found.insert(to.as_str()) {
                    pending.push(to);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &str)]) -> Graph {
        let mut graph = Graph::default();
        for (from, to) in edges {
            graph.modules.extend([(*from).to_owned(), (*to).to_owned()]);
            let files = graph.edges.entry((*from).to_owned()).or_default();
            files.entry((*to).to_owned()).or_default();
        }
        graph
    }

    #[test]
    fn two_cycles_are_told_apart() {
        let graph = graph(&[
            ("a", "b"),
            ("b", "c"),
            ("c", "a"),
            ("c", "d"),
            ("d", "e"),
            ("e", "d"),
            ("e", "f"),
        ]);
        assert_eq!(graph.cycles(), [vec!["a", "b", "c"], vec!["d", "e"]]);
    }

    #[test]
    fn diamond_has_no_cycle() {
        let graph = graph(&[("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]);
        assert!(graph.cycles().is_empty());
    }
}
