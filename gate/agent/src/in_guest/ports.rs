//! The guest's ends of the channel.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

/// The kernel makes a port some milliseconds after its device.
const PATIENCE: Duration = Duration::from_secs(20);

/// Opens the port of this name for reading and writing, once the kernel has made it.
///
/// # Errors
/// When there is none after 20 s, or it cannot be opened.
pub(super) fn open(name: &str) -> io::Result<File> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(device) = find(name) {
            return File::options().read(true).write(true).open(device);
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("the guest has no virtio-serial port {name}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The device of the port: `/dev/vport0p1`.
fn find(name: &str) -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?.flatten();
    let port = ports
        .map(|port| port.path())
        .find(|port| fs::read_to_string(port.join("name")).is_ok_and(|found| found.trim_end() == name))?;
    let device = PathBuf::from("/dev").join(port.file_name()?);
    device.exists().then_some(device)
}
