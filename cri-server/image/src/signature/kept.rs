//! What speaks for an image, kept beside the store: `signatures/<algorithm>-<hex>.json`, by the
//! digest that its name stands for. Not believed, only remembered; a file that cannot be used is as
//! good as none.

use std::io::Write;
use std::path::{Path, PathBuf};

use registry::Digest;
use serde::{Deserialize, Serialize};
use trust::Evidence;

use crate::Error;
use crate::error::During;
use crate::pull::Found;

/// Form of the file.
const VERSION: u32 = 1;

/// What is known of an image beside its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    version: u32,
    /// Digest of the manifest or the list that the name stands for.
    pub(crate) digest: Digest,
    /// What that is.
    pub(crate) media_type: String,
    /// Its length in bytes.
    pub(crate) size: u64,
    /// Digest of the manifest for this machine.
    pub(crate) manifest: Digest,
    /// The signatures; `None` if nobody has asked for them yet.
    pub(crate) evidence: Option<Vec<Evidence>>,
}

impl Kept {
    /// An image whose signatures nobody has asked for.
    pub(crate) fn of(found: &Found) -> Self {
        Self {
            version: VERSION,
            digest: found.top.digest.clone(),
            media_type: found.top.media_type.clone(),
            size: found.top.size,
            manifest: found.top.digest.same_kind_of(&found.served.bytes),
            evidence: None,
        }
    }

    /// What a signature may be about.
    pub(crate) fn digests(&self) -> [Digest; 2] {
        [self.digest.clone(), self.manifest.clone()]
    }
}

/// The folder.
#[derive(Debug)]
pub(crate) struct Shelf {
    folder: PathBuf,
}

impl Shelf {
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let folder = root.join("signatures");
        std::fs::create_dir_all(&folder).during(|| format!("making {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// What is known of what has that digest.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Kept> {
        let bytes = std::fs::read(self.path(digest)).ok()?;
        let kept: Kept = serde_json::from_slice(&bytes).ok()?;
        (kept.version == VERSION && kept.digest == *digest).then_some(kept)
    }

    /// Writes it, in the place of what was known before. Signatures that were known are not
    /// forgotten because this time nobody asked for them.
    pub(crate) fn put(&self, kept: &Kept) -> Result<(), Error> {
        if kept.evidence.is_none() && self.get(&kept.digest).is_some() {
            return Ok(());
        }
        let place = self.path(&kept.digest);
        let text = serde_json::to_vec(kept).expect("plain data can always be written as JSON");
        let write = || {
            let mut file = tempfile_in(&self.folder, &kept.digest)?;
            file.1.write_all(&text)?;
            std::fs::rename(&file.0, &place)
        };
        write().during(|| format!("writing {}", place.display()))
    }

    /// Removes what is about images that are not known.
    pub(crate) fn prune(&self, is_known: impl Fn(&Digest) -> bool) -> Result<(), Error> {
        let doing = || format!("looking through {}", self.folder.display());
        for entry in std::fs::read_dir(&self.folder).during(doing)? {
            let entry = entry.during(doing)?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(digest_of);
            if !digest.is_some_and(|digest| is_known(&digest)) {
                let path = entry.path();
                std::fs::remove_file(&path).during(|| format!("removing {}", path.display()))?;
            }
        }
        Ok(())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let name = format!("{}-{}.json", digest.algorithm(), digest.hex());
        self.folder.join(name)
    }
}

/// A file that nobody reads until it is renamed; what a crash leaves of it is pruned.
fn tempfile_in(folder: &Path, digest: &Digest) -> std::io::Result<(PathBuf, std::fs::File)> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!(".{}.{number}", digest.hex()));
    let file = std::fs::File::create(&path)?;
    Ok((path, file))
}

fn digest_of(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_suffix(".json")?.split_once('-')?;
    Digest::parse(&format!("{algorithm}:{hex}")).ok()
}
