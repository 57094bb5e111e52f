//! Markdown tables of medians over rounds.

use std::fmt;
use std::time::Duration;

/// One value of each round.
#[derive(Debug, Clone, Default)]
pub(crate) struct Series(Vec<f64>);

/// Rows under a heading, ready to be printed.
#[derive(Debug)]
pub(crate) struct Table {
    text: String,
}

impl Series {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The middle one; of two middle ones their mean.
    pub(crate) fn median(&self) -> f64 {
        let mut values = self.0.clone();
        values.sort_unstable_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => f64::NAN,
            len if len % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        }
    }

    /// Median, and in parentheses the lowest and the highest.
    pub(crate) fn cell(&self, digits: usize) -> String {
        if self.0.is_empty() {
            return "-".to_owned();
        }
        let lowest = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let median = self.median();
        format!("{median:.digits$} ({lowest:.digits$} to {highest:.digits$})")
    }
}

impl Table {
    /// A table with these columns: the first holds names, the others numbers.
    pub(crate) fn new(columns: &[&str]) -> Self {
        let mut table = Self {
            text: String::new(),
        };
        table.row(columns);
        let rules: Vec<&str> = (0..columns.len())
            .map(|column| if column == 0 { "---" } else { "---:" })
            .collect();
        table.row(&rules);
        table
    }

    pub(crate) fn row(&mut self, cells: &[impl AsRef<str>]) {
        for cell in cells {
            self.text.push_str("| ");
            self.text.push_str(cell.as_ref());
            self.text.push(' ');
        }
        self.text.push_str("|\n");
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The latency that `percent` of these stay below, in milliseconds.
pub(crate) fn percentile_ms(latencies: &mut [Duration], percent: usize) -> f64 {
    latencies.sort_unstable();
    let index = (latencies.len() * percent / 100).min(latencies.len().saturating_sub(1));
    latencies
        .get(index)
        .map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
}

/// Prints a line of the report.
#[expect(clippy::print_stdout, reason = "tables are what this program is for")]
pub(crate) fn print(text: impl fmt::Display) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::{Series, Table, percentile_ms};
    use std::time::Duration;

    #[test]
    fn cell_shows_median_and_range() {
        let mut series = Series::default();
        for value in [9.0, 1.0, 2.0] {
            series.push(value);
        }
        let mut table = Table::new(&["what", "much"]);
        table.row(&["a", &series.cell(1)]);
        let expected = "| what | much |\n| --- | ---: |\n| a | 2.0 (1.0 to 9.0) |\n";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn percentiles_use_sorted_latencies() {
        let mut latencies: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile_ms(&mut latencies, 50), 51.0);
        assert_eq!(percentile_ms(&mut latencies, 99), 100.0);
        assert!(percentile_ms(&mut [], 99).is_nan());
    }
}
