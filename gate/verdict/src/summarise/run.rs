//! One run's evidence, with the checks that all figures from it must pass.

use memgate_evidence::{Ending, Evidence, Exactness, Phases, Signal, Signals, TimeSpan, platform::Runner};

use super::{Unavailable, series::seconds};
use crate::{metric::Unit, units};

/// If a guest got its requests at a smaller share of the rate, figures per time mean nothing.
const SLOWEST: f64 = 0.25;

/// One run's evidence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run<'a>(pub(super) &'a Evidence);

impl<'a> Run<'a> {
    /// The signals, unchecked.
    pub(super) const fn signals(self) -> &'a Signals {
        &self.0.signals
    }

    /// The measuring phase, if the service survived it.
    pub(super) fn measure(self) -> Result<TimeSpan, Unavailable> {
        self.complete()?;
        let span = checked(self.0.phases.measure, "measuring phase")?;
        self.in_order().map(|()| span)
    }

    /// The drain, if the service survived it.
    pub(super) fn drain(self) -> Result<TimeSpan, Unavailable> {
        self.complete()?;
        let span = checked(self.0.phases.drain, "drain")?;
        self.in_order().map(|()| span)
    }

    /// When the load began, ns since launch.
    pub(super) fn load_start_ns(self) -> Result<u64, Unavailable> {
        Ok(match self.0.phases.warmup {
            Some(warmup) => warmup.start_ns,
            None => self.measure()?.start_ns,
        })
    }

    /// How the service ended early; `None` if it survived every phase.
    pub(super) fn early_end(self) -> Option<String> {
        let (what, at_ns) = match &self.0.ending {
            Ending::Stopped | Ending::Killed { .. } => return None,
            Ending::Exited { code, at_ns } => (format!("exited with code {code}"), *at_ns),
            Ending::Signalled { signal, at_ns } => (format!("was ended by {signal}"), *at_ns),
            Ending::Ended { at_ns } => ("ended".to_owned(), *at_ns),
        };
        let seconds = at_ns as f64 / 1e9;
        Some(format!("the service {what} {seconds:.1} s after launch, {}", phase_at(&self.0.phases, at_ns)))
    }

    /// One clock dates all phases, and it does not go back.
    fn in_order(self) -> Result<(), Unavailable> {
        let Phases { warmup, measure, tail, drain } = self.0.phases;
        let phases: Vec<TimeSpan> = [warmup, measure, tail, drain].into_iter().flatten().collect();
        if phases.iter().all(|phase| phase.start_ns <= phase.end_ns)
            && phases.is_sorted_by(|one, next| one.end_ns <= next.start_ns)
        {
            return Ok(());
        }
        Err(Unavailable::because("the phases in the evidence are not one after the other: their clock went back"))
    }

    /// Whether the service survived every phase.
    fn complete(self) -> Result<(), Unavailable> {
        self.early_end().map_or(Ok(()), |reason| Err(Unavailable { reason }))
    }

    /// The share of the rate at which a guest got its requests; 1 natively, where the load does not wait. A figure per
    /// time of a slow guest is that much too low: what a request costs was spread over a longer time.
    ///
    /// # Errors
    /// When the share is so small that what the service does by itself would be mistaken for what requests cost.
    pub(super) fn share_of_rate(self) -> Result<f64, Unavailable> {
        let Ok(requests) = usable(&self.signals().requests, "requests") else { return Ok(1.0) };
        if self.0.environment.runner == Runner::Native {
            return Ok(1.0);
        }
        let span = self.measure()?;
        if !(requests.per_second.is_finite() && requests.per_second > 0.0) {
            let rate = requests.per_second;
            return Err(Unavailable::because(format!(
                "the evidence has {rate} requests per second as the rate of the load, which is impossible"
            )));
        }
        let made = requests.measure.intended.saturating_sub(requests.measure.unmade());
        let share = made as f64 / seconds(span.start_ns, span.end_ns) / requests.per_second;
        if share >= SLOWEST {
            return Ok(share.min(1.0));
        }
        let share = units::format(share, Unit::Ratio);
        Err(Unavailable::because(format!(
            "the guest got its requests at {share} of the rate: lower `load.rate`, or run nothing beside it"
        )))
    }
}

/// A signal's data, unless the signal is missing, inexact or incomplete. `what` names the data in the plural, such as
/// `GC pauses`.
pub(super) fn usable<'a, T>(signal: &'a Signal<T>, what: &str) -> Result<&'a T, Unavailable> {
    match &signal.exactness {
        Exactness::Missing { reason } => Err(Unavailable::because(format!("no {what}: {}", clause(reason)))),
        Exactness::Inexact { reason } => Err(Unavailable::because(format!("inexact {what}: {}", clause(reason)))),
        Exactness::Exact | Exactness::Sampled | Exactness::Bucketed if signal.lost > 0 => {
            let noun = if signal.lost == 1 { "record was" } else { "records were" };
            Err(Unavailable::because(format!("{} {noun} lost of the {what}", signal.lost)))
        }
        Exactness::Exact | Exactness::Sampled | Exactness::Bucketed => Ok(&signal.data),
    }
}

impl Unavailable {
    /// No figure, for this reason.
    pub(super) fn because(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

/// A reason as a clause. Other parts may end theirs with a full stop.
pub(super) fn clause(reason: &str) -> &str {
    reason.trim().trim_end_matches('.')
}

fn checked(span: Option<TimeSpan>, what: &str) -> Result<TimeSpan, Unavailable> {
    match span {
        None => Err(Unavailable::because(format!("the {what} is missing in the evidence"))),
        Some(span) if span.end_ns <= span.start_ns => {
            Err(Unavailable::because(format!("the {what} has no length in the evidence")))
        }
        Some(span) => Ok(span),
    }
}

fn phase_at(phases: &Phases, at_ns: u64) -> &'static str {
    let begun = |span: Option<TimeSpan>| span.is_some_and(|span| span.start_ns <= at_ns);
    if begun(phases.drain) {
        "in the drain"
    } else if begun(phases.tail) {
        "after the measuring phase"
    } else if begun(phases.measure) {
        "in the measuring phase"
    } else if begun(phases.warmup) {
        "in the warm-up"
    } else {
        "before the load"
    }
}
