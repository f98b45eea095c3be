//! Who a process runs as.

use crate::spec::User;

/// Numbers only: names in the container's files play no part.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// `None`: 0022, what runc gives.
    pub(crate) umask: Option<u32>,
}

/// The identity of `process.user`.
pub(super) fn plan(user: &User<'_>) -> Identity {
    Identity {
        uid: user.uid,
        gid: user.gid,
        groups: user.additional_gids.clone(),
        umask: user.umask,
    }
}
