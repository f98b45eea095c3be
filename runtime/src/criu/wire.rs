//! What criu and its users say to each other: the messages of its `rpc.proto`, as far as they are
//! used here. Field numbers and names of values are criu's; a field left at its default is not sent,
//! which means the same to criu.

/// `criu_req_type`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Kind {
    Empty = 0,
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
    FeatureCheck = 9,
    Version = 10,
}

impl Kind {
    /// As criu's own messages and those of runc spell it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Empty => "EMPTY",
            Kind::Dump => "DUMP",
            Kind::Restore => "RESTORE",
            Kind::PreDump => "PRE_DUMP",
            Kind::Notify => "NOTIFY",
            Kind::FeatureCheck => "FEATURE_CHECK",
            Kind::Version => "VERSION",
        }
    }
}

/// `criu_req`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Request {
    #[prost(enumeration = "Kind", required, tag = "1")]
    pub(crate) kind: i32,
    #[prost(message, optional, boxed, tag = "2")]
    pub(crate) options: Option<Box<Options>>,
    #[prost(bool, optional, tag = "3")]
    pub(crate) notify_success: Option<bool>,
    #[prost(message, optional, tag = "5")]
    pub(crate) features: Option<Features>,
}

/// `criu_resp`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Response {
    #[prost(enumeration = "Kind", required, tag = "1")]
    pub(crate) kind: i32,
    #[prost(bool, required, tag = "2")]
    pub(crate) success: bool,
    #[prost(message, optional, tag = "5")]
    pub(crate) notify: Option<Notify>,
    #[prost(int32, tag = "7")]
    pub(crate) errno: i32,
    #[prost(message, optional, tag = "8")]
    pub(crate) features: Option<Features>,
    #[prost(message, optional, tag = "10")]
    pub(crate) version: Option<Version>,
}

/// `criu_notify`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Notify {
    #[prost(string, tag = "1")]
    pub(crate) script: String,
    #[prost(int32, tag = "2")]
    pub(crate) pid: i32,
}

/// `criu_features`: what is asked about, and what there is.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Features {
    #[prost(bool, tag = "1")]
    pub(crate) mem_track: bool,
    #[prost(bool, tag = "2")]
    pub(crate) lazy_pages: bool,
}

/// `criu_version`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Version {
    #[prost(int32, required, tag = "1")]
    pub(crate) major: i32,
    #[prost(int32, required, tag = "2")]
    pub(crate) minor: i32,
    #[prost(string, tag = "3")]
    pub(crate) git: String,
    #[prost(int32, tag = "4")]
    pub(crate) sublevel: i32,
}

/// `criu_cg_mode`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum CgroupsMode {
    Ignore = 0,
    Soft = 3,
    Full = 4,
    Strict = 5,
    Default = 6,
}

/// `criu_network_lock_method`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum NetworkLock {
    /// criu's own choice; never sent.
    Unset = 0,
    Iptables = 1,
    Nftables = 2,
    Skip = 3,
}

/// `criu_page_server_info`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PageServer {
    #[prost(string, tag = "1")]
    pub(crate) address: String,
    #[prost(int32, tag = "2")]
    pub(crate) port: i32,
}

/// `ext_mount_map`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ExternalMount {
    #[prost(string, required, tag = "1")]
    pub(crate) key: String,
    #[prost(string, required, tag = "2")]
    pub(crate) value: String,
}

/// `join_namespace`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct JoinNamespace {
    #[prost(string, required, tag = "1")]
    pub(crate) kind: String,
    #[prost(string, required, tag = "2")]
    pub(crate) path: String,
}

/// `inherit_fd`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct InheritFd {
    #[prost(string, required, tag = "1")]
    pub(crate) key: String,
    /// Its number in the criu process.
    #[prost(int32, required, tag = "2")]
    pub(crate) fd: i32,
}

/// `cgroup_root`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CgroupRoot {
    #[prost(string, optional, tag = "1")]
    pub(crate) controller: Option<String>,
    #[prost(string, required, tag = "2")]
    pub(crate) path: String,
}

/// `criu_opts`. Descriptors of folders are numbers in the process that made the socket.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Options {
    #[prost(int32, required, tag = "1")]
    pub(crate) images_dir_fd: i32,
    #[prost(int32, tag = "2")]
    pub(crate) pid: i32,
    #[prost(bool, tag = "3")]
    pub(crate) leave_running: bool,
    #[prost(bool, tag = "4")]
    pub(crate) ext_unix_sk: bool,
    #[prost(bool, tag = "5")]
    pub(crate) tcp_established: bool,
    #[prost(bool, tag = "6")]
    pub(crate) evasive_devices: bool,
    #[prost(bool, tag = "7")]
    pub(crate) shell_job: bool,
    #[prost(bool, tag = "8")]
    pub(crate) file_locks: bool,
    #[prost(int32, tag = "9")]
    pub(crate) log_level: i32,
    #[prost(string, tag = "10")]
    pub(crate) log_file: String,
    #[prost(message, optional, tag = "11")]
    pub(crate) page_server: Option<PageServer>,
    #[prost(bool, tag = "12")]
    pub(crate) notify_scripts: bool,
    #[prost(string, tag = "13")]
    pub(crate) root: String,
    #[prost(string, tag = "14")]
    pub(crate) parent_img: String,
    #[prost(bool, tag = "15")]
    pub(crate) track_mem: bool,
    #[prost(bool, tag = "16")]
    pub(crate) auto_dedup: bool,
    #[prost(int32, optional, tag = "17")]
    pub(crate) work_dir_fd: Option<i32>,
    #[prost(bool, tag = "18")]
    pub(crate) link_remap: bool,
    #[prost(message, repeated, tag = "23")]
    pub(crate) external_mounts: Vec<ExternalMount>,
    #[prost(bool, tag = "24")]
    pub(crate) manage_cgroups: bool,
    #[prost(message, repeated, tag = "25")]
    pub(crate) cgroup_roots: Vec<CgroupRoot>,
    #[prost(bool, tag = "26")]
    pub(crate) rst_sibling: bool,
    #[prost(message, repeated, tag = "27")]
    pub(crate) inherit_fds: Vec<InheritFd>,
    #[prost(enumeration = "CgroupsMode", optional, tag = "34")]
    pub(crate) manage_cgroups_mode: Option<i32>,
    #[prost(string, repeated, tag = "37")]
    pub(crate) external: Vec<String>,
    #[prost(uint32, tag = "38")]
    pub(crate) empty_namespaces: u32,
    #[prost(message, repeated, tag = "39")]
    pub(crate) join_namespaces: Vec<JoinNamespace>,
    #[prost(string, repeated, tag = "43")]
    pub(crate) cgroup_dump_controllers: Vec<String>,
    #[prost(string, tag = "44")]
    pub(crate) freeze_cgroup: String,
    #[prost(bool, tag = "46")]
    pub(crate) tcp_skip_in_flight: bool,
    #[prost(bool, tag = "48")]
    pub(crate) lazy_pages: bool,
    #[prost(bool, tag = "50")]
    pub(crate) orphan_pts_master: bool,
    #[prost(string, tag = "51")]
    pub(crate) config_file: String,
    #[prost(bool, tag = "52")]
    pub(crate) tcp_close: bool,
    #[prost(string, tag = "53")]
    pub(crate) lsm_profile: String,
    #[prost(string, tag = "63")]
    pub(crate) lsm_mount_context: String,
    #[prost(enumeration = "NetworkLock", tag = "64")]
    pub(crate) network_lock: i32,
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_request_is_what_criu_reads() {
        let request = Request {
            kind: Kind::Dump.into(),
            options: Some(Box::new(Options {
                images_dir_fd: 5,
                log_file: "a".to_owned(),
                ..Options::default()
            })),
            ..Request::default()
        };
        assert_eq!(
            request.encode_to_vec(),
            [0x08, 1, 0x12, 5, 0x08, 5, 0x52, 1, b'a']
        );
    }

    #[test]
    fn an_answer_is_what_criu_writes() {
        let bytes = [
            0x08, 6, 0x10, 1, 0x2a, 5, 0x0a, 1, b'x', 0x10, 7, 0x98, 0x06, 0,
        ];
        let response = Response::decode(&bytes[..]).unwrap();
        let notify = response.notify.unwrap();
        assert_eq!((notify.script.as_str(), notify.pid), ("x", 7));
        assert_eq!(response.kind, i32::from(Kind::Notify));
        assert!(response.success && Response::decode(&bytes[..5]).is_err());
    }
}
