//! What runs in a guest: its first process and, started by that, the agent.

use std::process::ExitCode;

fn main() -> ExitCode {
    memgate_agent::in_guest::main()
}
