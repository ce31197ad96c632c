//! Flame graphs: whole call stacks with their amounts, in the collapsed form that tools for flame graphs read.

use std::collections::BTreeMap;

use memgate_evidence::{Code, Evidence, Exactness, Frame, Signal, Signals};

use super::{
    run::Run,
    sites::{Profiles, name},
    tables::{NoTable, Table},
};

/// What a flame graph shows. Widths are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Graph {
    /// Bytes allocated on the Go heap in the measuring phase.
    Alloc,
    /// Growth of the live Go heap in the measuring phase.
    LiveGrowth,
    /// Growth of the resident off-heap memory in the measuring phase.
    OffheapGrowth,
}

impl Graph {
    /// Every graph.
    pub const ALL: [Self; 3] = [Self::Alloc, Self::LiveGrowth, Self::OffheapGrowth];

    /// Its name in a file name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alloc => "alloc",
            Self::LiveGrowth => "live-growth",
            Self::OffheapGrowth => "offheap-growth",
        }
    }

    /// What it shows, for its title.
    pub const fn subject(self) -> &'static str {
        match self {
            Self::Alloc => "bytes allocated",
            Self::LiveGrowth => "growth of the live heap",
            Self::OffheapGrowth => "growth of the off-heap memory",
        }
    }

    /// Whether the collectors tried to measure what the graph needs. A signal without a source was not tried.
    fn is_expected(self, signals: &Signals) -> bool {
        const fn named<T>(signal: &Signal<T>) -> bool {
            !(signal.source.is_empty() && matches!(signal.exactness, Exactness::Missing { .. }))
        }
        match self {
            Self::Alloc => named(&signals.heap_profile) || named(&signals.alloc_samples),
            Self::LiveGrowth => named(&signals.heap_profile),
            Self::OffheapGrowth => named(&signals.offheap_sites),
        }
    }
}

/// A flame graph of all runs of a service together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlameGraph {
    /// What it shows.
    pub graph: Graph,
    /// One line for each stack, in the order of the stacks: frames from the outermost to the innermost with `;` between
    /// them, a space, and bytes, at least 1. The function of an inlined frame ends in `_[i]`.
    pub folded: String,
}

/// The flame graphs of a service's runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlameGraphs {
    /// The graphs that are not empty.
    pub graphs: Vec<FlameGraph>,
    /// Notes on what the graphs lack although it was to be measured.
    pub notes: Vec<String>,
}

/// The largest sum up to which an `f64` represents every integer; 9 PB.
const MOST: f64 = 9_007_199_254_740_992.0;

/// The flame graphs of these runs together, without empty ones.
pub fn flame_graphs(runs: &[Evidence]) -> FlameGraphs {
    let (weights, notes) = weights(runs);
    drawn(weights.iter().map(|(graph, weights)| (*graph, folded(weights))), notes)
}

/// The flame graphs of what one run of this build has more and less than one of the other build, on average. Stacks with
/// more stand on the frame `more`, and stacks with less, which may have vanished, on the frame `less`.
pub fn difference_graphs(runs: &[Evidence], others: &[Evidence]) -> FlameGraphs {
    let ((change, _), (other, notes)) = (weights(runs), weights(others));
    let notes = notes.into_iter().map(|note| format!("the other build: {note}")).collect();
    let both = change.into_iter().filter_map(|(graph, change)| Some((graph, change, other.get(&graph)?)));
    let folded = both.map(|(graph, change, other)| {
        let (change, other) = (mean(&change, runs.len()), mean(other, others.len()));
        let mut differences = BTreeMap::new();
        for stack in change.keys().chain(other.keys()) {
            let of = |weights: &Weights| weights.get(stack).copied().unwrap_or(0.0);
            let difference = of(&change) - of(&other);
            let side = if difference > 0.0 { "more" } else { "less" };
            differences.insert(format!("{side};{stack}"), difference.abs());
        }
        (graph, folded(&differences))
    });
    drawn(folded, notes)
}

/// Bytes by call stack, as the lines of a flame graph have them.
type Weights = BTreeMap<String, f64>;

fn mean(weights: &Weights, runs: usize) -> Weights {
    weights.iter().map(|(stack, bytes)| (stack.clone(), bytes / runs as f64)).collect()
}

/// What each graph of these runs shows, of graphs that some run has, and notes on what is missing.
fn weights(runs: &[Evidence]) -> (BTreeMap<Graph, Weights>, Vec<String>) {
    let mut runs: Vec<Run<'_>> = runs.iter().map(Run).collect();
    runs.sort_by_key(|run| run.0.run);
    let profiles: Vec<Profiles<'_>> = runs.iter().map(|run| Profiles::of(*run)).collect();
    let (mut all, mut lacks) = (BTreeMap::new(), Vec::new());
    for graph in Graph::ALL {
        let mut missed: Vec<(u32, &str)> = Vec::new();
        for (run, profiles) in runs.iter().zip(&profiles) {
            match profiles.of_graph(graph) {
                Ok(table) => add(all.entry(graph).or_default(), profiles.code(), table),
                Err(NoTable::Missing(reason) | NoTable::Broken(reason)) if graph.is_expected(run.signals()) => {
                    missed.push((run.0.run, reason));
                }
                Err(NoTable::Missing(_) | NoTable::Broken(_)) => {}
            }
        }
        lacks.extend(notes(graph, &missed, runs.len()));
    }
    (all, lacks)
}

/// The graphs that are not empty.
fn drawn(folded: impl Iterator<Item = (Graph, Folded)>, notes: Vec<String>) -> FlameGraphs {
    let mut all = FlameGraphs { graphs: Vec::new(), notes };
    for (graph, folded) in folded {
        match folded {
            Folded::Nothing => {}
            Folded::TooLarge => {
                all.notes.push(format!("no flame graph `{}`: the values are too large", graph.name()));
            }
            Folded::Lines(folded) => all.graphs.push(FlameGraph { graph, folded }),
        }
    }
    all
}

/// Notes on what a graph lacks: a single note if it is the same in all runs.
fn notes(graph: Graph, missed: &[(u32, &str)], runs: usize) -> Vec<String> {
    let name = graph.name();
    match missed {
        [(_, reason), others @ ..] if missed.len() == runs && others.iter().all(|(_, other)| other == reason) => {
            vec![format!("no flame graph `{name}`: {reason}")]
        }
        _ => missed
            .iter()
            .map(|(run, reason)| format!("run {run} is not in the flame graph `{name}`: {reason}"))
            .collect(),
    }
}

fn add(weights: &mut Weights, code: &Code, table: &Table) {
    for part in &table.parts {
        let frames: Vec<String> = code.stack(part.stack).rev().map(label).collect();
        let stack = if frames.is_empty() { "unknown".to_owned() } else { frames.join(";") };
        *weights.entry(stack).or_default() += part.amount;
    }
}

enum Folded {
    Nothing,
    TooLarge,
    Lines(String),
}

/// The lines for stacks of at least one byte.
fn folded(weights: &Weights) -> Folded {
    if weights.values().map(|bytes| bytes.max(0.0)).sum::<f64>() > MOST {
        return Folded::TooLarge;
    }
    let lines = weights.iter().filter(|(_, bytes)| bytes.is_finite() && **bytes >= 0.5);
    let text: String = lines.map(|(stack, bytes)| format!("{stack} {bytes:.0}\n")).collect();
    if text.is_empty() { Folded::Nothing } else { Folded::Lines(text) }
}

/// The name of a frame without characters that have a meaning in this form: `;` separates frames, and a space ends the
/// stack.
fn label(frame: &Frame) -> String {
    let safe = |character: char| match character {
        ';' => ':',
        _ if character.is_whitespace() => '_',
        // Characters that XML does not allow, and those that change the text direction.
        '\u{fffe}' | '\u{ffff}' | '\u{61c}' | '\u{200e}' | '\u{200f}' => char::REPLACEMENT_CHARACTER,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
        _ if character.is_control() => char::REPLACEMENT_CHARACTER,
        other => other,
    };
    let mut label: String = name(frame).trim().chars().map(safe).collect();
    if frame.inlined {
        label.push_str("_[i]");
    }
    label
}
