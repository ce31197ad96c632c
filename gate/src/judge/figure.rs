//! Figures in reasons.

use crate::metric::Unit;

/// A stand-in until `units::format` is there; it has the same signature.
pub(super) fn format(value: f64, unit: Unit) -> String {
    let suffix = match unit {
        Unit::Nanoseconds => return scaled(value, &[(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")]),
        Unit::Ratio => return format!("{} %", digits(value * 100.0)),
        Unit::Count => return digits(value),
        Unit::CountPerRequest => return format!("{} per request", digits(value)),
        Unit::CountPerMinute => return format!("{}/min", digits(value)),
        Unit::Bytes => "",
        Unit::BytesPerRequest => "/request",
        Unit::BytesPerSecond => "/s",
        Unit::BytesPerMinute => "/min",
    };
    scaled(value, &[(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")]) + suffix
}

fn scaled(value: f64, steps: &[(f64, &str)]) -> String {
    let step = steps.iter().find(|(size, _)| value.abs() >= *size).or(steps.last());
    step.map_or_else(|| digits(value), |(size, name)| format!("{} {name}", digits(value / size)))
}

/// Four significant digits, without trailing zeros.
fn digits(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.abs().to_string();
    }
    let decimals = match value.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 10.0 => 2,
        size if size >= 1.0 => 3,
        _ => 6,
    };
    let text = format!("{value:.decimals$}");
    if decimals == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').to_owned() }
}
