//! The table `[images]`: what is there from the beginning, and how it is kept whole.

use std::path::PathBuf;
use std::time::Duration;

use image::Scrub;

use super::file::ImagesFile;
use super::{Error, absolute, refuse};

/// Most bytes of layers that are read in a second while nothing is wrong, unless the file says
/// otherwise: an hour for each 14 GiB, at the lowest priority.
const SCRUB_RATE: u64 = 4 << 20;
/// Time from one look at all layers to the next.
const SCRUB_EVERY: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The folder of archives, if there is one.
pub(super) fn preload(file: &ImagesFile) -> Result<Option<PathBuf>, Error> {
    let folder = file.preload.as_deref();
    folder
        .map(|path| absolute("images.preload", path))
        .transpose()
}

/// How layers are looked at in the background; a rate of 0 says that they are not.
pub(super) fn scrub(file: &ImagesFile) -> Result<Option<Scrub>, Error> {
    let rate = match file.scrub_rate.as_deref() {
        None => SCRUB_RATE,
        // As a size 0 would be none at all, which is refused.
        Some("0") => 0,
        Some(text) => pod::plan::bytes(text).ok_or_else(|| {
            let reason = format!("{text:?} is no number of bytes a second such as 4Mi or 0");
            refuse("images.scrub_rate", reason)
        })?,
    };
    let scrub = Scrub {
        rate,
        every: SCRUB_EVERY,
    };
    Ok((rate > 0).then_some(scrub))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Result<Option<u64>, String> {
        let file = ImagesFile {
            scrub_rate: Some(text.into()),
            ..ImagesFile::default()
        };
        let scrub = scrub(&file).map_err(|error| error.to_string())?;
        Ok(scrub.map(|scrub| scrub.rate))
    }

    #[test]
    fn rates() {
        assert_eq!(rate("1Mi"), Ok(Some(1 << 20)));
        assert_eq!(rate("0"), Ok(None));
        assert!(rate("fast").is_err_and(|error| error.starts_with("images.scrub_rate: ")));
        assert_eq!(
            scrub(&ImagesFile::default()).unwrap().unwrap().rate,
            SCRUB_RATE
        );
    }
}
