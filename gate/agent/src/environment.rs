//! The machine on which a run is measured, and what was measured: the kind of build, and the service's variables.

use std::{collections::BTreeMap, fs};

use memgate_evidence::{Environment, plan::Plan, platform::Runner};
use memgate_goexe::GoExe;
use nix::unistd::{SysconfVar, sysconf};
use sysinfo::{CpuRefreshKind, RefreshKind, System};

/// Settings of the build that move figures, as cmd/go names them (`setBuildInfo`, src/cmd/go/internal/load/pkg.go, Go
/// 1.27). The levels are those of `GetArchEnv` (src/cmd/go/internal/cfg/cfg.go).
const SETTINGS: [&str; 8] = ["-asan", "-cover", "-msan", "-race", "-tags", "GOAMD64", "GOARM64", "GOEXPERIMENT"];

/// Variables that the Go runtime reads and that move figures (the package documentation of `runtime`, Go 1.27).
const VARIABLES: [&str; 4] = ["GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GODEBUG"];

/// Describes this machine, the executable, and what the plan gives to the service.
pub(super) fn describe(exe: &GoExe, plan: &Plan) -> Environment {
    let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
    let brand = system.ok().and_then(|system| system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()));
    let cpu = brand.filter(|brand| !brand.is_empty());
    Environment {
        go: exe.version().to_owned(),
        kernel: System::kernel_version().unwrap_or_else(|_| "unknown".to_owned()),
        page_size: page_size(),
        thp: transparent_huge_pages(),
        cpu: cpu.unwrap_or_else(|| "unknown".to_owned()),
        cpus: std::thread::available_parallelism().ok().and_then(|cpus| u32::try_from(cpus.get()).ok()).unwrap_or(1),
        runner: Runner::Native,
        memgate: env!("CARGO_PKG_VERSION").to_owned(),
        build: exe.build.as_ref().map(|build| named(&build.settings, &SETTINGS)).unwrap_or_default(),
        variables: named(&plan.env, &VARIABLES),
        load: plan.load.to_string(),
        phases: format!("{}, {}", plan.phases.warmup, plan.phases.measure),
        dependencies: plan.dependencies(),
    }
}

/// The entries with these names.
fn named(entries: &BTreeMap<String, String>, names: &[&str]) -> BTreeMap<String, String> {
    let is_named = |(name, _): &(&String, &String)| names.contains(&name.as_str());
    entries.iter().filter(is_named).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// What the reader must know of a build whose memory is not only the service's own.
pub(super) fn notes(environment: &Environment) -> Vec<String> {
    let is_built = |flag: &str| environment.build.get(flag).is_some_and(|value| value != "false");
    let detectors = [
        ("-race", "race", "the race detector's"),
        ("-msan", "memory sanitizer's", "the memory sanitizer's"),
        ("-asan", "address sanitizer's", "the address sanitizer's"),
    ];
    let of_detector = |(flag, build, whose): (&str, &str, &str)| {
        is_built(flag).then(|| {
            format!(
                "this is a {build} build ({flag}): its resident and off-heap memory is {whose} in part, which grows \
                 under load and is no leak of the service"
            )
        })
    };
    let cover = is_built("-cover").then(|| {
        "this is a coverage build (-cover): its counters are in its memory and take time in each block of code"
            .to_owned()
    });
    detectors.into_iter().filter_map(of_detector).chain(cover).collect()
}

/// The page size, bytes.
pub(super) fn page_size() -> u64 {
    sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

fn transparent_huge_pages() -> String {
    let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    chosen(&text).unwrap_or("unknown").to_owned()
}

/// `madvise` from `always [madvise] never`.
fn chosen(text: &str) -> Option<&str> {
    text.split_once('[')?.1.split_once(']').map(|(chosen, _)| chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_build(settings: &[(&str, &str)]) -> Environment {
        let entries = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Environment {
            go: "go1.27.3".to_owned(),
            kernel: String::new(),
            page_size: 4096,
            thp: String::new(),
            cpu: String::new(),
            cpus: 1,
            runner: Runner::Native,
            memgate: String::new(),
            build: named(&entries, &SETTINGS),
            variables: named(&entries, &VARIABLES),
            load: String::new(),
            phases: String::new(),
            dependencies: String::new(),
        }
    }

    #[test]
    fn only_what_moves_figures_is_kept() {
        let environment = of_build(&[
            ("-ldflags", "-s -w"),
            ("-tags", "cgo,sqlite"),
            ("GOAMD64", "v3"),
            ("vcs.revision", "0123"),
            ("GOGC", "50"),
            ("SECRET", "x"),
        ]);
        let pairs = |map: &BTreeMap<String, String>| format!("{map:?}");
        assert_eq!(pairs(&environment.build), r#"{"-tags": "cgo,sqlite", "GOAMD64": "v3"}"#);
        assert_eq!(pairs(&environment.variables), r#"{"GOGC": "50"}"#);
        assert_eq!(notes(&environment), Vec::<String>::new());
    }

    #[test]
    fn a_build_with_a_detector_has_a_note() {
        let race = notes(&of_build(&[("-race", "true"), ("-cover", "true"), ("-asan", "false")]));
        assert!(race[0].starts_with("this is a race build (-race): its resident and off-heap memory"), "{race:?}");
        assert!(race[1].starts_with("this is a coverage build") && race.len() == 2, "{race:?}");
    }

    #[test]
    fn the_chosen_mode_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n"), Some("madvise"));
        assert_eq!(chosen("unknown"), None);
    }
}
