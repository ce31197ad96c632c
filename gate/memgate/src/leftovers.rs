//! Removes what an earlier command left, before anything of this one can fail. A job that keeps the directory even if
//! memgate fails then keeps no file of an earlier commit.

use std::{fs, io, path::Path};

use memgate_config::Config;
use memgate_evidence::error::Result;
use memgate_files::{
    OutputError,
    names::{self, RunFiles},
};
use memgate_report::{Format, Output};

use crate::{
    prepare::cannot_write,
    select::{Selection, Target, targets},
};

/// Removes the evidence and the logs of what is selected, those of the other build too.
///
/// # Errors
/// When a selected service is not in the configuration, and when a file cannot be removed.
pub(crate) fn remove_runs(config: &Config, selection: &Selection) -> Result<()> {
    for target in &targets(config, selection)? {
        for directory in [selection.out.clone(), selection.out.join(names::AGAINST)] {
            remove_runs_of(&directory, target)?;
        }
    }
    Ok(())
}

fn remove_runs_of(out: &Path, target: &Target<'_>) -> Result<()> {
    remove_those(out, |name| RunFiles::are_of(name, &target.service.name, target.platform))
}

/// Removes the evidence and the logs of one run.
///
/// # Errors
/// When a file cannot be removed.
pub(crate) fn remove_run(out: &Path, files: &RunFiles) -> Result<()> {
    remove_those(out, |name| files.has(name))
}

fn remove_those(out: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let entries = match fs::read_dir(out) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| cannot_write(out, error))?,
    };
    for entry in entries.flatten() {
        if wanted(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path()).map_err(|error| cannot_write(&entry.path(), error))?;
        }
    }
    Ok(())
}

/// Removes the report that memgate keeps beside the evidence.
///
/// # Errors
/// When it cannot be removed.
pub(crate) fn remove_report(out: &Path) -> Result<()> {
    let report = out.join(Format::Json.file_name());
    remove(&report).map_err(|error| cannot_write(&report, error))
}

/// Removes the reports at the places where this command is to write its own.
///
/// # Errors
/// When one cannot be removed.
pub(crate) fn remove_reports(outputs: &[Output]) -> Result<()> {
    for path in outputs.iter().filter_map(|output| output.file.as_deref()) {
        let failed = |source| OutputError::Path { path: path.to_owned(), option: "--format", source };
        remove(path).map_err(failed)?;
    }
    Ok(())
}

/// Removes a regular file. What a link, a pipe or a device leads to is not memgate's.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => fs::remove_file(path),
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let [old, link, absent] = ["old.json", "link.json", "absent.json"].map(|name| directory.path().join(name));
        fs::write(&old, "{}").unwrap();
        std::os::unix::fs::symlink(&old, &link).unwrap();
        let output = |path: &Path| Output::to_file(Format::Json, path.to_owned());
        remove_reports(&[output(&link), output(&absent), output(Path::new("/dev/null"))]).unwrap();
        assert!(old.exists() && link.exists() && Path::new("/dev/null").exists());
        remove_reports(&[output(&old)]).unwrap();
        assert!(!old.exists());
    }
}
