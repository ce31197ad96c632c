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
}

impl RequestCollector {
    /// Counts the requests of this load from now on.
    pub(in crate::collect) fn watch(&mut self, progress: Arc<Progress>) {
        self.progress = Some(progress);
    }

    /// `seen` has the load generator's figures, or why there are none.
    pub(in crate::collect) fn into_signal(self, seen: Result<Requests, String>) -> Signal<Requests> {
        match seen {
            Ok(requests) => exact(
                "memgate's load generator, latencies from the intended start",
                Ok(Requests { completed: self.completed, ..requests }),
                None,
            ),
            Err(reason) => exact("the load command", Err(reason), None),
        }
    }
}

impl Collector for RequestCollector {
    fn read(&mut self, reading: Reading, _scene: &mut Scene) {
        if let Some(progress) = &self.progress {
            self.completed.push(reading.at_ns, progress.succeeded.load(Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use memgate_evidence::Exactness;

    use super::*;
    use crate::collect::testing::Fake;

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
