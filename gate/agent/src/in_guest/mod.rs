//! The programs in a guest: its first process, and the agent that the first process starts.
//!
//! There are two processes so that one can report how the other ended. Both are the same static executable.

mod init;
mod ports;
pub mod relay;
pub mod serve;
mod shell;

use std::{
    fs::File,
    process::ExitCode,
    sync::{Arc, Mutex},
};

use memgate_qemu::channel::Outgoing;

/// The stream to the host. Several threads write to it.
type Host = Arc<Mutex<Outgoing<File>>>;

/// Runs as the guest's first process if this is process 1, and as the agent if the first process started it.
pub fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        _ if std::process::id() == 1 => init::run(),
        Some(init::AGENT) => serve::run(),
        Some("--version") => {
            eprintln!("memgate-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("memgate-agent is the first process of memgate's guests; run `memgate` instead");
            ExitCode::from(2)
        }
    }
}
