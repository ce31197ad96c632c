//! Writes flame graphs: an SVG for people, and the collapsed stacks for other tools.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use inferno::flamegraph::{self, Options, Palette, color::MultiPalette};
use memgate_evidence::{
    Evidence,
    error::{Error, Result},
    platform::Platform,
};
use memgate_files::{OutputError, names, whole as atomic_file};
use memgate_verdict::summarise::{FlameGraph, Graph, difference_graphs, flame_graphs};

use super::text;

/// The written files and what is missing in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlameGraphFiles {
    /// The files, in the order of the graphs.
    pub files: Vec<PathBuf>,
    /// What the graphs lack although it was to be measured.
    pub notes: Vec<String>,
}

/// Writes the flame graphs of all runs of one service on one platform into `directory`, such as
/// `uaa.linux-amd64.alloc.svg` and the same with `.folded`, and with runs of another build those of the difference, such
/// as `uaa.linux-amd64.alloc.against.svg`. Writes no empty graph, and removes the graphs of an earlier command.
///
/// # Errors
/// [`OutputError::Path`] when a file cannot be written or removed.
pub fn write_flame_graphs(directory: &Path, runs: &[Evidence], others: &[Evidence]) -> Result<FlameGraphFiles> {
    let Some(first) = runs.first() else { return Ok(FlameGraphFiles::default()) };
    let (made, differences) = (flame_graphs(runs), difference_graphs(runs, others));
    remove_old(directory, &first.service, first.platform)?;
    let mut files = Vec::new();
    for (graphs, other) in [(&made.graphs, None), (&differences.graphs, others.first())] {
        for graph in graphs {
            let [picture, stacks] = paths(directory, &first.service, first.platform, graph.graph, other.is_some());
            let title = title(first, runs.len(), graph.graph, other);
            write(&picture, &svg(graph, &title).map_err(|error| failed(&picture, error))?)?;
            write(&stacks, graph.folded.as_bytes())?;
            files.extend([picture, stacks]);
        }
    }
    Ok(FlameGraphFiles { files, notes: [made.notes, differences.notes].concat() })
}

fn paths(directory: &Path, service: &str, platform: Platform, graph: Graph, is_difference: bool) -> [PathBuf; 2] {
    let difference = if is_difference { ".against" } else { "" };
    let stem = format!("{}.{}{difference}", names::stem(service, platform), graph.name());
    [directory.join(format!("{stem}.svg")), directory.join(format!("{stem}.folded"))]
}

/// Otherwise a graph of an earlier command could pass for one of this command.
fn remove_old(directory: &Path, service: &str, platform: Platform) -> Result<()> {
    let all = Graph::ALL.into_iter().flat_map(|graph| [(graph, false), (graph, true)]);
    for file in all.flat_map(|(graph, is_difference)| paths(directory, service, platform, graph, is_difference)) {
        match fs::remove_file(&file) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(failed(&file, error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn title(evidence: &Evidence, runs: usize, graph: Graph, other: Option<&Evidence>) -> String {
    let (service, platform, subject) = (text::visible(&evidence.service), evidence.platform, graph.subject());
    match other {
        None => format!("{service} on {platform}: {subject}, {}", super::view::counted(runs, "run")),
        Some(other) => {
            let name = text::visible(other.against.as_deref().unwrap_or("the other build"));
            format!("{service} on {platform}: {subject} in a run, more and less than {name}")
        }
    }
}

/// The picture. The same stacks give the same bytes. inferno's palette for Java makes inlined frames blue, other names
/// with a `.` green (which is Go), and most others red.
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
    atomic_file::write(path, contents).map_err(|error| failed(path, error))
}

fn failed(path: &Path, source: io::Error) -> Error {
    OutputError::Path { path: path.to_owned(), option: "--out", source }.into()
}

#[cfg(test)]
mod tests {
    use memgate_evidence::{Code, Frame, HeapProfile, Language};
    use memgate_testing::{exact, healthy};
    use proptest::prelude::*;

    use super::*;

    /// A run that allocated and kept 4 KiB at one stack. Every object was sampled.
    fn kept(service: &str, function: &str) -> Evidence {
        let frame = |function: &str, inlined| Frame {
            function: function.to_owned(),
            file: String::new(),
            line: 0,
            inlined,
            language: Language::Go,
        };
        let mut run = healthy(1);
        run.service = service.to_owned();
        run.code = Code { frames: vec![frame(function, true), frame("main.main", false)], stacks: vec![vec![0, 1]] };
        run.signals.heap_profile = exact(HeapProfile {
            rate: 1,
            size: vec![1024],
            stack: vec![0],
            allocs_start: vec![0],
            frees_start: vec![0],
            allocs_end: vec![4],
            frees_end: vec![0],
        });
        run
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn graphs_are_written_and_those_of_an_earlier_command_removed() {
        let directory = tempfile::tempdir().unwrap();
        let stale = directory.path().join("uaa.linux-amd64.offheap-growth.svg");
        let other = directory.path().join("other.linux-amd64.alloc.svg");
        for file in [&stale, &other] {
            fs::write(file, "old").unwrap();
        }
        let written = write_flame_graphs(directory.path(), &[kept("uaa", "main.put")], &[]).unwrap();
        assert_eq!(
            names(directory.path()),
            [
                "other.linux-amd64.alloc.svg",
                "uaa.linux-amd64.alloc.folded",
                "uaa.linux-amd64.alloc.svg",
                "uaa.linux-amd64.live-growth.folded",
                "uaa.linux-amd64.live-growth.svg"
            ]
        );
        assert_eq!(written.files.len(), 4);
        assert_eq!(fs::read_to_string(&written.files[1]).unwrap(), "main.main;main.put_[i] 4096\n");
        let picture = fs::read_to_string(&written.files[0]).unwrap();
        assert!(picture.contains("uaa on linux/amd64: bytes allocated, 1 run"), "{picture}");
        assert!(picture.contains("<title>main.put (4,096 bytes, 100.00%)</title>"), "{picture}");
        let again = write_flame_graphs(directory.path(), &[kept("uaa", "main.put")], &[]).unwrap();
        assert_eq!(
            (again, picture),
            (written, fs::read_to_string(directory.path().join("uaa.linux-amd64.alloc.svg")).unwrap())
        );
    }

    #[test]
    fn differences_have_graphs_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let other = Evidence { against: Some("main (1a2b3c4)".to_owned()), ..kept("uaa", "main.get") };
        let written = write_flame_graphs(directory.path(), &[kept("uaa", "main.put")], &[other]).unwrap();
        assert_eq!(written.files.len(), 8);
        let file = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        let folded = file("uaa.linux-amd64.alloc.against.folded");
        assert_eq!(folded, "less;main.main;main.get_[i] 4096\nmore;main.main;main.put_[i] 4096\n");
        let title = "uaa on linux/amd64: bytes allocated in a run, more and less than main (1a2b3c4)";
        assert!(file("uaa.linux-amd64.alloc.against.svg").contains(title));
        write_flame_graphs(directory.path(), &[kept("uaa", "main.put")], &[]).unwrap();
        assert_eq!(names(directory.path()).len(), 4, "the differences of an earlier command are removed");
    }

    #[test]
    fn nothing_is_written_of_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let nowhere = directory.path().join("flamegraphs");
        assert_eq!(write_flame_graphs(&nowhere, &[], &[]).unwrap(), FlameGraphFiles::default());
        assert_eq!(write_flame_graphs(&nowhere, &[healthy(1)], &[]).unwrap(), FlameGraphFiles::default());
        assert!(!nowhere.exists());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_told() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "").unwrap();
        let error = write_flame_graphs(&directory.path().join("file"), &[kept("uaa", "main.put")], &[]).unwrap_err();
        assert_eq!(error.exit_code(), 4);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_name_gets_out_of_its_place(service in any::<String>(), function in any::<String>()) {
            let directory = tempfile::tempdir().unwrap();
            let hostile = write_flame_graphs(directory.path(), &[kept(&service, &function)], &[]).unwrap();
            prop_assert_eq!(names(directory.path()).len(), 4);
            let plain = write_flame_graphs(&directory.path().join("plain"), &[kept("s", "f")], &[]).unwrap();
            for (hostile, plain) in hostile.files.iter().zip(&plain.files) {
                let (hostile, plain) = (fs::read_to_string(hostile).unwrap(), fs::read_to_string(plain).unwrap());
                // A hostile name gives no more elements, lines, stacks or frames than a plain one.
                let acting = if plain.starts_with('<') { ['<', '>'] } else { [';', '\n'] };
                for character in acting {
                    prop_assert_eq!(hostile.matches(character).count(), plain.matches(character).count(), "{}", hostile);
                }
                prop_assert!(!hostile.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')));
            }
        }
    }
}
