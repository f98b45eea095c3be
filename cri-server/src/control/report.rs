//! `wherryd debug report`: all that a report of a fault should have, as one text that its sender can
//! read before he sends it. Secrets are left out: of the configuration what looks like one, of
//! containers their commands, environments and annotations, of registries everything.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{client, debug};
use crate::cli::Flags;
use crate::config::{self, Settings};
use crate::inspection;

/// How long a program may take to tell its version.
const VERSION_PATIENCE: Duration = Duration::from_secs(5);
/// What is put in the place of a secret.
const LEFT_OUT: &str = "(left out)";
/// Words in the names of keys whose values nobody else is to see.
const SECRET: [&str; 6] = [
    "password",
    "passwd",
    "secret",
    "token",
    "auth",
    "credential",
];

/// Writes the report to a file, or prints it.
///
/// # Errors
///
/// It cannot be written. What cannot be found out is told in the report.
pub(crate) async fn report(settings: &Settings, flags: &Flags, file: Option<&Path>) -> Result<()> {
    let text = compose(settings, flags).await;
    let Some(file) = file else {
        return client::print(&text);
    };
    std::fs::write(file, text).with_context(|| format!("writing {file:?}"))
}

async fn compose(settings: &Settings, flags: &Flags) -> String {
    let engine = &settings.engine;
    let mut report = Report::default();
    let own = concat!("wherryd ", env!("CARGO_PKG_VERSION"));
    report.section("versions", own);
    report.add(&version(&engine.shim).await);
    for runtime in engine.runtimes.values() {
        report.add(&version(&runtime.path).await);
    }
    let uname = rustix::system::uname();
    let words = [
        uname.sysname(),
        uname.release(),
        uname.version(),
        uname.machine(),
    ];
    let words = words.map(|word| word.to_string_lossy().into_owned());
    report.section("kernel", &words.join(" "));
    report.section("system", &read(Path::new("/etc/os-release")));
    report.section("load", &read(Path::new("/proc/loadavg")));
    report.section("memory", &first_lines(&read(Path::new("/proc/meminfo")), 5));
    let values = crate::programs();
    let values = values.and_then(|programs| config::print(None, false, flags, &programs));
    let values = values.unwrap_or_else(|error| error.to_string());
    report.section("configuration", &without_secrets(&values));
    report.section("check", &inspection::text(settings));
    match debug::ask(settings, true).await {
        Ok(now) => {
            report.section("daemon", &debug::text(&now));
            let log: Vec<String> = now.log.iter().map(|line| without_userinfo(line)).collect();
            report.section("last lines of the log", &log.join("\n"));
            let metrics = client::metrics_text(settings).await;
            report.section(
                "metrics",
                &metrics.unwrap_or_else(|error| error.to_string()),
            );
        }
        Err(error) => report.section("daemon", &format!("{error:#}")),
    }
    report.0
}

/// The text so far.
#[derive(Default)]
struct Report(String);

impl Report {
    fn section(&mut self, name: &str, text: &str) {
        self.0 += &format!("==== {name}\n");
        self.add(text);
    }

    fn add(&mut self, text: &str) {
        self.0 += text.trim_end();
        self.0.push('\n');
    }
}

fn read(path: &Path) -> String {
    match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => format!("{}: {error}", path.display()),
    }
}

fn first_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().take(count).collect();
    lines.join("\n")
}

/// What a program says to `--version`, in one line.
async fn version(program: &Path) -> String {
    #[expect(
        clippy::disallowed_methods,
        reason = "it is waited for here, and killed when it takes too long"
    )]
    let mut command = tokio::process::Command::new(program);
    command
        .arg("--version")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    let said = match tokio::time::timeout(VERSION_PATIENCE, command.output()).await {
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stdout)
            .lines()
            .collect::<Vec<_>>()
            .join("; "),
        Ok(Err(error)) => error.to_string(),
        Err(_elapsed) => format!("no answer within {VERSION_PATIENCE:?}"),
    };
    format!("{}: {said}", program.display())
}

/// A configuration without the values of keys that sound like secrets, and without user and password
/// in addresses.
fn without_secrets(text: &str) -> String {
    let line = |line: &str| {
        let key = line.split_once(['=', ' ']).map(|(key, _)| key);
        let lower = key.unwrap_or_default().to_lowercase();
        match key {
            Some(key) if SECRET.iter().any(|word| lower.contains(word)) => {
                format!("{key} {LEFT_OUT}")
            }
            _ => without_userinfo(line),
        }
    };
    let lines: Vec<String> = text.lines().map(line).collect();
    lines.join("\n")
}

/// `scheme://user:password@host` without what is before the `@`.
fn without_userinfo(line: &str) -> String {
    let mut told = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        told += before;
        let ends = |letter: char| "/ \"'<>,;)".contains(letter);
        let end = after.find(ends).unwrap_or(after.len());
        let (authority, further) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => told += &format!("{LEFT_OUT}@{host}"),
            None => told += authority,
        }
        rest = further;
    }
    told + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out() {
        let text = "root = \"/r\"\nproxy = \"http://me:pw@host:80/x\"\nproxy_password=\"pw\"\n\
            # see https://example.com/a@b";
        let expect = "root = \"/r\"\nproxy = \"http://(left out)@host:80/x\"\n\
            proxy_password (left out)\n# see https://example.com/a@b";
        assert_eq!(without_secrets(text), expect);
    }

    #[test]
    fn addresses_without_users() {
        for (line, expect) in [
            ("", ""),
            ("://", "://"),
            (
                "x https://u@h https://v:w@i/",
                "x https://(left out)@h https://(left out)@i/",
            ),
        ] {
            assert_eq!(without_userinfo(line), expect, "{line}");
        }
    }
}
