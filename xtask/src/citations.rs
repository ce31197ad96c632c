//! Where the checkout cites the sources of Go: comments such as "`spanOf` (mheap.go, Go 1.21 to 1.22)".

use std::path::{Path, PathBuf};

/// A place that says of which versions of Go it holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Citation {
    /// Relative to the checkout.
    pub(crate) file: PathBuf,
    pub(crate) line: usize,
    /// The sources that the sentence names, as it names them: `mheap.go`, `src/runtime/symtab.go`.
    pub(crate) sources: Vec<String>,
    /// What the sentence names in backticks.
    pub(crate) names: Vec<String>,
}

/// A word, and the line that it stands in.
type Word<'a> = (usize, &'a str);

/// The comments in a source that name Go 1.`minor` as the last version of which they hold.
pub(crate) fn in_comments(file: &Path, text: &str, minor: u32) -> Vec<Citation> {
    blocks(text, |line| line.trim_start().strip_prefix("//").map(|comment| comment.trim_start_matches(['/', '!'])))
        .iter()
        .flat_map(|block| citations(file, block, minor))
        .collect()
}

/// The lines of a document that name Go 1.`minor`, but not one release of it.
pub(crate) fn in_document(text: &str, minor: u32) -> Vec<usize> {
    let named = |line: &str| line.split_whitespace().any(|word| is_minor(word, minor));
    (1..).zip(text.lines()).filter(|(_, line)| named(line)).map(|(number, _)| number).collect()
}

/// The words of each run of lines that `content` gives something of.
fn blocks<'a>(text: &'a str, content: impl Fn(&'a str) -> Option<&'a str>) -> Vec<Vec<Word<'a>>> {
    let mut blocks = vec![Vec::new()];
    for (number, line) in (1..).zip(text.lines()) {
        match (content(line), blocks.last_mut()) {
            (Some(content), Some(block)) => block.extend(content.split_whitespace().map(|word| (number, word))),
            _ => blocks.push(Vec::new()),
        }
    }
    blocks
}

fn citations(file: &Path, block: &[Word<'_>], minor: u32) -> Vec<Citation> {
    let words = block.split_inclusive(|(_, word)| word.ends_with('.'));
    let found = words.flat_map(|sentence| {
        let ends = (0..sentence.len()).filter(move |at| is_last_version(sentence, *at, minor));
        ends.filter_map(move |at| {
            let (line, _) = sentence.get(at)?;
            Some(Citation { file: file.to_owned(), line: *line, sources: sources(sentence), names: names(sentence) })
        })
    });
    found.collect()
}

/// Whether the word at `at` ends "Go 1.22", "Go 1.21 to 1.22" or "Go 1.21 and 1.22", but not "since Go 1.22".
fn is_last_version(sentence: &[Word<'_>], at: usize, minor: u32) -> bool {
    let before = |back: usize| at.checked_sub(back).and_then(|at| sentence.get(at)).map_or("", |(_, word)| bare(word));
    let is_here = sentence.get(at).is_some_and(|(_, word)| is_minor(word, minor));
    let of_one = before(1) == "Go" && !matches!(before(2), "since" | "Since" | "before" | "Before");
    let of_range = matches!(before(1), "to" | "and") && before(2).starts_with("1.") && before(3) == "Go";
    is_here && (of_one || of_range)
}

fn is_minor(word: &str, minor: u32) -> bool {
    bare(word) == format!("1.{minor}")
}

/// The word without what stands around it.
fn bare(word: &str) -> &str {
    word.trim_matches(|c: char| !c.is_alphanumeric())
}

fn sources(sentence: &[Word<'_>]) -> Vec<String> {
    let words = sentence.iter().map(|(_, word)| bare(word));
    let mut sources: Vec<_> = words
        .filter(|word| [".go", ".s", ".md"].iter().any(|extension| word.ends_with(extension)) && !word.contains('`'))
        .map(str::to_owned)
        .collect();
    sources.dedup();
    sources
}

fn names(sentence: &[Word<'_>]) -> Vec<String> {
    let joined = sentence.iter().map(|(_, word)| *word).collect::<Vec<_>>().join(" ");
    let quoted = joined.split('`').skip(1).step_by(2);
    quoted.filter(|name| !name.contains(' ') && !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line, sources and names of each citation.
    fn cited(text: &str) -> Vec<(usize, String, String)> {
        let found = in_comments(Path::new("a.rs"), text, 77);
        found.into_iter().map(|found| (found.line, found.sources.join(" "), found.names.join(" "))).collect()
    }

    fn one(line: usize, sources: &str, names: &str) -> Vec<(usize, String, String)> {
        vec![(line, sources.to_owned(), names.to_owned())]
    }

    #[test]
    fn sources_and_names_are_those_of_the_sentence() {
        let text = "let a = 1;\n/// Another thing, `other` (mgc.go). What `spanOf` does (mheap.go, Go 1.21\n/// to 1.77). `Last`.\n";
        assert_eq!(cited(text), one(3, "mheap.go", "spanOf"));
        let text = "    //! Sources, Go 1.21 to 1.77: runtime2.go (`g`, `m`), src/runtime/mcache.go.\n";
        assert_eq!(cited(text), one(1, "runtime2.go src/runtime/mcache.go", "g m"));
        assert_eq!(cited("// `_Gdeadextra` (Go 1.76 and 1.77): dead.\n"), one(1, "", "_Gdeadextra"));
        assert_eq!(cited("// (asm.s, Go 1.77, `f`)\n"), one(1, "asm.s", "f"));
    }

    #[test]
    fn what_starts_with_a_version_or_names_a_release_is_no_end() {
        for text in [
            "// Since Go 1.77 it is so.",
            "// Before Go 1.77 it was so.",
            "// `go1.77.3` of Go 1.77.3",
            "// Go 1.21 to 1.770",
            "// It is 1.77 times as long.",
            "let text = \"mheap.go, Go 1.21 to 1.77\";",
            "// mheap.go, Go\n\n// 1.77",
        ] {
            assert_eq!(cited(text), [], "{text}");
        }
    }

    #[test]
    fn documents_name_the_version_in_any_form() {
        let text = "Any executable of Go 1.21\nto 1.77: plain.\n| 1.25, 1.77 |\ngo1.77.3\n1.77.3\n";
        assert_eq!(in_document(text, 77), [2, 3]);
    }

    #[test]
    fn the_citations_of_the_checkout_are_found() {
        let text = include_str!("../../gate/goexe/src/image.rs");
        let found: Vec<_> = (27..99).flat_map(|minor| in_comments(Path::new("image.rs"), text, minor)).collect();
        assert!(found.iter().any(|found| found.sources == ["cmd/link/internal/ld/data.go"]), "{found:?}");
    }
}
