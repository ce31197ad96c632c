//! Amounts for each call stack, from the profiles in the evidence: what it allocated, kept, started or touched.

use memgate_evidence::{AllocSamples, Exactness, GoroutineSites, HeapProfile, OffHeapSites, Signal};

use super::run::{Run, clause};

/// The amount of one stack of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Part {
    /// The stack, an index into the run's `Code`.
    pub(super) stack: u32,
    /// For goroutines, the function that started.
    pub(super) started: Option<u32>,
    /// Bytes, objects or goroutines; negative if there are fewer than before.
    pub(super) amount: f64,
    /// The number of sampled objects behind it; 0 if nothing was sampled.
    pub(super) samples: u64,
    /// The variance of `amount` from sampling.
    pub(super) variance: f64,
}

/// The parts of one profile, and the number of rows that contradict themselves and were left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Table {
    pub(super) parts: Vec<Part>,
    pub(super) left_out: usize,
}

/// Why there is no table, as a clause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoTable {
    /// It was not measured.
    Missing(String),
    /// It was measured and cannot be true.
    Broken(String),
}

/// What to count of allocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Bytes,
    Objects,
}

/// When to count goroutines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// At the end of the measuring phase.
    Loaded,
    /// At the end of the drain.
    Left,
}

/// The number of objects that a sampled object represents.
///
/// An object of `size` bytes is in the sample with the probability p = 1 − e^(−size/rate), so it represents 1/p
/// objects, with a variance of (1 − p)/p² (D. G. Horvitz and D. J. Thompson, J. Am. Stat. Assoc. 47, 1952). For objects
/// much smaller than the rate, n samples then have the relative standard error 1/√n of a Poisson count. A rate of 1
/// samples every object (runtime/pprof/protomem.go, Go 1.27, `scaleHeapSample`).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Weight {
    amount: f64,
    variance: f64,
}

impl Weight {
    fn new(size: u64, rate: u64, of: Of) -> Self {
        // An object of zero bytes is never sampled.
        if size == 0 {
            return Self { amount: 0.0, variance: 0.0 };
        }
        let each = match of {
            Of::Bytes => size as f64,
            Of::Objects => 1.0,
        };
        if rate <= 1 {
            return Self { amount: each, variance: 0.0 };
        }
        let exponent = -(size as f64) / rate as f64;
        let amount = each / -exponent.exp_m1();
        Self { amount, variance: exponent.exp() * amount.powi(2) }
    }

    /// The part of a stack with `after` objects at the end and `before` at the start.
    fn part(self, stack: u32, after: u64, before: u64, rests_on: u64) -> Part {
        let net = after as f64 - before as f64;
        let variance = self.variance * rests_on as f64;
        Part { stack, started: None, amount: self.amount * net, samples: rests_on, variance }
    }
}

/// Allocations in the measuring phase: from the samples of exactly that phase, or else from the heap profile, which
/// lags behind by two GC cycles.
pub(super) fn allocated(run: Run<'_>, of: Of) -> Result<Table, NoTable> {
    let signals = run.signals();
    match data(&signals.alloc_samples, "sampled allocations") {
        Ok(samples) if samples.rate > 0 => allocated_by_samples(samples, of),
        Ok(_) | Err(NoTable::Missing(_) | NoTable::Broken(_)) => {
            allocated_by_profile(data(&signals.heap_profile, "heap profile")?, of)
        }
    }
}

fn allocated_by_profile(profile: &HeapProfile, of: Of) -> Result<Table, NoTable> {
    let rows = heap_rows(profile)?;
    Ok(table(rows.map(|row| {
        let allocated = row.allocs_end.checked_sub(row.allocs_start)?;
        Some(Weight::new(row.size, profile.rate, of).part(row.stack, allocated, 0, allocated))
    })))
}

fn allocated_by_samples(samples: &AllocSamples, of: Of) -> Result<Table, NoTable> {
    check_rate(samples.rate, "sampled allocations")?;
    let length = samples.stack.len();
    check_lengths("sampled allocations", length, &[samples.size.len(), samples.count.len()])?;
    let rows = samples.stack.iter().zip(samples.size.iter().zip(&samples.count));
    Ok(table(
        rows.map(|(&stack, (&size, &count))| Some(Weight::new(size, samples.rate, of).part(stack, count, 0, count))),
    ))
}

/// Growth of the live bytes in the measuring phase.
///
/// An object that lives all through the phase is in both counts. The growth rests on the objects that came and stayed
/// and on those that were there and went. No more came than were allocated, or are alive at the end. No more went than
/// were freed, or were alive at the start.
pub(super) fn heap_growth(run: Run<'_>) -> Result<Table, NoTable> {
    let profile = data(&run.signals().heap_profile, "heap profile")?;
    let rows = heap_rows(profile)?;
    Ok(table(rows.map(|row| {
        let before = row.allocs_start.checked_sub(row.frees_start)?;
        let after = row.allocs_end.checked_sub(row.frees_end)?;
        let came = after.min(row.allocs_end.checked_sub(row.allocs_start)?);
        let gone = before.min(row.frees_end.checked_sub(row.frees_start)?);
        let weight = Weight::new(row.size, profile.rate, Of::Bytes);
        Some(weight.part(row.stack, after, before, came.saturating_add(gone)))
    })))
}

/// Goroutines that did not exist before the load; after the drain, those that came in the measuring phase or later.
pub(super) fn goroutines(run: Run<'_>, when: When) -> Result<Table, NoTable> {
    let what = "goroutines by `go` statement";
    let GoroutineSites { created, started, before, loaded, left, young } = data(&run.signals().goroutine_sites, what)?;
    check_lengths(what, created.len(), &[started.len(), before.len(), loaded.len(), left.len(), young.len()])?;
    let (after, most) = match when {
        When::Loaded => (loaded, loaded),
        When::Left => (left, young),
    };
    let rows = created.iter().zip(started).zip(before.iter().zip(after.iter().zip(most)));
    Ok(table(rows.map(|((&stack, &started), (&before, (&after, &most)))| {
        let amount = (after as f64 - before as f64).min(most as f64);
        Some(Part { stack, started: Some(started), amount, samples: 0, variance: 0.0 })
    })))
}

/// Growth of the resident off-heap memory in the measuring phase.
pub(super) fn off_heap_growth(run: Run<'_>) -> Result<Table, NoTable> {
    let what = "off-heap memory by code";
    let OffHeapSites { stack, start_bytes, end_bytes } = data(&run.signals().offheap_sites, what)?;
    check_lengths(what, stack.len(), &[start_bytes.len(), end_bytes.len()])?;
    let rows = stack.iter().zip(start_bytes.iter().zip(end_bytes));
    Ok(table(rows.map(|(&stack, (&start, &end))| {
        Some(Part { stack, started: None, amount: end as f64 - start as f64, samples: 0, variance: 0.0 })
    })))
}

/// A row of the heap profile.
struct HeapRow {
    stack: u32,
    size: u64,
    allocs_start: u64,
    frees_start: u64,
    allocs_end: u64,
    frees_end: u64,
}

fn heap_rows(profile: &HeapProfile) -> Result<impl Iterator<Item = HeapRow>, NoTable> {
    let HeapProfile { rate, size, stack, allocs_start, frees_start, allocs_end, frees_end } = profile;
    let what = "heap profile";
    check_rate(*rate, what)?;
    let lengths = [size.len(), allocs_start.len(), frees_start.len(), allocs_end.len(), frees_end.len()];
    check_lengths(what, stack.len(), &lengths)?;
    let start = allocs_start.iter().zip(frees_start);
    let end = allocs_end.iter().zip(frees_end);
    Ok(stack.iter().zip(size).zip(start.zip(end)).map(
        |((&stack, &size), ((&allocs_start, &frees_start), (&allocs_end, &frees_end)))| HeapRow {
            stack,
            size,
            allocs_start,
            frees_start,
            allocs_end,
            frees_end,
        },
    ))
}

/// A signal's data, unless it is missing. Inexact or incomplete data still show where to look; the report says that
/// they are.
fn data<'a, T>(signal: &'a Signal<T>, what: &str) -> Result<&'a T, NoTable> {
    match &signal.exactness {
        Exactness::Missing { reason } => Err(NoTable::Missing(format!("no {what}: {}", clause(reason)))),
        Exactness::Exact | Exactness::Sampled | Exactness::Bucketed | Exactness::Inexact { .. } => Ok(&signal.data),
    }
}

fn table(rows: impl Iterator<Item = Option<Part>>) -> Table {
    let mut table = Table::default();
    for row in rows {
        match row {
            Some(part) => table.parts.push(part),
            None => table.left_out += 1,
        }
    }
    table
}

fn check_rate(rate: u64, what: &str) -> Result<(), NoTable> {
    if rate == 0 { Err(NoTable::Missing(format!("no {what}: sampling was off"))) } else { Ok(()) }
}

fn check_lengths(what: &str, length: usize, others: &[usize]) -> Result<(), NoTable> {
    if others.iter().all(|other| *other == length) {
        return Ok(());
    }
    Err(NoTable::Broken(format!("the columns of the {what} differ in length")))
}
