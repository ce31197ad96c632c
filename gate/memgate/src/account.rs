//! The user that builds, services, load commands and git run as when memgate itself runs as root.
//!
//! A change decides what all of these execute. As root, they could do to the machine whatever they like, and to the
//! evidence too.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use memgate_evidence::{
    error::{InputError, Result},
    plan::Account,
};
use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist};

/// The user for a service, or `None` for memgate's own. `asked` is who names a user, for messages, and the user;
/// `configuration` is the file, in the checkout.
///
/// If memgate does not run as root, that is its own user. If it does, the first of these that is not root: the user who
/// called `sudo`, the owner of the directory of `configuration`, the owner of the checkout, without their other groups.
/// If all are root's, or memgate cannot become another user here, it is root.
///
/// # Errors
/// When there is no such user, or memgate cannot become that user.
pub(crate) fn of_service(asked: Option<(&str, &str)>, configuration: &Path) -> Result<Option<Account>> {
    let own = geteuid();
    let Some((by, asked)) = asked else {
        return Ok(of_others(configuration).filter(|account| obstacle(account).is_none()));
    };
    let refuse = |what: String, help: &str| Err(InputError::new(format!("{by}: {what}"), help).into());
    let Some(account) = named(asked) else {
        let help = "name a user and a group that this machine has, or their numbers: `1000:1000`";
        return refuse(format!("there is no `{asked}` on this machine"), help);
    };
    if account.uid == own.as_raw() {
        return Ok(None);
    }
    if !own.is_root() {
        let help = "run memgate as root, or leave the user out";
        return refuse(format!("memgate runs as {} and cannot become {asked}", name_of(own)), help);
    }
    match obstacle(&account) {
        None => Ok(Some(account)),
        Some(why) => refuse(
            format!("memgate cannot become {asked} and watch its processes: {why}"),
            "give memgate what it lacks (`--cap-add` of the container), or start memgate as that user",
        ),
    }
}

/// The user who called `sudo` or owns the checkout, if memgate runs as root and that is another.
fn of_others(configuration: &Path) -> Option<Account> {
    let found = geteuid().is_root().then(|| of_caller().or_else(|| of_checkout(configuration))).flatten()?;
    // A group such as docker's is as good as root, and nobody asked for it.
    Some(Account { groups: Vec::new(), ..found })
}

/// That a change's code runs as root although another user owns the checkout, if memgate cannot become that user.
pub(crate) fn stays_root(configuration: &Path) -> Option<String> {
    let account = of_others(configuration)?;
    let why = obstacle(&account)?;
    Some(format!("builds and services run as root: memgate cannot become {}, because {why}", account.name))
}

/// Why memgate, which is root, cannot run processes of this user and watch them; `None` if it can.
fn obstacle(account: &Account) -> Option<String> {
    let read = |file: &str| fs::read_to_string(Path::new("/proc/self").join(file)).unwrap_or_default();
    obstacle_in(account, &read("status"), &[read("uid_map"), read("gid_map")])
}

/// The same with this `/proc/PID/status` and the maps of users and groups of the user namespace (user_namespaces(7)).
fn obstacle_in(account: &Account, status: &str, maps: &[String; 2]) -> Option<String> {
    /// Capabilities with their numbers (linux/capability.h): to give files away, to become the user, to read its memory.
    const NEEDED: [(&str, u32); 4] = [("CAP_CHOWN", 0), ("CAP_SETGID", 6), ("CAP_SETUID", 7), ("CAP_SYS_PTRACE", 19)];
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0);
    if let Some((name, _)) = NEEDED.into_iter().find(|(_, number)| capabilities >> number & 1 == 0) {
        return Some(format!("it lacks {name}"));
    }
    let is_mapped = |map: &str, wanted: u32| {
        map.lines().any(|line| {
            let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
            matches!(numbers[..], [first, _, count] if (first..first + count).contains(&u64::from(wanted)))
        })
    };
    let ids = [account.uid, account.gid];
    let missing = ids.into_iter().zip(maps).find(|(id, map)| !is_mapped(map, *id)).map(|(id, _)| id);
    missing.map(|id| format!("its user namespace has no number {id}"))
}

/// The owner of a file if memgate runs as root and the owner is another; `None` if memgate stays what it is.
pub(crate) fn of_owner(file: &Path) -> Option<Account> {
    // A link is its owner's, wherever it leads.
    let owner = fs::symlink_metadata(file).ok().filter(|_| geteuid().is_root())?;
    (owner.uid() != 0).then(|| account(Uid::from_raw(owner.uid()), Some(Gid::from_raw(owner.gid()))))
}

/// The user who called `sudo`.
fn of_caller() -> Option<Account> {
    let of_sudo = |name: &str| number(&env::var(name).ok()?);
    let uid = of_sudo("SUDO_UID").filter(|uid| *uid != 0)?;
    Some(account(Uid::from_raw(uid), of_sudo("SUDO_GID").map(Gid::from_raw)))
}

/// The owner of the directory of the configuration, or of the checkout. A container often has root's files in a directory
/// of the runner's user.
fn of_checkout(configuration: &Path) -> Option<Account> {
    let directory = match configuration.canonicalize() {
        Ok(file) => file.parent()?.to_owned(),
        // It is to be written.
        Err(_) => configuration.parent()?.canonicalize().ok()?,
    };
    of_owner(&directory).or_else(|| of_owner(checkout(&directory)?))
}

/// The root of the checkout: the nearest directory with `.git`, the directory itself or one above it.
pub(crate) fn checkout(directory: &Path) -> Option<&Path> {
    directory.ancestors().find(|above| above.join(".git").symlink_metadata().is_ok())
}

/// The user that `USER` or `USER:GROUP` names.
fn named(asked: &str) -> Option<Account> {
    let (user, group) = match asked.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (asked, None),
    };
    let group = match group {
        Some(group) => Some(match Group::from_name(group).ok().flatten() {
            Some(found) => found.gid,
            None => Gid::from_raw(number(group)?),
        }),
        None => None,
    };
    let uid = match User::from_name(user).ok().flatten() {
        Some(found) => found.uid,
        None => Uid::from_raw(number(user)?),
    };
    Some(account(uid, group))
}

/// The number of a user or a group. The largest one means "unchanged" to the kernel (setresuid(2)).
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX)
}

/// The user with this id. A number without a name has the group of the same number, if no group is given, no other
/// groups, and `/` as its home.
fn account(uid: Uid, group: Option<Gid>) -> Account {
    let known = User::from_uid(uid).ok().flatten();
    let gid = group.or(known.as_ref().map(|user| user.gid)).unwrap_or(Gid::from_raw(uid.as_raw()));
    let groups = |user: &User| {
        let name = std::ffi::CString::new(user.name.as_str()).ok()?;
        getgrouplist(&name, gid).ok()
    };
    let mut groups: Vec<u32> =
        known.as_ref().and_then(groups).unwrap_or_default().into_iter().map(Gid::as_raw).collect();
    groups.retain(|group| *group != gid.as_raw());
    let home = known.map_or_else(|| PathBuf::from("/"), |user| user.dir);
    Account { name: name_of(uid), uid: uid.as_raw(), gid: gid.as_raw(), groups, home }
}

fn name_of(uid: Uid) -> String {
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// Makes a directory that belongs to the user, or to memgate's own if there is none.
///
/// # Errors
/// The system's reason.
pub(crate) fn make_directory(account: Option<&Account>, directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create(directory)?;
    let Some(account) = account else { return Ok(()) };
    std::os::unix::fs::lchown(directory, Some(account.uid), Some(account.gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_named_by_name_or_number() {
        let found = named("nobody").unwrap();
        assert_eq!((found.uid, found.name.as_str()), (65534, "nobody"));
        let found = named("60001:60002").unwrap();
        assert_eq!((found.uid, found.gid, found.name.as_str()), (60001, 60002, "60001"));
        assert_eq!((found.groups, found.home), (vec![], PathBuf::from("/")));
        assert_eq!(named("60001").unwrap().gid, 60001);
        assert_eq!(named("root:60002").unwrap().gid, 60002);
        for unknown in ["no-such-user", "root:no-such-group", "4294967296", "4294967295", "60001:4294967295"] {
            assert_eq!(named(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_user_that_memgate_cannot_become_is_refused() {
        let refused = |asked| of_service(Some(("--user", asked)), Path::new("/")).unwrap_err().to_string();
        assert_eq!(refused("no-such-user"), "--user: there is no `no-such-user` on this machine");
        let own = geteuid();
        assert_eq!(
            of_service(Some(("--user", &own.to_string())), Path::new("/")).unwrap(),
            None,
            "it is its own already"
        );
        if !own.is_root() {
            assert!(refused("root").contains("cannot become root"), "{}", refused("root"));
        }
    }

    #[test]
    fn what_memgate_lacks_is_named() {
        let account = named("60001:60002").unwrap();
        let all = "         0          0 4294967295\n".to_owned();
        let few = "         0       1000      60002\n".to_owned();
        let status = |bits: u64| format!("CapEff:\t{bits:016x}\n");
        let with = |bits, maps: [&String; 2]| obstacle_in(&account, &status(bits), &maps.map(String::clone));
        assert_eq!(with(u64::MAX, [&all, &all]), None);
        assert_eq!(with(!(1 << 19), [&all, &all]).unwrap(), "it lacks CAP_SYS_PTRACE");
        assert_eq!(with(1 << 6 | 1 << 19 | 1, [&all, &all]).unwrap(), "it lacks CAP_SETUID");
        assert_eq!(with(u64::MAX, [&all, &few]).unwrap(), "its user namespace has no number 60002");
        assert_eq!(with(u64::MAX, [&few, &few]).unwrap(), "its user namespace has no number 60002");
    }

    #[test]
    fn the_owner_of_the_checkout_is_the_user() {
        if !geteuid().is_root() {
            eprintln!("SKIPPED: only root can give a file away");
            return;
        }
        let checkout = tempfile::tempdir().unwrap();
        let below = checkout.path().join("deploy");
        fs::create_dir_all(checkout.path().join(".git")).unwrap();
        fs::create_dir(&below).unwrap();
        let configuration = below.join("memgate.yaml");
        fs::write(&configuration, "").unwrap();
        assert_eq!(of_checkout(&configuration), None, "all is root's");
        std::os::unix::fs::chown(checkout.path(), Some(60001), Some(60002)).unwrap();
        let found = of_checkout(&configuration).unwrap();
        assert_eq!((found.uid, found.gid), (60001, 60002), "the files in it may be root's");
        std::os::unix::fs::chown(&below, Some(60003), Some(60003)).unwrap();
        assert_eq!(of_checkout(&configuration).unwrap().uid, 60003);
        fs::remove_file(&configuration).unwrap();
        assert_eq!(of_checkout(&configuration).unwrap().uid, 60003, "there may be no file yet");
    }
}
