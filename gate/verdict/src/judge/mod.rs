//! Metrics and baseline → verdict. Pure: uses no process, clock, file or network.

mod against_anchor;
mod against_baseline;
mod against_limit;
mod beside;
mod figures;
mod fit;
mod gate;
mod looks;
mod ruling;
mod service;
mod step;
#[cfg(test)]
mod tests;

pub use fit::misfit;
pub use gate::{LimitForRuns, limit_for_runs};
pub use looks::MOST_RUNS;
pub use service::{Other, judge, judge_beside, more_runs, next_look};
pub use step::{Explained, Step, is_change, lacks_occasions, notices, spoiled, step};
