//! `memgate image boot`: runs a shell or one command in a guest.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use memgate_agent::cancel::Cancel;
use memgate_evidence::error::{Error, FailureText, InputError, Result, Stage};
use memgate_qemu::{
    channel::{FromAgent, Printer, ToAgent},
    emulator,
    ending::{Ending, Patience},
    guest::{Guest, GuestError, Spoken, Start},
    image::{self, Shelled},
    machine::Machine,
    terminal,
};

use crate::{
    architecture::architecture,
    guest_runner::{self, GuestRunError, agent, cache, kernel, of_image, protocol, receive, understood},
    images::Which,
    narrator::Narrator,
    prepare::make_directory,
};

/// How long a guest may take to switch itself off before memgate ends it.
const FAREWELL: Duration = Duration::from_secs(5);

/// Nobody can know how long a person needs a shell.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// A guest for a person: the image and the machine that a check uses, with a shell.
#[derive(Debug)]
pub struct Booth {
    start: Start,
    /// Keeps its files in place until it is dropped.
    _image: image::Image,
    /// Keeps the console's files in place until it is dropped.
    _shelled: Shelled,
    words: Vec<String>,
}

impl Booth {
    /// Makes the image that the guest starts from, unless it is in the cache. `words` are the command; if there are
    /// none, the guest runs a shell on this terminal. memgate keeps the console's log in `out`.
    ///
    /// # Errors
    /// When not exactly one platform is named, when there is neither a command nor a terminal, or when the image cannot
    /// be made, or when memgate is interrupted.
    pub fn prepare(which: &Which, words: &[String], out: &Path, narrator: &Narrator, cancel: &Cancel) -> Result<Self> {
        let [platform] = which.platforms[..] else {
            return Err(InputError::new("a guest is of one platform", "name it: `--platform linux/arm64`").into());
        };
        if words.is_empty() && !terminal::is_there() {
            let message = "there is no terminal to join to the guest's console";
            return Err(InputError::new(message, "give a command: `-- uname -a`").into());
        }
        let kernel = kernel(&format!("--platform {platform}"), platform, which.kernel.as_deref(), which.page_size)?;
        let (cache, mirror) = (cache(cancel)?, which.mirror.as_deref());
        let mut say = |line: &str| narrator.say(&format!("{platform}: {line}"));
        let emulator = emulator::find(&cache, architecture(platform), mirror, &mut say).map_err(of_image)?;
        let image = image::ensure(&cache, kernel, &agent(platform)?, mirror, &mut say).map_err(of_image)?;
        let shelled = image::with_shell(&cache, &image, mirror, &mut say).map_err(of_image)?;
        make_directory(out)?;
        let usual = Machine::of(&image, emulator, guest_runner::MEMORY, guest_runner::CPUS);
        let machine = Machine { initramfs: shelled.path(), ..usual };
        let is_joined = words.is_empty();
        let patience = if is_joined { Patience { silence: NEVER, ..Patience::default() } } else { Patience::default() };
        let console = console_log(out, &image.name);
        let start = Start { machine, console, patience, build: memgate_agent::BUILD.to_owned(), is_joined };
        Ok(Self { start, _image: image, _shelled: shelled, words: words.to_vec() })
    }

    /// Boots the guest and returns the exit code of the command or the shell, or 0 if the guest was switched off
    /// instead. When this returns, the guest has ended and the terminal is as it was.
    ///
    /// # Errors
    /// When the guest does not boot or ends early, when the command cannot be started, or when memgate is interrupted.
    pub async fn run(&self, cancel: &Cancel) -> Result<u8> {
        tokio::select! {
            outcome = self.boot() => match outcome {
                Err(Outcome::Guest(GuestError::Ended {
                    code: Some(0),
                    ending: Ending::Lost(_) | Ending::NeverBooted(_),
                    ..
                })) if self.start.is_joined => Ok(0),
                Err(Outcome::Guest(error)) => Err(GuestRunError::Guest(error).into()),
                Err(Outcome::Other(error)) => Err(error),
                Ok(code) => Ok(code),
            },
            () = cancel.cancelled() => Err(Error::Interrupted),
        }
    }

    async fn boot(&self) -> Result<u8, Outcome> {
        let raw = self.start.is_joined.then(terminal::Raw::enter).transpose().map_err(|error| {
            let help = "give a command, or run memgate on a terminal";
            Error::caused(Stage::Preflight, "the terminal cannot be joined to the guest's console", error, help)
        })?;
        let mut guest = Guest::boot(&self.start).await?;
        guest.begin().await?;
        let terminal = raw.as_ref().map(terminal::Raw::described);
        guest.message(&ToAgent::Command { words: self.words.clone(), terminal }).await?;
        loop {
            match guest.next().await? {
                Spoken::Message(FromAgent::Printed { printer, length }) => {
                    let bytes = receive(&mut guest, length).await?;
                    print(printer, &bytes)?;
                }
                Spoken::Message(FromAgent::Failed(failure)) => {
                    let failure: FailureText = understood(failure.get())?;
                    return Err(Error::from(failure).into());
                }
                Spoken::Message(FromAgent::CommandEnded(code)) => {
                    if self.start.is_joined {
                        // The last lines of the guest's console may still be on their way.
                        guest.wait(FAREWELL).await;
                    }
                    return Ok(code);
                }
                other @ (Spoken::Data(_)
                | Spoken::Message(
                    FromAgent::Ready { .. }
                    | FromAgent::Begun
                    | FromAgent::Heartbeat
                    | FromAgent::Stored
                    | FromAgent::Progress(_)
                    | FromAgent::File { .. }
                    | FromAgent::Done,
                )) => return Err(protocol(&format!("{other:?} was not expected")).into()),
            }
        }
    }
}

/// Why there is no exit code.
enum Outcome {
    /// The guest has ended, perhaps because the user switched it off.
    Guest(GuestError),
    /// Something else.
    Other(Error),
}

impl From<GuestError> for Outcome {
    fn from(error: GuestError) -> Self {
        Self::Guest(error)
    }
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

fn console_log(out: &Path, image: &str) -> PathBuf {
    out.join(format!("boot.{image}.console.log"))
}

#[expect(clippy::disallowed_methods, reason = "what the command in the guest prints is the result")]
fn print(printer: Printer, bytes: &[u8]) -> Result<()> {
    let written = match printer {
        Printer::Stdout => {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        }
        Printer::Stderr => std::io::stderr().write_all(bytes),
    };
    written.map_err(|error| {
        let help = "keep stdout and stderr open until memgate ends";
        Error::caused(Stage::Output, "what the command printed cannot be written", error, help)
    })
}
