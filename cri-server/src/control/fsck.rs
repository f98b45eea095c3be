//! `wherryd images fsck`: by the running daemon if there is one, else by opening its store here.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use control_api::finding::{Outcome as ShownOutcome, Subject as ShownSubject};
use control_api::{CheckImagesRequest, CheckImagesResponse, Finding};
use image::{Checked, Outcome, Store, Subject};

use super::client;
use crate::config::Settings;
use crate::{serve, socket};

/// The exit code if damage is left (fsck(8)).
const DAMAGE_LEFT: u8 = 4;

/// Compares the store with what was received, prints what is found, and says how it is.
///
/// # Errors
///
/// That could not be found out.
pub(crate) async fn fsck(settings: &Settings, repair: bool) -> Result<ExitCode> {
    serve::check_user()?;
    let checked = match socket::check_free(&settings.engine.state.join(control_api::SOCKET)) {
        Err(socket::Error::InUse(_)) => {
            let mut client = client::connect(&settings.engine.state).await?;
            let request = CheckImagesRequest { repair };
            let checked = client.check_images(request).await;
            checked
                .map_err(|status| client::told(&status))?
                .into_inner()
        }
        other => {
            other?;
            check_here(settings, repair).await?
        }
    };
    client::print(&text(&checked))?;
    let bad = checked.findings.iter().any(|finding| {
        matches!(
            finding.outcome(),
            ShownOutcome::Left | ShownOutcome::Failed | ShownOutcome::Unspecified
        )
    });
    Ok(if bad {
        ExitCode::from(DAMAGE_LEFT)
    } else {
        ExitCode::SUCCESS
    })
}

/// Opens the store as a start of the daemon would: what did not survive a power cut goes now.
async fn check_here(settings: &Settings, repair: bool) -> Result<CheckImagesResponse> {
    let config = image::Config {
        scrub: None,
        ..settings.engine.image.clone()
    };
    let store = Store::open(&config).context("opening the image store")?;
    Ok(shown(store.check(repair).await?))
}

/// What was found, as it is sent.
pub(super) fn shown(checked: Checked) -> CheckImagesResponse {
    CheckImagesResponse {
        whole: checked.whole as u64,
        unknown: checked.unknown as u64,
        findings: checked.findings.into_iter().map(finding).collect(),
    }
}

fn finding(found: image::Finding) -> Finding {
    let subject = match found.subject {
        Subject::Layer => ShownSubject::Layer,
        Subject::Record => ShownSubject::Record,
        Subject::Stray => ShownSubject::Stray,
    };
    let (outcome, detail) = match found.outcome {
        Outcome::Left => (ShownOutcome::Left, String::new()),
        Outcome::Repaired => (ShownOutcome::Repaired, String::new()),
        Outcome::Removed(why) => (ShownOutcome::Removed, why),
        Outcome::Failed(why) => (ShownOutcome::Failed, why),
    };
    Finding {
        subject: subject.into(),
        name: found.name,
        reason: found.reason,
        images: found.images,
        outcome: outcome.into(),
        detail,
    }
}

/// A line for each finding, and one for the whole.
fn text(checked: &CheckImagesResponse) -> String {
    let mut text: String = checked.findings.iter().map(line).collect();
    text += &format!("{} layers are whole", checked.whole);
    if checked.unknown > 0 {
        text += &format!(", {} are too old to be judged", checked.unknown);
    }
    text += &format!(", {} findings\n", checked.findings.len());
    text
}

fn line(finding: &Finding) -> String {
    let subject = match finding.subject() {
        ShownSubject::Layer => "layer",
        ShownSubject::Record => "record",
        ShownSubject::Stray => "stray",
        ShownSubject::Unspecified => "something",
    };
    let outcome = match finding.outcome() {
        ShownOutcome::Repaired => "repaired".to_owned(),
        ShownOutcome::Removed => format!("its images were removed: {}", finding.detail),
        ShownOutcome::Failed => format!("not repaired: {}", finding.detail),
        ShownOutcome::Left | ShownOutcome::Unspecified => "damaged".to_owned(),
    };
    let images = match &finding.images[..] {
        [] => String::new(),
        images => format!(" (of {})", images.join(", ")),
    };
    format!(
        "{subject} {}{images}: {}: {outcome}\n",
        finding.name, finding.reason
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_finding() {
        let found = |outcome| image::Finding {
            subject: Subject::Layer,
            name: "sha256:ab".into(),
            reason: "\"a\" is missing".into(),
            images: vec!["sha256:cd".into()],
            outcome,
        };
        let checked = Checked {
            whole: 3,
            unknown: 1,
            findings: vec![
                found(Outcome::Left),
                found(Outcome::Removed("no name".into())),
            ],
        };
        let expect = "\
layer sha256:ab (of sha256:cd): \"a\" is missing: damaged
layer sha256:ab (of sha256:cd): \"a\" is missing: its images were removed: no name
3 layers are whole, 1 are too old to be judged, 2 findings
";
        assert_eq!(text(&shown(checked)), expect);
    }
}
