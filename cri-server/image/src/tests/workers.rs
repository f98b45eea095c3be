//! Unpacking by processes: they are confined, they may die, and they may hang.
//!
//! This test program is the worker as well: started with a socket as its standard input, a test is
//! the whole of one.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use registry_double::{Pack, Server, Shelf, Tar, TestImage};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process};

use super::{config, limits, nothing_left, open_store, temp};
use crate::{Error, LayerForm, Store, Worker};

/// How long something that must happen may take.
const SOON: Duration = Duration::from_secs(30);

/// This test program as a worker.
pub(crate) fn worker() -> Worker {
    entry("tests::workers::a_worker_is_confined_and_a_killed_one_costs_one_pull")
}

fn entry(test: &str) -> Worker {
    Worker::this_program(&["--exact", test, "--nocapture"])
}

/// Whether this process was started to unpack; it has done so then.
fn is_worker(before: fn() -> Result<(), Error>) -> bool {
    let stdin = io::stdin();
    if rustix::net::sockopt::socket_type(stdin.as_fd()) != Ok(SocketType::SEQPACKET) {
        return false;
    }
    crate::worker::work(stdin.as_fd(), before).unwrap();
    // As a worker ends: without the report of a test program, which its streams are not for.
    std::process::exit(0);
}

/// An image of one layer, and a registry that takes its time, but only for the first who asks.
fn slow_once() -> (TestImage, Server) {
    let noise: Vec<u8> = (0..5_000_000_u32)
        .flat_map(|n| n.wrapping_mul(n).to_le_bytes())
        .collect();
    let tar = Tar::new()
        .file("a", &noise[..1_000_000])
        .file("b", &noise[..4_000_000]);
    let image = TestImage::new(&[(tar.end(), Pack::Plain)]);
    let blob = image.layers[0].len();
    let shelf = Shelf::default().image("a", "1", &image);
    let asked = AtomicBool::new(false);
    let server = Server::start(move |request| {
        let mut reply = shelf.serve(request);
        if reply.body.len() == blob && !asked.swap(true, Ordering::SeqCst) {
            reply.drip = Some(Duration::from_millis(50));
            reply.gulp = 128 << 10;
        }
        reply
    });
    (image, server)
}

fn open(root: &Path, worker: Worker) -> Arc<Store> {
    let mut config = config(root, "this");
    config.worker = Some(worker);
    open_store(&config, &limits()).unwrap()
}

/// The threads of a worker, as folders of /proc.
fn threads(worker: Pid) -> Vec<PathBuf> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", worker.as_raw_pid()));
    tasks
        .into_iter()
        .flatten()
        .flatten()
        .map(|task| task.path())
        .collect()
}

/// The process that unpacks into a store: nobody else has files of its staging open.
fn find(root: &Path) -> Option<Pid> {
    let staging = root.join("store/staging");
    let own = std::process::id().to_string();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = process.file_name().into_string().unwrap();
        if name == own || !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let Ok(open) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let mut targets = open
            .flatten()
            .filter_map(|fd| std::fs::read_link(fd.path()).ok());
        if targets.any(|target| target.starts_with(&staging)) {
            return Pid::from_raw(name.parse().unwrap());
        }
    }
    None
}

/// What `status` of /proc says of a thread.
fn status(thread: &Path, field: &str) -> String {
    let all = std::fs::read_to_string(thread.join("status")).unwrap_or_default();
    let line = all
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

/// Waits until the worker of a store has begun, confined; answers with it and its thread.
async fn begun(root: &Path) -> (Pid, PathBuf) {
    let deadline = Instant::now() + SOON;
    loop {
        assert!(Instant::now() < deadline, "no worker was seen");
        if let Some(worker) = find(root) {
            let filtered = |thread: &PathBuf| status(thread, "Seccomp") == "2";
            if let Some(thread) = threads(worker).into_iter().find(filtered) {
                return (worker, thread);
            }
        }
        // Nothing tells of a filter that another process has put on: /proc is read again.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_worker_is_confined_and_a_killed_one_costs_one_pull() {
    if is_worker(|| Ok(())) {
        return;
    }
    let temp = temp();
    let (image, server) = slow_once();
    let store = open(temp.path(), worker());
    let name = format!("{}/a:1", server.name());
    let look = async {
        let (worker, thread) = begun(temp.path()).await;
        assert_eq!(status(&thread, "NoNewPrivs"), "1");
        // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP, SYS_ADMIN.
        let kept = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 27 | 1 << 31 | 1 << 21_u64;
        let caps = u64::from_str_radix(&status(&thread, "CapEff"), 16).unwrap();
        assert_eq!(caps & !kept, 0, "{caps:x}");
        let network = |of: &Path| std::fs::read_link(of.join("ns/net")).unwrap();
        assert_ne!(network(&thread), network(Path::new("/proc/self")));
        kill_process(worker, Signal::KILL).unwrap();
    };
    let (pulled, ()) = tokio::join!(store.pull(&name, None), look);
    let error = pulled.unwrap_err().to_string();
    assert!(error.contains("ended by signal 9"), "{error}");
    assert!(store.list().is_empty());
    assert_eq!(store.pull(&name, None).await.unwrap(), image.id());
    store.remove(&name).await.unwrap();
    nothing_left(temp.path()).await;
}

/// What must fail, tried by a worker once it is confined: what was done, and how that went.
fn attempts() -> Vec<(&'static str, rustix::io::Result<()>)> {
    let open = |path: &str, flags| {
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::open(path, flags | OFlags::CLOEXEC, mode).map(drop)
    };
    let create = OFlags::WRONLY | OFlags::CREATE;
    let socket = |family| rustix::net::socket(family, SocketType::STREAM, None).map(drop);
    let other = Pid::INIT;
    let upwards = |flags| open("../../../../../../../etc/passwd", flags);
    let mode = Mode::from_raw_mode(0o4755);
    #[expect(clippy::disallowed_methods, reason = "it does not come to be")]
    let mut program = std::process::Command::new("/proc/self/exe");
    let executed = program.spawn().map(drop);
    vec![
        ("a socket of the network", socket(AddressFamily::INET)),
        ("a socket of the host", socket(AddressFamily::UNIX)),
        ("reading a secret", open("/etc/shadow", OFlags::RDONLY)),
        ("reading upwards", upwards(OFlags::RDONLY)),
        (
            "looking upwards",
            rustix::fs::stat("../../../../etc/passwd").map(drop),
        ),
        ("reading a layer", open("/table", OFlags::RDONLY)),
        (
            "reading what it unpacks",
            open("/fs", OFlags::RDONLY | OFlags::PATH)
                .and_then(|()| open("/recipe", OFlags::RDONLY)),
        ),
        ("writing beside the tree", open("/beside", create)),
        (
            "a socket in the tree",
            rustix::fs::mknodat(CWD, "/fs/s", FileType::Socket, mode, 0),
        ),
        (
            "permissions of the host",
            rustix::fs::chmod("/etc/passwd", mode),
        ),
        (
            "permissions upwards",
            rustix::fs::chmod("../../../../etc/passwd", mode),
        ),
        (
            "a program",
            executed.map_err(|cause| Errno::from_io_error(&cause).unwrap()),
        ),
        ("a signal", kill_process(other, Signal::WINCH)),
        (
            "a handle of another process",
            rustix::process::pidfd_open(other, PidfdFlags::empty()).map(drop),
        ),
        (
            "a mount",
            rustix::mount::mount(
                "none",
                "/fs",
                "tmpfs",
                rustix::mount::MountFlags::empty(),
                None,
            ),
        ),
        ("another root", rustix::process::chroot("/fs")),
        (
            "namespaces",
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
                .map_err(|errno| Errno::from_raw_os_error(errno as i32)),
        ),
        ("a name of the host", rustix::system::sethostname(b"worker")),
        (
            "more memory",
            rustix::process::setrlimit(
                rustix::process::Resource::As,
                rustix::process::Rlimit {
                    current: None,
                    maximum: None,
                },
            ),
        ),
        (
            "tracing",
            nix::sys::ptrace::traceme().map_err(|errno| Errno::from_raw_os_error(errno as i32)),
        ),
    ]
}

/// Fails with all that is not refused.
fn try_all() -> Result<(), Error> {
    let refused = [Errno::PERM, Errno::ACCESS, Errno::NOENT, Errno::NOSYS];
    let wrong: Vec<_> = attempts()
        .into_iter()
        .filter(|(_, outcome)| !outcome.is_err_and(|errno| refused.contains(&errno)))
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::Other(format!("not refused: {wrong:?}")))
}

#[tokio::test]
async fn what_a_worker_does_not_need_is_refused() {
    if is_worker(try_all) {
        return;
    }
    for form in [LayerForm::Dir, LayerForm::Erofs] {
        let temp = temp();
        let tar = Tar::new().file("a", b"1").end();
        let image = TestImage::new(&[(tar, Pack::Gzip)]);
        let shelf = Shelf::default().image("a", "1", &image);
        let server = Server::start(move |request| shelf.serve(request));
        let mut config = config(temp.path(), "this");
        config.worker = Some(entry(
            "tests::workers::what_a_worker_does_not_need_is_refused",
        ));
        config.layer_form = form;
        let store = match open_store(&config, &limits()) {
            Err(error) if error.to_string().contains("cannot be EROFS images") => {
                eprintln!("skipped: needs EROFS mounted from a file: {error}");
                continue;
            }
            store => store.unwrap(),
        };
        let pulled = store.pull(&format!("{}/a:1", server.name()), None).await;
        assert_eq!(pulled.unwrap(), image.id(), "{form:?}");
    }
}

#[tokio::test]
async fn a_worker_that_hangs_is_ended() {
    let temp = temp();
    let (_image, server) = slow_once();
    let hasty = Worker {
        patience: Duration::from_millis(300),
        ..worker()
    };
    let store = open(temp.path(), hasty);
    let name = format!("{}/a:1", server.name());
    let stop = async {
        let (worker, _) = begun(temp.path()).await;
        kill_process(worker, Signal::STOP).unwrap();
        worker
    };
    let (pulled, worker) = tokio::join!(store.pull(&name, None), stop);
    let error = pulled.unwrap_err().to_string();
    assert!(error.contains("has done nothing for"), "{error}");
    assert!(rustix::process::test_kill_process(worker).is_err());
}
