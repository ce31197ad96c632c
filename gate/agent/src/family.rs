//! The processes of one that memgate has started: those of its cgroup or, where there is no cgroup, its descendants.

use std::collections::BTreeSet;

use nix::unistd::Pid;
use procfs::process::{Process, all_processes};

use crate::cgroup::CgroupFiles;

/// The processes in the cgroup. If there is none, or if it cannot be read, the descendants of its first process.
pub(crate) fn members(cgroup: &CgroupFiles, first: Pid) -> Vec<Pid> {
    match cgroup.processes() {
        Some(Ok(processes)) => processes,
        None | Some(Err(_)) => descendants(first),
    }
}

/// The process, those of its process group, and all that they started: what belongs to it where there is no cgroup.
pub(crate) fn descendants(process: Pid) -> Vec<Pid> {
    let all: Vec<_> =
        all_processes().into_iter().flatten().flatten().filter_map(|process| process.stat().ok()).collect();
    let family: Vec<_> = all.iter().map(|stat| (stat.pid, stat.ppid, stat.pgrp)).collect();
    family_of(process.as_raw(), &family).into_iter().map(Pid::from_raw).collect()
}

/// Whether a process of the group, which `leader` leads or has led, still runs.
pub(crate) fn group_lives(cgroup: &CgroupFiles, leader: Pid) -> bool {
    members(cgroup, leader).into_iter().any(|process| {
        let stat = Process::new(process.as_raw()).and_then(|process| process.stat());
        stat.is_ok_and(|stat| stat.pgrp == leader.as_raw() && !matches!(stat.state, 'Z' | 'X'))
    })
}

/// Of processes with their parents and their process groups, those that belong to `first`.
fn family_of(first: i32, all: &[(i32, i32, i32)]) -> BTreeSet<i32> {
    let mut found = BTreeSet::from([first]);
    loop {
        let belongs = |(_, parent, group): &&(i32, i32, i32)| found.contains(parent) || *group == first;
        let more: Vec<i32> =
            all.iter().filter(belongs).map(|(pid, ..)| *pid).filter(|pid| !found.contains(pid)).collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_cgroup_a_process_is_its_tree_and_its_group() {
        let all = [(10, 1, 10), (11, 10, 10), (12, 11, 12), (13, 1, 10), (14, 1, 14), (15, 13, 15)];
        assert_eq!(family_of(10, &all), BTreeSet::from([10, 11, 12, 13, 15]));
        assert!(members(&CgroupFiles::default(), Pid::this()).contains(&Pid::this()));
    }
}
