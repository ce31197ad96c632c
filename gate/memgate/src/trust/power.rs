//! What the gates of healthy checks would have noticed.

use memgate_evidence::platform::Runner;
use memgate_verdict::{
    baseline::Baseline,
    judge::lacks_occasions,
    metric::{Metric, Quantity, Unit},
    results::{GateResult, Verdict},
};
use serde::Serialize;

use super::{checks::Check, switched_off};

/// What a gate would have noticed after the first look, in the worst of the checks.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Power {
    /// The metric.
    pub metric: Metric,
    /// The unit of every figure.
    pub unit: Unit,
    /// The figure of the check that would have noticed the least, or of the first check if the gate held in none.
    pub measured: Option<f64>,
    /// The smallest figure that it would have noticed; `null` if the gate held in no check.
    pub noticed: Option<f64>,
    /// By which share of the measured figure it is above that; `null` for growths and for a figure of 0, of which a share
    /// means nothing.
    pub share: Option<f64>,
    /// Why the gate cannot fail; `null` if it can.
    pub cannot_fail: Option<String>,
}

/// The power of each gate, in the order of the reports.
pub(super) fn of_gates(checks: &[Check], baseline: &Baseline) -> Vec<Power> {
    let of = |metric: Metric| {
        let gates = checks.iter().flat_map(|check| &check.first.gates).filter(|gate| gate.metric == metric);
        let gates: Vec<&GateResult> = gates.collect();
        let held = gates.iter().filter_map(|gate| Some((gate.noticed?, gate.measured)));
        let worst = held.max_by(|one, other| one.0.total_cmp(&other.0));
        let measured = worst.map_or(gates.first()?.measured, |(_, measured)| measured);
        let noticed = worst.map(|(noticed, _)| noticed);
        // A waiver that has ended fails its gate.
        let fails = gates.iter().any(|gate| gate.verdict == Verdict::Regressed);
        let has_limit = gates.iter().any(|gate| gate.limit.is_some());
        let cannot_fail = if fails { None } else { cannot_fail(metric, baseline, has_limit) };
        let share = noticed.zip(measured).and_then(|(noticed, measured)| share(metric.unit(), noticed, measured));
        Some(Power { metric, unit: metric.unit(), measured, noticed, share, cannot_fail })
    };
    Metric::ALL.into_iter().filter_map(of).collect()
}

/// Why the gate of a metric cannot fail. In a guest, a time that the baseline does not name is advisory.
fn cannot_fail(metric: Metric, baseline: &Baseline, has_limit: bool) -> Option<String> {
    match baseline.metrics.get(&metric) {
        Some(expectation) => switched_off(expectation).or_else(|| {
            let is_advisory = !has_limit && lacks_occasions(metric, expectation);
            is_advisory.then(|| "a time is advisory beside a baseline of one occasion".to_owned())
        }),
        None if metric.quantity() == Quantity::Time && baseline.environment.runner == Runner::Qemu => {
            Some("a time in a guest is advisory".to_owned())
        }
        None => None,
    }
}

fn share(unit: Unit, noticed: f64, measured: f64) -> Option<f64> {
    (!unit.is_growth() && measured > 0.0).then(|| noticed / measured - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_nothing_and_of_a_growth_is_none() {
        assert_eq!(share(Unit::BytesPerRequest, 102.0, 100.0), Some(0.020_000_000_000_000_018));
        assert_eq!(share(Unit::Count, 1.0, 0.0), None);
        assert_eq!(share(Unit::BytesPerMinute, 1e6, 1e5), None);
    }
}
