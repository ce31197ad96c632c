//! Whether a gate can be trusted: how often healthy code is not green (`memgate calibrate`), and whether a worsening
//! turns the gate red (`memgate selftest`).
//!
//! Both work on recorded runs. They measure with the pipeline, and judge with the judge of `memgate check`.

pub mod calibrate;
pub mod checks;
pub mod plant;
mod power;
mod print;
pub mod selftest;

use std::path::PathBuf;

use memgate_config::{Config, baseline};
use memgate_evidence::{
    Evidence,
    error::{InputError, Result},
    platform::Platform,
};
use memgate_verdict::baseline::Expectation;

use crate::{
    judging::read_evidence,
    measure::Recorded,
    select::{Selection, targets},
};

/// Why the gate of this expectation cannot fail; `None` if it can.
fn switched_off(expectation: &Expectation) -> Option<String> {
    match &expectation.waiver {
        _ if expectation.advisory => Some("the baseline marks it `advisory`".to_owned()),
        Some(waiver) => Some(format!("the baseline waives it until {}", waiver.expires)),
        None => None,
    }
}

/// Checks what can be checked before the time of the runs is spent: that there is one build to measure, and that the
/// baselines can be read.
fn check_selection(config: &Config, selection: &Selection) -> Result<()> {
    if let Some(against) = &selection.against {
        let message = format!("--against {against}: this command measures one build, and not two");
        return Err(InputError::new(message, "leave --against out").into());
    }
    for target in &targets(config, selection)? {
        baseline::load(&config.baselines, target.platform, &target.service.baseline)?;
    }
    Ok(())
}

/// The selection with a directory of its own for what it writes, so that the files of the last check stay.
fn below(selection: Selection, directory: &str) -> Selection {
    Selection { out: selection.out.join(directory), ..selection }
}

/// The evidence in files and directories, of one build each.
fn recorded(files: &[PathBuf]) -> Result<Vec<Vec<Evidence>>> {
    read_evidence(files)?.into_iter().map(|(target, recorded)| of_one_build(&target, recorded)).collect()
}

fn of_one_build((service, platform): &(String, Platform), recorded: Recorded) -> Result<Vec<Evidence>> {
    if let Some(other) = recorded.others.iter().find_map(|other| other.against.as_deref()) {
        let message = format!("{service} on {platform}: this is evidence of a comparison with {other}");
        return Err(InputError::new(message, "name evidence of one build, which was measured without --against").into());
    }
    Ok(recorded.runs)
}
