//! The user that builds, services, load commands and git run as when memgate itself runs as root.
//!
//! A change decides what all of these execute. As root, they could do to the machine whatever they like, and to the
//! evidence too.

use std::{
    env, fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
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
/// called `sudo`, the owner of the directory of `configuration`, the owner of the checkout. If all are root's, it is
/// root.
///
/// # Errors
/// When there is no such user, or memgate cannot become that user.
pub(crate) fn of_service(asked: Option<(&str, &str)>, configuration: &Path) -> Result<Option<Account>> {
    let own = geteuid();
    let Some((by, asked)) = asked else {
        return Ok(own.is_root().then(|| of_caller().or_else(|| of_checkout(configuration))).flatten());
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
    Ok(Some(account))
}

/// The owner of a file if memgate runs as root and the owner is another; `None` if memgate stays what it is.
pub(crate) fn of_owner(file: &Path) -> Option<Account> {
    let owner = fs::metadata(file).ok().filter(|_| geteuid().is_root())?;
    (owner.uid() != 0).then(|| account(Uid::from_raw(owner.uid()), Some(Gid::from_raw(owner.gid()))))
}

/// The user who called `sudo`.
fn of_caller() -> Option<Account> {
    let number = |name: &str| env::var(name).ok()?.parse().ok();
    let uid = number("SUDO_UID").filter(|uid| *uid != 0)?;
    Some(account(Uid::from_raw(uid), number("SUDO_GID").map(Gid::from_raw)))
}

/// The owner of the directory of the configuration, or of the checkout. A container often has root's files in a directory
/// of the runner's user.
fn of_checkout(configuration: &Path) -> Option<Account> {
    let directory = configuration.canonicalize().ok()?.parent()?.to_owned();
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
            None => Gid::from_raw(group.parse().ok()?),
        }),
        None => None,
    };
    let uid = match User::from_name(user).ok().flatten() {
        Some(found) => found.uid,
        None => Uid::from_raw(user.parse().ok()?),
    };
    Some(account(uid, group))
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

/// Whether the user may make files in the directory, or make the directory where there is none.
pub(crate) fn may_write(account: &Account, directory: &Path) -> bool {
    let existing = directory.ancestors().find_map(|above| fs::metadata(above).ok());
    existing.is_some_and(|found| {
        let mode = found.permissions().mode();
        let class = match () {
            () if found.uid() == account.uid => mode >> 6,
            () if found.gid() == account.gid || account.groups.contains(&found.gid()) => mode >> 3,
            () => mode,
        };
        class & 0o3 == 0o3
    })
}

/// Makes a directory that belongs to the user alone.
///
/// # Errors
/// The system's reason.
pub(crate) fn make_directory(account: Option<&Account>, directory: &Path) -> io::Result<()> {
    fs::create_dir(directory)?;
    let Some(account) = account else { return Ok(()) };
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
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
        for unknown in ["no-such-user", "root:no-such-group", "4294967296"] {
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
    }

    #[test]
    fn who_may_write_is_told_by_owner_group_and_mode() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("below/further");
        let owner = fs::metadata(directory.path()).unwrap();
        let user = |uid, gid| Account { name: String::new(), uid, gid, groups: vec![], home: PathBuf::new() };
        let set = |mode| fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        let [own, group, other] = [user(owner.uid(), owner.gid()), user(60001, owner.gid()), user(60001, 60001)];
        for (mode, expected) in
            [(0o700, [true, false, false]), (0o570, [false, true, false]), (0o773, [true, true, true])]
        {
            set(mode);
            assert_eq!([&own, &group, &other].map(|user| may_write(user, &place)), expected, "{mode:o}");
        }
        set(0o700);
    }
}
