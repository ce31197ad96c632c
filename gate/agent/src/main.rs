//! The program in a guest: its first process, and the agent that the first process starts.

use std::process::ExitCode;

fn main() -> ExitCode {
    memgate_agent::in_guest::main()
}
