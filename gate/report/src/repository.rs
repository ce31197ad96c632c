//! Finds the report's source files that lie in the repository.

use memgate_verdict::{results::ServiceResult, summarise::SourceLocation};

/// Makes the paths of source files below the repository's root relative to the root, as CI systems need them.
///
/// `root` is the absolute path of the root. A compiler records absolute paths, unless an option such as `-trimpath`
/// removes them.
pub fn locate(result: &mut ServiceResult, root: &str) {
    let sites = result.gates.iter_mut().flat_map(|gate| &mut gate.sites);
    for place in sites.flat_map(|site| [Some(&mut site.at), site.own.as_mut()]).flatten() {
        if let Some(file) = below(root, &place.file) {
            *place = SourceLocation { file: file.to_owned(), in_repository: true, ..place.clone() };
        }
    }
}

/// The path below the root; `None` if the path lies outside it.
fn below<'a>(root: &str, file: &'a str) -> Option<&'a str> {
    let rest = file.strip_prefix(root.trim_end_matches('/'))?.strip_prefix('/')?;
    let leads_out = rest.split('/').any(|part| matches!(part, "" | "." | ".."));
    (root.starts_with('/') && !leads_out).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_below_the_root_is_in_the_repository() {
        assert_eq!(below("/src/uaa", "/src/uaa/store/store.go"), Some("store/store.go"));
        assert_eq!(below("/src/uaa/", "/src/uaa/main.go"), Some("main.go"));
        assert_eq!(below("/", "/main.go"), Some("main.go"));
        for file in
            ["/src/uaa-two/main.go", "/src/uaa/../b/main.go", "/src/uaa", "/src/uaa/", "main.go", "", "/src/uaa//a"]
        {
            assert_eq!(below("/src/uaa", file), None, "{file}");
        }
        assert_eq!(below("src", "src/main.go"), None);
        assert_eq!(below("", "/main.go"), None, "no root is not the root of the file system");
    }
}
