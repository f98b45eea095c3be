//! The laboratory: a private "host", pods, an outside, servers and clients within them.
//!
//! A test re-executes itself under unshare(1), so that its process, and every thread of it, lives
//! in fresh network and mount namespaces. All that it makes goes away with the process, however
//! the test ends.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use network::{Attached, Attachment, Config, Mode, Network, Port};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// Set within, to the folder of the test.
const INSIDE: &str = "WHERRY_NETWORK_TEST_INSIDE";
/// A packet that is dropped shows as silence; this is enough of it.
const SILENCE: Duration = Duration::from_millis(700);
/// An answer that comes at all comes within this time.
const ANSWER: Duration = Duration::from_secs(5);
/// Address of the host towards the outside.
pub(crate) const HOST: &str = "192.0.2.1";

/// Declares a test that runs in a host of its own.
macro_rules! lab_test {
    ($(#[$doc:meta])* $name:ident, $lab:ident, $body:block) => {
        $(#[$doc])*
        #[test]
        fn $name() {
            let path = concat!(module_path!(), "::", stringify!($name));
            crate::lab::run(path, async |$lab: crate::lab::Lab| $body);
        }
    };
}
pub(crate) use lab_test;

/// One host with a root folder for the daemon.
pub(crate) struct Lab {
    pub(crate) folder: PathBuf,
}

/// Runs the body inside; prints why if that cannot be.
pub(crate) fn run(path: &str, body: impl AsyncFnOnce(Lab)) {
    let (_crate, name) = path.split_once("::").unwrap();
    let Some(folder) = std::env::var_os(INSIDE) else {
        return rerun(name);
    };
    sh("ip link set lo up");
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    let lab = Lab {
        folder: folder.into(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(body(lab));
}

fn rerun(name: &str) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    for tool in ["unshare", "ip", "nft"] {
        if !has(tool) {
            println!("skipped: needs {tool}");
            return;
        }
    }
    // Removed out here, where nothing is mounted in it.
    let folder = tempfile::tempdir().unwrap();
    let output = command("unshare")
        .args(["--net", "--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, folder.path())
        .output()
        .unwrap();
    let told = [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
    assert!(
        output.status.success(),
        "{name} failed inside its namespaces:\n{}",
        told.concat()
    );
}

fn has(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).exists())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test's own children, waited for here"
)]
fn command(program: &str) -> Command {
    Command::new(program)
}

/// Runs a shell line that must succeed; gives what it printed.
pub(crate) fn sh(line: &str) -> String {
    let output = command("sh").args(["-ec", line]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

impl Lab {
    pub(crate) fn config(&self) -> Config {
        let at = |name: &str| self.folder.join(name);
        Config {
            mode: Mode::Builtin,
            cni_conf_dir: at("net.d"),
            cni_bin_dirs: vec![at("bin")],
            cni_cache_dir: at("results"),
            bridge: "wherry0".to_owned(),
            subnet: "10.97.0.0/16".to_owned(),
            routed: vec![],
            root: at("root"),
            state: at("state"),
        }
    }

    pub(crate) fn network(&self) -> Arc<Network> {
        Network::open(&self.config()).unwrap()
    }

    /// A pod's pinned namespace and its wish for a network.
    pub(crate) fn pod(&self, id: &str) -> Attachment {
        Attachment {
            id: id.to_owned(),
            netns: self.netns(id),
            args: BTreeMap::new(),
            ports: vec![],
            cgroup_parent: String::new(),
            annotations: BTreeMap::new(),
        }
    }

    /// A pinned network namespace of that name, fresh the first time.
    pub(crate) fn netns(&self, name: &str) -> PathBuf {
        let path = self.folder.join(format!("netns-{name}"));
        if path.exists() {
            return path;
        }
        std::fs::write(&path, "").unwrap();
        let target = path.clone();
        let make = move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let source = Some("/proc/thread-self/ns/net");
            mount(
                source,
                &target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .unwrap();
        };
        std::thread::spawn(make).join().unwrap();
        path
    }

    /// Another machine, 192.0.2.2, on a wire to this host, 192.0.2.1; it knows a way to the pods.
    pub(crate) fn outside(&self) -> PathBuf {
        let path = self.netns("outside");
        within(&path, || {
            sh("ip link set lo up");
        });
        let at = path.display();
        sh(&format!(
            "ip link add wire0 type veth peer name wire1
             ip addr add {HOST}/24 dev wire0
             ip link set wire0 up
             ip link set wire1 netns {at}
             nsenter --net={at} ip addr add 192.0.2.2/24 dev wire1
             nsenter --net={at} ip link set wire1 up
             nsenter --net={at} ip route add 10.97.0.0/16 via {HOST}
             ip route add default via 192.0.2.2"
        ));
        path
    }

    /// Names below a folder of the lab; a folder that is not there has none.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.folder.join(folder)) else {
            return vec![];
        };
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// A host port on all addresses.
pub(crate) fn port(protocol: &str, host: u16, container: u16) -> Port {
    Port {
        protocol: protocol.to_owned(),
        host,
        container,
        host_ip: None,
    }
}

/// Does something in a network namespace: on a thread of its own, which then ends.
pub(crate) fn within<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(
                std::fs::File::open(netns).unwrap(),
                CloneFlags::CLONE_NEWNET,
            )
            .unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// Serves TCP and UDP on a port within a namespace: tells each client its address.
pub(crate) fn serve(netns: &Path, port: u16) {
    let (tcp, udp) = within(netns, || bind(port));
    answer(tcp, udp);
}

/// The same on the host itself.
pub(crate) fn serve_on_host(port: u16) {
    let (tcp, udp) = bind(port);
    answer(tcp, udp);
}

/// Answers one datagram on the host, then frees the port.
pub(crate) fn serve_udp_once(port: u16) -> std::thread::JoinHandle<()> {
    let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
    std::thread::spawn(move || {
        let (_, peer) = socket.recv_from(&mut [0; 64]).unwrap();
        socket.send_to(b"host", peer).unwrap();
    })
}

fn bind(port: u16) -> (TcpListener, UdpSocket) {
    let tcp = TcpListener::bind(("0.0.0.0", port)).unwrap();
    (tcp, UdpSocket::bind(("0.0.0.0", port)).unwrap())
}

fn answer(tcp: TcpListener, udp: UdpSocket) {
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_string();
            stream.write_all(peer.as_bytes()).unwrap();
        }
    });
    std::thread::spawn(move || {
        loop {
            let (_, peer) = udp.recv_from(&mut [0; 64]).unwrap();
            udp.send_to(peer.ip().to_string().as_bytes(), peer).unwrap();
        }
    });
}

/// Connects from the namespace (`None`: the host); gives the address that the server saw.
pub(crate) fn tcp(from: Option<&Path>, to: &str, wait: Duration) -> Result<String, String> {
    let to: SocketAddr = to.parse().unwrap();
    let connect = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, wait)?;
        stream.set_read_timeout(Some(wait))?;
        let mut seen = String::new();
        stream.read_to_string(&mut seen)?;
        Ok(seen)
    };
    let seen = match from {
        Some(netns) => within(netns, connect),
        None => connect(),
    };
    seen.map_err(|error| error.to_string())
}

/// Asks by UDP; gives the address that the server saw.
pub(crate) fn udp(from: Option<&Path>, to: &str) -> Result<String, String> {
    let ask = || -> std::io::Result<String> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(ANSWER))?;
        socket.connect(to)?;
        socket.send(b"?")?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let seen = match from {
        Some(netns) => within(netns, ask),
        None => ask(),
    };
    seen.map_err(|error| error.to_string())
}

/// The connection works, and the server sees this address.
#[track_caller]
pub(crate) fn reaches(from: Option<&Path>, to: &str, seen_as: &str) {
    assert_eq!(
        tcp(from, to, ANSWER).as_deref(),
        Ok(seen_as),
        "{from:?} -> {to}"
    );
}

/// The connection is refused or met by silence.
#[track_caller]
pub(crate) fn fails(from: Option<&Path>, to: &str) {
    let got = tcp(from, to, SILENCE);
    assert!(got.is_err(), "{from:?} -> {to}: {got:?}");
}

/// The only address of what was given.
pub(crate) fn ip(attached: &Attached) -> IpAddr {
    assert_eq!(attached.ips.len(), 1);
    attached.ips[0]
}

/// Links of the host that are not its own.
pub(crate) fn links() -> Vec<String> {
    let list = sh("ip -o link");
    let names = list.lines().map(|line| line.split(": ").nth(1).unwrap());
    let names = names.map(|name| name.split('@').next().unwrap().to_owned());
    names
        .filter(|name| name.starts_with("vw") || name.starts_with("wherry"))
        .collect()
}
