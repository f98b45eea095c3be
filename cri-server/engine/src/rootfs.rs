//! What must be looked up on the host or in an image's root file system before a plan can be made.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pod::container::{Accounts, Device, ImageFacts, Mount, ProfileRequest};
use pod::facts::HostDevice;
use pod::plan::NewAccount;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::Error;

/// Largest `/etc/passwd` or `/etc/group` of an image that is read, bytes.
const MAX_ACCOUNTS: u64 = 1 << 20;

/// Largest seccomp profile that is read, bytes.
const MAX_PROFILE: u64 = 4 << 20;

/// Most devices below one folder.
const MAX_DEVICES: usize = 4096;

/// Where the source of each mount really lies; what is missing is made as a folder.
pub(crate) fn mount_sources(mounts: &[Mount]) -> Result<Vec<PathBuf>, Error> {
    let sources = mounts.iter().enumerate();
    sources.map(|(n, mount)| mount_source(n, mount)).collect()
}

/// What the client named and the host does not have, or something else that failed.
fn judged(field: &str, what: &str, error: &io::Error) -> Error {
    use io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound};
    let text = format!("{field}: {what}: {error}");
    match error.kind() {
        InvalidFilename | InvalidInput | NotADirectory | NotFound => Error::Invalid(text),
        _ => Error::Failed(text),
    }
}

fn mount_source(place: usize, mount: &Mount) -> Result<PathBuf, Error> {
    // It lies nowhere before it is mounted.
    if mount.image.is_some() {
        return Ok(PathBuf::new());
    }
    let path = Path::new(&mount.host_path);
    if !path.is_absolute() {
        return Err(Error::Invalid(format!(
            "mounts: host_path {:?} is not absolute",
            mount.host_path
        )));
    }
    let resolved = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path).and_then(|()| fs::canonicalize(path))
        }
        other => other,
    };
    resolved.map_err(|error| {
        let field = format!("mounts[{place}].host_path");
        judged(&field, &format!("resolving mount source {path:?}"), &error)
    })
}

/// The accounts of an image, read below the root of its file system.
pub(crate) fn accounts(rootfs: &Path) -> Result<Accounts, Error> {
    let read = |name: &str| {
        read_below(rootfs, name)
            .map_err(|error| Error::failed(format!("reading /{name} of the image"), error))
    };
    Ok(Accounts {
        passwd: read("etc/passwd")?,
        group: read("etc/group")?,
    })
}

/// Reads a text file below `root`, links resolved as if `root` were `/`; empty if it is missing.
fn read_below(root: &Path, name: &str) -> io::Result<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let file: OwnedFd = match rustix::fs::openat2(
        &root,
        name,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    ) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        other => other?,
    };
    let file = fs::File::from(file);
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(MAX_ACCOUNTS).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Adds to the accounts of a container's own layer what its image lacks.
pub(crate) fn add_account(rootfs: &Path, account: &NewAccount) -> Result<(), Error> {
    for (name, line) in [
        ("etc/passwd", &account.passwd),
        ("etc/group", &account.group),
    ] {
        if !line.is_empty() {
            add_line(rootfs, name, line).map_err(|error| {
                Error::failed(format!("adding to the container's /{name}"), error)
            })?;
        }
    }
    Ok(())
}

/// Adds a line to a file below `root`. It stays as it is where it is reached by a link, as that may
/// be meant for others too, and where users may write to it: such an image adds the line itself.
fn add_line(root: &Path, name: &str, line: &str) -> io::Result<()> {
    /// Write permission of group and others.
    const WRITABLE: u32 = 0o022;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let place = match rustix::fs::openat2(&root, name, flags, Mode::empty(), resolve) {
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOENT) => return Ok(()),
        other => fs::File::from(other?),
    };
    let metadata = place.metadata()?;
    let ours =
        metadata.is_file() && metadata.mode() & WRITABLE == 0 && metadata.len() < MAX_ACCOUNTS;
    if !ours {
        return Ok(());
    }
    // The file that was looked at, and no other that took its name meanwhile.
    let mut file = fs::OpenOptions::new()
        .read(true)
        .append(true)
        .open(format!("/proc/self/fd/{}", place.as_raw_fd()))?;
    let mut last = [b'\n'];
    if let Some(end) = metadata.len().checked_sub(1) {
        file.read_exact_at(&mut last, end)?;
    }
    let newline = if last == *b"\n" { "" } else { "\n" };
    file.write_all(format!("{newline}{line}").as_bytes())
}

/// The text of a localhost seccomp profile, if one is asked for.
pub(crate) fn seccomp_profile(request: &ProfileRequest) -> Result<Option<String>, Error> {
    let ProfileRequest::Localhost(path) = request else {
        return Ok(None);
    };
    let what = || format!("reading seccomp profile {path:?}");
    let text = read_profile(Path::new(path));
    let field = "linux.security_context.seccomp.localhost_ref";
    text.map(Some)
        .map_err(|error| judged(field, &what(), &error))
}

/// Reads a regular file; anything else could keep the reader waiting for ever.
fn read_profile(path: &Path) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        let reason = "it is not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    let mut text = String::new();
    file.take(MAX_PROFILE).read_to_string(&mut text)?;
    Ok(text)
}

/// The devices found at the host paths asked for; folders are spread out.
pub(crate) fn devices(asked: &[Device]) -> Result<Vec<(HostDevice, Device)>, Error> {
    let mut found = Vec::new();
    for (place, device) in asked.iter().enumerate() {
        let path = fs::canonicalize(&device.host_path);
        path.and_then(|path| collect(&path, device, &mut found))
            .map_err(|error| {
                let field = format!("devices[{place}].host_path");
                judged(&field, &format!("device {:?}", device.host_path), &error)
            })?;
    }
    Ok(found)
}

fn collect(path: &Path, asked: &Device, found: &mut Vec<(HostDevice, Device)>) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let inside = Path::new(&asked.container_path).join(entry.file_name());
            let one = Device {
                container_path: inside.to_string_lossy().into(),
                ..asked.clone()
            };
            collect(&entry.path(), &one, found)?;
        }
    } else if let Some(device) = host_device(path, &metadata) {
        if found.len() == MAX_DEVICES {
            return Err(io::Error::other(format!("more than {MAX_DEVICES} devices")));
        }
        found.push((device, asked.clone()));
    }
    Ok(())
}

/// All devices of the host's `/dev`, for privileged containers.
pub(crate) fn all_devices() -> Vec<HostDevice> {
    /// What a container gets of its own instead.
    const OWN: [&str; 6] = ["pts", "shm", "fd", "mqueue", "console", ".lxc"];
    let Ok(names) = crate::store::names(Path::new("/dev")) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for name in names.iter().filter(|name| !OWN.contains(&name.as_str())) {
        let path = format!("/dev/{name}");
        let asked = Device {
            container_path: path.clone(),
            ..Device::default()
        };
        // A device that vanishes meanwhile is not there to be shown.
        if let Err(error) = collect(Path::new(&path), &asked, &mut found) {
            tracing::debug!(path, %error, "a device cannot be looked at");
        }
    }
    found.into_iter().map(|(device, _)| device).collect()
}

pub(crate) fn host_device(path: &Path, metadata: &fs::Metadata) -> Option<HostDevice> {
    let kind = metadata.file_type();
    (kind.is_block_device() || kind.is_char_device()).then(|| HostDevice {
        path: path.to_string_lossy().into(),
        block: kind.is_block_device(),
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.permissions().mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

/// What an image says about how to run it.
pub(crate) fn image_facts(image: &image::Image) -> ImageFacts {
    let config = image.config.config();
    let list = |value: Option<&Vec<String>>| value.cloned().unwrap_or_default();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    let config = config.as_ref();
    ImageFacts {
        id: image.id.clone(),
        env: list(config.and_then(|config| config.env().as_ref())),
        entrypoint: list(config.and_then(|config| config.entrypoint().as_ref())),
        cmd: list(config.and_then(|config| config.cmd().as_ref())),
        user: text(config.and_then(|config| config.user().as_ref())),
        working_dir: text(config.and_then(|config| config.working_dir().as_ref())),
        stop_signal: text(config.and_then(|config| config.stop_signal().as_ref())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_never_leave_the_root() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("etc/passwd")).unwrap();
        assert_eq!(accounts(folder.path()).unwrap(), Accounts::default());
        fs::write(folder.path().join("etc/hostname"), "inside").unwrap();
        assert_eq!(accounts(folder.path()).unwrap().passwd, "inside");
    }

    #[test]
    fn an_account_is_added_to_files_of_the_root_only() {
        let folder = tempfile::tempdir().unwrap();
        let etc = folder.path().join("etc");
        fs::create_dir(&etc).unwrap();
        let account = NewAccount {
            passwd: "9:x:9:9::/:\n".into(),
            group: "9:x:9:\n".into(),
        };
        let add = || add_account(folder.path(), &account).unwrap();
        add();
        assert_eq!(fs::read_dir(&etc).unwrap().count(), 0, "none was there");
        let (passwd, group) = (etc.join("passwd"), etc.join("group"));
        fs::write(&passwd, "root:x:0:0::/:").unwrap();
        fs::write(folder.path().join("other"), "x:x:1:\n").unwrap();
        std::os::unix::fs::symlink("../other", &group).unwrap();
        add();
        let text = fs::read_to_string(&passwd).unwrap();
        assert_eq!(text, "root:x:0:0::/:\n9:x:9:9::/:\n");
        assert_eq!(fs::read_to_string(&group).unwrap(), "x:x:1:\n");
        fs::set_permissions(&passwd, fs::Permissions::from_mode(0o664)).unwrap();
        add();
        assert_eq!(fs::read_to_string(&passwd).unwrap(), text);
    }

    #[test]
    fn a_missing_mount_source_becomes_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = folder.path().join("a/b");
        let mount = Mount {
            host_path: wanted.to_string_lossy().into(),
            ..Mount::default()
        };
        assert_eq!(
            mount_sources(&[mount]).unwrap(),
            vec![fs::canonicalize(&wanted).unwrap()]
        );
        let relative = Mount {
            host_path: "a".into(),
            ..Mount::default()
        };
        assert!(matches!(mount_sources(&[relative]), Err(Error::Invalid(_))));
    }
}
