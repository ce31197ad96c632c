//! Flame graphs as files: an SVG for people, and the collapsed stacks for other tools.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use inferno::flamegraph::{self, Options, Palette, color::MultiPalette};

use super::text;
use crate::{
    atomic_file,
    error::{Error, Result, Stage},
    evidence::Evidence,
    evidence_file,
    platform::Platform,
    summarise::{FlameGraph, Graph, flame_graphs},
};

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// The files, in the order of the graphs.
    pub files: Vec<PathBuf>,
    /// What is not in the graphs although it was to be measured.
    pub notes: Vec<String>,
}

/// Writes the flame graphs of all runs of one service on one platform into `directory`: `uaa.linux-amd64.alloc.svg`, and
/// `.folded` beside it. A graph that shows nothing is not written, and one of an earlier command is removed.
///
/// # Errors
/// [`Error::Infrastructure`] at [`Stage::Output`] when a file cannot be written or removed.
pub fn write_flame_graphs(directory: &Path, runs: &[Evidence]) -> Result<Written> {
    let Some(first) = runs.first() else { return Ok(Written::default()) };
    let made = flame_graphs(runs);
    remove_old(directory, &first.service, first.platform)?;
    let mut files = Vec::new();
    for graph in &made.graphs {
        let [picture, stacks] = paths(directory, &first.service, first.platform, graph.graph);
        write(
            &picture,
            &svg(graph, &title(first, runs.len(), graph.graph)).map_err(|error| failed(&picture, &error))?,
        )?;
        write(&stacks, graph.folded.as_bytes())?;
        files.extend([picture, stacks]);
    }
    Ok(Written { files, notes: made.notes })
}

fn paths(directory: &Path, service: &str, platform: Platform, graph: Graph) -> [PathBuf; 2] {
    let stem = format!("{}.{}", evidence_file::file_stem(service, platform), graph.name());
    [directory.join(format!("{stem}.svg")), directory.join(format!("{stem}.folded"))]
}

/// No graph of an earlier command is to be taken for one of this.
fn remove_old(directory: &Path, service: &str, platform: Platform) -> Result<()> {
    for file in Graph::ALL.into_iter().flat_map(|graph| paths(directory, service, platform, graph)) {
        match fs::remove_file(&file) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(failed(&file, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn title(evidence: &Evidence, runs: usize, graph: Graph) -> String {
    let runs = super::view::counted(runs, "run");
    format!("{} on {}: {}, {runs}", text::visible(&evidence.service), evidence.platform, graph.subject())
}

/// The picture: the same stacks give the same bytes. Green is Go, red is C, and blue what the compiler inlined.
fn svg(graph: &FlameGraph, title: &str) -> io::Result<Vec<u8>> {
    let mut options = Options::default();
    options.title = title.to_owned();
    options.count_name = "bytes".to_owned();
    options.colors = Palette::Multi(MultiPalette::Java);
    options.deterministic = true;
    let mut picture = Vec::new();
    flamegraph::from_lines(&mut options, graph.folded.lines(), &mut picture)?;
    Ok(picture)
}

fn write(path: &Path, contents: &[u8]) -> Result<()> {
    atomic_file::write(path, contents).map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &io::Error) -> Error {
    let help = "give another directory with --out, or make room";
    Error::infrastructure(Stage::Output, format!("{}: {error}", path.display()), help)
}
