//! Turns the contents of memgate.yaml into a [`Config`]: checks relations between keys, fills in defaults, resolves
//! paths.

mod load;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use memgate_evidence::{
    error::{Error, Result},
    plan::{Length, Load, PhaseLengths, Ready, ReadyBy, Stdin, Watch},
};

use super::{Before, Build, Config, Executable, PlatformOptions, Run, Service, Sidecar, file, listens::Listens};
use crate::yaml::{KeyPath, Kind, Problem, Scalar, Source, Whole};

/// The keys that say when a process is ready.
const READY: &str = "http, tcp, unix, log, command, notify";

/// How long a command before the service may take, ms.
const BEFORE: u64 = 5 * 60_000;

pub(super) struct Validator<'a> {
    pub(super) source: &'a Source,
    pub(super) path: &'a Path,
    pub(super) directory: &'a Path,
}

impl Validator<'_> {
    pub(super) fn config(&self, file: file::File) -> Result<Config> {
        let root = KeyPath::root();
        if file.services.is_empty() {
            let help = "add a service with `build` or `binary`, `run` and `load`";
            return Err(self.source.error(
                &root.key("services").at_key(),
                Problem::new("there are no services", "at least one service", help),
            ));
        }
        let services = file.services.into_iter().map(|(Scalar(name), service)| {
            let place = root.key("services").key(&name);
            Ok((name.clone(), self.service(name, service, &place)?))
        });
        Ok(Config {
            file: self.path.to_owned(),
            services: services.collect::<Result<_, Error>>()?,
            baselines: self.resolve(file.baselines.map_or_else(|| "baselines".into(), |path| path.0)),
            platforms: file
                .platforms
                .into_iter()
                .map(|(platform, options)| (platform, self.platform(options)))
                .collect(),
        })
    }

    fn service(&self, name: String, service: file::Service, place: &KeyPath) -> Result<Service> {
        let seed = service.load.seed.map_or(1, |seed| seed.0);
        let load_pass_env = service.load.pass_env.iter().map(|name| name.0.clone()).collect();
        let run = self.run(service.run, &place.key("run"))?;
        let load = self.load(service.load, &place.key("load"))?;
        let sidecars = self.sidecars(service.sidecars.0, &place.key("sidecars"))?;
        self.places_differ(&sidecars, &run.ready, &load, &place.key("sidecars"))?;
        let before = service.before.into_iter().enumerate();
        let before = before.map(|(index, before)| self.before(before, &place.key("before").index(index)));
        Ok(Service {
            executable: self.executable(service.build, service.binary, place)?,
            baseline: service.baseline.map_or_else(|| name.clone(), |baseline| baseline.0),
            run,
            sidecars,
            before: before.collect::<Result<_>>()?,
            phases: self.phases(service.phases, &load, &place.key("phases"))?,
            load,
            load_pass_env,
            seed,
            runs: service.runs.map_or(2, Whole::as_u32),
            max_runs: service.max_runs.map_or(6, Whole::as_u32),
            name,
        })
    }

    fn executable(
        &self,
        build: Option<file::Build>,
        binary: Option<BTreeMap<memgate_evidence::platform::Platform, Scalar<super::kinds::FilePath>>>,
        place: &KeyPath,
    ) -> Result<Executable> {
        let help = "write `build: { dir: DIR, package: ./PACKAGE }`, or `binary: { linux/amd64: FILE }` for an existing executable";
        match (build, binary) {
            (Some(build), None) => self.build(build, &place.key("build")).map(Executable::Build),
            (None, Some(binary)) if !binary.is_empty() => {
                let binary = binary.into_iter().map(|(platform, path)| (platform, self.resolve(path.0)));
                Ok(Executable::Binary(binary.collect()))
            }
            (None, Some(_)) => Err(self.source.error(
                &place.key("binary"),
                Problem::new("names no executable", "expected a path for at least one platform", help),
            )),
            (Some(_), Some(_)) => Err(self.source.error(
                &place.key("binary").at_key(),
                Problem::new("the service has both `build` and `binary`", "besides `build`", "remove one of the two"),
            )),
            (None, None) => Err(self.source.error(
                &place.clone().at_key(),
                Problem::new("the service has neither `build` nor `binary`", "has no executable", help),
            )),
        }
    }

    fn build(&self, build: file::Build, place: &KeyPath) -> Result<Build> {
        let dir = self.resolve(build.dir.0.clone());
        if !dir.is_dir() {
            let what = format!("there is no directory `{}` relative to this file", build.dir.0.display());
            let help = "name the directory in which `go build` is to run";
            return Err(self.source.error(&place.key("dir"), Problem::new(what, "no such directory", help)));
        }
        Ok(Build {
            dir,
            package: build.package.0,
            tags: values(build.tags),
            ldflags: build.ldflags.map(|flags| flags.0),
            env: map(build.env),
            pass_env: values(build.pass_env),
        })
    }

    fn run(&self, run: file::Run, place: &KeyPath) -> Result<Run> {
        let watch = self.watch(&run, place)?;
        Ok(Run {
            args: values(run.args),
            watch,
            env: map(run.env),
            pass_env: values(run.pass_env),
            user: run.user.map(|user| user.0),
            directory: run.directory.map_or_else(|| self.directory.to_owned(), |path| self.resolve(path.0)),
            stdin: run.stdin.map_or(Stdin::Empty, |_| Stdin::Open),
            ready: self.ready(run.ready, &place.key("ready"))?,
            memory_max: run.memory_max.map(|size| size.0),
            stop_timeout_ms: or(run.stop_timeout, 10_000),
        })
    }

    /// Which process is measured, if it is not simply the one that memgate starts.
    fn watch(&self, run: &file::Run, place: &KeyPath) -> Result<Option<Watch>> {
        let command = match run.command.clone() {
            Some(command) => {
                let place = place.key("command");
                let command =
                    self.words(command, &place, "write the program and its arguments: `command: [./start.sh]`")?;
                if !run.args.is_empty() {
                    let what = "`args` are those of the executable, which the command executes itself";
                    let help = "move them into the command, or remove `command`";
                    let problem = Problem::new(what, "besides `args`", help);
                    return Err(self.source.error(&place.at_key(), problem));
                }
                command
            }
            None => Vec::new(),
        };
        let Some(watch) = &run.watch else {
            let watch = Watch { command, argument: None, execution: 1 };
            return Ok(run.command.is_some().then_some(watch));
        };
        if watch.argument.is_none() && watch.execution.is_none() {
            let help = "write `watch: { argument: WORD }` or `watch: { execution: 2 }`, or leave it out";
            let problem = Problem::new("says nothing", "expected `argument` or `execution`", help);
            return Err(self.source.error(&place.key("watch"), problem));
        }
        let argument = watch.argument.as_ref().map(|word| word.0.clone());
        Ok(Some(Watch { command, argument, execution: watch.execution.as_ref().map_or(1, |times| times.as_u32()) }))
    }

    fn sidecars(&self, sidecars: Vec<(Scalar<super::Name>, file::Sidecar)>, place: &KeyPath) -> Result<Vec<Sidecar>> {
        let sidecars = sidecars.into_iter().map(|(Scalar(name), sidecar)| {
            let place = place.key(&name);
            let example = "write the program and its arguments: `command: [redis-server, --port, 6379]`";
            Ok(Sidecar {
                name,
                words: self.words(sidecar.command, &place.key("command"), example)?,
                env: map(sidecar.env),
                pass_env: values(sidecar.pass_env),
                directory: sidecar.directory.map(|path| self.resolve(path.0)),
                user: sidecar.user.map(|user| user.0),
                ready: self.ready(sidecar.ready, &place.key("ready"))?,
                memory_max: sidecar.memory_max.map(|size| size.0),
                stop_timeout_ms: or(sidecar.stop_timeout, 10_000),
            })
        });
        sidecars.collect()
    }

    fn before(&self, before: file::Before, place: &KeyPath) -> Result<Before> {
        let example = "write the program and its arguments: `command: [$MEMGATE_SERVICE, migrate]`";
        Ok(Before {
            words: self.words(before.command, &place.key("command"), example)?,
            env: map(before.env),
            pass_env: values(before.pass_env),
            directory: before.directory.map(|path| self.resolve(path.0)),
            user: before.user.map(|user| user.0),
            timeout_ms: or(before.timeout, BEFORE),
        })
    }

    /// Checks that no two of the sidecars and the service are to listen at the same place, as far as the file tells.
    fn places_differ(&self, sidecars: &[Sidecar], service: &Ready, load: &Load, place: &KeyPath) -> Result<()> {
        let of_load = match load {
            Load::Http(load) => match &load.transport.unix {
                Some(name) => Listens::at_socket(name).into_iter().collect(),
                None => load.requests.iter().filter_map(|request| Listens::at_url(&request.url)).collect(),
            },
            Load::Command(_) => Vec::new(),
        };
        let of_service = Listens::of(service).into_iter().chain(of_load);
        let mut taken: Vec<_> = of_service.map(|listens| (listens, "the service".to_owned())).collect();
        for sidecar in sidecars {
            let Some(listens) = Listens::of(&sidecar.ready) else { continue };
            if let Some((_, other)) = taken.iter().find(|(other, _)| *other == listens) {
                let what = format!("{other} and the sidecar `{}` both want {listens}", sidecar.name);
                let help = "give one of the two another port or another socket";
                let place = place.key(&sidecar.name).key("ready");
                return Err(self.source.error(&place, Problem::new(what, format!("{other} wants it too"), help)));
            }
            taken.push((listens, format!("the sidecar `{}`", sidecar.name)));
        }
        Ok(())
    }

    /// The words of a command, of which there is at least a program.
    fn words(&self, command: Vec<Scalar<crate::yaml::Text>>, place: &KeyPath, help: &str) -> Result<Vec<String>> {
        let words = values(command);
        if words.first().is_some_and(|program| !program.is_empty()) {
            return Ok(words);
        }
        Err(self.source.error(place, Problem::new("names no program", "expected a program and its arguments", help)))
    }

    fn ready(&self, ready: file::Ready, place: &KeyPath) -> Result<Ready> {
        let refuse = |place: &KeyPath, what: String, label: String, help: &str| {
            Err(self.source.error(place, Problem::new(what, label, help)))
        };
        let example = "write the program and its arguments: `command: [pg_isready, -q]`";
        let command = ready.command.map(|command| self.words(command, &place.key("command"), example)).transpose()?;
        let kinds = [
            ("http", ready.http.map(|url| ReadyBy::Http(url.0))),
            ("tcp", ready.tcp.map(|address| ReadyBy::Tcp(address.0))),
            ("unix", ready.unix.map(|name| ReadyBy::Unix(name.0))),
            ("log", ready.log.map(|pattern| ReadyBy::Log(pattern.0))),
            ("command", command.map(ReadyBy::Command)),
            ("notify", ready.notify.map(|_| ReadyBy::Notify)),
        ];
        let mut kinds = kinds.into_iter().filter_map(|(key, by)| Some((key, by?)));
        let Some((first, by)) = kinds.next() else {
            let what = format!("nothing says when the process is ready: write one of {READY}");
            let help = "write `http: http://127.0.0.1:8080/healthz`, `tcp: 127.0.0.1:5432` or `log: \"listening on\"`";
            return refuse(&place.clone().at_key(), what, format!("has none of {READY}"), help);
        };
        if let Some((second, _)) = kinds.next() {
            let what = format!("`ready` has both `{first}` and `{second}`");
            let help = "keep the one that comes last while the process starts, and remove the other";
            return refuse(&place.key(second).at_key(), what, format!("beside `{first}`"), help);
        }
        Ok(Ready { by, timeout_ms: or(ready.timeout, 30_000) })
    }

    fn phases(&self, phases: file::Phases, load: &Load, place: &KeyPath) -> Result<PhaseLengths> {
        let drain_ms = or(phases.drain, 10_000);
        let lengths = PhaseLengths {
            warmup: or(phases.warmup, Length::Ms(30_000)),
            measure: or(phases.measure, Length::Ms(60_000)),
            drain_ms,
            drain_max_ms: or(phases.drain_max, drain_ms.saturating_mul(3).max(30_000)),
        };
        self.requests_of_a_phase(lengths.warmup, 0, load, &place.key("warmup"))?;
        self.requests_of_a_phase(lengths.measure, file::LEAST_MEASURE, load, &place.key("measure"))?;
        Ok(lengths)
    }

    /// Checks that a phase in requests has a load that counts them, and that it takes as long as a phase may take, from
    /// `least` ms on.
    fn requests_of_a_phase(&self, length: Length, least: u64, load: &Load, place: &KeyPath) -> Result<()> {
        let requests = match length {
            Length::Ms(_) => return Ok(()),
            Length::Requests(requests) => requests,
        };
        let refuse =
            |what: String, label: String, help: &str| Err(self.source.error(place, Problem::new(what, label, help)));
        let rate = match load {
            Load::Http(http) => http.rate_per_second,
            Load::Command(_) => {
                let what = "a load command counts its requests itself, so a phase has no length in requests";
                return refuse(what.to_owned(), "expected a duration".to_owned(), "write a duration, such as `60s`");
            }
        };
        #[expect(clippy::cast_precision_loss, reason = "both are far below 2^53")]
        let (seconds, range) = (requests as f64 / rate, [least, file::LONGEST_PHASE].map(|ms| ms as f64 / 1000.0));
        if (range[0]..=range[1]).contains(&seconds) {
            return Ok(());
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 24 h at 1,000,000/s")]
        let [fewest, most] = [(range[0] * rate).ceil(), (range[1] * rate).floor()].map(|requests| requests as u64);
        let what = format!("{requests} requests at {rate}/s take {seconds} s");
        let label = format!("expected from {fewest} to {most} requests");
        refuse(what, label, "write another number of requests, or a duration such as `60s`")
    }

    fn platform(&self, options: file::Platforms) -> PlatformOptions {
        PlatformOptions {
            runner: options.runner,
            build_env: map(options.build_env),
            memory: options.memory.map(|size| size.0),
            cpus: options.cpus.map(Whole::as_u32),
            kernel: options.kernel.map(|kernel| kernel.0),
            page_size: options.page_size.map(|size| size.0),
            boot_timeout: options.boot_timeout.map(|timeout| Duration::from_millis(timeout.0)),
            files: options.files.into_iter().map(|(to, from)| (to.0, self.resolve(from.0))).collect(),
        }
    }

    fn resolve(&self, path: PathBuf) -> PathBuf {
        let path = self.directory.join(path);
        // Drops `.` and doubled slashes, which would make messages harder to read.
        std::path::absolute(&path).unwrap_or(path)
    }
}

fn or<K: Kind>(value: Option<Scalar<K>>, default: K::Value) -> K::Value {
    value.map_or(default, |value| value.0)
}

fn values<K: Kind>(values: Vec<Scalar<K>>) -> Vec<K::Value> {
    values.into_iter().map(|value| value.0).collect()
}

fn map<K: Kind<Value = String>, V: Kind<Value = String>>(
    map: BTreeMap<Scalar<K>, Scalar<V>>,
) -> BTreeMap<String, String> {
    map.into_iter().map(|(key, value)| (key.0, value.0)).collect()
}
