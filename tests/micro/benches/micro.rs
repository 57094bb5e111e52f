//! Times the work of `tests/work` with criterion: `cargo xtask bench micro`.
//!
//! `cargo xtask gate` counts the instructions of the same work. This benchmark shows their duration on
//! one machine, and how much of it is spent waiting for memory.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn all(criterion: &mut Criterion) {
    for work in work::all() {
        let (group, name) = work.name.split_once('/').unwrap_or(("work", work.name));
        let mut group = criterion.benchmark_group(group);
        group.throughput(Throughput::Elements(work.units.into()));
        group.bench_function(name, |bencher| bencher.iter(work.start()));
        group.finish();
    }
}

criterion_group!(micro, all);
criterion_main!(micro);
