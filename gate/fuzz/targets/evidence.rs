//! Reads damaged evidence, judges it, and makes every report. A panic, a hang, excessive memory use, a figure that is no
//! number, or a gate that passes without a figure is a finding.
//!
//! An input is a list of changes to a complete piece of evidence, [`Change::SIZE`] bytes each. A change walks from the
//! whole to a value in it, so that it damages what is read and not the form of the file. The evidence has a right hash
//! again before memgate reads it: an attacker can compute one.
#![no_main]

use std::{path::Path, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use memgate_config::baseline;
use memgate_evidence::Evidence;
use memgate_files::evidence_file;
use memgate_report::{Format, Style, render, write_flame_graphs};
use memgate_testing::evidence::profiled;
use memgate_verdict::{
    baseline::Baseline,
    judge::{Other, judge, judge_beside, more_runs},
    metric::Limits,
    results::{GateResult, Report},
    summarise::{Summary, summarise},
};
use serde_json::Value;

/// What the changes are made to.
static ORIGINAL: LazyLock<Value> =
    LazyLock::new(|| serde_json::to_value(profiled(1, 2000, "main.go")).expect("evidence is JSON"));

/// The second run, which nobody damages.
static SECOND: LazyLock<Evidence> = LazyLock::new(|| profiled(2, 2000, "main.go"));

static HEALTHY: LazyLock<Summary> = LazyLock::new(|| {
    summarise(&[profiled(1, 2000, "main.go"), SECOND.clone()]).expect("runs of one service")
});

static BASELINE: LazyLock<Baseline> = LazyLock::new(|| {
    let text = baseline::render(&HEALTHY, "2026-11-23", Limits::General).expect("healthy runs can be recorded");
    baseline::parse(Path::new("uaa.yaml"), &text, HEALTHY.platform, &HEALTHY.baseline).expect("what memgate wrote")
});

/// One change.
struct Change {
    /// Where to go at each level. The walk ends early at a scalar.
    path: [u8; 4],
    /// How many levels to go at most.
    depth: u8,
    kind: u8,
    value: u64,
}

impl Change {
    const SIZE: usize = 14;

    fn read(input: &[u8]) -> Self {
        Self {
            path: input[..4].try_into().expect("four bytes"),
            depth: input[4] % 5,
            kind: input[5],
            value: u64::from_le_bytes(input[6..14].try_into().expect("eight bytes")),
        }
    }

    fn apply(&self, root: &mut Value) {
        let mut place = root;
        for &step in self.path.iter().take(usize::from(self.depth)) {
            let length = match &*place {
                Value::Array(values) => values.len(),
                Value::Object(fields) => fields.len(),
                _ => 0,
            };
            if length == 0 {
                break;
            }
            // The first and the last element of a long column are as near as any other.
            let index = usize::from(step) * (length - 1) / 255;
            place = match place {
                Value::Array(values) => &mut values[index],
                Value::Object(fields) => fields.values_mut().nth(index).expect("below the length"),
                _ => return,
            };
        }
        self.damage(place);
    }

    fn damage(&self, place: &mut Value) {
        #[expect(clippy::cast_possible_wrap, reason = "any bits will do")]
        let signed = self.value as i64;
        let small = self.value % 16;
        let length = usize::try_from(self.value % 2000).expect("a small number");
        match (self.kind % 8, &mut *place) {
            (0, Value::Array(values)) => values.truncate(length),
            (1, Value::Array(values)) => values.reverse(),
            (2, Value::Array(values)) => {
                let last = values.last().cloned();
                values.extend(last);
            }
            (3, Value::Array(values)) => {
                let by = length % values.len().max(1);
                values.rotate_left(by);
            }
            // Steps that a clock, a total or a level makes.
            (4, Value::Array(values)) => {
                for value in values.iter_mut().skip(length) {
                    let sum = value.as_u64().map(|old| old.wrapping_add(self.value >> 16));
                    *value = sum.map_or(Value::Null, Value::from);
                }
            }
            (5, Value::Array(values)) => values.fill(Value::from(self.value)),
            (0, Value::Object(fields)) => {
                let name = fields.keys().nth(length % fields.len().max(1)).cloned();
                name.map(|name| fields.remove(&name));
            }
            (0 | 1, Value::Number(number)) => *place = number.as_u64().map_or(Value::Null, |old| (old ^ small).into()),
            (2, Value::Number(_)) => *place = signed.into(),
            (3, Value::Number(_)) => *place = f64::from_bits(self.value).into(),
            (0 | 1, Value::String(text)) => {
                let end = text.floor_char_boundary(length % 64);
                text.truncate(end);
            }
            (2, Value::String(text)) => text.push_str("\u{1b}[31m::error::|`]]>\u{202e}\n"),
            (3, Value::String(text)) => *text = signed.to_string(),
            (6, _) => *place = Value::Null,
            _ => *place = self.value.into(),
        }
    }
}

/// What holds for every gate, whatever the evidence is.
fn check(gate: &GateResult) {
    let figures = [gate.measured, gate.low, gate.high, gate.limit, gate.baseline, gate.noticed];
    assert!(figures.iter().flatten().all(|figure| figure.is_finite()), "{gate:?}");
    assert!(!gate.verdict.is_good() || gate.measured.is_some(), "{gate:?}");
    assert!(!gate.reason.is_empty(), "{gate:?}");
}

fuzz_target!(|input: &[u8]| {
    let mut value = ORIGINAL.clone();
    for change in input.chunks_exact(Change::SIZE) {
        Change::read(change).apply(&mut value);
    }
    let Ok(evidence) = serde_json::from_value::<Evidence>(value) else { return };
    // Whatever memgate reads, it can write, and it reads the same again.
    let path = Path::new("fuzzed");
    let bytes = evidence_file::encode(&evidence).expect("it is small");
    assert_eq!(evidence_file::decode(path, &bytes).ok().as_ref(), Some(&evidence));
    let (cut, rest) = bytes.split_at(input.len() * 37 % bytes.len());
    assert!(evidence_file::decode(path, cut).is_err() && evidence_file::decode(path, rest).is_err() || cut.is_empty());

    // Runs of two services or platforms are refused.
    let Ok(summary) = summarise(&[evidence.clone(), SECOND.clone()]) else { return };
    let alone = judge(&summary, None);
    let beside = judge_beside(
        judge(&summary, Some(&BASELINE)),
        &summary,
        Some(&BASELINE),
        Other { name: "main", summary: &HEALTHY },
    );
    for result in [&alone, &beside] {
        result.gates.iter().for_each(check);
        let _: Option<u32> = more_runs(result);
    }
    if let Ok(text) = baseline::render(&summary, "2026-11-23", Limits::Xinchuang) {
        let read = baseline::parse(Path::new("fuzzed.yaml"), &text, summary.platform, &summary.baseline);
        assert!(read.is_ok(), "{text}");
    }
    let report = Report::new("0.1.0", "2026-11-23T12:00:00Z".to_owned(), vec![alone, beside], Vec::new());
    for format in Format::ALL {
        assert!(!render(&report, format, Style::default()).is_empty());
    }
    if input.len() % 8 == 0 {
        let directory = tempfile::tempdir().expect("a temporary directory");
        // A name that is no part of a file name is refused, and that is no finding.
        let _ = write_flame_graphs(directory.path(), &[evidence], std::slice::from_ref(&SECOND));
    }
});
