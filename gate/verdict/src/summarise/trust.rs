//! How far each signal can be trusted, in all runs.

use memgate_evidence::{Exactness, Signal, Signals};
use serde::{Deserialize, Serialize};

use super::run::{Run, clause};

/// How far a signal can be trusted, in the worst of the runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SignalNote {
    /// The signal's name in the evidence, such as `gc_pauses`.
    pub name: String,
    /// The source; empty if nobody measured the signal.
    pub source: String,
    /// How far it can be trusted.
    pub exactness: Trust,
    /// Why it is not better, as a clause; `null` for exact and sampled signals.
    pub reason: Option<String>,
    /// Lost records in all runs.
    pub lost: u64,
}

/// How far a signal can be trusted, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Every event, or the runtime's or kernel's own total.
    Exact,
    /// Exact at the times of the entries.
    Sampled,
    /// The upper ends of the runtime's own buckets.
    Bucketed,
    /// Something is lost or doubtful. No gate passes on it.
    Inexact,
    /// There is no data. No gate passes on it.
    Missing,
}

impl Trust {
    /// Every degree, best first.
    pub const ALL: [Self; 5] = [Self::Exact, Self::Sampled, Self::Bucketed, Self::Inexact, Self::Missing];

    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Sampled => "sampled",
            Self::Bucketed => "bucketed",
            Self::Inexact => "inexact",
            Self::Missing => "missing",
        }
    }
}

/// A note for each signal, in the order of the evidence, for the worst of the runs.
pub(super) fn notes(runs: &[Run<'_>]) -> Vec<SignalNote> {
    let mut worst: Vec<SignalNote> = Vec::new();
    for run in runs {
        let of_run = of_run(run.signals());
        if worst.is_empty() {
            worst = of_run;
            continue;
        }
        for (worst, note) in worst.iter_mut().zip(of_run) {
            let lost = worst.lost.saturating_add(note.lost);
            if note.exactness > worst.exactness {
                *worst = note;
            }
            worst.lost = lost;
        }
    }
    worst
}

/// Names every signal, so that a new one cannot be forgotten here.
fn of_run(signals: &Signals) -> Vec<SignalNote> {
    let Signals {
        gc_pauses,
        other_pauses,
        world_stops,
        gc_cpu,
        live_heap,
        alloc_bytes,
        alloc_objects,
        goroutines,
        rss,
        rss_kinds,
        huge_pages,
        thp_events,
        rss_peak,
        offheap,
        mmap_latency,
        span_refills,
        alloc_samples,
        heap_profile,
        goroutine_sites,
        offheap_sites,
        page_faults,
        requests,
        oom_kills,
    } = signals;
    vec![
        note("gc_pauses", gc_pauses),
        note("other_pauses", other_pauses),
        note("world_stops", world_stops),
        note("gc_cpu", gc_cpu),
        note("live_heap", live_heap),
        note("alloc_bytes", alloc_bytes),
        note("alloc_objects", alloc_objects),
        note("goroutines", goroutines),
        note("rss", rss),
        note("rss_kinds", rss_kinds),
        note("huge_pages", huge_pages),
        note("thp_events", thp_events),
        note("rss_peak", rss_peak),
        note("offheap", offheap),
        note("mmap_latency", mmap_latency),
        note("span_refills", span_refills),
        note("alloc_samples", alloc_samples),
        note("heap_profile", heap_profile),
        note("goroutine_sites", goroutine_sites),
        note("offheap_sites", offheap_sites),
        note("page_faults", page_faults),
        note("requests", requests),
        note("oom_kills", oom_kills),
    ]
}

/// A signal with lost records is not exact, whatever it claims: no gate passes on it.
fn note<T>(name: &str, signal: &Signal<T>) -> SignalNote {
    let lost = || match signal.lost {
        1 => "a record was lost".to_owned(),
        lost => format!("{lost} records were lost"),
    };
    let (exactness, reason) = match &signal.exactness {
        Exactness::Missing { reason } => (Trust::Missing, Some(clause(reason).to_owned())),
        Exactness::Inexact { reason } => (Trust::Inexact, Some(clause(reason).to_owned())),
        Exactness::Exact | Exactness::Sampled | Exactness::Bucketed if signal.lost > 0 => {
            (Trust::Inexact, Some(lost()))
        }
        Exactness::Exact => (Trust::Exact, None),
        Exactness::Sampled => (Trust::Sampled, None),
        Exactness::Bucketed => (Trust::Bucketed, Some("each is at most a quarter too high".to_owned())),
    };
    SignalNote { name: name.to_owned(), source: signal.source.clone(), exactness, reason, lost: signal.lost }
}
