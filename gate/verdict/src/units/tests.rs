use proptest::prelude::*;

use super::*;

const UNITS: [Unit; 9] = [
    Unit::Nanoseconds,
    Unit::Ratio,
    Unit::Count,
    Unit::CountPerRequest,
    Unit::CountPerMinute,
    Unit::Bytes,
    Unit::BytesPerRequest,
    Unit::BytesPerSecond,
    Unit::BytesPerMinute,
];

#[test]
fn what_people_write_is_read() {
    for (text, unit, value) in [
        ("30s", Unit::Nanoseconds, 30e9),
        ("250ms", Unit::Nanoseconds, 250e6),
        ("2.1 ms", Unit::Nanoseconds, 2.1e6),
        ("0.4ns", Unit::Nanoseconds, 0.4),
        ("12µs", Unit::Nanoseconds, 12e3),
        ("1m30s", Unit::Nanoseconds, 90e9),
        ("2m", Unit::Nanoseconds, 120e9),
        ("1h 30m", Unit::Nanoseconds, 5400e9),
        ("0.1%", Unit::Ratio, 0.001),
        ("250%", Unit::Ratio, 2.5),
        ("0.001", Unit::Ratio, 0.001),
        ("2000", Unit::Count, 2000.0),
        ("61.2/request", Unit::CountPerRequest, 61.2),
        ("61.2", Unit::CountPerRequest, 61.2),
        ("180/min", Unit::CountPerMinute, 180.0),
        ("3/s", Unit::CountPerMinute, 180.0),
        ("1400MiB", Unit::Bytes, 1400.0 * 1024.0 * 1024.0),
        ("4 KiB", Unit::Bytes, 4096.0),
        ("2GB", Unit::Bytes, 2e9),
        ("18.4kB/request", Unit::BytesPerRequest, 18_400.0),
        ("18.4kB", Unit::BytesPerRequest, 18_400.0),
        ("15MB/s", Unit::BytesPerSecond, 15e6),
        ("0.5MB/min", Unit::BytesPerMinute, 0.5e6),
        ("-120kB/min", Unit::BytesPerMinute, -120e3),
        ("1MB/s", Unit::BytesPerMinute, 60e6),
    ] {
        let read = parse(text, unit).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!((read - value).abs() <= value.abs() * 1e-12, "{text}: {read} instead of {value}");
    }
    assert_eq!(parse_rate("500/s"), Ok(500.0));
    assert_eq!(parse_rate("1200 /min"), Ok(20.0));
}

#[test]
fn what_is_wrong_is_refused_with_what_to_write() {
    for (text, unit, message) in [
        ("30", Unit::Nanoseconds, "`30` has no unit; write `30s` or `30ms`"),
        ("1400", Unit::Bytes, "`1400` has no unit; write `1400MiB`"),
        ("15", Unit::BytesPerSecond, "`15` has no unit; write `15MB/s`"),
        ("0.5", Unit::BytesPerMinute, "`0.5` has no unit; write `0.5MB/min`"),
        ("180", Unit::CountPerMinute, "`180` has no unit; write `180/min`"),
        ("18400", Unit::BytesPerRequest, "`18400` has no unit; write `18400B/request`"),
        ("5", Unit::Ratio, "`5` may mean 5 % or 500 %; write `5%` or `500%`"),
        ("-5ms", Unit::Nanoseconds, "`-5ms` is negative; expected a duration such as 30s, 250ms or 1m30s"),
        ("1s ago", Unit::Nanoseconds, "`1s ago` is not a duration such as 30s, 250ms or 1m30s"),
        ("1:30:00", Unit::Nanoseconds, "`1:30:00` is not a duration such as 30s, 250ms or 1m30s"),
        ("1d", Unit::Nanoseconds, "`1d` is not a duration such as 30s, 250ms or 1m30s"),
        ("15Mb", Unit::Bytes, "`15Mb` is not a size such as 1400MiB, 4KiB or 2GB"),
        ("15MB", Unit::BytesPerSecond, "`15MB` is not a rate such as 15MB/s"),
        ("2000 goroutines", Unit::Count, "`2000 goroutines` is not a number such as 2000"),
        ("nan", Unit::Count, "`nan` is not a number such as 2000"),
        (".inf", Unit::Ratio, "`.inf` is not a ratio such as 0.1% or 0.001"),
        ("1e3", Unit::Count, "`1e3` is not a number such as 2000"),
        (" 4KiB", Unit::Bytes, "` 4KiB` is not a size such as 1400MiB, 4KiB or 2GB"),
        ("+4KiB", Unit::Bytes, "`+4KiB` is not a size such as 1400MiB, 4KiB or 2GB"),
        ("", Unit::Bytes, "`` is not a size such as 1400MiB, 4KiB or 2GB"),
        (
            "9999999999GB",
            Unit::Bytes,
            "`9999999999GB` is larger than memgate can hold; expected a size such as 1400MiB, 4KiB or 2GB",
        ),
    ] {
        assert_eq!(parse(text, unit), Err(message.to_owned()), "{text}");
    }
    assert_eq!(parse_rate("500"), Err("`500` has no unit; write `500/s`".to_owned()));
    assert_eq!(parse_rate("500 rps"), Err("`500 rps` is not a rate such as 500/s or 1200/min".to_owned()));
    assert_eq!(parse_rate("-1/s"), Err("`-1/s` is negative; expected a rate such as 500/s or 1200/min".to_owned()));
    assert!(parse(&"9".repeat(400), Unit::Count).is_err_and(|error| error.contains("larger than memgate can hold")));
}

#[test]
fn people_read_few_digits() {
    for (value, unit, text) in [
        (1_240_000.0, Unit::Nanoseconds, "1.24ms"),
        (50e6, Unit::Nanoseconds, "50ms"),
        (999_700.0, Unit::Nanoseconds, "1.00ms"),
        (12_345.0, Unit::Nanoseconds, "12.3µs"),
        (0.0, Unit::Nanoseconds, "0ns"),
        (18_412.4, Unit::BytesPerRequest, "18.4kB/request"),
        (498_700.0, Unit::BytesPerMinute, "0.50MB/min"),
        (-1_204_000.0, Unit::BytesPerMinute, "-1.20MB/min"),
        (15e6, Unit::BytesPerSecond, "15MB/s"),
        (0.000_812, Unit::Ratio, "0.08%"),
        (0.000_012_3, Unit::Ratio, "0.0012%"),
        (0.05, Unit::Ratio, "5%"),
        (2000.0, Unit::Count, "2000"),
        (61.234, Unit::CountPerRequest, "61.2/request"),
        (182.7, Unit::CountPerMinute, "183/min"),
        (8_388_608.0, Unit::Bytes, "8MiB"),
        (123_456_789.0, Unit::Bytes, "118MiB"),
    ] {
        assert_eq!(format(value, unit), text);
    }
}

#[test]
fn exact_text_is_short_where_it_can_be() {
    for (value, unit, text) in [
        (50e6, Unit::Nanoseconds, "50ms"),
        (0.5e6, Unit::BytesPerMinute, "0.5MB/min"),
        (15e6, Unit::BytesPerSecond, "15MB/s"),
        (0.001, Unit::Ratio, "0.1%"),
        (1400.0 * 1024.0 * 1024.0, Unit::Bytes, "1400MiB"),
        (18_412.371_6, Unit::BytesPerRequest, "18.41237kB/request"),
        (-0.25, Unit::BytesPerMinute, "-0.25B/min"),
        (0.0, Unit::BytesPerMinute, "0B/min"),
        (12_345.678_9, Unit::Nanoseconds, "12.34568us"),
    ] {
        assert_eq!(format_exact(value, unit), text);
    }
}

proptest! {
    #[test]
    fn exact_text_reads_back(unit in proptest::sample::select(UNITS.to_vec()), mantissa in 1.0..10.0_f64, exponent in -12..18_i32, negative: bool) {
        let size = mantissa * 10_f64.powi(exponent);
        let value = if negative && unit == Unit::BytesPerMinute { -size } else { size };
        let value = value.clamp(-1e18, 1e18);
        let read = parse(&format_exact(value, unit), unit).unwrap();
        prop_assert!((read - value).abs() <= value.abs() * 1e-6, "{} was read as {read}", format_exact(value, unit));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*", unit in proptest::sample::select(UNITS.to_vec())) {
        if let Ok(value) = parse(&text, unit) {
            prop_assert!(value.is_finite() && (value >= 0.0 || unit == Unit::BytesPerMinute));
        }
    }

    #[test]
    fn nearly_a_quantity_is_read_or_refused(text in "[-+]?[0-9]{0,3}[.]?[0-9]{0,3} ?[a-zA-Z/%µ:]{0,9}", unit in proptest::sample::select(UNITS.to_vec())) {
        if let Ok(value) = parse(&text, unit) {
            prop_assert!(value.is_finite() && (value >= 0.0 || unit == Unit::BytesPerMinute));
        }
    }
}
