//! `memgate init`: writes a memgate.yaml of what it finds: modules, the programs in them that can listen, and what these
//! answer in a short run.
//!
//! `modules → go list → build → start, ask, stop → text → memgate's own parser → file`. A repository may be hostile:
//! builds and services run as for `memgate check`, and memgate itself follows no link below the directory.

mod answers;
mod asker;
mod closing;
mod help;
mod hints;
mod programs;
mod render;
mod target;
mod tokens;
mod tree;
mod trials;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use memgate_agent::{self as agent, alone::Alone, cancel::Cancel};
use memgate_config::Build;
use memgate_evidence::{
    error::{Error, InfrastructureError, InputError, Result, Stage},
    plan::Account,
    platform::Platform,
};
use memgate_goexe::GoExe;

use self::{
    closing::Closing,
    hints::Hints,
    programs::{Found, Module, Program, shown},
    render::Entry,
    target::Target,
    tree::Tree,
    trials::Ground,
};
use crate::{
    account,
    failures::rendered,
    gobuild::Builder,
    narrator::Narrator,
    outdir::{self, OutDirectory, refuse_others},
    preflight,
    prepare::make_directory,
};

/// The most text of a program's sources that is read, bytes.
const MOST_TEXT: usize = 64 << 20;

/// The exit code if a service in the file has to be completed by hand.
const OPEN: u8 = 3;

/// What to write, and how to find it.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Where the file goes.
    pub(crate) directory: PathBuf,
    /// Packages, by directory or import path; empty means all that may be services.
    pub(crate) packages: Vec<String>,
    /// Whether programs are built and started.
    pub(crate) runs: bool,
    /// Whether a file that is there is replaced.
    pub(crate) replaces: bool,
    /// Whether the text is only returned, and no file written.
    pub(crate) prints: bool,
    /// The user that builds and services run as.
    pub(crate) user: Option<String>,
    /// Whether memgate waits for another one that measures natively on this machine.
    pub(crate) waits: bool,
    /// The directory for executables and logs.
    pub(crate) out: PathBuf,
}

/// What `memgate init` has made.
#[derive(Debug)]
pub(crate) struct Initialised {
    /// The text of the file, if no file is written.
    pub(crate) file: Option<String>,
    /// What was found and what comes next.
    pub(crate) text: String,
    /// 0, 3 if a service has to be completed by hand, or 4 if one does not build or start.
    pub(crate) exit_code: u8,
}

/// Finds services and writes the file.
///
/// # Errors
/// When there is no module or no program that may be a service, when none can be built, when the file exists or cannot be
/// written, and when memgate is interrupted.
pub(crate) async fn init(wanted: &Wanted, narrator: &Narrator, cancel: &Cancel) -> Result<Initialised> {
    let work = Work::begin(wanted, narrator)?;
    tokio::select! {
        made = work.make(cancel) => made,
        // Dropping the work ends what runs.
        () = cancel.cancelled() => Err(Error::Interrupted),
    }
}

/// The modules whose packages are known.
struct Listing {
    modules: Vec<Module>,
    /// Those that cannot be listed, with the reason.
    left_out: Vec<String>,
    /// The exit code if there are such.
    failed: Option<u8>,
}

/// Where everything happens.
struct Work<'a> {
    wanted: &'a Wanted,
    narrator: &'a Narrator,
    tree: Tree,
    /// The place of the file, without links.
    file: PathBuf,
    account: Option<Account>,
    /// The directory for what builds and services leave.
    out: PathBuf,
}

impl<'a> Work<'a> {
    fn begin(wanted: &'a Wanted, narrator: &'a Narrator) -> Result<Self> {
        let tree = Tree::open(&wanted.directory).map_err(|error| {
            let message = format!("{}: it cannot be opened as a directory: {error}", wanted.directory.display());
            InputError::new(message, "name the directory in which memgate.yaml is to be")
        })?;
        let file = tree.path.join(target::NAME);
        let asked = wanted.user.as_deref().map(|user| ("--user", user));
        let account = account::of_service(asked, &file)?;
        let out = std::path::absolute(wanted.out.join("init")).unwrap_or_else(|_| wanted.out.join("init"));
        Ok(Self { wanted, narrator, tree, file, account, out })
    }

    async fn make(&self, cancel: &Cancel) -> Result<Initialised> {
        let target = match self.wanted.prints {
            true => None,
            false => {
                let Wanted { directory, replaces, .. } = self.wanted;
                Some(Target::new(&self.tree, directory, *replaces, self.account.as_ref())?)
            }
        };
        let modules = self.modules()?;
        let out_directory = self.out_directory()?;
        if let Some(why) = account::stays_root(&self.file) {
            self.narrator.say(&why);
        }
        let _alone = if self.wanted.runs { Some(self.alone(cancel).await?) } else { None };
        let Listing { modules, left_out: mut unlisted, mut failed } = self.list_all(modules, cancel).await?;
        let Found { programs, mut left_out } = programs::find(&modules, &self.tree.path, &self.wanted.packages)?;
        left_out.append(&mut unlisted);
        let mut entries = Vec::new();
        for program in &programs {
            match self.entry(program, &out_directory, cancel).await {
                Ok(Ok(entry)) => entries.push(entry),
                Ok(Err(why)) => left_out.push(format!("{}: {why}", program.title())),
                Err(error @ (Error::Infrastructure(_) | Error::Input(_))) if programs.len() > 1 => {
                    left_out.push(format!("{}: {}", program.title(), first_line(&error)));
                    self.narrator.say(rendered(error).trim_end());
                    failed = Some(InfrastructureError::EXIT_CODE);
                }
                Err(error) => return Err(error),
            }
        }
        if entries.is_empty() {
            return Err(none_left(&left_out, failed.is_some()));
        }
        self.finish(&entries, &left_out, target.as_ref(), failed)
    }

    /// Writes the file, or returns its text.
    fn finish(
        &self,
        entries: &[Entry],
        left_out: &[String],
        target: Option<&Target<'_>>,
        failed: Option<u8>,
    ) -> Result<Initialised> {
        let text = render::file(entries);
        render::read(&text, &self.file, entries)?;
        if let Some(target) = target {
            target.write(&text)?;
        }
        let is_open = self.wanted.runs && entries.iter().any(|entry| entry.is_open);
        let closing = Closing {
            file: target.map(Target::path),
            entries,
            left_out,
            // Who called `sudo` calls it again.
            can_attach: preflight::collectors(None).is_ok() && std::env::var_os("SUDO_UID").is_none(),
        };
        Ok(Initialised {
            file: target.is_none().then_some(text),
            text: closing.text(),
            exit_code: failed.unwrap_or(if is_open { OPEN } else { 0 }),
        })
    }

    /// The directories of modules.
    fn modules(&self) -> Result<Vec<PathBuf>> {
        let (modules, is_cut) = self.tree.modules();
        let cut = format!("memgate looked at {} files and directories, and not behind them", tree::MOST_ENTRIES);
        if !modules.is_empty() {
            if is_cut {
                self.narrator.say(&format!("{cut}: modules may be missing; name a directory nearer to them"));
            }
            return Ok(modules);
        }
        let directory = self.wanted.directory.display();
        let above = self.tree.path.ancestors().skip(1).find(|above| above.join("go.mod").is_file());
        let help = match above {
            Some(above) => format!("there is one above it: `memgate init {}`", above.display()),
            None => "start memgate in a directory with a go.mod, or name one: `memgate init DIR`".to_owned(),
        };
        let cut = if is_cut { format!("; {cut}") } else { String::new() };
        Err(InputError::new(format!("{directory}: there is no go.mod in it or below it{cut}"), help).into())
    }

    fn out_directory(&self) -> Result<OutDirectory> {
        outdir::ready_for(self.wanted.user.is_some(), &self.wanted.out, &self.file)?;
        make_directory(&self.out)?;
        if self.account.is_some() {
            refuse_others(&self.wanted.out)?;
        }
        Ok(OutDirectory::of(&self.out)?)
    }

    /// Has this machine for itself: builds and services would disturb another memgate's measurement.
    async fn alone(&self, cancel: &Cancel) -> Result<Alone> {
        let say = |line: &str| self.narrator.say(line);
        let alone = if self.wanted.waits { Alone::wait(say, cancel).await? } else { Alone::without_waiting(say) };
        for line in agent::remove_leftovers() {
            say(&line);
        }
        Ok(alone)
    }

    fn builder<'b>(&'b self, tools: &'b Path) -> Builder<'b> {
        Builder { tools, account: self.account.as_ref(), directory: &self.out }
    }

    /// Lists the packages of the modules. One that cannot be listed is left out if there are others.
    async fn list_all(&self, directories: Vec<PathBuf>, cancel: &Cancel) -> Result<Listing> {
        let mut listing = Listing { modules: Vec::new(), left_out: Vec::new(), failed: None };
        let mut failures = Vec::new();
        for module in directories {
            match self.list(module.clone(), cancel).await {
                Ok(listed) => listing.modules.push(listed),
                Err(error @ (Error::Infrastructure(_) | Error::Input(_))) => failures.push((module, error)),
                Err(error @ Error::Interrupted) => return Err(error),
            }
        }
        let mut failures = failures.into_iter().peekable();
        while let Some((module, error)) = failures.next() {
            if listing.modules.is_empty() && failures.peek().is_none() {
                return Err(error);
            }
            listing.left_out.push(format!("{}: {}", shown(&module), first_line(&error)));
            listing.failed = Some(InfrastructureError::EXIT_CODE);
            self.narrator.say(rendered(error).trim_end());
        }
        Ok(listing)
    }

    /// Lists the packages of a module. One that a go.work does not name is listed without it.
    async fn list(&self, module: PathBuf, cancel: &Cancel) -> Result<Module> {
        let directory = self.directory(&module);
        self.narrator.say(&format!("{}: listing its packages", shown(&module)));
        let list = async |env: BTreeMap<String, String>| {
            let build = build(&directory, "./...", &env);
            let listed = self.builder(&directory).list(&build, programs::FIELDS, Platform::host(), cancel).await?;
            Module::new(module.clone(), env, &listed)
        };
        let listed = list(BTreeMap::new()).await?;
        if listed.is_outside_of_its_workspace() {
            return list([("GOWORK".to_owned(), "off".to_owned())].into()).await;
        }
        Ok(listed)
    }

    /// The directory with this path from the tree's.
    fn directory(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() { self.tree.path.clone() } else { self.tree.path.join(path) }
    }

    /// The entry of a program, or why it has none.
    async fn entry(
        &self,
        program: &Program,
        out_directory: &OutDirectory,
        cancel: &Cancel,
    ) -> Result<Result<Entry, String>> {
        let hints = self.hints(program).await;
        if !self.wanted.runs {
            return Ok(Ok(trials::without_a_run(program, &hints)));
        }
        let by = self.account.as_ref().map(|account| format!(" as {}", account.name)).unwrap_or_default();
        self.narrator.say(&format!("{}: building {}{by}", program.name, program.title()));
        out_directory.is_still_there()?;
        let directory = self.directory(&program.module);
        let build = build(&directory, &program.package, &program.env);
        let executable = self.builder(&directory).build(&build, Platform::host(), &program.name, cancel).await?;
        if !program.is_asked && !may_listen(&executable) {
            return Ok(Err("nothing in its executable listens at a TCP address".to_owned()));
        }
        let ground = Ground {
            file: &self.file,
            out: &self.out,
            out_directory,
            account: self.account.as_ref(),
            narrator: self.narrator,
        };
        ground.see(program, &hints, &executable).await.map(Ok)
    }

    /// What the program's sources say. One that cannot be read says nothing.
    async fn hints(&self, program: &Program) -> Hints {
        let mut hints = Hints::default();
        let mut left = MOST_TEXT;
        for file in &program.sources {
            let Ok(source) = self.tree.read(file) else { continue };
            let Some(after) = left.checked_sub(source.len()) else {
                let most = MOST_TEXT >> 20;
                self.narrator
                    .say(&format!("{}: its sources have more than {most} MiB; not all are read", program.name));
                break;
            };
            left = after;
            hints.read(&file.display().to_string(), &source);
            // An interrupt does not wait for all of them.
            tokio::task::yield_now().await;
        }
        hints
    }
}

fn build(directory: &Path, package: &str, env: &BTreeMap<String, String>) -> Build {
    Build {
        dir: directory.to_owned(),
        package: package.to_owned(),
        tags: Vec::new(),
        ldflags: None,
        env: env.clone(),
        pass_env: Vec::new(),
    }
}

/// Whether an executable has a function of Go's package net that listens. The linker leaves out what nothing calls. One
/// that is no Go executable, or hides its functions, may have one.
fn may_listen(executable: &Path) -> bool {
    let listens = |name: &str| name.starts_with("net.(*sysListener).listenTCP") || name == "net.(*ListenConfig).Listen";
    match GoExe::open(executable).map(|exe| exe.function_table) {
        Ok(Ok(table)) => table.functions().any(|function| listens(function.name)),
        Ok(Err(_)) | Err(_) => true,
    }
}

/// The first line of an error, for a list.
fn first_line(error: &Error) -> String {
    error.to_string().lines().next().unwrap_or_default().trim_end_matches(':').to_owned()
}

fn none_left(left_out: &[String], has_failed: bool) -> Error {
    if has_failed {
        let message = format!("no service is left for the file: of {} programs none can be started", left_out.len());
        let help = "fix what the messages above name, or name another program with `--package`";
        return Error::caused(Stage::Build, message, std::io::Error::other(left_out.join("; ")), help);
    }
    let message = format!("no service is left for the file:\n{}", left_out.join("\n"));
    InputError::new(message, "name a program that is a service with `--package`").into()
}
