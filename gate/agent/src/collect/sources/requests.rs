//! The number of successful requests.

use std::sync::{Arc, atomic::Ordering};

use memgate_evidence::{Requests, Series, Signal};

use crate::{
    collect::{
        collector::{Collector, Reading, Scene},
        worth::exact,
    },
    load::Progress,
};

/// Collects `requests`: the successful ones, at the times of the counters.
#[derive(Default)]
pub(in crate::collect) struct RequestCollector {
    progress: Option<Arc<Progress>>,
    completed: Series,
    /// The times of the readings if nobody counts requests while they run, ns.
    uncounted_ns: Vec<u64>,
}

impl RequestCollector {
    /// Counts the requests of this load from now on.
    pub(in crate::collect) fn watch(&mut self, progress: Arc<Progress>) {
        self.progress = Some(progress);
    }

    /// `seen` has the load generator's figures, or why there are none. Those of a load command have the times at which
    /// requests were completed; the signal has their number at the times of the counters.
    pub(in crate::collect) fn into_signal(self, seen: Result<Requests, String>) -> Signal<Requests> {
        match seen {
            Ok(requests) if self.progress.is_none() => exact(
                "the results of the load command, latencies from the sending",
                Ok(Requests { completed: at_times(&requests.completed, &self.uncounted_ns), ..requests }),
                None,
            ),
            Ok(requests) => exact(
                "memgate's load generator, latencies from the intended start",
                Ok(Requests { completed: self.completed, ..requests }),
                None,
            ),
            Err(reason) => exact("the load command", Err(reason), None),
        }
    }
}

/// The value that a series had at each of these times; 0 before its first entry.
fn at_times(series: &Series, times_ns: &[u64]) -> Series {
    let value = |at_ns: &u64| {
        let before = series.at_ns.partition_point(|entry_ns| entry_ns <= at_ns);
        before.checked_sub(1).and_then(|last| series.value.get(last)).copied().unwrap_or(0)
    };
    Series { at_ns: times_ns.to_vec(), value: times_ns.iter().map(value).collect() }
}

impl Collector for RequestCollector {
    fn read(&mut self, reading: Reading, _scene: &mut Scene) {
        match &self.progress {
            Some(progress) => self.completed.push(reading.at_ns, progress.succeeded.load(Ordering::Relaxed)),
            None => self.uncounted_ns.push(reading.at_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use memgate_evidence::Exactness;

    use super::*;
    use crate::collect::testing::Fake;

    #[test]
    fn requests_of_a_load_command_are_counted_at_the_times_of_the_readings() {
        let mut fake = Fake::new();
        let mut collector = RequestCollector::default();
        for at_ns in [5, 10, 20] {
            collector.read(Reading { at_ns, attempts: 1 }, &mut fake.scene);
        }
        let completed = Series { at_ns: vec![7, 10, 11, 30], value: vec![1, 2, 3, 4] };
        let signal = collector.into_signal(Ok(Requests { completed, ..Requests::default() }));
        assert_eq!(signal.data.completed, Series { at_ns: vec![5, 10, 20], value: vec![0, 2, 3] });
    }

    #[test]
    fn requests_are_counted_from_the_start_of_the_load() {
        let mut fake = Fake::new();
        let mut collector = RequestCollector::default();
        collector.read(Reading { at_ns: 1, attempts: 1 }, &mut fake.scene);
        let progress = Arc::new(Progress::default());
        collector.watch(progress.clone());
        for at_ns in [2, 3] {
            progress.succeeded.fetch_add(10, Ordering::Relaxed);
            collector.read(Reading { at_ns, attempts: 1 }, &mut fake.scene);
        }
        let signal = collector.into_signal(Ok(Requests::default()));
        assert_eq!(signal.data.completed, Series { at_ns: vec![2, 3], value: vec![10, 20] });
        let signal = RequestCollector::default().into_signal(Err("there was no load".to_owned()));
        assert_eq!(signal.exactness, Exactness::Missing { reason: "there was no load".to_owned() });
    }
}
