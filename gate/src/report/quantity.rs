//! Figures with their units, for people.

use crate::metric::Unit;

/// A figure with three significant digits and its unit: `1.24ms`, `18.4kB/request`, `0.08%`.
pub(super) fn format(value: f64, unit: Unit) -> String {
    const BYTES: [(f64, &str); 4] = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")];
    const TIME: [(f64, &str); 4] = [(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")];
    match unit {
        Unit::Nanoseconds => scaled(value, TIME),
        Unit::Ratio => format!("{}%", digits(value * 100.0)),
        Unit::Count => digits(value),
        Unit::CountPerRequest => format!("{}/request", digits(value)),
        Unit::CountPerMinute => format!("{}/min", digits(value)),
        Unit::Bytes => scaled(value, BYTES),
        Unit::BytesPerRequest => format!("{}/request", scaled(value, BYTES)),
        Unit::BytesPerSecond => format!("{}/s", scaled(value, BYTES)),
        Unit::BytesPerMinute => format!("{}/min", scaled(value, BYTES)),
    }
}

fn scaled(value: f64, steps: [(f64, &str); 4]) -> String {
    let (factor, name) = steps.into_iter().find(|(factor, _)| value.abs() >= *factor).unwrap_or(steps[3]);
    format!("{}{name}", digits(value / factor))
}

fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
