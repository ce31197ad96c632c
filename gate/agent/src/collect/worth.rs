//! The worth of a signal: missing, doubtful, or as good as its source.

use memgate_evidence::{Exactness, Signal};

use super::programs::{ProgramError, Programs};

pub(super) const COUNTERS: &str =
    "the runtime's counters, read from the service's memory at 5 Hz and at the phases' ends";
pub(super) const CGROUP: &str = "the cgroup's memory controller";
pub(super) const NOT_REACHED: &str = "the service ended before the end of the measuring phase";

/// The most rows that a signal of records has. More records count as lost, so no gate passes on such a signal. A service
/// with 200 pauses a second, which is many, has as many in 43 minutes.
///
/// With this and the limits on readings, buckets, stacks and sites, evidence stays below the 1 GiB of its file.
pub(super) const MOST_ROWS: usize = 1 << 19;

/// The worth of a signal.
#[derive(Debug, Clone)]
pub(super) struct Worth {
    /// Why there are no data.
    pub(super) missing: Option<String>,
    /// Why the data are doubtful.
    pub(super) doubt: Option<String>,
    /// Records lost on the way.
    pub(super) lost: u64,
    /// The exactness of data that are neither missing nor doubtful.
    pub(super) otherwise: Exactness,
}

impl Worth {
    /// The signal with these data, which are dropped if the signal is missing.
    pub(super) fn of<T: Default>(self, source: &str, data: T) -> Signal<T> {
        let source = source.to_owned();
        match (self.missing, self.doubt) {
            (Some(reason), _) => {
                Signal { source, exactness: Exactness::Missing { reason }, lost: self.lost, data: T::default() }
            }
            (None, Some(reason)) => Signal { source, exactness: Exactness::Inexact { reason }, lost: self.lost, data },
            (None, None) => Signal { source, exactness: self.otherwise, lost: self.lost, data },
        }
    }

    /// Exact at the times of its readings.
    pub(super) fn sampled(doubt: Option<String>) -> Self {
        Self { missing: None, doubt, lost: 0, otherwise: Exactness::Sampled }
    }
}

/// A signal that is exact if it has data.
pub(super) fn exact<T: Default>(source: &str, data: Result<T, String>, doubt: Option<String>) -> Signal<T> {
    let (data, missing) = match data {
        Ok(data) => (data, None),
        Err(reason) => (T::default(), Some(reason)),
    };
    Worth { missing, doubt, lost: 0, otherwise: Exactness::Exact }.of(source, data)
}

/// Keeps the first reason.
pub(super) fn note(failure: &mut Option<String>, reason: impl Into<String>) {
    failure.get_or_insert_with(|| reason.into());
}

/// What all signals depend on, at the end of a run.
#[derive(Debug)]
pub(super) struct Ending {
    /// Why figures of the launched process are not those of the whole service, if there is a reason.
    pub(super) doubt: Option<String>,
    /// Why sums over the processes of the cgroup are not those of the whole service, if there is a reason.
    doubt_of_sums: Option<String>,
    /// How the records differ from the runtime's own totals, if they do.
    pub(super) cross_check: Option<String>,
    /// Records that the BPF programs lost, by kind, or why that is unknown; empty without programs.
    lost: Result<Vec<u64>, String>,
}

#[cfg(test)]
impl Default for Ending {
    /// Nothing is doubtful and nothing is lost.
    fn default() -> Self {
        Self::new(None, None, None)
    }
}

impl Ending {
    pub(super) fn new(doubt: Option<String>, cross_check: Option<String>, programs: Option<&dyn Programs>) -> Self {
        let lost = programs.map_or(Ok(Vec::new()), Programs::lost);
        let doubt_of_sums = doubt.clone();
        Self { doubt, doubt_of_sums, cross_check, lost: lost.map_err(|error: ProgramError| error.reason()) }
    }

    /// The same if the processes of the cgroup are the whole service, but for this reason.
    pub(super) fn summed_over_the_cgroup(self, doubt_of_sums: Option<String>) -> Self {
        Self { doubt_of_sums, ..self }
    }

    /// The number of lost records of these kinds, or why it is unknown.
    pub(super) fn lost_of(&self, kinds: &[u32]) -> (u64, Option<String>) {
        match &self.lost {
            Ok(lost) => (kinds.iter().filter_map(|kind| lost.get(usize::try_from(*kind).ok()?)).sum(), None),
            Err(reason) => (0, Some(reason.clone())),
        }
    }

    /// A signal from records of these kinds, each of which is exact.
    pub(super) fn probed(&self, missing: Option<String>, kinds: &[u32]) -> Worth {
        let (lost, unknown) = self.lost_of(kinds);
        let doubt = self.doubt.clone().or(unknown).or_else(|| self.cross_check.clone());
        Worth { missing, doubt, lost, otherwise: Exactness::Exact }
    }

    /// A signal from readings that sum up the processes of the cgroup. `failure` is the reason of the first failed one.
    pub(super) fn summed(&self, failure: Option<String>) -> Worth {
        Worth::sampled(self.doubt_of_sums.clone().or(failure))
    }

    /// A signal from readings. `failure` is the reason of the first failed one.
    pub(super) fn read(&self, failure: Option<String>) -> Worth {
        Worth::sampled(self.doubt.clone().or(failure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::testing::FakePrograms;

    #[test]
    fn a_missing_signal_has_no_data_and_a_doubtful_one_keeps_them() {
        let worth = |missing: Option<&str>, doubt: Option<&str>| Worth {
            missing: missing.map(str::to_owned),
            doubt: doubt.map(str::to_owned),
            lost: 3,
            otherwise: Exactness::Exact,
        };
        let signal = worth(Some("no probe"), Some("replaced")).of("probe", vec![1]);
        assert_eq!((signal.exactness, signal.data), (Exactness::Missing { reason: "no probe".to_owned() }, vec![]));
        let signal = worth(None, Some("replaced")).of("probe", vec![1]);
        assert_eq!((signal.exactness, signal.data), (Exactness::Inexact { reason: "replaced".to_owned() }, vec![1]));
        let signal = worth(None, None).of("probe", vec![1]);
        assert_eq!((signal.exactness, signal.lost, signal.data), (Exactness::Exact, 3, vec![1]));
    }

    #[test]
    fn only_losses_of_the_kinds_count_and_unknown_ones_are_a_doubt() {
        let programs = FakePrograms::default();
        programs.set_lost(Ok(vec![0, 5, 7]));
        let worth = Ending::new(None, None, Some(&programs)).probed(None, &[2, 9]);
        assert_eq!((worth.lost, worth.doubt), (7, None));
        programs.set_lost(Err("no such map".to_owned()));
        let worth = Ending::new(None, Some("2 cycles are missing".to_owned()), Some(&programs)).probed(None, &[2]);
        assert!(worth.doubt.unwrap().contains("no such map"));
        let worth = Ending::new(None, Some("2 cycles are missing".to_owned()), None).probed(None, &[2]);
        assert_eq!(worth.doubt.as_deref(), Some("2 cycles are missing"));
    }
}
