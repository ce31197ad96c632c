//! QEMU, which runs the guests of the platforms that this machine is not.

use memgate_qemu::{
    architecture::Architecture,
    emulator,
    image::{Cache, ImageError},
};
use miette::{Result, miette};

use super::Tools;
use crate::workspace::CACHE;

/// Makes memgate's own QEMU for guests of every platform, in the cache that memgate then finds it in, where the system has none that will
/// do. One is needed for each, whichever this machine is: a guest also serves to measure another kernel.
///
/// # Errors
/// Fails where its packages cannot be fetched, or there are none for this machine.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<()> {
    let dir = tools.sh.var_os(CACHE).unwrap_or_default();
    // A relative path begins where memgate is started.
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
