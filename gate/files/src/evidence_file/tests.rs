use std::{collections::BTreeMap, fs};

use memgate_evidence::{
    Code, Ending, Environment, Exactness, Histogram, Pauses, Phases, RequestCounts, Requests, Series, Signal, Signals,
    TimeSpan,
    platform::{Platform, Runner},
    tier::Tier,
};
use proptest::prelude::*;

use super::*;

fn exact<T>(source: &str, data: T) -> Signal<T> {
    Signal { source: source.into(), exactness: Exactness::Exact, lost: 0, data }
}

fn series(value: &[u64]) -> Series {
    Series { at_ns: (1..).take(value.len()).map(|second| second * 1_000_000_000).collect(), value: value.to_vec() }
}

fn requests() -> Requests {
    let failed = BTreeMap::from([("status 500".to_owned(), 1), ("超时\n".to_owned(), 1)]);
    Requests {
        completed: series(&[10, 20]),
        warmup: RequestCounts { intended: 10, succeeded: 10, failed: BTreeMap::new() },
        measure: RequestCounts { intended: 12, succeeded: 10, failed },
        tail: RequestCounts::default(),
        per_second: 1.0,
        latency: Histogram { value_ns: vec![1_000, 2_000], count: vec![9, 1] },
    }
}

fn signals() -> Signals {
    let missing = Exactness::Missing { reason: "the service has no cgroup".into() };
    Signals {
        gc_pauses: exact("uprobe", Pauses { at_ns: vec![5, 6], duration_ns: vec![70_000, 80_000] }),
        other_pauses: exact("uprobe", Pauses::default()),
        live_heap: exact("uprobe", series(&[4_000_000])),
        alloc_bytes: exact("memory", series(&[1, u64::MAX])),
        alloc_objects: exact("memory", series(&[1, 2])),
        goroutines: exact("memory", series(&[3, 4])),
        rss: Signal { exactness: Exactness::Sampled, ..exact("statm", series(&[5, 6])) },
        rss_peak: exact("statm", 7),
        offheap: Signal { exactness: Exactness::Inexact { reason: "\"smaps\"".into() }, ..exact("smaps", series(&[])) },
        page_faults: exact("stat", series(&[8])),
        requests: exact("load", requests()),
        oom_kills: Signal { exactness: missing, ..exact("cgroup", 0) },
        ..Signals::default()
    }
}

fn evidence() -> Evidence {
    Evidence {
        against: None,
        origin: None,
        service: "统一认证".into(),
        platform: Platform::LinuxLoong64,
        run: 1,
        baseline: "uaa".into(),
        started_at: "2026-11-23T15:30:00Z".into(),
        environment: Environment {
            go: "go1.27.3".into(),
            kernel: "7.2.0".into(),
            page_size: 16_384,
            thp: "never".into(),
            cpu: "Loongson-3A6000".into(),
            cpus: 2,
            runner: Runner::Qemu,
            memgate: "0.1.0".into(),
            build: BTreeMap::new(),
            variables: BTreeMap::new(),
            load: "500/s over 32 connections: 3 POST /login, 6 GET /verify, 1 POST /logout".into(),
            phases: "10 s, 60 s".into(),
            dependencies: String::new(),
        },
        phases: Phases { warmup: None, measure: Some(TimeSpan { start_ns: 1, end_ns: 2 }), tail: None, drain: None },
        ending: Ending::Signalled { signal: "SIGSEGV".into(), at_ns: 3 },
        tier: Tier::T2,
        options: vec!["--tier".into(), "T2".into()],
        code: Code::default(),
        signals: signals(),
        notes: vec!["a note".into()],
    }
}

fn encoded() -> String {
    String::from_utf8(encode(&evidence()).unwrap()).unwrap()
}

/// A file with this value of `evidence` and the right hash.
fn wrapped(value: &str) -> String {
    format!("{{\"schema\":3,\"sha256\":\"{}\",\"evidence\":{value}}}\n", sha256::of(value.as_bytes()))
}

fn error_of(bytes: &[u8]) -> String {
    let error = decode(Path::new("x.evidence.json"), bytes).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    assert!(text.starts_with("x.evidence.json: "), "{text}");
    text
}

#[test]
fn reads_what_it_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/uaa.evidence.json");
    write(&path, &evidence()).unwrap();
    assert_eq!(read(&path).unwrap(), evidence());
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("{\"schema\":3,\"sha256\":\"") && text.ends_with("}\n"));
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn the_hash_is_over_the_bytes_of_the_value() {
    let value = serde_json::to_string(&evidence()).unwrap();
    assert_eq!(encoded(), wrapped(&value));
    // FIPS 180-2, appendix B.1.
    // The hash counts, whatever the spacing of the value is.
    let pretty = serde_json::to_string_pretty(&evidence()).unwrap();
    assert_eq!(decode(Path::new("x"), wrapped(&pretty).as_bytes()).unwrap(), evidence());
}

#[test]
fn no_truncated_file_is_evidence() {
    let text = encoded();
    for length in 0..text.len() {
        let message = error_of(&text.as_bytes()[..length]);
        let expected = if length == 0 { "is empty" } else { "ends in the middle; it was probably cut off while being" };
        assert!(message.contains(expected), "{length}: {message}");
    }
}

#[test]
fn no_flipped_bit_gives_other_evidence() {
    let bytes = encoded().into_bytes();
    for index in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[index] ^= 1 << bit;
            if let Ok(read) = decode(Path::new("x"), &flipped) {
                assert_eq!(read, evidence(), "byte {index}, bit {bit}");
            }
        }
    }
}

proptest! {
    #[test]
    fn no_changed_stretch_gives_other_evidence(
        at in any::<prop::sample::Index>(),
        removed in 0_usize..40,
        inserted in prop_oneof![prop::collection::vec(any::<u8>(), 0..8), "[0-9{}\\[\\]\",:a-z ]{0,8}".prop_map(Vec::from)],
    ) {
        let mut bytes = encoded().into_bytes();
        let start = at.index(bytes.len());
        let end = bytes.len().min(start + removed);
        bytes.splice(start..end, inserted);
        if let Ok(read) = decode(Path::new("x"), &bytes) {
            prop_assert_eq!(read, evidence());
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(Path::new("x"), &bytes).is_err());
    }
}

#[test]
fn each_kind_of_wrong_file_is_told() {
    let good = encoded();
    for (text, expected) in [
        ("not JSON\n".to_owned(), "is not JSON"),
        (good.clone() + "{}", "is not JSON"),
        ("[3]\n".to_owned(), "is not memgate evidence"),
        ("{}\n".to_owned(), "is not memgate evidence: missing field `schema`"),
        ("{\"schema\":\"1\"}\n".to_owned(), "is not memgate evidence"),
        ("{\"schema\":3}\n".to_owned(), "missing field `sha256`"),
        ("{\"schema\":0}\n".to_owned(), "has schema 0; this memgate reads 3"),
        ("{\"schema\":4,\"anything\":[]}".to_owned(), "was written by a newer memgate (schema 4); this one reads 3"),
        (good.replacen("\"run\":1", "\"run\":2", 1), "was changed after it was written"),
        (good.replacen("{\"schema\"", "{\"extra\":1,\"schema\"", 1), "unknown field `extra`"),
        (good.replacen("\"schema\":3", "\"schema\":3,\"schema\":3", 1), "duplicate field `schema`"),
        (wrapped(&"[".repeat(1000)), "is not JSON"),
    ] {
        let message = error_of(text.as_bytes());
        assert!(message.contains(expected), "{message} instead of {expected}");
    }
    assert!(error_of(b"{\"schema\":3,\xff}\n").contains("is not UTF-8"));
}

/// What is no number for a figure, and what is said of it. The figure is that of the third entry of `alloc_bytes`.
#[test]
fn a_figure_that_cannot_be_is_told_with_its_key() {
    let mut evidence = evidence();
    evidence.signals.alloc_bytes.data = series(&[1, 2, 777_777, 4]);
    let value = serde_json::to_string(&evidence).unwrap();
    let cases = [
        ("NaN", "is not JSON"),
        ("Infinity", "is not JSON"),
        ("-Infinity", "is not JSON"),
        ("1e400", "number out of range"),
        ("-1", "invalid value: integer `-1`, expected u64"),
        ("18446744073709551616", "expected u64"),
        ("1.5", "invalid type: floating point `1.5`, expected u64"),
        ("1e3", "invalid type: floating point `1000.0`, expected u64"),
        ("null", "invalid type: null, expected u64"),
        ("\"5\"", "invalid type: string \"5\", expected u64"),
        ("[5]", "invalid type: sequence, expected u64"),
    ];
    for (figure, expected) in cases {
        let changed = value.replacen("777777", figure, 1);
        assert_ne!(changed, value);
        let message = error_of(wrapped(&changed).as_bytes());
        let key = "`evidence.signals.alloc_bytes.data.value[2]`";
        assert!(message.contains(key) && message.contains(expected), "{figure}: {message}");
    }
}

/// The only figure that is no whole number.
#[test]
fn a_rate_that_is_no_number_is_told_with_its_key() {
    let value = serde_json::to_string(&evidence()).unwrap();
    for rate in ["NaN", "1e999", "-1e999", "null", "\"500/s\""] {
        let changed = value.replacen("\"per_second\":1.0", &format!("\"per_second\":{rate}"), 1);
        assert_ne!(changed, value);
        let message = error_of(wrapped(&changed).as_bytes());
        assert!(message.contains("`evidence.signals.requests.data.per_second`"), "{rate}: {message}");
    }
}

#[test]
fn fields_that_are_not_known_are_refused_at_every_depth() {
    let value = serde_json::to_string(&evidence()).unwrap();
    for (from, to) in [
        ("{\"service\"", "{\"extra\":1,\"service\""),
        ("\"environment\":{", "\"environment\":{\"extra\":1,"),
        ("\"gc_pauses\":{", "\"gc_pauses\":{\"extra\":1,"),
        ("\"data\":{\"at_ns\"", "\"data\":{\"extra\":1,\"at_ns\""),
        ("\"kind\":\"signalled\"", "\"kind\":\"signalled\",\"extra\":1"),
    ] {
        let changed = value.replacen(from, to, 1);
        assert_ne!(changed, value);
        let message = error_of(wrapped(&changed).as_bytes());
        assert!(message.contains("unknown field `extra`"), "{message}");
    }
}

/// `deny_unknown_fields` of serde 1 has no effect on unit variants of internally tagged enums. Such a field is ignored,
/// which changes nothing that is read.
#[test]
fn a_field_beside_a_kind_without_fields_changes_nothing() {
    let value = serde_json::to_string(&evidence()).unwrap();
    let changed = value.replacen("\"kind\":\"exact\"", "\"kind\":\"exact\",\"reason\":\"none\"", 1);
    assert_ne!(changed, value);
    assert_eq!(decode(Path::new("x"), wrapped(&changed).as_bytes()).unwrap(), evidence());
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.evidence.json");
    for (path, expected) in [(missing.as_path(), "does not exist"), (directory.path(), "is a directory")] {
        let error = read(path).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(error.to_string(), format!("{}: {expected}.", path.display()));
    }
}

#[test]
fn files_that_are_too_large_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("large");
    fs::write(&path, b"12345678").unwrap();
    assert_eq!(read_up_to(&path, 8).unwrap(), b"12345678");
    let error = read_up_to(&path, 7).unwrap_err();
    assert!(error.to_string().contains("is larger than 7 bytes"), "{error}");
    assert!(encode_up_to(&evidence(), 100).unwrap_err().to_string().contains("more than the 100 that memgate reads"));
}

#[test]
fn a_failed_write_is_an_infrastructure_failure() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file/uaa.evidence.json");
    fs::write(directory.path().join("file"), b"").unwrap();
    let error = write(&path, &evidence()).unwrap_err();
    assert!(matches!(error.kind(), Some(OutputError::Evidence { .. })));
    assert_eq!(error.exit_code(), 4);
    let text = format!("{error:#}");
    assert!(text.starts_with(&format!("output: The evidence cannot be written to {}: ", path.display())), "{text}");
    assert!(std::error::Error::source(&error).unwrap().is::<io::Error>());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn the_schema_knows_the_wrapper_and_the_evidence() {
    let schema = schema();
    assert_eq!(schema["required"], serde_json::json!(["schema", "sha256", "evidence"]));
    assert_eq!(schema["additionalProperties"], serde_json::json!(false));
    assert_eq!(schema["properties"]["sha256"]["pattern"], "^[0-9a-f]{64}$");
    assert_eq!(schema["properties"]["evidence"]["$ref"], "#/$defs/Evidence");
    // Every reference has a target.
    let text = schema.to_string();
    for name in text.split("\"#/$defs/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(schema["$defs"].get(name).is_some(), "{name}");
    }
}
