//! What a pod's network interfaces have carried, as the kernel counts it.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};

/// Counters of one interface, since it exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name in the pod.
    pub name: String,
    /// What came in.
    pub received: Traffic,
    /// What went out.
    pub sent: Traffic,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were wrong.
    pub errors: u64,
    /// Packets that were right, and dropped.
    pub dropped: u64,
}

/// Counters of the interfaces in a pinned network namespace, without the loopback. A thread of its
/// own enters the namespace and ends with the answer: no other thread is ever in it.
pub(crate) fn read(namespace: &Path) -> io::Result<Vec<Interface>> {
    let namespace = File::open(namespace)?;
    let text = thread::scope(|scope| {
        let look = || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            fs::read_to_string("/proc/thread-self/net/dev")
        };
        thread::Builder::new()
            .name("interfaces".into())
            .spawn_scoped(scope, look)?
            .join()
            .expect("reading a file does not panic")
    })?;
    Ok(parse(&text))
}

/// The table of proc_pid_net(5), `dev`: two lines of titles, then a line an interface.
fn parse(table: &str) -> Vec<Interface> {
    let rows = table.lines().filter_map(|line| line.split_once(':'));
    let interface = |(name, numbers): (&str, &str)| {
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .map(|number| number.parse().unwrap_or(0))
            .collect();
        let traffic = |first: usize| {
            let at = |place: usize| numbers.get(first + place).copied().unwrap_or(0);
            Traffic {
                bytes: at(0),
                packets: at(1),
                errors: at(2),
                dropped: at(3),
            }
        };
        Interface {
            name: name.trim().to_owned(),
            received: traffic(0),
            sent: traffic(8),
        }
    };
    rows.map(interface)
        .filter(|interface| interface.name != "lo")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str =
        "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo:     100       2    0    0    0     0          0         0      100       2    0    0    0
  eth0: 1000 10 1 2 0 0 0 0 2000 20 3 4 0 0 0 0
";

    #[test]
    fn counters_are_read() {
        let found = parse(TABLE);
        let received = Traffic {
            bytes: 1000,
            packets: 10,
            errors: 1,
            dropped: 2,
        };
        let sent = Traffic {
            bytes: 2000,
            packets: 20,
            errors: 3,
            dropped: 4,
        };
        assert_eq!(
            found,
            [Interface {
                name: "eth0".into(),
                received,
                sent
            }]
        );
    }

    #[test]
    fn another_namespace_is_looked_into_and_left() {
        let own = || fs::read_link("/proc/thread-self/ns/net").unwrap();
        let before = own();
        let found = read(Path::new("/proc/self/ns/net")).unwrap();
        assert_eq!(own(), before);
        assert!(found.iter().all(|interface| interface.name != "lo"));
        assert!(read(Path::new("/no/such/namespace")).is_err());
    }
}
