//! Whether a process is at rest: none of its threads runs, or waits for a processor.
//!
//! What a service has begun may end late on a busy machine: the goroutine of a connection that is closed, say, is there until its thread
//! has had a processor. A service that is at rest has nothing of the kind any more.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::unistd::Pid;

/// Between two looks.
const PACE: Duration = Duration::from_millis(10);

/// So many looks in a row find a process at rest: one thread may hand its work to another between two of the files that are read.
const LOOKS: u32 = 3;

/// Waits until the process is at rest, or has ended, but no longer than `patience`; gives whether it came to rest.
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

/// Whether each thread of the process sleeps at this moment. A process that has ended has none.
fn is_at_rest(pid: Pid) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    // A thread that has ended meanwhile is none.
    threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok()).all(|stat| sleeps(&stat))
}

/// Whether a thread waits for something to happen, by its `/proc/PID/task/TID/stat` (proc_pid_stat(5)); one that waits for a disk, or for
/// memory to come from one, is amid its work.
fn sleeps(stat: &str) -> bool {
    // The name before may hold anything.
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
        assert!(comes(&asleep, Duration::from_secs(60)), "one that has ended has come to rest too");
    }

    #[test]
    fn a_threads_state_follows_its_name() {
        assert!(sleeps("7 (a) R b) S 1 7"));
        assert!(!sleeps("7 (a) S b) R 1 7") && !sleeps("7 (a) D 1 7") && !sleeps("7 (a"));
    }
}
