//! Giving up root: who the process becomes, for good.
//!
//! Names are looked up once, while that is still possible; taking the identity needs nothing but the kernel. The order
//! is the only one that works: supplementary groups, group, user; each step is still allowed by the ones before.

use std::ffi::CString;
use std::io;

use nix::errno::Errno;
use nix::unistd::{
    Gid, Group, Uid, User, geteuid, getgrouplist, getgroups, getresgid, getresuid, setgid,
    setgroups, setuid,
};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// A user with all groups, looked up and not yet taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The options it comes from, for errors: `--user df2redis --group adm`.
    wanted: String,
    uid: Uid,
    gid: Gid,
    /// All groups the process is in afterwards, sorted; `gid` is one of them.
    groups: Vec<Gid>,
}

/// Why an identity cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No such user.
    #[error("--user {name}: there is no user of this name")]
    NoUser {
        /// As given.
        name: String,
    },
    /// No such group.
    #[error("--group {name}: there is no group of this name")]
    NoGroup {
        /// As given.
        name: String,
    },
    /// A user that only has a number has no group either.
    #[error(
        "--user {name}: no user has this number, so its group is not known\nname it with --group"
    )]
    GroupNeeded {
        /// As given.
        name: String,
    },
    /// The files or services that know users and groups failed.
    #[error("cannot look up {option} {name}: {cause}")]
    LookUp {
        /// Which option.
        option: &'static str,
        /// Its value.
        name: String,
        /// Why not.
        cause: io::Error,
    },
    /// Only root can become somebody else.
    #[error("{wanted}: only root can become another user or group")]
    NotAllowed {
        /// The options as given.
        wanted: String,
    },
    /// A step failed. The process may be neither what it was nor what it should be, and has to end.
    #[error("{wanted}: cannot set the {what}: {cause}")]
    Assume {
        /// The options as given.
        wanted: String,
        /// What was to be set.
        what: &'static str,
        /// Why not.
        cause: io::Error,
    },
    /// All steps succeeded, and yet the process is not what it should be, or could become root again. It has to end.
    #[error("{wanted}: {what} afterwards")]
    NotSafe {
        /// The options as given.
        wanted: String,
        /// What is wrong.
        what: &'static str,
    },
}

const USER: &str = "--user";
const GROUP: &str = "--group";

impl Identity {
    /// The identity that `--user` and `--group` name, each by name or number; `None`: neither was given. A group alone
    /// leaves the user as it is.
    ///
    /// Fails also when this process is not allowed to take it. Opens and closes files, perhaps connections.
    pub fn look_up(user: Option<&str>, group: Option<&str>) -> Result<Option<Self>, IdentityError> {
        if user.is_none() && group.is_none() {
            return Ok(None);
        }
        let found = group.map(look_up_group).transpose()?;
        let option = |option, value: Option<&str>| value.map(|value| format!("{option} {value}"));
        let wanted = [option(USER, user), option(GROUP, group)];
        let wanted = wanted.into_iter().flatten().collect::<Vec<_>>().join(" ");
        let (uid, gid, mut groups) = match user {
            Some(name) => look_up_user(name, found)?,
            // One of the two is given.
            None => {
                let gid = found.unwrap_or_else(nix::unistd::getegid);
                (geteuid(), gid, vec![gid])
            }
        };
        groups.push(gid);
        groups.sort_by_key(|gid| gid.as_raw());
        groups.dedup();
        let identity = Self {
            wanted,
            uid,
            gid,
            groups,
        };
        match geteuid().is_root() || identity.is_taken() {
            true => Ok(Some(identity)),
            false => Err(IdentityError::NotAllowed {
                wanted: identity.wanted,
            }),
        }
    }

    /// The user's number.
    pub fn uid(&self) -> u32 {
        self.uid.as_raw()
    }

    /// The group's number.
    pub fn gid(&self) -> u32 {
        self.gid.as_raw()
    }

    /// Becomes it, for good: real, effective and saved ids, and supplementary groups. Verified afterwards.
    ///
    /// To be called while the process has one thread. After an error the process must end: it may be something in
    /// between. A process that is not root and already is that user keeps its groups.
    pub fn assume(&self) -> Result<(), IdentityError> {
        if !geteuid().is_root() && self.is_taken() {
            return Ok(());
        }
        let failed = |what| {
            move |cause: Errno| IdentityError::Assume {
                wanted: self.wanted.clone(),
                what,
                cause: cause.into(),
            }
        };
        setgroups(&self.groups).map_err(failed("supplementary groups"))?;
        setgid(self.gid).map_err(failed("group"))?;
        setuid(self.uid).map_err(failed("user"))?;
        match self.flaw() {
            Some(what) => Err(IdentityError::NotSafe {
                wanted: self.wanted.clone(),
                what,
            }),
            None => {
                // As after an exec by the new user: the kernel hid the process, even from others of that user, who
                // then could not find its control socket. Core dumps are forbidden apart from this.
                set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(|cause| {
                    IdentityError::Assume {
                        wanted: self.wanted.clone(),
                        what: "visibility in /proc",
                        cause: cause.into(),
                    }
                })
            }
        }
    }

    /// Whether the process is that user and group already, by all its ids.
    fn is_taken(&self) -> bool {
        let users =
            getresuid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [self.uid; 3]);
        let groups =
            getresgid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [self.gid; 3]);
        users && groups
    }

    /// What is wrong after all steps. Tries to become root again.
    fn flaw(&self) -> Option<&'static str> {
        let mut groups = getgroups().unwrap_or_default();
        groups.sort_by_key(|gid| gid.as_raw());
        groups.dedup();
        if !self.is_taken() || groups != self.groups {
            return Some("the process has other users or groups");
        }
        if self.uid.is_root() {
            return None;
        }
        let root = Uid::from_raw(0);
        if setuid(root).is_ok() || nix::unistd::seteuid(root).is_ok() {
            return Some("the process could become root again");
        }
        let roots = Gid::from_raw(0);
        let regained = || setgid(roots).is_ok() || nix::unistd::setegid(roots).is_ok();
        (self.gid != roots && regained()).then_some("the process could take root's group again")
    }
}

/// Names go first: a name may consist of digits. The highest number means "no change" to the kernel.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX)
}

fn look_up_user(name: &str, group: Option<Gid>) -> Result<(Uid, Gid, Vec<Gid>), IdentityError> {
    let failed = |cause: Errno| IdentityError::LookUp {
        option: USER,
        name: name.to_owned(),
        cause: cause.into(),
    };
    let number = number(name).map(Uid::from_raw);
    let mut user = User::from_name(name).map_err(failed)?;
    if let (None, Some(uid)) = (&user, number) {
        user = User::from_uid(uid).map_err(failed)?;
    }
    match (user, number, group) {
        (Some(user), _, group) => {
            let gid = group.unwrap_or(user.gid);
            let name = CString::new(user.name).map_err(|_| failed(Errno::EINVAL))?;
            let groups = getgrouplist(&name, gid).map_err(failed)?;
            Ok((user.uid, gid, groups))
        }
        (None, Some(uid), Some(gid)) => Ok((uid, gid, Vec::new())),
        (None, Some(_), None) => Err(IdentityError::GroupNeeded {
            name: name.to_owned(),
        }),
        (None, None, _) => Err(IdentityError::NoUser {
            name: name.to_owned(),
        }),
    }
}

fn look_up_group(name: &str) -> Result<Gid, IdentityError> {
    let found = Group::from_name(name).map_err(|cause| IdentityError::LookUp {
        option: GROUP,
        name: name.to_owned(),
        cause: cause.into(),
    })?;
    found
        .map(|group| group.gid)
        .or_else(|| number(name).map(Gid::from_raw))
        .ok_or_else(|| IdentityError::NoGroup {
            name: name.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::testing::{Other, command, hear, play, say};
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    #[test]
    #[ignore = "the other process of the tests below"]
    fn child() {
        play(|part, _| {
            let (user, group) = part.split_once(':').unwrap();
            let given = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
            let (user, group) = (given(user), given(group));
            let identity = match Identity::look_up(user.as_deref(), group.as_deref()) {
                Ok(identity) => identity.unwrap(),
                Err(error) => return say(error),
            };
            identity.assume().unwrap();
            let status = fs::read_to_string("/proc/self/status").unwrap();
            for key in ["Uid:", "Gid:", "Groups:"] {
                let line = status.lines().find_map(|line| line.strip_prefix(key));
                say(line
                    .unwrap()
                    .split_whitespace()
                    .collect::<Vec<_>>()
                    .join(" "));
            }
            hear();
        });
    }

    fn becoming(user: &str, group: &str) -> Other {
        let part = format!("{user}:{group}");
        Other::start(command(
            "process::identity::tests::child",
            &part,
            Path::new(""),
        ))
    }

    /// Root becomes somebody else; anybody else cannot, and is told so.
    #[track_caller]
    fn becomes(user: &str, group: &str, uid: u32, gid: u32) -> Option<Other> {
        let mut other = becoming(user, group);
        let said = other.says();
        if !geteuid().is_root() {
            assert!(
                said.ends_with("only root can become another user or group"),
                "{said}"
            );
            return None;
        }
        assert_eq!(said, format!("{uid} {uid} {uid} {uid}"));
        assert_eq!(other.says(), format!("{gid} {gid} {gid} {gid}"));
        let groups = other.says();
        assert!(
            groups.split(' ').any(|group| group == gid.to_string()),
            "{groups}"
        );
        // None of root's groups is left.
        assert!(!groups.split(' ').any(|group| group == "0"), "{groups}");
        Some(other)
    }

    fn nobody() -> User {
        User::from_name("nobody").unwrap().expect("a user nobody")
    }

    #[test]
    fn a_user_is_taken_with_its_groups_and_root_is_not_regained() {
        let nobody = nobody();
        becomes("nobody", "", nobody.uid.as_raw(), nobody.gid.as_raw());
    }

    #[test]
    fn users_and_groups_may_be_numbers_that_nobody_has() {
        becomes("3999999", "3999998", 3_999_999, 3_999_998);
        let nobody = nobody();
        becomes(
            &nobody.uid.to_string(),
            "3999998",
            nobody.uid.as_raw(),
            3_999_998,
        );
    }

    #[test]
    fn afterwards_the_process_is_visible_to_its_new_user() {
        let nobody = nobody();
        let became = becomes("nobody", "", nobody.uid.as_raw(), nobody.gid.as_raw());
        if let Some(other) = became {
            // What is hidden belongs to root.
            let about = fs::metadata(format!("/proc/{}/fd", other.pid())).unwrap();
            assert_eq!(about.uid(), nobody.uid.as_raw());
        }
    }

    #[test]
    fn what_does_not_exist_is_named_with_its_option() {
        let error = |user, group| Identity::look_up(user, group).unwrap_err().to_string();
        assert_eq!(
            error(Some("no such user"), None),
            "--user no such user: there is no user of this name"
        );
        assert_eq!(
            error(None, Some("no such group")),
            "--group no such group: there is no group of this name"
        );
        assert!(error(Some("3999999"), None).contains("name it with --group"));
        // To the kernel it would mean: stay what you are.
        assert!(error(Some("4294967295"), None).contains("there is no user"));
    }

    #[test]
    fn nothing_asked_for_is_nothing_to_do() {
        assert_eq!(Identity::look_up(None, None).unwrap(), None);
        // To stay what one is needs no privilege.
        let (uid, gid) = (geteuid().to_string(), nix::unistd::getegid().to_string());
        assert!(Identity::look_up(Some(&uid), Some(&gid)).unwrap().is_some());
    }
}
