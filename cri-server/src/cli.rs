//! The command line: what may be typed, nothing of what it means.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// How the daemon calls itself to unpack a layer.
pub(crate) const UNPACK_WORKER: &str = "unpack-worker";

/// A node engine: pods and containers for Kubernetes' Container Runtime Interface.
///
/// Without a command it serves.
#[derive(Debug, Parser)]
#[command(name = "wherryd", disable_version_flag = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) flags: Flags,
    /// Print the versions of wherryd, wherry-shim and wrun, and whether they fit
    #[arg(short = 'V', long)]
    pub(crate) version: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Flags of the daemon and of all its commands; each beats its key in the configuration file.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Flags {
    /// Socket on which CRI is served [default: unix:///run/wherry/wherryd.sock]
    #[arg(long, global = true, value_name = "unix://PATH")]
    pub(crate) listen: Option<String>,
    /// Folder for what must survive a reboot [default: /var/lib/wherry]
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(crate) root: Option<PathBuf>,
    /// Folder for what must not survive a reboot [default: /run/wherry]
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(crate) state: Option<PathBuf>,
    /// Configuration file; need not exist unless given [default: /etc/wherry/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Folder with <host>/hosts.toml for registries [default: /etc/wherry/certs.d]
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(crate) registry_config: Option<PathBuf>,
    /// File that names the present boot; another one stands for a reboot
    #[arg(
        long,
        global = true,
        hide = true,
        default_value = "/proc/sys/kernel/random/boot_id"
    )]
    pub(crate) boot_id_file: PathBuf,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look at and change images
    #[command(subcommand)]
    Images(Images),
    /// Look at what this host has and lacks to run pods; changes nothing
    ///
    /// Ends with 1 if no pod can run.
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what every key of the configuration comes to, and which file, flag or default says so
    Config {
        /// Print JSON
        #[arg(long, global = true)]
        json: bool,
        #[command(subcommand)]
        command: Option<ConfigCommand>,
    },
    /// Unpack one layer, as the daemon says on standard input; for the daemon only
    #[command(hide = true, name = UNPACK_WORKER)]
    UnpackWorker,
    /// Take over what containerd or CRI-O was told on this node, and the images that it has
    ///
    /// Nothing of theirs is changed. What has no equal is named. Ends with 1 if an image could not be
    /// taken along.
    Migrate(Migrate),
    /// Say what the running daemon does now, for how long, and what waits for what
    #[command(args_conflicts_with_subcommands = true)]
    Debug {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(subcommand)]
        command: Option<Debug>,
    },
    /// Print the daemon's metrics, in Prometheus' text format
    Metrics {
        /// Print what there is, as the page docs/metrics.md; needs no daemon
        #[arg(long)]
        markdown: bool,
    },
    /// Stop everything and remove every process, link, rule, mount and file of this daemon
    Reset {
        /// Leave the images where they are
        #[arg(long)]
        keep_images: bool,
    },
    /// Print what a shell has to read to complete this command line
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of wherryd and its commands
    #[command(hide = true)]
    Man {
        /// Where to
        folder: PathBuf,
    },
}

/// What to take over, and from whom.
#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// Whose things they are [default: the one that is here]
    #[arg(long, value_enum)]
    pub(crate) from: Option<Other>,
    /// Their configuration [default: /etc/containerd/config.toml, /etc/crio/crio.conf]
    #[arg(long, value_name = "FILE")]
    pub(crate) source: Option<PathBuf>,
    /// Folder of registries.conf, policy.json and storage.conf, for CRI-O
    #[arg(long, value_name = "FOLDER", default_value = "/etc/containers")]
    pub(crate) containers: PathBuf,
    /// Folder with their images [default: as their configuration says]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) store: Option<PathBuf>,
    /// Only one part of it
    #[arg(long, value_enum)]
    pub(crate) only: Option<Part>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Replace files that are there
    #[arg(long)]
    pub(crate) force: bool,
}

/// Another engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Other {
    /// containerd
    Containerd,
    /// CRI-O
    #[value(name = "cri-o", alias = "crio")]
    Crio,
}

/// A part of what is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// What it was told
    Config,
    /// Its images
    Images,
}

/// What else to say of the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print a file with every key, its meaning and its default
    Defaults,
    /// Look at a file before it is put in place
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print docs/configuration.md
    #[command(hide = true)]
    Markdown,
    /// Print the manual page wherryd.toml(5)
    #[command(hide = true)]
    Man,
}

/// More than what the daemon does now.
#[derive(Debug, Subcommand)]
pub(crate) enum Debug {
    /// Write all that a report of a fault should have to one file, without secrets; works without a
    /// daemon, too
    Report {
        /// The file; what is there is replaced [default: standard output]
        file: Option<PathBuf>,
    },
}

/// What to do with images.
#[derive(Debug, Subcommand)]
pub(crate) enum Images {
    /// List all images
    List,
    /// Get an image from its registry
    Pull {
        /// Its name
        reference: String,
    },
    /// Say where an image would come from: hosts in order, proxies, certificates, credentials
    Explain {
        /// Its name
        reference: String,
    },
    /// Read an OCI layout (folder or tar) or a docker archive
    Import {
        /// Where it lies
        file: PathBuf,
    },
    /// Write images to an archive: an OCI layout that is also one of docker
    Export {
        /// The archive; what is there is replaced
        file: PathBuf,
        /// Tags, digests or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Compare all layers and records with what was received; works without a daemon, too
    ///
    /// Ends with 0 if all is whole (or is again), with 4 if damage is left, with 1 if that could not
    /// be found out.
    Fsck {
        /// Fetch what is damaged again; remove images that cannot be had
        #[arg(long)]
        repair: bool,
    },
    /// Remove images with all their names
    Remove {
        /// Tags, digests or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
}
