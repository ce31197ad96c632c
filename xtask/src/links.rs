//! Checks the documentation's links: relative links and anchors in Markdown, and pages of docs/ that code names.
//!
//! This reads the part of Markdown that the documentation uses: inline links, link definitions, `#` headings, code
//! spans and fenced blocks. Links to other hosts are not followed.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};

/// The directory of the book.
const BOOK: &str = "docs";
/// The book's table of contents, in [`BOOK`].
const SUMMARY: &str = "SUMMARY.md";
/// Files that may name pages of the book in comments and messages.
const CODE: [&str; 7] = ["rs", "go", "toml", "yaml", "yml", "sh", "lock"];

/// A broken link and its place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    file: PathBuf,
    line: usize,
    what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// A link or a heading, with the number of its line.
type Numbered = (usize, String);

/// The relevant parts of a Markdown file.
#[derive(Debug, Default)]
struct Page {
    links: Vec<Numbered>,
    anchors: BTreeSet<String>,
}

/// Checks `files`, which are relative to `root`. Files that have been deleted are skipped.
///
/// # Errors
/// Fails if a file cannot be read.
pub(crate) fn check(root: &Path, files: &[PathBuf]) -> io::Result<Vec<Problem>> {
    let has_extension = |file: &Path, among: &[&str]| {
        file.extension().is_some_and(|extension| among.iter().any(|wanted| extension == *wanted))
    };
    let mut pages = HashMap::new();
    let mut problems = Vec::new();
    for file in files {
        if has_extension(file, &["md"]) {
            if let Some(text) = read(&root.join(file))? {
                pages.insert(file.clone(), Page::parse(&text));
            }
        } else if has_extension(file, &CODE) && file != Path::new(file!()) {
            // The tests of this file name pages that do not exist.
            let text = read(&root.join(file))?.unwrap_or_default();
            let missing = named_pages(&text).filter(|(_, page)| !root.join(page).is_file());
            problems.extend(missing.map(|(line, page)| problem(file, line, format!("there is no {page}"))));
        }
    }
    for (file, page) in &pages {
        let broken = page.links.iter().filter_map(|(line, link)| {
            broken(root, &pages, file, link).map(|what| problem(file, *line, format!("`{link}`: {what}")))
        });
        problems.extend(broken);
    }
    problems.extend(left_out(&pages));
    problems.sort_by(|a, b| (&a.file, a.line, &a.what).cmp(&(&b.file, b.line, &b.what)));
    Ok(problems)
}

fn problem(file: &Path, line: usize, what: String) -> Problem {
    Problem { file: file.to_owned(), line, what }
}

/// The text of a file; `None` if there is no such file or it is not text.
fn read(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why a link of `file` is broken.
fn broken(root: &Path, pages: &HashMap<PathBuf, Page>, file: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let target = if path.is_empty() { Some(file.to_owned()) } else { resolve(file, path) };
    let Some(target) = target else { return Some("it leaves the checkout".to_owned()) };
    if file.starts_with(BOOK) && !target.starts_with(BOOK) {
        return Some(format!("a page of the book links only to files in {BOOK}; name this one as `code`"));
    }
    if !root.join(&target).exists() {
        return Some(format!("there is no {}", target.display()));
    }
    let anchor = anchor?;
    match pages.get(&target) {
        Some(page) if page.anchors.contains(anchor) => None,
        Some(_) => Some(format!("{} has no heading `#{anchor}`", target.display())),
        None => Some(format!("{} has no headings", target.display())),
    }
}

/// The path that a link of `file` leads to, relative to the checkout.
fn resolve(file: &Path, link: &str) -> Option<PathBuf> {
    let mut path = file.parent()?.to_owned();
    for component in Path::new(link).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

/// The pages of the book that its table of contents leaves out: mdbook would not build them.
fn left_out(pages: &HashMap<PathBuf, Page>) -> Vec<Problem> {
    let summary = Path::new(BOOK).join(SUMMARY);
    let Some(contents) = pages.get(&summary) else { return Vec::new() };
    let listed: BTreeSet<_> = contents.links.iter().filter_map(|(_, link)| resolve(&summary, link)).collect();
    let missing = pages.keys().filter(|page| page.starts_with(BOOK) && **page != summary && !listed.contains(*page));
    missing.map(|page| problem(page, 1, format!("{} does not list this page", summary.display()))).collect()
}

/// The pages `docs/….md` in a program's text, except those of other repositories (`owner/name/docs/…`).
fn named_pages(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().flat_map(|(index, line)| {
        line.match_indices("docs/").filter_map(move |(at, _)| {
            let is_part = line[..at].ends_with(|before: char| before.is_alphanumeric() || "/-_.".contains(before));
            let name =
                line[at..].split(|after: char| !after.is_ascii_alphanumeric() && !"/-_.".contains(after)).next()?;
            let name = name.trim_end_matches('.');
            (!is_part && name.ends_with(".md")).then_some((index + 1, name))
        })
    })
}

impl Page {
    fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let mut fence = None;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_start();
            let marks = ["```", "~~~"].into_iter().find(|marks| line.starts_with(marks));
            match (fence, marks) {
                (None, Some(_)) => fence = marks,
                (Some(open), Some(close)) if open == close => fence = None,
                (Some(_), _) => {}
                (None, None) => page.line(index + 1, line),
            }
        }
        page
    }

    fn line(&mut self, number: usize, line: &str) {
        if let Some(heading) = heading(line) {
            let slug = slug(heading);
            let again = (1..).map(|n| format!("{slug}-{n}"));
            let anchor = std::iter::once(slug.clone()).chain(again).find(|anchor| !self.anchors.contains(anchor));
            self.anchors.extend(anchor);
        }
        let line = without_code(line);
        let inline = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        let definition =
            line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, target)| target.trim());
        self.links.extend(inline.chain(definition).map(|link| (number, link.to_owned())));
    }
}

fn heading(line: &str) -> Option<&str> {
    let rest = line.trim_start_matches('#');
    let level = line.len() - rest.len();
    ((1..=6).contains(&level)).then_some(())?;
    rest.strip_prefix(' ').map(str::trim)
}

/// The anchor that mdbook and GitHub give to a heading.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter_map(|character| match character {
        ' ' => Some('-'),
        _ if character.is_alphanumeric() || character == '_' || character == '-' => Some(character),
        _ => None,
    });
    kept.collect::<String>().to_lowercase()
}

/// The line without its code spans, whose brackets are not links.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a checkout with these files and returns the output.
    fn problems(files: &[(&str, &str)]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let names: Vec<_> = files.iter().map(|(name, _)| PathBuf::from(name)).collect();
        check(root.path(), &names).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn links_that_lead_somewhere_pass() {
        let page = "# A page\n[b](b.md#its-1st-part) [here](#a-page) [out](https://example.org/x) `[no](link.md)`\n\
            ```\n[nor](this.md)\n# nor this\n```\n";
        let files = [
            ("README.md", "[a](docs/a.md) and [a directory](docs)"),
            ("docs/SUMMARY.md", "- [A](a.md)\n- [B](b.md)\n"),
            ("docs/a.md", page),
            ("docs/b.md", "## Its 1st `part`\n"),
        ];
        assert_eq!(problems(&files), Vec::<String>::new());
    }

    #[test]
    fn a_broken_link_is_found_with_its_place() {
        let found = problems(&[("README.md", "# Title\n\nSee [guide](docs/guide.md) and [that](#there).\n")]);
        let wanted = [
            "README.md:3: `#there`: README.md has no heading `#there`",
            "README.md:3: `docs/guide.md`: there is no docs/guide.md",
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_broken_anchor_of_another_page_is_found() {
        let found = problems(&[("README.md", "[a](other.md#none)"), ("other.md", "# One\n")]);
        assert_eq!(found, ["README.md:1: `other.md#none`: other.md has no heading `#none`"]);
        let found = problems(&[("README.md", "[a](x.txt#none)"), ("x.txt", "")]);
        assert_eq!(found, ["README.md:1: `x.txt#none`: x.txt has no headings"]);
    }

    #[test]
    fn a_broken_link_definition_is_found() {
        let found = problems(&[("README.md", "[a][b]\n\n[b]: gone.md\n")]);
        assert_eq!(found, ["README.md:3: `gone.md`: there is no gone.md"]);
    }

    #[test]
    fn the_book_links_to_nothing_outside() {
        let found = problems(&[("docs/a.md", "[up](../README.md) [far](../../x.md)"), ("README.md", "")]);
        let wanted = [
            "docs/a.md:1: `../../x.md`: it leaves the checkout",
            "docs/a.md:1: `../README.md`: a page of the book links only to files in docs; name this one as `code`",
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_page_that_the_contents_leave_out_is_found() {
        let found = problems(&[("docs/SUMMARY.md", "- [A](a.md)\n"), ("docs/a.md", ""), ("docs/b.md", "")]);
        assert_eq!(found, ["docs/b.md:1: docs/SUMMARY.md does not list this page"]);
    }

    #[test]
    fn a_page_that_code_names_has_to_exist() {
        let code = "// See docs/gone.md.\n// See docs/here.md, and owner/name/docs/theirs.md.\n";
        let found = problems(&[("gate/a.rs", code), ("docs/here.md", "")]);
        assert_eq!(found, ["gate/a.rs:1: there is no docs/gone.md"]);
    }

    #[test]
    fn equal_headings_have_anchors_of_their_own() {
        let page = Page::parse("# Why\n## Why\n### How a `gate` fails: an example\n");
        assert_eq!(page.anchors.iter().collect::<Vec<_>>(), ["how-a-gate-fails-an-example", "why", "why-1"]);
    }
}
