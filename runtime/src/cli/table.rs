//! Every command and every flag, once.

use super::Wrong;
use crate::command::update::Form;

/// What a flag takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Switch,
    /// A value, called this in the help.
    Value(&'static str),
}

/// One flag.
#[derive(Debug)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) short: &'static str,
    pub(crate) kind: Kind,
    /// Empty: accepted, but of no use any more, and not in the help.
    pub(crate) help: &'static str,
}

impl Flag {
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name == name || (!self.short.is_empty() && self.short == name)
    }
}

/// How many arguments a command takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count {
    least: usize,
    most: usize,
}

impl Count {
    pub(super) fn check(self, name: &str, given: usize) -> Result<(), Wrong> {
        let (least, most) = (self.least, self.most);
        let number = match () {
            () if least == most && given != least => format!("exactly {least}"),
            () if given < least => format!("a minimum of {least}"),
            () if given > most => format!("a maximum of {most}"),
            () => return Ok(()),
        };
        Err(Wrong(format!("{name:?} requires {number} argument(s)")))
    }
}

/// One command.
#[derive(Debug)]
pub(crate) struct Verb {
    pub(crate) name: &'static str,
    pub(crate) summary: &'static str,
    /// Its arguments, for the help.
    pub(crate) usage: &'static str,
    pub(crate) args: Count,
    pub(crate) flags: &'static [Flag],
    /// Flags may follow arguments.
    pub(crate) flags_anywhere: bool,
}

const fn switch(name: &'static str, short: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        short,
        kind: Kind::Switch,
        help,
    }
}

const fn value(
    name: &'static str,
    short: &'static str,
    of: &'static str,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        short,
        kind: Kind::Value(of),
        help,
    }
}

/// Understood before and after every command.
pub(super) const EVERYWHERE: &[Flag] = &[switch("help", "h", "show help")];

/// Before the command.
pub(super) const GLOBAL: &[Flag] = &[
    switch("debug", "", "log what is of use for finding errors"),
    value(
        "log",
        "",
        "FILE",
        "write the log there (also journald:NAME, syslog:NAME) instead of standard error",
    ),
    value(
        "log-level",
        "",
        "LEVEL",
        "error, warning (the default) or debug",
    ),
    value(
        "cgroup-manager",
        "",
        "MANAGER",
        "cgroupfs (the default), systemd or disabled",
    ),
    value("log-format", "", "FORMAT", "text (the default) or json"),
    value(
        "root",
        "",
        "DIR",
        "keep the state of containers there (default /run/wrun; of a user $XDG_RUNTIME_DIR/wrun)",
    ),
    switch("systemd-cgroup", "", "let systemd make control groups"),
    value(
        "rootless",
        "",
        "WHEN",
        "true: do without control groups that may not be made; false; auto (the default)",
    ),
    switch("version", "v", "show the version"),
];

const BUNDLE: Flag = value("bundle", "b", "DIR", "folder with config.json (default .)");
const CONSOLE: Flag = value(
    "console-socket",
    "",
    "SOCKET",
    "unix socket that gets the master of the terminal",
);
const CONFIG: Flag = value("config", "f", "FILE", "name of config.json in the bundle");
const PIDFD_SOCKET: Flag = value(
    "pidfd-socket",
    "",
    "SOCKET",
    "unix socket that gets a pidfd of the process",
);
const PID_FILE: Flag = value("pid-file", "", "FILE", "write the process id there");
const NO_PIVOT: Flag = switch(
    "no-pivot",
    "",
    "chroot instead of pivot_root, for a root on an initramfs",
);
const NO_KEYRING: Flag = switch(
    "no-new-keyring",
    "",
    "share the session keyring of the caller",
);
const PRESERVE: Flag = value(
    "preserve-fds",
    "",
    "N",
    "pass N more file descriptors after the standard streams",
);
const DETACH: Flag = switch("detach", "d", "do not wait for the process to end");

const REGEX: Flag = switch(
    "regex",
    "r",
    "CONTAINER is a regular expression for the ids of several",
);

const IMAGE_PATH: Flag = value(
    "image-path",
    "",
    "DIR",
    "folder of the images (default ./checkpoint)",
);
const WORK_PATH: Flag = value(
    "work-path",
    "",
    "DIR",
    "folder of logs and statistics (default that of the images)",
);
const TCP_ESTABLISHED: Flag = switch("tcp-established", "", "allow open TCP connections");
const EXT_UNIX_SK: Flag = switch("ext-unix-sk", "", "allow unix sockets of others");
const SHELL_JOB: Flag = switch("shell-job", "", "allow a session of somebody else");
const FILE_LOCKS: Flag = switch("file-locks", "", "keep file locks");
const CGROUPS_MODE: Flag = value(
    "manage-cgroups-mode",
    "",
    "MODE",
    "soft (the default), full, strict or ignore",
);
const EMPTY_NS: Flag = value(
    "empty-ns",
    "",
    "network",
    "leave what is in this namespace to others, as is always done",
);
const AUTO_DEDUP: Flag = switch("auto-dedup", "", "keep each memory page in one image only");
const LAZY_PAGES: Flag = switch(
    "lazy-pages",
    "",
    "fetch memory when it is used (userfaultfd)",
);
const NETWORK_LOCK: Flag = value(
    "network-lock",
    "",
    "METHOD",
    "stop packets by iptables (the default) or nftables, or skip it",
);

const ONE: Count = Count { least: 1, most: 1 };

/// All commands, in the order of the help.
pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "checkpoint",
        summary: "write a running container to images, with the program criu",
        usage: "CONTAINER",
        args: ONE,
        flags: &[
            IMAGE_PATH,
            WORK_PATH,
            value(
                "parent-path",
                "",
                "DIR",
                "earlier images, from --image-path: write only what has changed since",
            ),
            switch("leave-running", "", "let the container go on afterwards"),
            TCP_ESTABLISHED,
            switch(
                "tcp-skip-in-flight",
                "",
                "leave out unfinished TCP connections",
            ),
            switch(
                "link-remap",
                "",
                "link unlinked files back while they are needed",
            ),
            EXT_UNIX_SK,
            SHELL_JOB,
            LAZY_PAGES,
            value(
                "status-fd",
                "",
                "N",
                "write a zero byte there once memory can be fetched",
            ),
            value(
                "page-server",
                "",
                "ADDRESS:PORT",
                "send memory to this page server of criu",
            ),
            FILE_LOCKS,
            switch("pre-dump", "", "memory only, and let the container go on"),
            CGROUPS_MODE,
            EMPTY_NS,
            AUTO_DEDUP,
            NETWORK_LOCK,
        ],
        flags_anywhere: true,
    },
    Verb {
        name: "create",
        summary: "create a container",
        usage: "CONTAINER",
        args: ONE,
        flags: &[
            BUNDLE,
            CONFIG,
            CONSOLE,
            PIDFD_SOCKET,
            PID_FILE,
            NO_PIVOT,
            NO_KEYRING,
            PRESERVE,
        ],
        flags_anywhere: true,
    },
    Verb {
        name: "completion",
        summary: "write a completion script for a shell",
        usage: "bash|zsh|fish",
        args: ONE,
        flags: &[],
        flags_anywhere: true,
    },
    Verb {
        name: "delete",
        summary: "delete what is kept of a container",
        usage: "CONTAINER",
        args: ONE,
        flags: &[
            switch(
                "force",
                "f",
                "kill a running container first; none at all is fine",
            ),
            REGEX,
        ],
        flags_anywhere: true,
    },
    Verb {
        name: "events",
        summary: "show what a container uses, and when it runs out of memory",
        usage: "CONTAINER",
        args: ONE,
        flags: &[
            value(
                "interval",
                "",
                "TIME",
                "time between two reports (default 5s)",
            ),
            switch("stats", "", "one report, and end"),
        ],
        flags_anywhere: true,
    },
    Verb {
        name: "exec",
        summary: "execute another process in a container",
        usage: "CONTAINER COMMAND [ARGS...]",
        args: Count {
            least: 1,
            most: usize::MAX,
        },
        flags: &[
            CONSOLE,
            PIDFD_SOCKET,
            value(
                "cgroup",
                "",
                "[CTRL,..:]PATH",
                "run in this group below the container's (repeatable)",
            ),
            value("cwd", "", "DIR", "working directory in the container"),
            value(
                "env",
                "e",
                "NAME=VALUE",
                "set an environment variable (repeatable)",
            ),
            switch("tty", "t", "give the process a terminal"),
            value("user", "u", "UID[:GID]", "run as this user"),
            value("additional-gids", "g", "GID", "further group (repeatable)"),
            value(
                "process",
                "p",
                "FILE",
                "process.json to take everything from",
            ),
            DETACH,
            PID_FILE,
            value("process-label", "", "LABEL", "SELinux label of the process"),
            value("apparmor", "", "PROFILE", "AppArmor profile of the process"),
            switch("no-new-privs", "", "the process can gain no privileges"),
            value("cap", "c", "CAPABILITY", "add a capability (repeatable)"),
            PRESERVE,
            switch("ignore-paused", "", "also if the container is paused"),
        ],
        flags_anywhere: false,
    },
    Verb {
        name: "features",
        summary: "show what this runtime can do",
        usage: "",
        args: Count { least: 0, most: 0 },
        flags: &[],
        flags_anywhere: true,
    },
    Verb {
        name: "kill",
        summary: "send a signal to the first process of a container",
        usage: "CONTAINER [SIGNAL]",
        args: Count { least: 1, most: 2 },
        flags: &[switch("all", "a", ""), REGEX],
        flags_anywhere: true,
    },
    Verb {
        name: "list",
        summary: "list containers",
        usage: "",
        args: Count { least: 0, most: 0 },
        flags: &[
            value("format", "f", "FORMAT", "table (the default) or json"),
            switch("quiet", "q", "only ids"),
        ],
        flags_anywhere: true,
    },
    Verb {
        name: "man",
        summary: "write the manual page",
        usage: "",
        args: Count { least: 0, most: 0 },
        flags: &[],
        flags_anywhere: true,
    },
    Verb {
        name: "pause",
        summary: "stop all processes of a container where they are",
        usage: "CONTAINER",
        args: ONE,
        flags: &[],
        flags_anywhere: true,
    },
    Verb {
        name: "ps",
        summary: "show the processes of a container",
        usage: "CONTAINER [PS OPTIONS]",
        args: Count {
            least: 1,
            most: usize::MAX,
        },
        flags: &[value(
            "format",
            "f",
            "FORMAT",
            "table (the default) or json",
        )],
        flags_anywhere: false,
    },
    Verb {
        name: "restore",
        summary: "let a container go on from images",
        usage: "CONTAINER",
        args: ONE,
        flags: &[
            CONSOLE,
            IMAGE_PATH,
            WORK_PATH,
            TCP_ESTABLISHED,
            switch("tcp-close", "", "close TCP connections that were open"),
            EXT_UNIX_SK,
            SHELL_JOB,
            FILE_LOCKS,
            CGROUPS_MODE,
            BUNDLE,
            CONFIG,
            DETACH,
            PID_FILE,
            switch(
                "no-subreaper",
                "",
                "leave orphans of the container to somebody else",
            ),
            NO_PIVOT,
            EMPTY_NS,
            AUTO_DEDUP,
            LAZY_PAGES,
            value(
                "lsm-profile",
                "",
                "TYPE:NAME",
                "AppArmor or SELinux profile instead of that in the images",
            ),
            value(
                "lsm-mount-context",
                "",
                "LABEL",
                "SELinux label of mounts instead of that in the images",
            ),
            NETWORK_LOCK,
        ],
        flags_anywhere: true,
    },
    Verb {
        name: "resume",
        summary: "let a paused container go on",
        usage: "CONTAINER",
        args: ONE,
        flags: &[],
        flags_anywhere: true,
    },
    Verb {
        name: "run",
        summary: "create and start a container",
        usage: "CONTAINER",
        args: ONE,
        flags: &[
            BUNDLE,
            CONFIG,
            CONSOLE,
            PIDFD_SOCKET,
            DETACH,
            switch("keep", "", "do not delete the container when it has ended"),
            PID_FILE,
            switch(
                "no-subreaper",
                "",
                "leave orphans of the container to somebody else",
            ),
            NO_PIVOT,
            NO_KEYRING,
            PRESERVE,
        ],
        flags_anywhere: true,
    },
    Verb {
        name: "spec",
        summary: "write a config.json to start from",
        usage: "",
        args: Count { least: 0, most: 0 },
        flags: &[
            value("bundle", "b", "DIR", "folder to write it to (default .)"),
            switch("rootless", "", "for an ordinary user"),
        ],
        flags_anywhere: true,
    },
    Verb {
        name: "start",
        summary: "start the program of a created container",
        usage: "CONTAINER",
        args: ONE,
        flags: &[],
        flags_anywhere: true,
    },
    Verb {
        name: "state",
        summary: "show the state of a container",
        usage: "CONTAINER",
        args: ONE,
        flags: &[],
        flags_anywhere: true,
    },
    Verb {
        name: "update",
        summary: "change the limits of a container",
        usage: "CONTAINER",
        args: ONE,
        flags: &[
            value(
                "resources",
                "r",
                "FILE",
                "take all limits (linux.resources) from there, - is standard input",
            ),
            value(
                "blkio-weight",
                "",
                "WEIGHT",
                "share of disk bandwidth, 10 to 1000",
            ),
            value("cpu-period", "", "USEC", "period of the CPU quota"),
            value("cpu-quota", "", "USEC", "CPU time in each period"),
            value(
                "cpu-burst",
                "",
                "USEC",
                "unused CPU time that may be saved up",
            ),
            value("cpu-share", "", "SHARES", "share of CPU time"),
            value("cpu-rt-period", "", "USEC", "period of realtime CPU time"),
            value(
                "cpu-rt-runtime",
                "",
                "USEC",
                "realtime CPU time in each period",
            ),
            value("cpuset-cpus", "", "LIST", "CPUs to run on"),
            value("cpuset-mems", "", "LIST", "memory nodes to use"),
            value("memory", "", "SIZE", "memory limit, -1 for none"),
            value(
                "memory-reservation",
                "",
                "SIZE",
                "memory that is kept under pressure",
            ),
            value(
                "memory-swap",
                "",
                "SIZE",
                "limit of memory and swap, -1 for none",
            ),
            value("pids-limit", "", "N", "most processes, -1 for any number"),
            value("cpu-idle", "", "0|1", "run only when nobody else wants to"),
            value(
                "l3-cache-schema",
                "",
                "SCHEMA",
                "Intel RDT: share of the L3 cache",
            ),
            value(
                "mem-bw-schema",
                "",
                "SCHEMA",
                "Intel RDT: share of memory bandwidth",
            ),
            value("kernel-memory", "", "", ""),
            value("kernel-memory-tcp", "", "", ""),
        ],
        flags_anywhere: true,
    },
];

/// Where the value of each flag of `update` belongs in `linux.resources`.
pub(crate) const UPDATE_FLAGS: &[(&str, &str, &str, Form)] = &[
    ("blkio-weight", "blockIO", "weight", Form::Unsigned),
    ("cpu-period", "cpu", "period", Form::Unsigned),
    ("cpu-quota", "cpu", "quota", Form::Signed),
    ("cpu-burst", "cpu", "burst", Form::Unsigned),
    ("cpu-share", "cpu", "shares", Form::Unsigned),
    ("cpu-rt-period", "cpu", "realtimePeriod", Form::Unsigned),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime", Form::Signed),
    ("cpuset-cpus", "cpu", "cpus", Form::Text),
    ("cpuset-mems", "cpu", "mems", Form::Text),
    ("memory", "memory", "limit", Form::Size),
    ("memory-reservation", "memory", "reservation", Form::Size),
    ("memory-swap", "memory", "swap", Form::Size),
    ("pids-limit", "pids", "limit", Form::Signed),
    ("cpu-idle", "cpu", "idle", Form::Signed),
];
