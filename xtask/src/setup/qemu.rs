//! QEMU, which runs the guests of other platforms.

use memgate_qemu::{
    architecture::Architecture,
    emulator,
    image::{Cache, ImageError},
};
use miette::{Result, miette};

use super::Tools;
use crate::workspace::CACHE;

/// Makes memgate's own QEMU for guests of every platform that lacks a suitable QEMU of the system. It goes into the
/// cache in which memgate looks for it. Every platform needs one, even this machine's own, because a guest can also
/// measure another kernel.
///
/// # Errors
/// When its packages cannot be fetched, or when there are none for this machine.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<()> {
    let dir = tools.sh.var_os(CACHE).unwrap_or_default();
    // A relative path starts where memgate is started.
    let cache = Cache::new(&tools.sh.current_dir().join(dir)).map_err(|error| told(&error))?;
    for architecture in Architecture::ALL {
        let mut say = |line: &str| eprintln!("QEMU for {architecture}: {line}");
        emulator::find(&cache, architecture, None, &mut say).map_err(|error| told(&error))?;
    }
    Ok(())
}

fn told(error: &ImageError) -> miette::Report {
    miette!(help = error.help(), "{}", error.message())
}
