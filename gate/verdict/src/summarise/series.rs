//! Checks series and cuts them to spans.

use memgate_evidence::{Series, Signal, TimeSpan};

use super::{Unavailable, run::usable};

/// Seconds from one time to a later one.
pub(super) const fn seconds(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / 1e9
}

/// A time in minutes from the start of a span.
pub(super) const fn minutes_into(span: TimeSpan, at_ns: u64) -> f64 {
    seconds(span.start_ns, at_ns) / 60.0
}

/// The entries of a series, in columns of equal length and in order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Entries<'a> {
    pub(super) at_ns: &'a [u64],
    pub(super) value: &'a [u64],
}

impl<'a> Entries<'a> {
    /// The columns, if they have the same length and their times do not decrease. They may be empty.
    pub(super) fn new(at_ns: &'a [u64], value: &'a [u64], what: &str) -> Result<Self, Unavailable> {
        if at_ns.len() != value.len() {
            let (times, values) = (at_ns.len(), value.len());
            return Err(Unavailable::because(format!("the {what} have {times} times but {values} values")));
        }
        if !at_ns.is_sorted() {
            return Err(Unavailable::because(format!("the times of the {what} decrease")));
        }
        Ok(Self { at_ns, value })
    }

    /// A signal's entries, if the signal is usable.
    pub(super) fn of(signal: &'a Signal<Series>, what: &str) -> Result<Self, Unavailable> {
        let series = usable(signal, what)?;
        Self::new(&series.at_ns, &series.value, what)
    }

    /// As [`Self::of`], if the values do not decrease, as those of a total cannot.
    pub(super) fn of_total(signal: &'a Signal<Series>, what: &str) -> Result<Self, Unavailable> {
        Self::of(signal, what)?.into_total(what)
    }

    /// The same entries, if their values do not decrease.
    pub(super) fn into_total(self, what: &str) -> Result<Self, Unavailable> {
        if self.value.is_sorted() {
            Ok(self)
        } else {
            Err(Unavailable::because(format!("the {what} decrease, which is impossible for totals")))
        }
    }

    /// The same entries, if none is 0: what `what` names is never nothing, so a 0 was not read.
    pub(super) fn without_zeros(self, what: &str) -> Result<Self, Unavailable> {
        if self.value.contains(&0) {
            return Err(Unavailable::because(format!("the {what} contain a 0, which is impossible")));
        }
        Ok(self)
    }

    /// The same entries, unless there are some and each of them is 0.
    pub(super) fn not_all_zeros(self, what: &str) -> Result<Self, Unavailable> {
        if !self.value.is_empty() && self.value.iter().all(|&value| value == 0) {
            return Err(Unavailable::because(format!("the {what} are all 0, which is impossible")));
        }
        Ok(self)
    }

    /// The number of entries.
    pub(super) const fn len(self) -> usize {
        self.at_ns.len()
    }

    /// Pairs of time and value.
    pub(super) fn iter(self) -> impl Iterator<Item = (u64, u64)> {
        self.at_ns.iter().copied().zip(self.value.iter().copied())
    }

    /// The entries in a span.
    pub(super) fn within(self, span: TimeSpan) -> Self {
        self.between(span.start_ns, self.at_ns.partition_point(|&at| at < span.end_ns))
    }

    /// The entries in a span, including its very end: a phase ends with its last reading.
    pub(super) fn within_closed(self, span: TimeSpan) -> Self {
        self.between(span.start_ns, self.at_ns.partition_point(|&at| at <= span.end_ns))
    }

    fn between(self, start_ns: u64, to: usize) -> Self {
        let from = self.at_ns.partition_point(|&at| at < start_ns).min(to);
        Self { at_ns: &self.at_ns[from..to], value: &self.value[from..to] }
    }

    /// The entries in a span, if there are readings all through it. A series that is cut short or has a gap says
    /// nothing about the rest.
    ///
    /// The tolerance is 5 % of the span at either end and 10 % within it, but at least one second and two seconds. In a
    /// short span these seconds are cut to a quarter and a half of the span. A slow guest may read late.
    pub(super) fn covering(self, span: TimeSpan, what: &str) -> Result<Self, Unavailable> {
        let inside = self.within_closed(span);
        let length = seconds(span.start_ns, span.end_ns);
        let at_the_ends = (0.05 * length).max((0.25 * length).min(1.0));
        let (Some(&first), Some(&last)) = (inside.at_ns.first(), inside.at_ns.last()) else {
            return Err(Unavailable::because(format!("the {what} have no entry in the phase")));
        };
        if seconds(span.start_ns, first) > at_the_ends {
            let late = seconds(span.start_ns, first);
            return Err(Unavailable::because(format!("the {what} begin {late:.1} s after the start of the phase")));
        }
        if seconds(last, span.end_ns) > at_the_ends {
            let early = seconds(last, span.end_ns);
            return Err(Unavailable::because(format!("the {what} end {early:.1} s before the end of the phase")));
        }
        let widest = inside.at_ns.windows(2).map(|pair| seconds(pair[0], pair[1])).fold(0.0, f64::max);
        if widest > 2.0 * at_the_ends {
            return Err(Unavailable::because(format!("the {what} have a gap of {widest:.1} s in the phase")));
        }
        Ok(inside)
    }

    /// The value of the last entry at or before a time, or else of the first one; 0 if there is none.
    pub(super) fn at_or_before(self, at_ns: u64) -> f64 {
        let after = self.at_ns.partition_point(|&at| at <= at_ns);
        self.value.get(after.saturating_sub(1)).map_or(0.0, |value| *value as f64)
    }

    /// The value at a time between the first and the last entry, by interpolation. It is exact at the times of the
    /// entries.
    pub(super) fn interpolated(self, at_ns: u64) -> f64 {
        let after = self.at_ns.partition_point(|&at| at < at_ns);
        let value = |index: usize| self.value.get(index).map_or(f64::NAN, |&value| value as f64);
        if self.at_ns.get(after).is_none_or(|&at| at == at_ns) || after == 0 {
            return value(after.min(self.len().saturating_sub(1)));
        }
        let (from, to) = (self.at_ns[after - 1], self.at_ns[after]);
        let share = seconds(from, at_ns) / seconds(from, to);
        value(after - 1) + (value(after) - value(after - 1)) * share
    }
}

/// Checks events that an even load produces steadily. If they stop long before the end of the span, or start long after
/// its beginning, records are missing. Fewer than three events prove nothing.
///
/// If events come from allocation, as those of the GC do, `allocated` is the total of allocated bytes. Then events are
/// missing only if as much is allocated without them, too: a service that does its work in bursts collects in bursts.
pub(super) fn check_steady(
    at_ns: &[u64],
    span: TimeSpan,
    allocated: Option<Entries<'_>>,
    what: &str,
) -> Result<(), Unavailable> {
    let (Some(&first), Some(&last)) = (at_ns.first(), at_ns.last()) else { return Ok(()) };
    if at_ns.len() < 3 {
        return Ok(());
    }
    // The widest gap between two events, and the longest silence at an end of the span, in any measure of distance.
    let gaps = |distance: &dyn Fn(u64, u64) -> f64| {
        let widest = at_ns.windows(2).map(|pair| distance(pair[0], pair[1])).fold(0.0, f64::max);
        let silent = distance(last, span.end_ns).max(distance(span.start_ns, first));
        // Collections become rarer as the live heap grows. Three times the widest gap is more than that explains.
        (widest, silent, silent <= 3.0 * widest + 0.05 * distance(span.start_ns, span.end_ns))
    };
    let (widest, silent, is_steady) = gaps(&seconds);
    let is_steady_in_bytes = |bytes: Entries<'_>| gaps(&|from, to| bytes.interpolated(to) - bytes.interpolated(from)).2;
    if !is_steady && !allocated.is_some_and(is_steady_in_bytes) {
        return Err(Unavailable::because(format!(
            "there are no {what} for {silent:.1} s at one end of the measuring phase, but the longest gap within it is {widest:.1} s: records are missing"
        )));
    }
    Ok(())
}

/// No span has more blocks than this, a week of five seconds each.
const MAX_BLOCKS: u64 = 120_960;

/// A span in equal blocks: of `block_s` seconds or slightly more if the span has room for 8 of them, or else of an
/// eighth of the span.
pub(super) fn blocks(span: TimeSpan, block_s: u64) -> Vec<TimeSpan> {
    let length = span.end_ns.saturating_sub(span.start_ns);
    let count = (length / (block_s * 1_000_000_000)).clamp(8, MAX_BLOCKS);
    let edge = |block: u64| {
        let offset = u128::from(length) * u128::from(block) / u128::from(count);
        span.start_ns + u64::try_from(offset).unwrap_or(length)
    };
    (0..count).map(|block| TimeSpan { start_ns: edge(block), end_ns: edge(block + 1) }).collect()
}
