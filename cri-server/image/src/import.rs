//! Imports.
use std::path::Path;

use crate::{Error, Store};

pub(crate) fn import(_store: &Store, _path: &Path) -> Result<Vec<String>, Error> {
    Err(Error::Other("later".into()))
}
