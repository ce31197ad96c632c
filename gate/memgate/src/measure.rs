//! Runs prepared services, natively or in guests, and writes the evidence.

use std::path::PathBuf;

use futures_util::{StreamExt as _, stream};
use memgate_agent::{self as agent, Driver, RunLogs, cancel::Cancel};
use memgate_evidence::{
    Evidence,
    error::{Result, Stage},
};
use memgate_files::{evidence_file, names::RunFiles};

use crate::{
    failures::Outcomes,
    guest_runner::{self, GuestLogs},
    narrator::Narrator,
    prepare::Bench,
};

/// Runs the work for each bench and returns the outcomes in any order, with the failures so far. Native runs go one
/// after the other, because they would disturb each other's measurements. Then as many guests run at once as this
/// machine has processors for. If one fails, the others go on.
///
/// # Errors
/// Fails if memgate is interrupted. Guests that run end then.
pub(crate) async fn side_by_side<'run, T>(
    prepared: Outcomes<Bench<'run>>,
    narrator: &Narrator,
    work: impl AsyncFn(&Bench<'run>) -> Result<T>,
) -> Result<Outcomes<T>> {
    let Outcomes { done: benches, failures } = prepared;
    let mut outcomes = Outcomes { done: Vec::new(), failures };
    let mut keep =
        |bench: &Bench<'run>, outcome| outcomes.keep(bench.target, bench.options, Stage::Launch, outcome, narrator);
    let (guests, native): (Vec<_>, Vec<_>) = benches.iter().partition(|bench| bench.guests.is_some());
    for bench in native {
        keep(bench, work(bench).await)?;
    }
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let widest = guests.iter().map(|bench| guest_runner::processors(&bench.target.options)).max().unwrap_or(1);
    let at_once = (processors / usize::try_from(widest).unwrap_or(usize::MAX).max(1)).max(1);
    let work = &work;
    let mut running =
        stream::iter(guests).map(|bench| async move { (bench, work(bench).await) }).buffer_unordered(at_once);
    while let Some((bench, outcome)) = running.next().await {
        keep(bench, outcome)?;
    }
    drop(running);
    Ok(outcomes)
}

impl Bench<'_> {
    /// Measures these runs one after the other, each in a fresh process.
    ///
    /// # Errors
    /// When a run cannot be made, or when its evidence cannot be written.
    pub(crate) async fn measure(
        &self,
        runs: std::ops::RangeInclusive<u32>,
        narrator: &Narrator,
        cancel: &Cancel,
    ) -> Result<Vec<Evidence>> {
        let mut measured = Vec::new();
        for run in runs {
            let plan = self.plan(run);
            let title = format!("{} run {run}", self.target.title());
            let event = |event| narrator.event(&title, event);
            let mut evidence = match &self.guests {
                None => agent::run(&plan, &self.logs(run), Driver::Here, &event, cancel).await?,
                Some(guests) => guests.run(&plan, &self.guest_logs(run), &event, cancel).await?,
            };
            evidence.options = self.options.to_vec();
            evidence_file::write(&self.file(run), &evidence)?;
            // memgate judges what it reads back from the file, so judging the file again gives the same result.
            measured.push(evidence_file::read(&self.file(run))?);
        }
        Ok(measured)
    }

    /// The file names of one run.
    fn names(&self, run: u32) -> RunFiles {
        RunFiles::of(self.out, &self.target.service.name, self.target.platform, run)
    }

    /// The file for a run's evidence.
    pub(crate) fn file(&self, run: u32) -> PathBuf {
        self.names(run).evidence()
    }

    fn logs(&self, run: u32) -> RunLogs {
        let names = self.names(run);
        RunLogs { service_log: names.log("service"), load_log: names.log("load") }
    }

    fn guest_logs(&self, run: u32) -> GuestLogs {
        let names = self.names(run);
        GuestLogs { service_log: names.log("service"), console_log: names.log("console") }
    }
}
