//! Runs prepared services, natively or in guests, and writes the evidence.

use std::{cell::Cell, path::PathBuf};

use futures_util::{StreamExt as _, stream};
use memgate_agent::{self as agent, Driver, RunLogs, alone::Alone, cancel::Cancel, load};
use memgate_evidence::{
    Evidence,
    error::{Result, Stage},
    plan::Plan,
    platform::Runner,
};
use memgate_files::{evidence_file, names::RunFiles};
use memgate_verdict::summarise::held_up;

use crate::{
    failures::Outcomes,
    guest_runner::{self, GuestLogs},
    leftovers,
    narrator::Narrator,
    origin, preflight,
    prepare::{Bench, Pair, places},
    secrets,
    select::{Selection, Target},
};

/// The evidence of one service on one platform.
#[derive(Debug, Default)]
pub struct Recorded {
    /// The runs of the build that is judged.
    pub runs: Vec<Evidence>,
    /// The runs of the build that it is compared with, if there is one.
    pub others: Vec<Evidence>,
}

impl Recorded {
    /// Adds the evidence of a run to the build that it is of.
    pub(crate) fn push(&mut self, run: Evidence) {
        match run.against {
            None => self.runs.push(run),
            Some(_) => self.others.push(run),
        }
    }

    /// Adds the evidence of more runs.
    pub(crate) fn extend(&mut self, more: Self) {
        self.runs.extend(more.runs);
        self.others.extend(more.others);
    }
}

/// Has this machine for itself if one of the targets runs natively: waits for another memgate that measures natively,
/// keeps others from it, and ends what killed ones have left. The machine is checked before.
///
/// # Errors
/// Fails if this machine lacks what a native run needs, and if memgate is interrupted while it waits.
pub(crate) async fn alone(
    targets: &[Target<'_>],
    selection: &Selection,
    narrator: &Narrator,
    cancel: &Cancel,
) -> Result<Option<Alone>> {
    if !places(targets)?.contains(&Runner::Native) {
        return Ok(None);
    }
    preflight::collectors(selection.collecting.tier)?;
    let say = |line: &str| narrator.say(line);
    let alone = if selection.waits { Alone::wait(say, cancel).await? } else { Alone::without_waiting(say) };
    for line in agent::remove_leftovers() {
        narrator.say(&line);
    }
    Ok(Some(alone))
}

/// Runs the work for each pair and returns the outcomes in any order, with the failures so far. Native runs go one
/// after the other, because they would disturb each other's measurements. Then as many guests run at once as this
/// machine has processors for. If one fails, the others go on.
///
/// # Errors
/// Fails if memgate is interrupted. Guests that run end then.
pub(crate) async fn side_by_side<'run, T>(
    prepared: Outcomes<Pair<'run>>,
    narrator: &Narrator,
    work: impl AsyncFn(&Pair<'run>) -> Result<T>,
) -> Result<Outcomes<T>> {
    let Outcomes { done: pairs, failures } = prepared;
    let mut outcomes = Outcomes { done: Vec::new(), failures };
    let mut keep = |pair: &Pair<'run>, outcome| {
        outcomes.keep(pair.change.target, pair.change.options, Stage::Launch, outcome, narrator)
    };
    let (guests, native): (Vec<_>, Vec<_>) = pairs.iter().partition(|pair| pair.change.guests.is_some());
    for pair in native {
        keep(pair, work(pair).await)?;
    }
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let widest = guests.iter().map(|pair| guest_runner::processors(&pair.change.target.options)).max().unwrap_or(1);
    let at_once = (processors / usize::try_from(widest).unwrap_or(usize::MAX).max(1)).max(1);
    let work = &work;
    let mut running =
        stream::iter(guests).map(|pair| async move { (pair, work(pair).await) }).buffer_unordered(at_once);
    while let Some((pair, outcome)) = running.next().await {
        keep(pair, outcome)?;
    }
    drop(running);
    Ok(outcomes)
}

/// How many runs of a service may still be measured again, because the machine has spoiled them.
#[derive(Debug)]
pub(crate) struct Again(Cell<u32>);

/// More would help little: a machine that spoils three runs is too busy to measure on.
const MOST_AGAIN: u32 = 2;

impl Default for Again {
    fn default() -> Self {
        Self(Cell::new(MOST_AGAIN))
    }
}

impl Again {
    /// Whether one more may be, which is then used up.
    fn take(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left > 0
    }
}

impl Pair<'_> {
    /// Measures these runs one after the other, each in a fresh process. Each run of the build is followed by one of the
    /// other, and the next time the other goes first. So what changes on the machine with time changes both alike.
    ///
    /// # Errors
    /// When a run cannot be made, or when its evidence cannot be written.
    pub(crate) async fn measure(
        &self,
        runs: std::ops::RangeInclusive<u32>,
        narrator: &Narrator,
        cancel: &Cancel,
    ) -> Result<Recorded> {
        let mut recorded = Recorded::default();
        for run in runs {
            let mut builds: Vec<&Bench<'_>> = self.builds().collect();
            if run.is_multiple_of(2) {
                builds.reverse();
            }
            for build in builds {
                recorded.push(build.measure(run, &self.again, narrator, cancel).await?);
            }
        }
        Ok(recorded)
    }

    /// The evidence files of these runs, those of the other build too.
    pub(crate) fn files(&self, runs: std::ops::RangeInclusive<u32>) -> Vec<PathBuf> {
        self.builds().flat_map(|build| runs.clone().map(|run| build.file(run))).collect()
    }

    /// The build that is judged, and the other one if there is one.
    fn builds(&self) -> impl Iterator<Item = &Bench<'_>> {
        [&self.change].into_iter().chain(&self.other)
    }
}

impl Bench<'_> {
    /// Measures this run in a fresh process, and again in another if the machine has spoiled the first.
    ///
    /// # Errors
    /// When the run cannot be made, or when its evidence cannot be written.
    async fn measure(&self, run: u32, again: &Again, narrator: &Narrator, cancel: &Cancel) -> Result<Evidence> {
        let evidence = Box::pin(self.attempt(run, None, narrator, cancel)).await?;
        let Some(reason) = held_up(&evidence).filter(|_| again.take()) else { return Ok(evidence) };
        narrator.say(&format!("{}: measuring again, because {reason}", self.title(run)));
        self.out_directory.is_still_there()?;
        leftovers::remove_run(self.out, &self.names(run))?;
        let note = format!("Run {run} was measured again. In the first attempt, {reason}.");
        Box::pin(self.attempt(run, Some(note), narrator, cancel)).await
    }

    /// Measures this run in a fresh process. The note is about an earlier attempt.
    async fn attempt(&self, run: u32, note: Option<String>, narrator: &Narrator, cancel: &Cancel) -> Result<Evidence> {
        self.out_directory.is_still_there()?;
        let plan = self.plan(run);
        // A run of an executable that cannot be read says more about it.
        let origin = origin::of(&self.planned(run), self.commit.as_ref());
        let title = self.title(run);
        let event = |event| narrator.event(&title, event);
        let mut evidence = match &self.guests {
            None => agent::run(&plan, &self.logs(&plan), Driver::Here(load::start), &event, cancel).await?,
            Some(guests) => guests.run(&plan, &self.guest_logs(&plan), &event, cancel).await?,
        };
        evidence.options = self.options.to_vec();
        evidence.origin = Some(origin?);
        evidence.notes.extend(note);
        if let Some(against) = &self.target.against {
            evidence.against = Some(against.name.clone());
            evidence.notes.extend(against.note.clone());
        }
        let evidence = secrets::mask_evidence(evidence);
        self.out_directory.is_still_there()?;
        evidence_file::write(&self.file(run), &evidence)?;
        // memgate judges what it reads back from the file, so judging the file again gives the same result.
        evidence_file::read(&self.file(run))
    }

    /// Names a run for people, such as `uaa linux/amd64 run 1`.
    fn title(&self, run: u32) -> String {
        format!("{} run {run}", self.target.title())
    }

    /// The file names of one run.
    fn names(&self, run: u32) -> RunFiles {
        RunFiles::of(self.out, &self.target.service.name, self.target.platform, run)
    }

    /// The file for a run's evidence.
    pub(crate) fn file(&self, run: u32) -> PathBuf {
        self.names(run).evidence()
    }

    fn logs(&self, plan: &Plan) -> RunLogs {
        let names = self.names(plan.run);
        RunLogs::of(plan, |name| names.log(name))
    }

    fn guest_logs(&self, plan: &Plan) -> GuestLogs {
        GuestLogs { run: self.logs(plan), console_log: self.names(plan.run).log("console") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_runs_may_be_measured_again() {
        let again = Again::default();
        assert_eq!([(); 4].map(|()| again.take()), [true, true, false, false]);
    }
}
