//! Go services as a distribution builds them: stripped, with C, by that distribution's own Go. The tests measure them.

use std::path::Path;

use memgate_qemu::debian::Pin;
use miette::{Context, IntoDiagnostic, Result};
use xshell::cmd;

use super::{Stamp, Tools, apt};
use crate::step;

/// The node exporter of one suite.
fn node_exporter(suite: &str, version: &str, sha256: &str, size: u64) -> Pin {
    Pin {
        suite: suite.into(),
        architecture: "amd64".into(),
        package: "prometheus-node-exporter".into(),
        version: version.into(),
        sha256: sha256.into(),
        size,
        file: format!("pool/main/p/prometheus-node-exporter/prometheus-node-exporter_{version}_amd64.deb"),
    }
}

fn packages() -> [Pin; 2] {
    // Built by Go 1.24.4; needs the C library of Debian 12 or later.
    let sum = "9db00cad0c9e160a4e9c13cbdb2833d58becb1f4cd60eeb0b5e12477ba6a42bd";
    let exporter = node_exporter("trixie", "1.9.0-1+b4", sum, 4_674_324);
    // Built by Go 1.19.8, which is older than what memgate knows.
    let sum = "8cb5b39627595ea2cf3cd27be593e0e9af87023d29e1c5b8487e2f9510097e09";
    [exporter, node_exporter("bookworm", "1.5.0-1+b6", sum, 4_079_352)]
}

/// Makes `.tools/prometheus-node-exporter-1.9.0-1+b4` and its like, each with its program.
///
/// The packages are Debian's for amd64. Other machines do without, and skip the tests that need them.
///
/// # Errors
/// Fails where the machine uses Debian's archive and that does not have them.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(());
    }
    for package in packages() {
        install(tools, &package)?;
    }
    Ok(())
}

fn install(tools: &Tools<'_>, package: &Pin) -> Result<()> {
    let stamp = Stamp::new(&package.package, &package.version, apt::source(package));
    if tools.installed(&stamp).is_none() && !apt::has_debian()? {
        eprintln!(
            "{} {} is left out: it comes from Debian, whose archive is not in use here",
            stamp.tool, stamp.version
        );
        return Ok(());
    }
    tools.directory(&stamp, |scratch| {
        let file = apt::fetch(package, scratch)?;
        let (unpacked, new) = (scratch.join("unpacked"), scratch.join("new"));
        step::run(cmd!(tools.sh, "dpkg -x {file} {unpacked}"))?;
        keep(&unpacked, &new, &package.package).into_diagnostic().wrap_err("cannot move what was unpacked")?;
        Ok(new)
    })?;
    Ok(())
}

/// Makes `new`, with the program and its copyright.
fn keep(unpacked: &Path, new: &Path, name: &str) -> std::io::Result<()> {
    std::fs::create_dir(new)?;
    std::fs::rename(unpacked.join("usr/bin").join(name), new.join(name))?;
    std::fs::rename(unpacked.join("usr/share/doc").join(name).join("copyright"), new.join("copyright"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_and_its_copyright_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (unpacked, new) = (dir.path().join("unpacked"), dir.path().join("new"));
        for (path, file) in [("usr/bin", "a"), ("usr/share/doc/a", "copyright"), ("etc", "a")] {
            std::fs::create_dir_all(unpacked.join(path)).unwrap();
            std::fs::write(unpacked.join(path).join(file), "").unwrap();
        }
        keep(&unpacked, &new, "a").unwrap();
        let mut kept: Vec<_> = std::fs::read_dir(&new).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        kept.sort();
        assert_eq!(kept, ["a", "copyright"]);
    }
}
