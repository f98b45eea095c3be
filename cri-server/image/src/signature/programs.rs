//! A folder of programs that decide about images, each by a protocol of containerd's.
//!
//! Every file in the folder is executed with `-name NAME -digest DIGEST -stdin-media-type TYPE` and
//! with a descriptor of the image, as JSON, on its standard input. The exit code 0 allows the image;
//! what was written to the standard output says why, whatever was decided (containerd's
//! `docs/image-verification.md`). All of them have to allow it. A folder that is missing or empty
//! allows everything, as it does there.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::kept::Kept;

/// What is on the standard input.
const DESCRIPTOR: &str = "application/vnd.oci.descriptor.v1+json";
/// Most programs of a folder: all are run one after another while a client waits.
const MAX_PROGRAMS: usize = 32;
/// Most of a program's reason that is read, in bytes.
const MAX_REASON: u64 = 4096;

/// The folder.
#[derive(Debug)]
pub(crate) struct Programs {
    folder: PathBuf,
    time: Duration,
}

impl Programs {
    /// `time` is how long each program may take.
    pub(crate) fn new(folder: PathBuf, time: Duration) -> Self {
        Self { folder, time }
    }

    /// Tells one state of the folder from another.
    pub(crate) fn fingerprint(&self) -> Vec<String> {
        let state = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok();
            let facts = metadata.map(|m| (m.ino(), m.size(), m.ctime(), m.ctime_nsec()));
            format!("{} {facts:?}", path.display())
        };
        match self.list() {
            Ok(programs) => programs.iter().map(state).collect(),
            Err(error) => vec![error],
        }
    }

    /// Whether all of them allow the image.
    pub(crate) async fn ask(&self, name: &str, kept: &Kept) -> Result<(), String> {
        let programs = self.list()?;
        if programs.len() > MAX_PROGRAMS {
            let folder = self.folder.display();
            return Err(format!("{folder} has more than {MAX_PROGRAMS} programs"));
        }
        for program in &programs {
            self.ask_one(program, name, kept).await?;
        }
        Ok(())
    }

    /// All files of the folder, in the order of their names.
    fn list(&self) -> Result<Vec<PathBuf>, String> {
        let failed = |cause: std::io::Error| format!("reading {}: {cause}", self.folder.display());
        let entries = match std::fs::read_dir(&self.folder) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(failed)?,
        };
        let mut programs = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if !path.is_dir() {
                programs.push(path);
            }
        }
        programs.sort();
        Ok(programs)
    }

    async fn ask_one(&self, program: &Path, name: &str, kept: &Kept) -> Result<(), String> {
        let shown = program.file_name().unwrap_or_default().to_string_lossy();
        let failed = |cause: std::io::Error| format!("verifier {shown}: {cause}");
        let mut running = Running(start(program, name, kept).map_err(failed)?);
        let (allowed, reason) = tokio::time::timeout(self.time, converse(&mut running, kept))
            .await
            .map_err(|_late| format!("verifier {shown} did not answer within {:?}", self.time))?
            .map_err(failed)?;
        let reason = reason.trim();
        if !allowed {
            return Err(format!("verifier {shown} refuses it: {reason}"));
        }
        tracing::debug!(verifier = %shown, image = name, reason, "an image is allowed");
        Ok(())
    }
}

fn start(program: &Path, name: &str, kept: &Kept) -> std::io::Result<Child> {
    #[expect(
        clippy::disallowed_methods,
        reason = "waited for right here, and killed with all its children when dropped"
    )]
    let mut command = Command::new(program);
    command
        .args(["-name", name, "-digest", kept.digest.as_str()])
        .args(["-stdin-media-type", DESCRIPTOR])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Whether it ended well, and what it said.
async fn converse(running: &mut Running, kept: &Kept) -> std::io::Result<(bool, String)> {
    let descriptor = json!({
        "mediaType": kept.media_type,
        "digest": kept.digest.as_str(),
        "size": kept.size,
    })
    .to_string();
    let mut input = running.0.stdin.take();
    let output = running.0.stdout.take();
    let write = async {
        if let Some(mut input) = input.take() {
            // A program that decides without reading is no failure of ours.
            drop(input.write_all(descriptor.as_bytes()).await);
        }
    };
    let mut said = Vec::new();
    let read = async {
        match output {
            Some(output) => output.take(MAX_REASON).read_to_end(&mut said).await,
            None => Ok(0),
        }
    };
    let ((), read) = tokio::join!(write, read);
    read?;
    // Only now: as long as it is not waited for, its group can be ended safely.
    let status = running.0.wait().await?;
    Ok((status.success(), String::from_utf8_lossy(&said).into()))
}

/// A program that runs, in a process group of its own. All of the group ends when it is given up.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has no id any more once it has ended and was waited for.
        let id = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            // Gone already is what is wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
