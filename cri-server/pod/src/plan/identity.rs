//! Who a container's process is: user id, group id and further groups.
//!
//! Names are those of the image, out of the text of its `/etc/passwd` and `/etc/group` (passwd(5),
//! group(5)); the host's accounts have no say. A broken line of either file is passed over, as the
//! C library does.

use super::PlanError;
use crate::container::{Accounts, GroupsPolicy, Security, UserRequest};

const USER: &str = "linux.security_context.run_as_user";
const USERNAME: &str = "linux.security_context.run_as_username";
const GROUP: &str = "linux.security_context.run_as_group";
const GROUPS: &str = "linux.security_context.supplemental_groups";
const IMAGE: &str = "image.image";

/// The ids that a process gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// User.
    pub(super) uid: u32,
    /// Primary group.
    pub(super) gid: u32,
    /// All groups, the primary one among them, in rising order.
    pub(super) groups: Vec<u32>,
}

/// Finds the ids for what the request and the image say.
pub(super) fn resolve(
    security: &Security,
    image_user: &str,
    accounts: &Accounts,
) -> Result<Identity, PlanError> {
    let (user, image_group) = user(security, image_user, accounts)?;
    let gid = match security.group {
        Some(group) => id(GROUP, group)?,
        None => image_group.or(user.gid).unwrap_or(0),
    };
    let groups = groups(security, &user, gid, accounts)?;
    Ok(Identity {
        uid: user.uid,
        gid,
        groups,
    })
}

/// A user, as far as the image knows it.
struct User {
    uid: u32,
    name: Option<String>,
    gid: Option<u32>,
}

/// The user, and the group that the image's `USER` names beside it.
fn user(
    security: &Security,
    image_user: &str,
    accounts: &Accounts,
) -> Result<(User, Option<u32>), PlanError> {
    match &security.user {
        UserRequest::Uid(number) => Ok((user_by_id(id(USER, *number)?, accounts), None)),
        UserRequest::Name(name) => Ok((user_by_name(USERNAME, name, accounts)?, None)),
        UserRequest::Image if security.group.is_some() => Err(PlanError::invalid(
            GROUP,
            "needs run_as_user or run_as_username beside it",
        )),
        UserRequest::Image => image_says(image_user, accounts),
    }
}

/// Takes `USER` of an image apart: `user`, `user:group`, names or numbers; nothing means root.
fn image_says(text: &str, accounts: &Accounts) -> Result<(User, Option<u32>), PlanError> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let user = match user {
        "" => user_by_id(0, accounts),
        name => user_by_name(IMAGE, name, accounts)?,
    };
    let group = match group {
        None | Some("") => None,
        Some(name) => Some(group_by_name(name, accounts)?),
    };
    Ok((user, group))
}

fn user_by_id(uid: u32, accounts: &Accounts) -> User {
    passwd(accounts).find(|entry| entry.uid == uid).map_or(
        User {
            uid,
            name: None,
            gid: None,
        },
        PasswdEntry::into_user,
    )
}

/// A user by name, or by a number written as text.
fn user_by_name(field: &str, name: &str, accounts: &Accounts) -> Result<User, PlanError> {
    if let Some(entry) = passwd(accounts).find(|entry| entry.name == name) {
        return Ok(entry.into_user());
    }
    if is_number(name) {
        let number = name
            .parse()
            .map_err(|_too_long| out_of_range(field, name))?;
        return Ok(user_by_id(id(field, number)?, accounts));
    }
    Err(PlanError::invalid(
        field,
        format!("the image's /etc/passwd has no user {name:?}"),
    ))
}

fn group_by_name(name: &str, accounts: &Accounts) -> Result<u32, PlanError> {
    if let Some(entry) = group(accounts).find(|entry| entry.name == name) {
        return Ok(entry.gid);
    }
    if is_number(name) {
        let number = name
            .parse()
            .map_err(|_too_long| out_of_range(IMAGE, name))?;
        return id(IMAGE, number);
    }
    Err(PlanError::invalid(
        IMAGE,
        format!("its /etc/group has no group {name:?}"),
    ))
}

fn groups(
    security: &Security,
    user: &User,
    gid: u32,
    accounts: &Accounts,
) -> Result<Vec<u32>, PlanError> {
    let mut groups = vec![gid];
    for (place, asked) in security.supplemental_groups.iter().enumerate() {
        groups.push(id(&format!("{GROUPS}[{place}]"), *asked)?);
    }
    if let (GroupsPolicy::Merge, Some(name)) = (security.groups_policy, &user.name) {
        groups.extend(
            group(accounts)
                .filter(|entry| entry.has(name))
                .map(|entry| entry.gid),
        );
    }
    groups.sort_unstable();
    groups.dedup();
    Ok(groups)
}

/// Any 32-bit number but the last, which the kernel reads as "leave it as it is" (setresuid(2)).
fn id(field: &str, number: i64) -> Result<u32, PlanError> {
    match u32::try_from(number) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(out_of_range(field, &number.to_string())),
    }
}

fn out_of_range(field: &str, number: &str) -> PlanError {
    PlanError::invalid(
        field,
        format!("{number} is not within 0 and {}", u32::MAX - 1),
    )
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

impl PasswdEntry<'_> {
    fn into_user(self) -> User {
        User {
            uid: self.uid,
            name: Some(self.name.to_owned()),
            gid: Some(self.gid),
        }
    }
}

/// The lines `name:password:uid:gid:...` of `/etc/passwd` that make sense.
fn passwd(accounts: &Accounts) -> impl Iterator<Item = PasswdEntry<'_>> {
    accounts.passwd.lines().filter_map(|line| {
        let mut parts = line.trim().split(':');
        let (name, _password) = (parts.next()?, parts.next()?);
        let (uid, gid) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        (!name.is_empty() && !name.starts_with('#')).then_some(PasswdEntry { name, uid, gid })
    })
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl GroupEntry<'_> {
    fn has(&self, user: &str) -> bool {
        self.members.split(',').any(|member| member.trim() == user)
    }
}

/// The lines `name:password:gid:member,member` of `/etc/group` that make sense.
fn group(accounts: &Accounts) -> impl Iterator<Item = GroupEntry<'_>> {
    accounts.group.lines().filter_map(|line| {
        let mut parts = line.trim().split(':');
        let (name, _password) = (parts.next()?, parts.next()?);
        let gid = parts.next()?.parse().ok()?;
        let members = parts.next().unwrap_or("");
        (!name.is_empty() && !name.starts_with('#')).then_some(GroupEntry { name, gid, members })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "# people\nroot:x:0:0:root:/root:/bin/sh\nbroken\nalice:x:1000:100::/:\n\
                     bob:x:1001:1001::/:\n:x:7:7::/:\nbad:x:many:1::/:\n12:x:77:78::/:\n"
                .into(),
            group: "root:x:0:\nwheel:x:10:root,alice\nusers:x:100:\nlate:x:50000:bob, alice\n\
                    broken:x\n"
                .into(),
        }
    }

    fn security(user: UserRequest, group: Option<i64>, more: &[i64]) -> Security {
        Security {
            user,
            group,
            supplemental_groups: more.to_vec(),
            ..Default::default()
        }
    }

    /// `expect` is `uid gid groups...` or a part of the error.
    fn check(security: &Security, image_user: &str, expect: Result<&[u32], &str>) {
        let found = resolve(security, image_user, &accounts());
        match (found, expect) {
            (Ok(found), Ok(expect)) => {
                let mut all = vec![found.uid, found.gid];
                all.extend(found.groups);
                assert_eq!(all, expect, "{security:?} {image_user:?}");
            }
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{error} has no {part}");
            }
            (found, expect) => panic!("{image_user:?}: {found:?} instead of {expect:?}"),
        }
    }

    #[test]
    fn the_image_decides_when_nothing_is_asked() {
        let none = Security::default();
        check(&none, "", Ok(&[0, 0, 0, 10]));
        check(&none, "alice", Ok(&[1000, 100, 10, 100, 50000]));
        check(&none, "1000", Ok(&[1000, 100, 10, 100, 50000]));
        check(&none, "4242", Ok(&[4242, 0, 0]));
        check(&none, "4242:4343", Ok(&[4242, 4343, 4343]));
        check(&none, "alice:wheel", Ok(&[1000, 10, 10, 50000]));
        check(&none, "alice:77", Ok(&[1000, 77, 10, 77, 50000]));
        check(&none, ":wheel", Ok(&[0, 10, 10]));
        check(&none, "alice:", Ok(&[1000, 100, 10, 100, 50000]));
        check(&none, "12", Ok(&[77, 78, 78]));
        check(
            &none,
            "nobody",
            Err("image.image: the image's /etc/passwd has no user"),
        );
        check(
            &none,
            "alice:nogroup",
            Err("image.image: its /etc/group has no group"),
        );
        check(&none, "bad", Err("no user \"bad\""));
        check(
            &none,
            "4294967295",
            Err("image.image: 4294967295 is not within"),
        );
        check(&none, "99999999999999999999", Err("not within"));
    }

    #[test]
    fn the_request_wins_over_the_image() {
        let uid = |n| UserRequest::Uid(n);
        check(
            &security(uid(1001), None, &[]),
            "alice:wheel",
            Ok(&[1001, 1001, 1001, 50000]),
        );
        check(&security(uid(5), None, &[]), "alice", Ok(&[5, 0, 0]));
        check(
            &security(uid(1000), Some(3000), &[60000]),
            "",
            Ok(&[1000, 3000, 10, 3000, 50000, 60000]),
        );
        check(
            &security(UserRequest::Name("bob".into()), None, &[9]),
            "",
            Ok(&[1001, 1001, 9, 1001, 50000]),
        );
        check(
            &security(UserRequest::Name("33".into()), Some(1), &[]),
            "",
            Ok(&[33, 1, 1]),
        );
        check(
            &security(UserRequest::Name("eve".into()), None, &[]),
            "",
            Err("run_as_username: "),
        );
    }

    #[test]
    fn strict_gives_only_what_is_asked_for() {
        let mut asked = security(UserRequest::Uid(1000), Some(3000), &[60000]);
        asked.groups_policy = GroupsPolicy::Strict;
        check(&asked, "", Ok(&[1000, 3000, 3000, 60000]));
    }

    #[test]
    fn contradictions_and_ranges_name_the_field() {
        let image = UserRequest::Image;
        check(
            &security(image, Some(1), &[]),
            "alice",
            Err("linux.security_context.run_as_group: "),
        );
        let uid = UserRequest::Uid;
        check(
            &security(uid(-1), None, &[]),
            "",
            Err("linux.security_context.run_as_user: -1"),
        );
        check(
            &security(uid(1), Some(1 << 32), &[]),
            "",
            Err("run_as_group: 4294967296"),
        );
        check(
            &security(uid(1), None, &[1, -2]),
            "",
            Err("supplemental_groups[1]: -2"),
        );
    }

    proptest! {
        #[test]
        fn any_accounts_are_read_without_panic(passwd in ".*", group in ".*", user in ".*") {
            drop(resolve(&Security::default(), &user, &Accounts { passwd, group }));
        }

        #[test]
        fn groups_are_sorted_unique_and_hold_the_primary_one(
            uid in 0i64..5000, gid in proptest::option::of(0i64..5000),
            more in proptest::collection::vec(0i64..70000, 0..20), strict: bool,
        ) {
            let mut asked = security(UserRequest::Uid(uid), gid, &more);
            if strict {
                asked.groups_policy = GroupsPolicy::Strict;
            }
            let found = resolve(&asked, "", &accounts()).unwrap();
            prop_assert!(found.groups.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(found.groups.contains(&found.gid));
            prop_assert_eq!(i64::from(found.uid), uid);
            if strict {
                prop_assert!(found.groups.len() <= more.len() + 1);
            }
        }
    }
}
