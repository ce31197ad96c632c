//! Whether a process is at rest: none of its threads runs or waits for a processor.
//!
//! On a busy machine a service may finish its work late. The goroutine of a closed connection, for example, exists
//! until its thread gets a processor. A service at rest has no such work left.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::unistd::Pid;

/// The time between two checks.
const PACE: Duration = Duration::from_millis(10);

/// The number of successive checks that must find the process at rest. One thread may pass its work to another between
/// the reads of two files.
const LOOKS: u32 = 3;

/// Waits until the process is at rest or has ended, for at most `patience`. Returns whether it came to rest.
pub async fn come(pid: Pid, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    let mut at_rest = 0;
    loop {
        at_rest = if is_at_rest(pid) { at_rest + 1 } else { 0 };
        if at_rest == LOOKS {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Whether each thread of the process sleeps now. A process that has ended has no threads.
fn is_at_rest(pid: Pid) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    // A thread that has ended meanwhile does not count.
    threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok()).all(|stat| sleeps(&stat))
}

/// Whether a thread waits for an event, from its `/proc/PID/task/TID/stat` (proc_pid_stat(5)). A thread that waits for
/// a disk, or for memory from one, is working.
fn sleeps(stat: &str) -> bool {
    // The name before may contain anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['R', 'D']))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn shell(script: &str) -> Child {
        Command::new("sh").args(["-c", script]).spawn().unwrap()
    }

    fn comes(child: &Child, patience: Duration) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(come(Pid::from_raw(child.id().cast_signed()), patience))
    }

    #[test]
    fn a_process_that_sleeps_is_at_rest_and_one_that_computes_is_not() {
        let mut asleep = shell("exec sleep 1000");
        let mut awake = shell("while :; do :; done");
        let found = (comes(&asleep, Duration::from_secs(60)), comes(&awake, Duration::from_millis(300)));
        for child in [&mut asleep, &mut awake] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(found, (true, false));
        assert!(comes(&asleep, Duration::from_secs(60)), "a process that has ended is at rest too");
    }

    #[test]
    fn a_threads_state_follows_its_name() {
        assert!(sleeps("7 (a) R b) S 1 7"));
        assert!(!sleeps("7 (a) S b) R 1 7") && !sleeps("7 (a) D 1 7") && !sleeps("7 (a"));
    }
}
