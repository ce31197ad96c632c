//! What differs between the sources of two distributions of Go.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A source in two distributions.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Compared {
    /// Below the distribution's directory: `src/runtime/mheap.go`.
    pub(crate) path: PathBuf,
    pub(crate) difference: Difference,
}

/// How the newer distribution's differs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    None,
    /// So many lines are new or gone; and which of the names are declared otherwise than before.
    Changed {
        lines: usize,
        names: Vec<String>,
    },
    /// Only one of the two has it.
    Moved,
}

/// Compares a source that is named as comments do: by its path below `src`, or below `src/runtime`. `None` where neither
/// distribution has it: the older ones lie in `.tools` without the sources of their tools.
pub(crate) fn compare(old: &Path, new: &Path, source: &str, names: &[String]) -> Option<Compared> {
    let below = source.strip_prefix("src/").unwrap_or(source);
    [format!("src/{below}"), format!("src/runtime/{below}")].iter().find_map(|path| {
        let read = |root: &Path| std::fs::read_to_string(root.join(path)).ok();
        let difference = match (read(old), read(new)) {
            (None, None) => return None,
            (Some(old), Some(new)) => difference(&old, &new, names),
            _ => Difference::Moved,
        };
        Some(Compared { path: path.into(), difference })
    })
}

fn difference(old: &str, new: &str, names: &[String]) -> Difference {
    let lines = lines_changed(old, new);
    if lines == 0 {
        return Difference::None;
    }
    let changed = names.iter().filter(|name| declarations(old, name) != declarations(new, name));
    Difference::Changed { lines, names: changed.cloned().collect() }
}

/// How many lines are in one text and not in the other, wherever they stand.
fn lines_changed(old: &str, new: &str) -> usize {
    let mut surplus: HashMap<&str, i64> = HashMap::new();
    for line in old.lines() {
        *surplus.entry(line).or_default() -= 1;
    }
    for line in new.lines() {
        *surplus.entry(line).or_default() += 1;
    }
    surplus.values().map(|count| usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX)).sum()
}

/// The declarations of a function, method or type, each to its closing brace, and the lines that declare a constant or a variable.
/// A name is as comments have it: `spanOf`, `(*mheap).grow`, `worldStop.reason`.
fn declarations<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let name = name.rsplit_once(").").map_or(name, |(_, method)| method);
    let name = name.split('.').next().unwrap_or(name);
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if declares(line, name) {
            found.push(line);
            if line.ends_with('{') {
                found.extend(lines.by_ref().take_while(|line| !line.starts_with('}')));
            }
        }
    }
    found
}

fn declares(line: &str, name: &str) -> bool {
    let follows = |start: &str| {
        let rest = line.strip_prefix(start).and_then(|rest| rest.strip_prefix(name));
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    let is_method = || {
        let rest = line.strip_prefix("func (").and_then(|rest| rest.split_once(") "));
        rest.is_some_and(|(_, rest)| rest.strip_prefix(name).is_some_and(|rest| rest.starts_with(['(', '['])))
    };
    ["func ", "type ", "const ", "var ", "\t"].into_iter().any(follows) || is_method()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "package runtime\n\nconst (\n\tlimit = 1\n\tother = 2\n)\n\ntype g struct {\n\tgoid uint64\n}\n\n\
        func (h *mheap) grow(n int) {\n\th.n += n\n}\n\nfunc growth() int {\n\treturn 1\n}\n";

    fn changed(new: &str, names: &[&str]) -> Difference {
        difference(OLD, new, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn declarations_that_changed_are_told() {
        let all = ["limit", "g.goid", "(*mheap).grow", "growth", "nowhere"];
        let told = |names: &[&str], lines| Difference::Changed {
            lines,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert_eq!(changed(OLD, &all), Difference::None);
        assert_eq!(changed(&OLD.replace("limit = 1", "limit = 3"), &all), told(&["limit"], 2));
        assert_eq!(changed(&OLD.replace("uint64\n", "uint64\n\tm *m\n"), &all), told(&["g.goid"], 1));
        assert_eq!(changed(&OLD.replace("h.n += n", "h.n = n"), &all), told(&["(*mheap).grow"], 2));
        assert_eq!(changed(&OLD.replace("return 1", "return 2"), &all), told(&["growth"], 2));
        assert_eq!(changed(&OLD.replace("other = 2", "other = 3"), &all), told(&[], 2));
    }

    #[test]
    fn sources_are_found_as_comments_name_them() {
        let dir = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| dir.path().join(name));
        for (root, path, text) in [
            (&old, "src/runtime/mheap.go", "a\n"),
            (&new, "src/runtime/mheap.go", "a\n"),
            (&old, "src/runtime/pprof/protomem.go", "a\n"),
            (&new, "src/runtime/pprof/protomem.go", "b\n"),
            (&new, "src/runtime/symtab.go", "a\n"),
        ] {
            std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            std::fs::write(root.join(path), text).unwrap();
        }
        let compare = |source| compare(&old, &new, source, &[]).map(|found| (found.path, found.difference));
        assert_eq!(compare("mheap.go"), Some(("src/runtime/mheap.go".into(), Difference::None)));
        let changed = Difference::Changed { lines: 2, names: Vec::new() };
        assert_eq!(compare("runtime/pprof/protomem.go"), Some(("src/runtime/pprof/protomem.go".into(), changed)));
        assert_eq!(compare("src/runtime/symtab.go"), Some(("src/runtime/symtab.go".into(), Difference::Moved)));
        assert_eq!(compare("cmd/link/data.go"), None);
    }
}
