//! Man pages and completions of shells, made of the command line's own definition.

use std::{io, path::Path};

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;
use memgate_evidence::error::{InputError, Result};
use memgate_files::OutputError;

use crate::cli::Cli;

/// The man page of memgate or, with words such as `baseline` and `record`, of a command.
///
/// # Errors
/// When there is no such command.
pub(crate) fn page(words: &[String]) -> Result<String> {
    let mut root = Cli::command();
    // Gives each command its whole name.
    root.build();
    let mut command = &root;
    for word in words {
        command = command.find_subcommand(word).ok_or_else(|| {
            let message = format!("`memgate {}` is no command", words.join(" "));
            InputError::new(message, "`memgate --help` lists the commands")
        })?;
    }
    let mut page = Vec::new();
    // Writing into memory does not fail.
    let _ = Man::new(command.clone()).title(title(command)).render(&mut page);
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// Writes the man pages of memgate and of all its commands into a directory, which must exist.
///
/// # Errors
/// When one cannot be written.
pub(crate) fn pages(directory: &Path) -> Result<()> {
    let failed = |source: io::Error| OutputError::Path { path: directory.to_owned(), option: "--out", source };
    clap_mangen::generate_to(Cli::command(), directory).map_err(failed)?;
    Ok(())
}

/// The script that completes memgate's command line in a shell.
pub(crate) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "memgate", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The title of a page, as in `memgate-check(1)`.
fn title(command: &clap::Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}
