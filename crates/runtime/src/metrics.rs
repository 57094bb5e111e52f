//! Metrics as text, each declared in one line.
//!
//! ```
//! use runtime::metrics::{Counter, Histogram};
//!
//! runtime::metrics! {
//!     /// A program's metrics.
//!     pub struct Metrics("my_program") {
//!         requests: Counter = "requests", "Requests";
//!         wait: Histogram = "wait" in Seconds, "Time that requests waited";
//!     }
//! }
//! let mut registry = runtime::metrics::Registry::default();
//! let metrics = Metrics::register(&mut registry);
//! metrics.requests.inc();
//! let text = runtime::metrics::encode(&registry, runtime::metrics::Format::Prometheus);
//! assert!(text.contains("my_program_requests_total 1"));
//! ```
//!
//! The library adds `_total` to counters, the unit to names with one, and a full stop to help texts. [`Format`] has
//! the two formats in which metrics are served.

mod format;

pub use format::Format;
use prometheus_client::metrics::family;
pub use prometheus_client::metrics::histogram::Histogram;
pub use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

/// A number that only grows.
pub type Counter = prometheus_client::metrics::counter::Counter;

/// A whole number that goes up and down.
pub type Gauge = prometheus_client::metrics::gauge::Gauge;

/// A number that goes up and down.
pub type FloatGauge = prometheus_client::metrics::gauge::Gauge<f64, AtomicU64>;

/// A metric with labels.
pub type Family<L, M> = family::Family<L, M, fn() -> M>;

/// Buckets of durations in seconds, from a millisecond to minutes.
const SECONDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// A metric that can be made without arguments.
pub trait Metric: Sized {
    /// Makes one at zero.
    fn new() -> Self;
}

impl Metric for Counter {
    fn new() -> Self {
        Self::default()
    }
}

impl Metric for Gauge {
    fn new() -> Self {
        Self::default()
    }
}

impl Metric for FloatGauge {
    fn new() -> Self {
        Self::default()
    }
}

impl Metric for Histogram {
    fn new() -> Self {
        Self::new(SECONDS)
    }
}

impl<L: Clone + std::hash::Hash + Eq, M: Metric> Metric for Family<L, M> {
    fn new() -> Self {
        // A function pointer, so that the type has a name that a struct field can have.
        Self::new_with_constructor(M::new as fn() -> M)
    }
}

/// Registers a fresh metric and returns it. For [`metrics!`](crate::metrics!).
pub fn register<M: Metric + prometheus_client::registry::Metric + Clone>(
    registry: &mut Registry,
    name: &str,
    unit: Option<Unit>,
    help: &str,
) -> M {
    let metric = M::new();
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, metric.clone()),
        None => registry.register(name, help, metric.clone()),
    }
    metric
}

/// Returns all metrics of a registry as text.
pub fn encode(registry: &Registry, format: Format) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, registry);
    format.of(text)
}

/// Returns a number as a gauge's, or the largest that fits.
pub fn gauge_value(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// Declares a struct of metrics, one a line: `field: Type = "name" in Unit, "Help";`. The prefix precedes each
/// name; the unit is optional.
#[macro_export]
macro_rules! metrics {
    (
        $(#[$meta:meta])*
        $vis:vis struct $group:ident($prefix:literal) {
            $($field:ident: $type:ty = $name:literal $(in $unit:ident)?, $help:literal;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug)]
        $vis struct $group {
            $(#[doc = $help] $vis $field: $type,)*
        }

        impl $group {
            /// Registers all of them at zero.
            $vis fn register(registry: &mut $crate::metrics::Registry) -> Self {
                let registry = registry.sub_registry_with_prefix($prefix);
                Self {
                    $($field: $crate::metrics::register::<$type>(
                        registry,
                        $name,
                        $crate::metrics!(@unit $($unit)?),
                        $help,
                    ),)*
                }
            }
        }
    };
    (@unit) => { None };
    (@unit $unit:ident) => { Some($crate::metrics::Unit::$unit) };
}
