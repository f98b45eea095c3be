//! Archives, made byte by byte, so that they can be as wrong as a test wants.

/// A tar being written.
#[derive(Clone, Debug, Default)]
pub struct Tar(Vec<u8>);

/// One header, all fields of which can be set.
#[derive(Debug)]
pub struct Head<'a> {
    /// The path.
    pub name: &'a [u8],
    /// What kind of an entry it is (`typeflag`).
    pub flag: u8,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length of what follows, in bytes.
    pub size: u64,
    /// What it is a link to.
    pub link: &'a [u8],
    /// Major and minor number.
    pub device: (u32, u32),
}

impl Default for Head<'_> {
    fn default() -> Self {
        Head {
            name: b"",
            flag: b'0',
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            link: b"",
            device: (0, 0),
        }
    }
}

impl Tar {
    /// Without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only the header of an entry.
    pub fn head(mut self, head: &Head<'_>) -> Self {
        let mut block = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, head.name);
        put(100, format!("{:07o}", head.mode).as_bytes());
        put(108, format!("{:07o}", head.uid).as_bytes());
        put(116, format!("{:07o}", head.gid).as_bytes());
        put(124, format!("{:011o}", head.size).as_bytes());
        put(136, b"00000001750");
        put(156, &[head.flag]);
        put(157, head.link);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}", head.device.0).as_bytes());
        put(337, format!("{:07o}", head.device.1).as_bytes());
        put(148, b"        ");
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self
    }

    /// Bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn body(self, bytes: &[u8]) -> Self {
        let padding = bytes.len().wrapping_neg() % 512;
        self.raw(bytes).raw(&vec![0; padding])
    }

    /// A file that everybody may read.
    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.file_mode(name, content, 0o644)
    }

    /// A file with these permissions.
    pub fn file_mode(self, name: &str, content: &[u8], mode: u32) -> Self {
        let head = Head {
            name: name.as_bytes(),
            size: content.len() as u64,
            mode,
            ..Head::default()
        };
        self.head(&head).body(content)
    }

    /// A folder.
    pub fn dir(self, name: &str, mode: u32) -> Self {
        self.head(&Head {
            name: name.as_bytes(),
            flag: b'5',
            mode,
            ..Head::default()
        })
    }

    /// A symbolic link.
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.head(&Head {
            name: name.as_bytes(),
            flag: b'2',
            link: target.as_bytes(),
            mode: 0o777,
            ..Head::default()
        })
    }

    /// Another name of a file.
    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.head(&Head {
            name: name.as_bytes(),
            flag: b'1',
            link: target.as_bytes(),
            ..Head::default()
        })
    }

    /// An entry that says something of the next one, such as a long name.
    pub fn extension(self, flag: u8, bytes: &[u8]) -> Self {
        self.head(&Head {
            name: b"ext",
            flag,
            size: bytes.len() as u64,
            ..Head::default()
        })
        .body(bytes)
    }

    /// The same in the form of pax(1).
    pub fn pax(self, records: &[(&str, &str)]) -> Self {
        let records: String = records
            .iter()
            .map(|(key, value)| pax_record(key, value))
            .collect();
        self.extension(b'x', records.as_bytes())
    }

    /// All of it, with the end that tar(5) demands.
    pub fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }

    /// All of it, without an end.
    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// One record of an extended header of pax(1): its length stands before it.
pub fn pax_record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}
