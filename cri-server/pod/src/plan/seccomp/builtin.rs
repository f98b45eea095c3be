//! The engine's own filter: what an ordinary program needs is allowed, the rest fails with EPERM.
//!
//! The choice is the one that images have been tested against for years, Docker's and containerd's:
//! nothing that reaches beyond the container's namespaces, loads code into the kernel, or has been
//! a steady source of holes without being missed (io_uring, userfaultfd, keyrings, bpf). What a
//! capability guards anyway is allowed to those who hold it. Names that an architecture or the
//! kernel does not know do no harm; the runtime passes over them.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

use crate::facts::NodeFacts;
use crate::plan::capabilities::Set;

/// `EPERM`, what a refused call fails with.
const EPERM: u32 = 1;
/// `ENOSYS`, which makes the C library try an older call instead.
const ENOSYS: u32 = 38;
/// `AF_VSOCK`: sockets to the hypervisor, which no namespace confines (vsock(7)).
const AF_VSOCK: u64 = 40;
/// The flags of clone(2) that make a namespace: `CLONE_NEW` with NS, CGROUP, UTS, IPC, USER, PID,
/// NET.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// What personality(2) may be set to: `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, and the
/// value that only asks.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Files: opening, reading, writing, and what is known about them.
const FILES: &str = "
    _llseek access cachestat chdir chmod chown chown32 close close_range copy_file_range creat
    dup dup2 dup3 faccessat faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat
    fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr file_getattr
    file_setattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs
    fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr
    getxattrat ioctl lchown lchown32 lgetxattr link linkat listmount listxattr listxattrat
    llistxattr lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat
    name_to_handle_at newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev
    pwritev2 read readahead readlink readlinkat readv removexattr removexattrat rename renameat
    renameat2 rmdir sendfile sendfile64 setxattr setxattrat splice stat stat64 statfs statfs64
    statmount statx symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask
    unlink unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev";

/// Waiting for many things at once, and being told of changes.
const EVENTS: &str = "
    _newselect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2
    epoll_wait epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents
    io_pgetevents_time64 io_setup io_submit poll ppoll ppoll_time64 pselect6 pselect6_time64
    select signalfd signalfd4";

/// Memory of the process itself.
const MEMORY: &str = "
    brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2
    mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc
    pkey_free pkey_mprotect process_mrelease remap_file_pages";

/// Processes, threads, their signals and their debugging within the container.
const PROCESSES: &str = "
    execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv
    futex_wake get_robust_list get_thread_area getpgid getpgrp getpid getppid getsid gettid kill
    landlock_add_rule landlock_create_ruleset landlock_restrict_self pause pidfd_open
    pidfd_send_signal prctl process_vm_readv process_vm_writev ptrace restart_syscall rseq
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo seccomp set_robust_list
    set_thread_area set_tid_address setpgid setsid sigaltstack sigprocmask sigreturn tgkill
    tkill uretprobe vfork wait4 waitid waitpid";

/// Who the process is and what it may do.
const IDENTITY: &str = "
    capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32
    getresgid getresgid32 getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid
    setfsuid32 setgid setgid32 setgroups setgroups32 setregid setregid32 setresgid setresgid32
    setresuid setresuid32 setreuid setreuid32 setuid setuid32";

/// Time, timers, and sharing the processor.
const TIME: &str = "
    adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 getcpu getitimer getpriority
    getrlimit getrusage gettimeofday ioprio_get ioprio_set nanosleep prlimit64
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity
    sched_setattr sched_setparam sched_setscheduler sched_yield setitimer setpriority setrlimit
    time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
    timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64 times ugetrlimit";

/// Talking to others: sockets, pipes, queues, shared memory.
const TALK: &str = "
    accept accept4 bind connect getpeername getsockname getsockopt ipc listen mq_getsetattr
    mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
    mq_unlink msgctl msgget msgrcv msgsnd pipe pipe2 recv recvfrom recvmmsg recvmmsg_time64
    recvmsg semctl semget semop semtimedop semtimedop_time64 send sendmmsg sendmsg sendto
    setsockopt shmat shmctl shmdt shmget shutdown socketcall socketpair";

/// What the system is.
const SYSTEM: &str = "getrandom sysinfo uname";

/// Calls that exist on one architecture only and are needed there.
const OF_ARCHITECTURE: &[(&str, &str)] = &[
    ("amd64", "arch_prctl modify_ldt"),
    (
        "arm64",
        "
        arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    ),
    ("riscv64", "riscv_flush_icache riscv_hwprobe"),
];

/// Calls that are allowed to who holds a capability that the kernel asks for anyway.
const OF_CAPABILITY: &[(&str, &str)] = &[
    ("BPF", "bpf"),
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    ("PERFMON", "perf_event_open"),
    (
        "SYS_ADMIN",
        "
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount
        mount_setattr move_mount open_tree open_tree_attr perf_event_open quotactl quotactl_fd
        setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module finit_module init_module"),
    (
        "SYS_NICE",
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("SYS_RAWIO", "ioperm iopl"),
    (
        "SYS_TIME",
        "clock_settime clock_settime64 settimeofday stime",
    ),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYSLOG", "syslog"),
];

/// The filter for a process with capabilities `held`.
pub(super) fn profile(facts: &NodeFacts, held: Set) -> LinuxSeccomp {
    let mut rules = vec![rule(allowed(facts, held), &[])];
    rules.push(rule(
        ["socket"],
        &[(0, LinuxSeccompOperator::ScmpCmpNe, AF_VSOCK, None)],
    ));
    for value in PERSONALITIES {
        rules.push(rule(
            ["personality"],
            &[(0, LinuxSeccompOperator::ScmpCmpEq, value, None)],
        ));
    }
    if !held.has("SYS_ADMIN") {
        rules.extend(clones(facts));
    }
    let mut filter = LinuxSeccomp::default();
    filter.set_default_action(LinuxSeccompAction::ScmpActErrno);
    filter.set_default_errno_ret(Some(EPERM));
    filter.set_architectures(architectures(facts));
    filter.set_syscalls(Some(rules));
    filter
}

/// The names that are allowed whatever their arguments.
fn allowed(facts: &NodeFacts, held: Set) -> Vec<&'static str> {
    let everyone = [
        FILES, EVENTS, MEMORY, PROCESSES, IDENTITY, TIME, TALK, SYSTEM,
    ];
    let of_architecture = OF_ARCHITECTURE
        .iter()
        .filter(|(name, _)| *name == facts.architecture);
    let of_capability = OF_CAPABILITY.iter().filter(|(name, _)| held.has(name));
    let more = of_architecture
        .chain(of_capability)
        .map(|(_, calls)| *calls);
    let mut names: Vec<_> = everyone
        .into_iter()
        .chain(more)
        .flat_map(str::split_whitespace)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// New processes without new namespaces. The flags of clone3 lie in memory, where no filter can
/// see them: it must look as if the kernel had none, and clone is used instead.
fn clones(facts: &NodeFacts) -> [LinuxSyscall; 2] {
    let flags = if facts.architecture == "s390x" { 1 } else { 0 };
    let masked = LinuxSeccompOperator::ScmpCmpMaskedEq;
    let mut clone3 = rule(["clone3"], &[]);
    clone3.set_action(LinuxSeccompAction::ScmpActErrno);
    clone3.set_errno_ret(Some(ENOSYS));
    [
        rule(["clone"], &[(flags, masked, CLONE_NAMESPACES, Some(0))]),
        clone3,
    ]
}

/// The machine's own architecture and the 32-bit one whose programs it runs. x32 is left out: no
/// distribution turns it on, and it is another door.
fn architectures(facts: &NodeFacts) -> Option<Vec<Arch>> {
    match facts.architecture.as_str() {
        "amd64" => Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86]),
        "arm64" => Some(vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]),
        _ => super::native(facts).map(|native| vec![native]),
    }
}

/// One condition on an argument: its place, the comparison, and what it is compared with.
type Argument = (usize, LinuxSeccompOperator, u64, Option<u64>);

fn rule<'a>(names: impl IntoIterator<Item = &'a str>, arguments: &[Argument]) -> LinuxSyscall {
    let arguments: Vec<_> = arguments.iter().map(argument).collect();
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.into_iter().map(Into::into).collect());
    rule.set_action(LinuxSeccompAction::ScmpActAllow);
    rule.set_args((!arguments.is_empty()).then_some(arguments));
    rule
}

fn argument((index, operator, value, second): &Argument) -> LinuxSeccompArg {
    let argument = LinuxSeccompArgBuilder::default()
        .index(*index)
        .op(*operator)
        .value(*value);
    let argument = match second {
        Some(second) => argument.value_two(*second),
        None => argument,
    };
    argument
        .build()
        .expect("every field of an argument has a default")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{Capabilities, Security};
    use crate::plan::capabilities;

    fn facts(architecture: &str) -> NodeFacts {
        let architecture = architecture.into();
        NodeFacts {
            architecture,
            last_capability: 40,
            seccomp: true,
            ..Default::default()
        }
    }

    fn filter(architecture: &str, add: &[&str]) -> Vec<LinuxSyscall> {
        let add = add.iter().map(ToString::to_string).collect();
        let capabilities = Capabilities {
            add,
            ..Default::default()
        };
        let security = Security {
            capabilities,
            ..Default::default()
        };
        let facts = facts(architecture);
        let held = capabilities::plan(&security, &facts).unwrap().set;
        profile(&facts, held).syscalls().clone().unwrap()
    }

    fn rules<'a>(filter: &'a [LinuxSyscall], name: &str) -> Vec<&'a LinuxSyscall> {
        filter
            .iter()
            .filter(|rule| rule.names().iter().any(|known| known == name))
            .collect()
    }

    #[test]
    fn an_ordinary_container_makes_no_namespaces() {
        let filter = filter("amd64", &[]);
        for refused in [
            "mount",
            "unshare",
            "setns",
            "bpf",
            "keyctl",
            "io_uring_setup",
            "sethostname",
        ] {
            assert!(rules(&filter, refused).is_empty(), "{refused}");
        }
        let clone3 = rules(&filter, "clone3");
        assert_eq!(clone3.len(), 1);
        assert_eq!(clone3[0].errno_ret(), Some(ENOSYS));
        let clone = rules(&filter, "clone")[0].args().clone().unwrap()[0];
        assert_eq!(
            (clone.value(), clone.value_two()),
            (CLONE_NAMESPACES, Some(0))
        );
        assert_eq!(rules(&filter, "personality").len(), PERSONALITIES.len());
        assert!(!rules(&filter, "chroot").is_empty());
    }

    #[test]
    fn capabilities_open_what_they_guard() {
        let filter = filter("amd64", &["SYS_ADMIN", "SYS_TIME"]);
        for (name, action) in [
            ("mount", 0),
            ("clone3", 0),
            ("clone", 0),
            ("settimeofday", 0),
        ] {
            let found = rules(&filter, name);
            assert_eq!(found.len(), 1, "{name}");
            assert_eq!(found[0].args().iter().len(), action);
        }
        assert!(rules(&filter, "reboot").is_empty());
    }

    #[test]
    fn architectures_differ() {
        assert!(rules(&filter("arm64", &[]), "arch_prctl").is_empty());
        assert!(!rules(&filter("arm64", &[]), "set_tls").is_empty());
        assert_eq!(
            rules(&filter("s390x", &[]), "clone")[0]
                .args()
                .clone()
                .unwrap()[0]
                .index(),
            1
        );
        assert_eq!(architectures(&facts("mystery")), None);
    }

    #[test]
    fn tables_are_sorted_and_hold_no_name_twice() {
        let groups = [
            FILES, EVENTS, MEMORY, PROCESSES, IDENTITY, TIME, TALK, SYSTEM,
        ];
        let lists = OF_ARCHITECTURE
            .iter()
            .chain(OF_CAPABILITY)
            .map(|(_, calls)| *calls);
        for list in groups.into_iter().chain(lists) {
            let list: Vec<_> = list.split_whitespace().collect();
            assert!(list.is_sorted_by(|a, b| a < b), "{list:?}");
        }
        let mut all: Vec<_> = groups.into_iter().flat_map(str::split_whitespace).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
