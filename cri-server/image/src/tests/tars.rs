//! Archives, made byte by byte, so that they can be as wrong as a test wants.

/// A tar being written.
#[derive(Clone, Default)]
pub(crate) struct Tar(Vec<u8>);

/// One header, all fields of which can be set.
pub(crate) struct Head<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) flag: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) link: &'a [u8],
    pub(crate) device: (u32, u32),
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
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn head(mut self, head: &Head<'_>) -> Self {
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

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn body(self, bytes: &[u8]) -> Self {
        let padding = bytes.len().wrapping_neg() % 512;
        self.raw(bytes).raw(&vec![0; padding])
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.file_mode(name, content, 0o644)
    }

    pub(crate) fn file_mode(self, name: &str, content: &[u8], mode: u32) -> Self {
        let head = Head {
            name: name.as_bytes(),
            size: content.len() as u64,
            mode,
            ..Head::default()
        };
        self.head(&head).body(content)
    }

    pub(crate) fn dir(self, name: &str, mode: u32) -> Self {
        self.head(&Head {
            name: name.as_bytes(),
            flag: b'5',
            mode,
            ..Head::default()
        })
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.head(&Head {
            name: name.as_bytes(),
            flag: b'2',
            link: target.as_bytes(),
            mode: 0o777,
            ..Head::default()
        })
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.head(&Head {
            name: name.as_bytes(),
            flag: b'1',
            link: target.as_bytes(),
            ..Head::default()
        })
    }

    pub(crate) fn extension(self, flag: u8, bytes: &[u8]) -> Self {
        self.head(&Head {
            name: b"ext",
            flag,
            size: bytes.len() as u64,
            ..Head::default()
        })
        .body(bytes)
    }

    pub(crate) fn pax(self, records: &[(&str, &str)]) -> Self {
        let records: String = records
            .iter()
            .map(|(key, value)| pax_record(key, value))
            .collect();
        self.extension(b'x', records.as_bytes())
    }

    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0
    }
}

pub(crate) fn pax_record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}
