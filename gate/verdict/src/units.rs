//! Durations, sizes and rates with their units, as people write and read them.
//!
//! Inside memgate a figure is an `f64` in its metric's unit. In a file it has its unit, because `50` beside a pause
//! means nothing to a reviewer.

use jiff::fmt::friendly::SpanParser;

use crate::{metric::Unit, quoted::shorten};

/// The largest value that is read, in the base unit: 31 years in ns, 1 EB. Larger values are typing errors.
const LARGEST: f64 = 1e18;

/// Units of size. The case matters: `Mb` would be megabits, and `M` could mean either megabyte.
const SIZES: [(&str, u64); 10] = [
    ("B", 1),
    ("kB", bytesize::KB),
    ("KB", bytesize::KB),
    ("MB", bytesize::MB),
    ("GB", bytesize::GB),
    ("TB", bytesize::TB),
    ("KiB", bytesize::KIB),
    ("MiB", bytesize::MIB),
    ("GiB", bytesize::GIB),
    ("TiB", bytesize::TIB),
];

/// Reads a quantity that is given in `unit`, which [`expected`] describes.
///
/// Returns the value in `unit`: finite, at most 1e18 and not negative. Only growths, [`Unit::BytesPerMinute`], may have
/// a sign.
///
/// # Errors
/// When the text is wrong. The error says what is wrong and what to write instead, as a clause without a full stop.
pub fn parse(text: &str, unit: Unit) -> Result<f64, String> {
    let Some((number, suffix)) = split(text) else {
        return Err(format!("`{}` is not {}", shorten(text), expected(unit)));
    };
    if number.is_sign_negative() && !unit.is_growth() {
        return Err(format!("`{}` is negative; expected {}", shorten(text), expected(unit)));
    }
    if suffix.is_empty()
        && let Some(default) = default_suffix(unit)
    {
        let text = shorten(text);
        let milliseconds = if unit == Unit::Nanoseconds { format!(" or `{text}ms`") } else { String::new() };
        return Err(format!("`{text}` has no unit; write `{text}{default}`{milliseconds}"));
    }
    let value = match unit {
        Unit::Nanoseconds => nanoseconds(number, suffix, text),
        Unit::Ratio if suffix == "%" => Some(number / 100.0),
        Unit::Ratio if suffix.is_empty() && number >= 1.0 => {
            return Err(format!(
                "`{0}` may mean {0} % or {1} %; write `{0}%` or `{1}%`",
                shorten(text),
                number * 100.0
            ));
        }
        Unit::Ratio | Unit::Count => suffix.is_empty().then_some(number),
        Unit::CountPerRequest => (suffix.is_empty() || suffix == "/request").then_some(number),
        Unit::CountPerMinute => suffix.strip_prefix('/').and_then(per_minute).map(|factor| number * factor),
        Unit::Bytes => size(suffix).map(|factor| number * factor),
        Unit::BytesPerRequest => size(suffix.strip_suffix("/request").unwrap_or(suffix)).map(|factor| number * factor),
        Unit::BytesPerSecond => size_per_minute(suffix).map(|factor| number * factor / 60.0),
        Unit::BytesPerMinute => size_per_minute(suffix).map(|factor| number * factor),
    };
    in_range(value, text, expected(unit))
}

/// Reads a rate of requests, such as `500/s` or `30000/min`, in requests per second, finite and not negative.
///
/// # Errors
/// When the text is wrong. The error says what is wrong and what to write instead, as a clause without a full stop.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    const EXPECTED: &str = "a rate such as 500/s or 1200/min";
    let Some((number, suffix)) = split(text) else {
        return Err(format!("`{}` is not {EXPECTED}", shorten(text)));
    };
    if number.is_sign_negative() {
        return Err(format!("`{}` is negative; expected {EXPECTED}", shorten(text)));
    }
    if suffix.is_empty() {
        return Err(format!("`{0}` has no unit; write `{0}/s`", shorten(text)));
    }
    in_range(suffix.strip_prefix('/').and_then(per_minute).map(|factor| number * factor / 60.0), text, EXPECTED)
}

/// Describes a quantity in `unit`, to follow “expected” or “is not”.
pub const fn expected(unit: Unit) -> &'static str {
    match unit {
        Unit::Nanoseconds => "a duration such as 30s, 250ms or 1m30s",
        Unit::Ratio => "a ratio such as 0.1% or 0.001",
        Unit::Count => "a number such as 2000",
        Unit::CountPerRequest => "a number per request such as 120/request",
        Unit::CountPerMinute => "a number per minute such as 180/min",
        Unit::Bytes => "a size such as 1400MiB, 4KiB or 2GB",
        Unit::BytesPerRequest => "a size per request such as 18.4kB/request",
        Unit::BytesPerSecond => "a rate such as 15MB/s",
        Unit::BytesPerMinute => "a growth such as 0.5MB/min",
    }
}

/// A quantity for people, with two to four significant digits, such as `1.24ms`, `18.4kB/request`, `0.50MB/min` or
/// `0.08%`.
///
/// Resident memory comes in pages, so sizes use powers of two (`8MiB`). Rates and sizes per request use powers of ten.
/// Negative values are allowed, because differences are formatted too.
pub fn format(value: f64, unit: Unit) -> String {
    if !value.is_finite() {
        return format!("{value}");
    }
    let (factor, suffix) = largest_scale(value, unit, 0.9995);
    let scaled = value / factor;
    let number = match scaled.abs() {
        // Half a unit of the last of three digits, so that 9.996 becomes 10.0 and not 10.00.
        size if scaled.fract() == 0.0 || size >= 99.95 => format!("{scaled:.0}"),
        size if size >= 9.995 => format!("{scaled:.1}"),
        size if size >= 0.01 => format!("{scaled:.2}"),
        _ => significant(scaled, 2),
    };
    format!("{number}{suffix}")
}

/// A quantity for YAML. [`parse`] reads back a value within a relative 5e-7 of it, and exactly the same value if seven
/// digits in one of the units suffice.
///
/// The value must be finite.
pub fn format_exact(value: f64, unit: Unit) -> String {
    let write =
        |(factor, suffix): (f64, &str)| format!("{}{}", significant(value / factor, 7), suffix.replace('µ', "u"));
    scales(unit)
        .iter()
        .rev()
        .filter(|(factor, suffix)| value.abs() >= factor * least_of(suffix, 1.0))
        .map(|scale| write(*scale))
        .find(|text| parse(text, unit).is_ok_and(|read| read.total_cmp(&value).is_eq()))
        .unwrap_or_else(|| write(largest_scale(value, unit, 1.0)))
}

/// A leading decimal number and the rest without the space between them. Exponents, `inf` and `nan` do not count as
/// numbers.
fn split(text: &str) -> Option<(f64, &str)> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let whole = digits(unsigned);
    let fraction = unsigned[whole..].strip_prefix('.').map_or(0, digits);
    let length = if fraction > 0 { whole + 1 + fraction } else { whole };
    let number: f64 = text[..text.len() - unsigned.len() + length].parse().ok()?;
    (whole > 0).then(|| (number, unsigned[length..].trim_start()))
}

/// The unit that a bare number probably means; `None` if it needs none.
const fn default_suffix(unit: Unit) -> Option<&'static str> {
    match unit {
        Unit::Nanoseconds => Some("s"),
        Unit::CountPerMinute => Some("/min"),
        Unit::Bytes => Some("MiB"),
        Unit::BytesPerRequest => Some("B/request"),
        Unit::BytesPerSecond => Some("MB/s"),
        Unit::BytesPerMinute => Some("MB/min"),
        Unit::Ratio | Unit::Count | Unit::CountPerRequest => None,
    }
}

/// A single number with a unit below the minute is read here, because jiff's durations have no fractions of a
/// nanosecond and a recorded mean has. jiff parses all other durations.
fn nanoseconds(number: f64, suffix: &str, text: &str) -> Option<f64> {
    match suffix {
        "ns" => Some(number),
        "us" | "µs" | "μs" => Some(number * 1e3),
        "ms" => Some(number * 1e6),
        "s" => Some(number * 1e9),
        // `1:30` is minutes to some and hours to others.
        _ if suffix.contains(':') => None,
        _ => {
            let duration = SpanParser::new().parse_duration(text).ok()?;
            (!duration.is_negative()).then(|| duration.as_secs_f64() * 1e9)
        }
    }
}

fn size(suffix: &str) -> Option<f64> {
    let (_, factor) = SIZES.into_iter().find(|(name, _)| *name == suffix)?;
    Some(as_f64(factor))
}

fn size_per_minute(suffix: &str) -> Option<f64> {
    let (bytes, period) = suffix.split_once('/')?;
    Some(size(bytes)? * per_minute(period)?)
}

fn per_minute(period: &str) -> Option<f64> {
    match period {
        "s" => Some(60.0),
        "min" => Some(1.0),
        "h" => Some(1.0 / 60.0),
        _ => None,
    }
}

fn in_range(value: Option<f64>, text: &str, expected: &str) -> Result<f64, String> {
    match value {
        None => Err(format!("`{}` is not {expected}", shorten(text))),
        Some(value) if value.is_finite() && value.abs() <= LARGEST => Ok(value),
        Some(_) => Err(format!("`{}` is larger than memgate can hold; expected {expected}", shorten(text))),
    }
}

/// The units for writing a value, smallest first.
const fn scales(unit: Unit) -> &'static [(f64, &'static str)] {
    match unit {
        Unit::Nanoseconds => &[(1.0, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")],
        Unit::Ratio => &[(0.01, "%")],
        Unit::Count => &[(1.0, "")],
        Unit::CountPerRequest => &[(1.0, "/request")],
        Unit::CountPerMinute => &[(1.0, "/min")],
        Unit::Bytes => &[(1.0, "B"), (1024.0, "KiB"), (1_048_576.0, "MiB"), (1_073_741_824.0, "GiB")],
        Unit::BytesPerRequest => &[(1.0, "B/request"), (1e3, "kB/request"), (1e6, "MB/request"), (1e9, "GB/request")],
        Unit::BytesPerSecond => &[(1.0, "B/s"), (1e3, "kB/s"), (1e6, "MB/s"), (1e9, "GB/s")],
        Unit::BytesPerMinute => &[(1.0, "B/min"), (1e3, "kB/min"), (1e6, "MB/min"), (1e9, "GB/min")],
    }
}

/// The largest unit of which the value is at least `least`.
fn largest_scale(value: f64, unit: Unit, least: f64) -> (f64, &'static str) {
    let fits = |(factor, suffix): &&(f64, &str)| value.abs() >= factor * least_of(suffix, least);
    let scales = scales(unit);
    *scales.iter().rev().find(fits).unwrap_or(&scales[0])
}

/// Rates over time are usually given in MB, even if they are below one.
fn least_of(suffix: &str, least: f64) -> f64 {
    if matches!(suffix, "MB/s" | "MB/min") { 0.1 } else { least }
}

/// The number with this many significant digits, without an exponent and without trailing zeros.
fn significant(number: f64, digits: usize) -> String {
    let rounded: f64 = format!("{number:.*e}", digits - 1).parse().unwrap_or(number);
    format!("{}", if rounded == 0.0 { 0.0 } else { rounded })
}

#[expect(clippy::cast_precision_loss, reason = "the units of size are powers of 2 and of 10 below 2^53")]
const fn as_f64(factor: u64) -> f64 {
    factor as f64
}

#[cfg(test)]
mod tests;
