//! The bundles that the runtimes get: `spec`'s default, and what an engine asks for.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::inside;

/// Every system call's name; the runtimes ignore those that they do not know.
const CALLS: &str = include_str!("../../../runtime/seccomp/data/syscalls.tsv");

/// What engines do not allow without a capability.
const DENIED: &[&str] = &[
    "acct",
    "add_key",
    "bpf",
    "clock_adjtime",
    "clock_settime",
    "clone",
    "clone3",
    "create_module",
    "delete_module",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "get_kernel_syms",
    "init_module",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "mbind",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "personality",
    "pivot_root",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "query_module",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "socket",
    "stime",
    "swapoff",
    "swapon",
    "sysfs",
    "syslog",
    "umount",
    "umount2",
    "unshare",
    "uselib",
    "userfaultfd",
    "ustat",
    "vhangup",
    "vm86",
    "vm86old",
];

const CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// How much a bundle asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What `runc spec` writes.
    Minimal,
    /// With a seccomp profile, limits, an engine's capabilities and its mounts.
    Engine,
}

/// Writes a bundle that runs `program` below `work`.
pub(crate) fn write(work: &Path, kind: Kind, program: &str) -> anyhow::Result<PathBuf> {
    let bundle = work.join(format!("{kind:?}-{program}").to_lowercase());
    if bundle.exists() {
        return Ok(bundle);
    }
    let bin = bundle.join("rootfs/bin");
    fs::create_dir_all(&bin).with_context(|| format!("create {}", bin.display()))?;
    for folder in ["dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir(bundle.join("rootfs").join(folder))?;
    }
    let own = std::env::current_exe().context("find this program")?;
    for name in [inside::TRUE, inside::WAIT] {
        fs::copy(&own, bin.join(name)).context("copy this program into the container")?;
    }
    let config = config(work, kind, program)?;
    fs::write(bundle.join("config.json"), serde_json::to_vec(&config)?)?;
    Ok(bundle)
}

/// Sets the memory limit of a bundle, bytes.
pub(crate) fn limit_memory(bundle: &Path, bytes: u64) -> anyhow::Result<()> {
    let path = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["linux"]["resources"]["memory"] = json!({"limit": bytes});
    fs::write(&path, serde_json::to_vec(&config)?).context("write the bundle")
}

fn config(work: &Path, kind: Kind, program: &str) -> anyhow::Result<Value> {
    let mut config = minimal(program);
    if kind == Kind::Engine {
        let held = json!(CAPABILITIES);
        config["process"]["capabilities"] =
            json!({"bounding": held, "effective": held, "permitted": held});
        config["linux"]["seccomp"] = profile();
        config["linux"]["resources"]["memory"] = json!({"limit": 256 << 20});
        config["linux"]["resources"]["cpu"] =
            json!({"shares": 512, "quota": 50_000, "period": 100_000});
        config["linux"]["resources"]["pids"] = json!({"limit": 100});
        let mounts = config["mounts"]
            .as_array_mut()
            .context("mounts are a list")?;
        for name in ["hosts", "hostname", "resolv.conf"] {
            let source = work.join(name);
            fs::write(&source, "")?;
            mounts.push(
                json!({"destination": format!("/etc/{name}"), "type": "bind",
                "source": source, "options": ["rbind", "rw"]}),
            );
        }
    }
    Ok(config)
}

fn minimal(program: &str) -> Value {
    let held = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let guarded = ["nosuid", "noexec", "nodev"];
    let with = |more: &[&str]| json!([&guarded[..], more].concat());
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": [format!("/bin/{program}")],
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": held, "effective": held, "permitted": held},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options":
                ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": with(&["mode=1777", "size=65536k"])},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                "options": with(&[])},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": with(&["ro"])},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                "options": with(&["relatime", "ro"])},
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "mount"}],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys",
                "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                "/proc/sysrq-trigger"],
        },
    })
}

/// A profile of the shape and size of an engine's: most calls allowed, some by their arguments.
fn profile() -> Value {
    let names: Vec<&str> = CALLS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .skip(1)
        .filter_map(|line| line.split('\t').next())
        .filter(|name| !DENIED.contains(name))
        .collect();
    let personality = |value: u64| {
        json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]})
    };
    let mut rules = vec![
        json!({"names": names, "action": "SCMP_ACT_ALLOW"}),
        json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]}),
        json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 0, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}),
        json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}),
    ];
    rules.extend([0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff].map(personality));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    })
}
