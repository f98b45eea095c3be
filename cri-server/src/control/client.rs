//! The commands' end of the operator's socket: asks the running daemon, prints for a person.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use control_api::control_client::ControlClient;
use control_api::pull_image_update::Update;
use control_api::{
    ExplainImageRequest, ExportImagesRequest, Image, ImportImagesRequest, ListImagesRequest,
    MetricsRequest, PullImageRequest, RemoveImageRequest,
};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::bar::Shown;
use super::fsck;
use crate::cli::Images;
use crate::config::Settings;

/// Digits of an id that are shown, as other tools do.
pub(super) const SHORT_ID: usize = 12;
const KIB: u64 = 1024;

/// Connects to the daemon whose state lies in `state`.
///
/// # Errors
///
/// No daemon listens there.
pub(crate) async fn connect(state: &Path) -> Result<ControlClient<Channel>> {
    let path = state.join(control_api::SOCKET);
    let target = format!(
        "unix://{}",
        path.to_str().context("the state folder is not UTF-8")?
    );
    let channel = Endpoint::from_shared(target)?
        .connect()
        .await
        .map_err(|error| {
            let error = anyhow::Error::from(error);
            // The layers in between repeat the one cause.
            let cause = error.root_cause();
            anyhow!("no daemon answers on {path:?}, is wherryd running?: {cause}")
        })?;
    Ok(ControlClient::new(channel))
}

/// Prints the daemon's metrics.
///
/// # Errors
///
/// No daemon listens.
pub(crate) async fn metrics(settings: &Settings) -> Result<()> {
    print(&metrics_text(settings).await?)
}

/// The daemon's metrics.
pub(super) async fn metrics_text(settings: &Settings) -> Result<String> {
    let mut client = connect(&settings.engine.state).await?;
    let answer = client.metrics(MetricsRequest {}).await;
    let answer = answer.map_err(|status| told(&status))?;
    Ok(answer.into_inner().text)
}

/// Runs a command on images.
///
/// # Errors
///
/// No daemon listens, or it refuses; the text is the daemon's.
pub(crate) async fn images(settings: &Settings, command: &Images) -> Result<ExitCode> {
    if let Images::Fsck { repair } = command {
        return Box::pin(fsck::fsck(settings, *repair)).await;
    }
    let client = connect(&settings.engine.state).await?;
    ask(client, command).await.map(|()| ExitCode::SUCCESS)
}

async fn ask(mut client: ControlClient<Channel>, command: &Images) -> Result<()> {
    match command {
        // It works without a daemon, too.
        Images::Fsck { .. } => Ok(()),
        Images::List => {
            let listed = client
                .list_images(ListImagesRequest {})
                .await
                .map_err(|status| told(&status))?;
            print(&table(&listed.into_inner().images))
        }
        Images::Pull { reference } => {
            let id = pull(&mut client, reference).await?;
            print(&format!("{id}\n"))
        }
        Images::Explain { reference } => {
            let reference = reference.clone();
            let explained = client
                .explain_image(ExplainImageRequest { reference })
                .await
                .map_err(|status| told(&status))?;
            print(&lines(&explained.into_inner().lines))
        }
        Images::Import { file } => {
            let path = std::fs::canonicalize(file).with_context(|| format!("finding {file:?}"))?;
            let path = path.into_os_string().into_string();
            let path = path.map_err(|path| anyhow!("{path:?} is not UTF-8"))?;
            let imported = client
                .import_images(ImportImagesRequest { path })
                .await
                .map_err(|status| told(&status))?;
            print(&lines(&imported.into_inner().ids))
        }
        Images::Export { file, names } => {
            let path = std::path::absolute(file).with_context(|| format!("finding {file:?}"))?;
            let path = path.into_os_string().into_string();
            let request = ExportImagesRequest {
                names: names.clone(),
                path: path.map_err(|path| anyhow!("{path:?} is not UTF-8"))?,
            };
            let exported = client.export_images(request).await;
            exported.map(drop).map_err(|status| told(&status))
        }
        Images::Remove { names } => {
            for name in names {
                let request = RemoveImageRequest { name: name.clone() };
                client
                    .remove_image(request)
                    .await
                    .map_err(|status| told(&status))?;
            }
            Ok(())
        }
    }
}

/// Gets an image, and shows how far it is.
async fn pull(client: &mut ControlClient<Channel>, reference: &str) -> Result<String> {
    let request = PullImageRequest {
        reference: reference.to_owned(),
    };
    let answered = client.pull_image_shown(request.clone()).await;
    let mut updates = match answered {
        Ok(updates) => updates.into_inner(),
        // An older daemon.
        Err(status) if status.code() == tonic::Code::Unimplemented => {
            let pulled = client.pull_image(request).await;
            return Ok(pulled.map_err(|status| told(&status))?.into_inner().id);
        }
        Err(status) => return Err(told(&status)),
    };
    let mut shown = Shown::new();
    let ended = loop {
        match updates.message().await {
            Ok(Some(message)) => match message.update {
                Some(Update::Pull(pull)) => shown.update(&pull),
                Some(Update::Id(id)) => break Ok(id),
                None => {}
            },
            Ok(None) => break Err(anyhow!("the daemon has ended before the pull")),
            Err(status) => break Err(told(&status)),
        }
    };
    shown.finish();
    ended
}

/// The daemon's words, without gRPC's around them.
pub(crate) fn told(status: &Status) -> anyhow::Error {
    match status.code() {
        tonic::Code::Unimplemented => anyhow!("the running daemon does not know this command"),
        _ => anyhow!("{}", status.message()),
    }
}

pub(crate) fn print(text: &str) -> Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("printing")
}

fn lines(ids: &[String]) -> String {
    ids.iter().map(|id| format!("{id}\n")).collect()
}

/// One line a name: name, short id, size.
fn table(images: &[Image]) -> String {
    let rows: Vec<[String; 3]> = images.iter().flat_map(rows).collect();
    let header = ["NAME", "ID", "SIZE"].map(str::to_owned);
    let width = |column: usize| {
        rows.iter()
            .chain([&header])
            .map(|row| row[column].len())
            .max()
            .unwrap_or_default()
    };
    let (name, id) = (width(0), width(1));
    let line = |row: &[String; 3]| format!("{:name$}  {:id$}  {}\n", row[0], row[1], row[2]);
    [&header].into_iter().chain(&rows).map(line).collect()
}

fn rows(image: &Image) -> Vec<[String; 3]> {
    let id = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
    let short: String = id.chars().take(SHORT_ID).collect();
    let names = if image.tags.is_empty() {
        &image.digests
    } else {
        &image.tags
    };
    let row = |name: &str| [name.to_owned(), short.clone(), size(image.size)];
    if names.is_empty() {
        vec![row("-")]
    } else {
        names.iter().map(|name| row(name)).collect()
    }
}

/// Bytes for a person: three figures at most.
fn size(bytes: u64) -> String {
    let mut value = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < KIB {
            return format!("{value} {unit}");
        }
        value = value.div_ceil(KIB);
    }
    format!("{value} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, expect) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1025, "2 KiB"),
            (5 << 30, "5 GiB"),
        ] {
            assert_eq!(size(bytes), expect);
        }
    }

    #[test]
    fn a_line_for_each_name() {
        let image = |tags: &[&str]| Image {
            id: format!("sha256:{}", "ab".repeat(32)),
            tags: tags.iter().map(|&tag| tag.into()).collect(),
            digests: vec![],
            size: 2048,
        };
        let text = table(&[image(&["docker.io/library/a:1", "b:2"]), image(&[])]);
        let expect = "\
NAME                   ID            SIZE
docker.io/library/a:1  abababababab  2 KiB
b:2                    abababababab  2 KiB
-                      abababababab  2 KiB
";
        assert_eq!(text, expect);
    }
}
