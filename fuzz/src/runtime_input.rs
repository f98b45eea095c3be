//! What `wrun` reads: configurations, mount options, command lines.

/// `config.json` to a plan.
pub(crate) fn config(bytes: &[u8]) {
    let _planned = runtime::judge::config(bytes);
}

/// Options of a mount, separated by commas.
pub(crate) fn mount_options(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        runtime::judge::mount_options(text);
    }
}

/// Words of a command line, separated by zero bytes.
pub(crate) fn command_line(bytes: &[u8]) {
    let words = bytes.split(|byte| *byte == 0);
    let words: Vec<String> = words
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let _makes_sense = runtime::judge::command_line(&words);
}
