//! Whether memory ran out in the container: the kernel's counts of processes killed for want of it.
//!
//! The count is read when init has ended. systemd removes a control group of its making as soon as
//! it is empty, which may be before that; then the group above has to tell, whose count (cgroup v2
//! only, cgroup-v2.rst, "memory.events") includes that of all below it. Both are read whenever that
//! one changes, so that what the container's neighbours add to it is not taken for the container's.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use crate::poller::{Interest, Poller, Token};

/// Longest counter file that is read, bytes; both forms have less than a few hundred.
const MAX_COUNTER_FILE: usize = 4096;

/// The counter's name on cgroup v2, where counts include those of the groups below.
const INCLUSIVE: &str = "memory.events";

/// Time between two looks at counts that keep changing: a group at its limit changes them without
/// end, and all below the same one would be woken.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The kernel's count of processes ended for want of memory, since the container was made.
#[derive(Debug)]
pub(crate) struct OomCounter {
    file: File,
    start: u64,
    /// Whether it was seen to have risen.
    risen: bool,
    above: Option<Above>,
}

/// The counter of the control group above.
#[derive(Debug)]
struct Above {
    file: File,
    /// Its count when all that the container had added to it was known.
    seen: u64,
    /// When it is watched again; `None` while it is.
    rest: Option<Duration>,
}

impl OomCounter {
    /// Opens the counter and keeps it: the file may be gone when the container is.
    /// `None`: there is no such file, or no such line in it.
    pub(crate) fn open(path: &Path) -> Option<Self> {
        // Before the container's own, as in `look`.
        let above = Above::open(path);
        let file = File::open(path).ok()?;
        let start = read_counter(&file)?;
        Some(Self {
            file,
            start,
            risen: false,
            above,
        })
    }

    /// Begins to watch, where there is a group above to watch.
    pub(crate) fn watch(&self, poller: &Poller) -> io::Result<()> {
        self.above
            .as_ref()
            .map_or(Ok(()), |above| poller.add(&above.file, Token::Memory, ONCE))
    }

    /// A count has changed: looks, and rests for a while.
    pub(crate) fn changed(&mut self, now: Duration) {
        self.look();
        if let Some(above) = &mut self.above {
            above.rest = Some(now + LOOK_INTERVAL);
        }
    }

    /// When [`OomCounter::enforce`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.above.as_ref()?.rest
    }

    /// Watches again after the rest; what has changed meanwhile is told at once.
    pub(crate) fn enforce(&mut self, now: Duration, poller: &Poller) {
        let Some(above) = &mut self.above else { return };
        if above.rest.is_some_and(|end| end <= now) {
            above.rest = None;
            // Without it the count is only read in the end, as it is on v1.
            drop(poller.change(&above.file, Token::Memory, ONCE));
        }
    }

    /// Whether the count has risen.
    pub(crate) fn rose(&self) -> bool {
        match read_counter(&self.file) {
            Some(count) => count > self.start,
            None => self.risen || self.above.as_ref().is_some_and(Above::rose),
        }
    }

    /// The kernel counts in a group first and then in those above it. So the one above is read
    /// first: what it then has of this container's is in the container's own count as well.
    fn look(&mut self) {
        let above = self
            .above
            .as_ref()
            .and_then(|above| read_counter(&above.file));
        let Some(count) = read_counter(&self.file) else {
            return;
        };
        self.risen = count > self.start;
        if let (Some(above), Some(seen)) = (&mut self.above, above) {
            above.seen = seen;
        }
    }
}

/// Its readers are told of a change (POLLPRI), and not again until they ask to be.
const ONCE: Interest = Interest::PRI.union(Interest::ONESHOT);

impl Above {
    /// That above the group of a counter; `None` where counts do not include those below.
    fn open(path: &Path) -> Option<Self> {
        let name = path.file_name().filter(|name| *name == INCLUSIVE)?;
        let file = File::open(path.parent()?.parent()?.join(name)).ok()?;
        let seen = read_counter(&file)?;
        Some(Self {
            file,
            seen,
            rest: None,
        })
    }

    fn rose(&self) -> bool {
        read_counter(&self.file).is_some_and(|count| count > self.seen)
    }
}

fn read_counter(file: &File) -> Option<u64> {
    let mut buffer = [0; MAX_COUNTER_FILE];
    let length = file.read_at(&mut buffer, 0).ok()?;
    parse_counter(str::from_utf8(&buffer[..length]).ok()?)
}

/// `oom_kill N` of `memory.events` (v2) and of `memory.oom_control` (v1).
fn parse_counter(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn counters_of_both_control_group_versions() {
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        let v2 = "low 0\nhigh 0\nmax 5\noom 2\noom_kill 1\noom_group_kill 0\n";
        for (text, expect) in [
            (v1, Some(3)),
            (v2, Some(1)),
            ("", None),
            ("oom_kill x\n", None),
            ("oom 3\n", None),
        ] {
            assert_eq!(parse_counter(text), expect, "{text}");
        }
    }

    #[test]
    fn a_counter_rises() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.oom_control");
        assert!(OomCounter::open(&path).is_none());
        fs::write(&path, "oom_kill 1\n").unwrap();
        let counter = OomCounter::open(&path).unwrap();
        assert!(!counter.rose());
        fs::write(&path, "oom_kill 2\n").unwrap();
        assert!(counter.rose());
    }

    /// What happens to the counts of a container and of the group above, and what is told of it.
    /// An empty file reads as one of a group that is gone.
    #[test]
    fn the_group_above_tells_of_one_that_is_gone() {
        enum Step {
            Own(&'static str),
            Above(&'static str),
            Look,
        }
        use Step::{Above, Look, Own};
        let cases = [
            (vec![Above("oom_kill 8\n"), Own("")], true),
            (vec![Own("")], false),
            // A neighbour's, which was seen before.
            (vec![Above("oom_kill 8\n"), Look, Own("")], false),
            (
                vec![Above("oom_kill 8\n"), Look, Above("oom_kill 9\n"), Own("")],
                true,
            ),
            // Seen while the group was there.
            (
                vec![Own("oom_kill 1\n"), Above("oom_kill 8\n"), Look, Own("")],
                true,
            ),
            // What the own counter says is true.
            (vec![Above("oom_kill 8\n")], false),
            // A look at a group that is gone changes nothing.
            (vec![Above("oom_kill 8\n"), Own(""), Look], true),
        ];
        for (number, (steps, expect)) in cases.into_iter().enumerate() {
            let dir = tempfile::tempdir().unwrap();
            let above = dir.path().join("memory.events");
            let own = dir.path().join("own/memory.events");
            fs::create_dir(dir.path().join("own")).unwrap();
            fs::write(&above, "oom_kill 7\n").unwrap();
            fs::write(&own, "oom_kill 0\n").unwrap();
            let mut counter = OomCounter::open(&own).unwrap();
            for step in steps {
                match step {
                    Own(text) => fs::write(&own, text).unwrap(),
                    Above(text) => fs::write(&above, text).unwrap(),
                    Look => counter.changed(Duration::ZERO),
                }
            }
            assert_eq!(counter.rose(), expect, "case {number}");
        }
    }
}
