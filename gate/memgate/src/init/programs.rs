//! The programs of modules, by what `go list` says.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use memgate_config::Name;
use memgate_evidence::error::{InputError, Result};
use serde::Deserialize;

/// The fields of `go list -json` that are read (`go help list`, Go 1.27).
pub(super) const FIELDS: &str = "Name,ImportPath,Dir,GoFiles,CgoFiles,Deps,Error,DepsErrors";

/// The most sources of a program that are read.
const MOST_SOURCES: usize = 3000;

/// A package as `go list` shows it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Listed {
    name: String,
    import_path: String,
    dir: PathBuf,
    go_files: Vec<String>,
    cgo_files: Vec<String>,
    /// All that it imports, directly and through others.
    deps: Vec<String>,
    error: Option<Fault>,
    deps_errors: Vec<Fault>,
}

/// What is wrong with a package.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Fault {
    err: String,
}

/// The packages of a module.
#[derive(Debug)]
pub(super) struct Module {
    /// Its directory, as a path from the tree's; empty for the tree's own.
    pub(super) directory: PathBuf,
    /// Variables that `go` needs for it.
    pub(super) env: BTreeMap<String, String>,
    packages: Vec<Listed>,
}

impl Module {
    /// A module with the packages that `go list` has printed.
    ///
    /// # Errors
    /// When it is not what `go list -json` prints.
    pub(super) fn new(directory: PathBuf, env: BTreeMap<String, String>, listed: &[u8]) -> Result<Self> {
        let packages: Result<Vec<Listed>, _> = serde_json::Deserializer::from_slice(listed).into_iter().collect();
        let packages = packages.map_err(|error| {
            let message =
                format!("{}: `go list -json` printed something else than packages: {error}", shown(&directory));
            InputError::new(message, "check that `go` is Go's own command, 1.22 or later")
        })?;
        Ok(Self { directory, env, packages })
    }

    /// Whether nothing could be listed because there is a go.work above the module that does not name it
    /// (cmd/go/internal/modload/load.go, Go 1.27).
    pub(super) fn is_outside_of_its_workspace(&self) -> bool {
        let mut faults = self.packages.iter().filter_map(|listed| listed.error.as_ref());
        self.packages.iter().all(|listed| listed.name.is_empty()) && faults.any(|fault| fault.err.contains("go.work"))
    }
}

/// A package `main` that may be a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    /// The name of its service, of which no other program has the same.
    pub(super) name: String,
    /// The directory of its module, as a path from the tree's; empty for the tree's own.
    pub(super) module: PathBuf,
    /// The package, as a path from the module: `.` or `./cmd/uaa`.
    pub(super) package: String,
    /// The package's directory, as a path from the tree's.
    pub(super) directory: PathBuf,
    /// Its import path.
    pub(super) import_path: String,
    /// Variables that `go` needs for it.
    pub(super) env: BTreeMap<String, String>,
    /// Its own sources and then those of the packages in the tree that it imports, as paths from the tree's directory.
    pub(super) sources: Vec<PathBuf>,
    /// Whether somebody has asked for it by name.
    pub(super) is_asked: bool,
}

impl Program {
    /// Its directory for people.
    pub(super) fn title(&self) -> String {
        shown(&self.directory)
    }
}

/// A path from the tree's directory, for people: `.` or `cmd/uaa`.
pub(super) fn shown(path: &Path) -> String {
    if path.as_os_str().is_empty() { ".".to_owned() } else { path.display().to_string() }
}

/// The programs that may be services, and those that cannot be, each with the reason.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) programs: Vec<Program>,
    pub(super) left_out: Vec<String>,
}

/// Finds the programs of the modules below `root`, or those that `wanted` names by directory or import path.
///
/// # Errors
/// When there is none, or when one that is wanted is not there.
pub(super) fn find(modules: &[Module], root: &Path, wanted: &[String]) -> Result<Found> {
    let mut found = Found::default();
    let by_path: BTreeMap<&str, &Listed> = modules
        .iter()
        .flat_map(|module| &module.packages)
        .map(|listed| (listed.import_path.as_str(), listed))
        .collect();
    for module in modules {
        for listed in module.packages.iter().filter(|listed| listed.name == "main") {
            let Ok(directory) = listed.dir.strip_prefix(root) else { continue };
            let is_asked = wanted.iter().any(|wanted| is_named(wanted, directory, &listed.import_path));
            if !wanted.is_empty() && !is_asked {
                continue;
            }
            if let Some(why) = listed.why_no_server().filter(|_| !is_asked) {
                found.left_out.push(format!("{}: {why}", shown(directory)));
                continue;
            }
            let sources = listed.sources(&by_path, root);
            let below = directory.strip_prefix(&module.directory).unwrap_or(directory);
            let package = match below.as_os_str().is_empty() {
                true => ".".to_owned(),
                false => format!("./{}", below.display()),
            };
            found.programs.push(Program {
                name: String::new(),
                module: module.directory.clone(),
                package,
                directory: directory.to_owned(),
                import_path: listed.import_path.clone(),
                env: module.env.clone(),
                sources,
                is_asked,
            });
        }
    }
    all_are_there(&found.programs, modules, root, wanted)?;
    if found.programs.is_empty() {
        return Err(nothing(&found.left_out, modules));
    }
    give_names(&mut found.programs);
    Ok(found)
}

impl Listed {
    /// Why it cannot be a server, if it clearly cannot.
    fn why_no_server(&self) -> Option<&'static str> {
        let has_gaps = self.error.is_some() || !self.deps_errors.is_empty();
        let can_listen = self.deps.iter().any(|package| package == "net" || package == "C");
        (!has_gaps && !can_listen).then_some("it imports no `net`, so that it listens nowhere")
    }

    fn sources(&self, by_path: &BTreeMap<&str, &Self>, root: &Path) -> Vec<PathBuf> {
        let own = [self].into_iter();
        let imported = self.deps.iter().filter_map(|package| by_path.get(package.as_str()).copied());
        let files = own.chain(imported).flat_map(|listed| {
            let names = listed.go_files.iter().chain(&listed.cgo_files);
            names.filter_map(|name| Some(listed.dir.strip_prefix(root).ok()?.join(name)))
        });
        files.take(MOST_SOURCES).collect()
    }
}

/// Whether this is the package that somebody names: by its directory or its import path.
fn is_named(wanted: &str, directory: &Path, import_path: &str) -> bool {
    let path = Path::new(wanted.strip_prefix("./").unwrap_or(wanted));
    wanted == import_path || path == directory || (wanted == "." && directory.as_os_str().is_empty())
}

fn all_are_there(programs: &[Program], modules: &[Module], root: &Path, wanted: &[String]) -> Result<()> {
    let is_there =
        |wanted: &&String| programs.iter().any(|program| is_named(wanted, &program.directory, &program.import_path));
    let Some(absent) = wanted.iter().find(|wanted| !is_there(wanted)) else { return Ok(()) };
    let mains = modules.iter().flat_map(|module| &module.packages).filter(|listed| listed.name == "main");
    let there: Vec<_> = mains.filter_map(|listed| Some(shown(listed.dir.strip_prefix(root).ok()?))).collect();
    let help = match there.is_empty() {
        true => "there is no package `main` below this directory".to_owned(),
        false => format!("programs there: {}", there.join(", ")),
    };
    Err(InputError::new(format!("--package {absent}: there is no such package `main`"), help).into())
}

fn nothing(left_out: &[String], modules: &[Module]) -> memgate_evidence::error::Error {
    let faults = modules.iter().flat_map(|module| &module.packages).filter_map(|listed| {
        let fault = listed.error.as_ref().filter(|_| listed.name.is_empty() || listed.name == "main")?;
        Some(format!("{}: {}", listed.import_path, fault.err.trim()))
    });
    let seen: Vec<_> = left_out.iter().cloned().chain(faults).take(20).collect();
    let seen = if seen.is_empty() { String::new() } else { format!(":\n{}", seen.join("\n")) };
    let help = "start memgate in the directory of a service's module, or name a program with `--package`";
    InputError::new(format!("there is no package `main` that may be a service{seen}"), help).into()
}

/// Gives each program the name of its directory or, if several have that, with the directory of its module or a number.
fn give_names(programs: &mut [Program]) {
    let base = |program: &Program| {
        let last = program.directory.file_name().map(|name| name.to_string_lossy().into_owned());
        plain_name(&last.unwrap_or_else(|| last_element(&program.import_path).to_owned()))
    };
    let bases: Vec<_> = programs.iter().map(base).collect();
    let mut taken = BTreeSet::new();
    for (program, base) in programs.iter_mut().zip(&bases) {
        let is_alone = bases.iter().filter(|other| *other == base).count() == 1;
        let module = program.module.file_name().map(|name| plain_name(&name.to_string_lossy()));
        let longer = module.filter(|module| !is_alone && module != base).map(|module| format!("{module}-{base}"));
        let mut first = longer.unwrap_or_else(|| base.clone());
        // A number may follow, and a name has at most 100 bytes.
        first.truncate(90);
        let numbered = (2_u32..).map(|number| format!("{first}-{number}"));
        let free = [first.clone()].into_iter().chain(numbered).find(|name| !taken.contains(name));
        program.name = free.unwrap_or(first);
        taken.insert(program.name.clone());
    }
}

/// The last element of an import path that is no version: `uaa` of `example.com/uaa/v2`.
fn last_element(import_path: &str) -> &str {
    let is_version = |part: &str| part.strip_prefix('v').is_some_and(|digits| digits.parse::<u32>().is_ok());
    import_path.rsplit('/').find(|part| !is_version(part)).unwrap_or(import_path)
}

/// The text as a name in memgate.yaml.
fn plain_name(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|character| character.to_ascii_lowercase())
        .map(|character| if character.is_ascii_alphanumeric() { character } else { '-' })
        .skip_while(|character| *character == '-')
        .take(80)
        .collect();
    let plain = plain.trim_end_matches('-').to_owned();
    if Name::is_valid(&plain) { plain } else { "service".to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn module(directory: &str, packages: &[serde_json::Value]) -> Module {
        let text: String = packages.iter().map(|package| format!("{package:#}\n")).collect();
        Module::new(directory.into(), BTreeMap::new(), text.as_bytes()).unwrap()
    }

    fn package(name: &str, path: &str, dir: &str, deps: &[&str]) -> serde_json::Value {
        json!({ "Name": name, "ImportPath": path, "Dir": dir, "GoFiles": ["a.go"], "Deps": deps })
    }

    fn modules() -> Vec<Module> {
        vec![
            module(
                "",
                &[
                    package("main", "example.com/x/v2", "/r", &["net", "example.com/x/v2/web"]),
                    package("web", "example.com/x/v2/web", "/r/web", &["net"]),
                    package("main", "example.com/x/v2/cmd/api", "/r/cmd/api", &["net", "fmt"]),
                    package("main", "example.com/x/v2/cmd/tool", "/r/cmd/tool", &["fmt"]),
                    package("main", "example.com/x/v2/away", "/away", &["net"]),
                ],
            ),
            module("pay", &[package("main", "example.com/pay/api", "/r/pay/api", &["net"])]),
        ]
    }

    #[test]
    fn programs_have_names_of_their_own_and_their_sources() {
        let found = find(&modules(), Path::new("/r"), &[]).unwrap();
        let shown: Vec<_> =
            found.programs.iter().map(|program| (program.name.as_str(), program.package.as_str())).collect();
        assert_eq!(shown, [("x", "."), ("api", "./cmd/api"), ("pay-api", "./api")]);
        assert_eq!(found.programs[0].sources, ["a.go", "web/a.go"].map(PathBuf::from));
        assert_eq!(found.left_out, ["cmd/tool: it imports no `net`, so that it listens nowhere"]);
    }

    #[test]
    fn a_program_is_asked_for_by_directory_or_import_path() {
        for wanted in ["./cmd/tool", "cmd/tool", "example.com/x/v2/cmd/tool"] {
            let found = find(&modules(), Path::new("/r"), &[wanted.to_owned()]).unwrap();
            assert_eq!(found.programs.len(), 1, "{wanted}");
            assert!(found.programs[0].is_asked && found.programs[0].name == "tool");
        }
        let error = find(&modules(), Path::new("/r"), &["./cmd/no".to_owned()]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(error.to_string(), "--package ./cmd/no: there is no such package `main`");
    }

    #[test]
    fn no_program_is_an_error_with_what_is_there() {
        let tool = module(
            "",
            &[
                package("main", "example.com/tool", "/r", &["fmt"]),
                json!({ "ImportPath": "example.com/broken", "Error": { "Err": "no Go files" } }),
            ],
        );
        let error = find(&[tool], Path::new("/r"), &[]).unwrap_err().to_string();
        assert!(error.ends_with(".: it imports no `net`, so that it listens nowhere\nexample.com/broken: no Go files"));
    }

    #[test]
    fn a_program_with_unknown_imports_may_listen() {
        let mut listed = package("main", "example.com/x", "/r", &["fmt"]);
        listed["DepsErrors"] = json!([{ "Err": "no required module provides package" }]);
        assert_eq!(find(&[module("", &[listed])], Path::new("/r"), &[]).unwrap().programs.len(), 1);
    }

    #[test]
    fn foreign_output_is_refused() {
        for text in ["no JSON", "{\"Name\": 1}", "{\"Name\": \"x\""] {
            let error = Module::new("a".into(), BTreeMap::new(), text.as_bytes()).unwrap_err();
            assert!(error.to_string().starts_with("a: `go list -json` printed something else"), "{error}");
        }
    }

    #[test]
    fn names_of_long_directories_are_valid() {
        let long = |letter: &str| letter.repeat(200);
        let of_module = |module: &str| {
            let dir = format!("/r/{module}/{}", long("d"));
            self::module(module, &[package("main", &format!("example.com/{module}"), &dir, &["net"])])
        };
        let modules = ["", "a/", "b/"].map(|above| of_module(&format!("{above}{}", long("m"))));
        let found = find(&modules, Path::new("/r"), &[]).unwrap();
        let names: BTreeSet<_> = found.programs.iter().map(|program| program.name.as_str()).collect();
        assert_eq!(names.len(), 3);
        assert!(names.iter().all(|name| Name::is_valid(name)), "{names:?}");
    }

    #[test]
    fn any_directory_has_a_name() {
        for (directory, name) in
            [("Order_Service", "order-service"), ("--", "service"), ("ü", "service"), ("a.b", "a-b")]
        {
            assert_eq!(plain_name(directory), name);
        }
    }
}
