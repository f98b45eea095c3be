//! The configuration file: its keys, each read once by name and type.
//!
//! [`Section`] knows which keys were asked for; whatever else the file holds is refused by name.
//! Whether the values make sense is not decided here.

use std::collections::BTreeMap;

use crate::toml_section::{KeyError, Section};

/// The configuration file: every key, each absent or of the right type.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) listen: Option<String>,
    pub(super) root: Option<String>,
    pub(super) state: Option<String>,
    pub(super) registry_config: Option<String>,
    pub(super) default_runtime: Option<String>,
    pub(super) cgroup_driver: Option<String>,
    pub(super) cdi_spec_dirs: Option<Vec<String>>,
    pub(super) runtimes: BTreeMap<String, String>,
    pub(super) images: ImagesFile,
    pub(super) signatures: SignaturesFile,
    pub(super) network: NetworkFile,
    pub(super) streaming: StreamingFile,
    pub(super) containerd: Option<String>,
    pub(super) limits: LimitsFile,
    pub(super) log_level: Option<String>,
}

/// Its table `[images]`.
#[derive(Debug, Default)]
pub(super) struct ImagesFile {
    pub(super) layer_form: Option<String>,
    pub(super) preload: Option<String>,
    pub(super) scrub_rate: Option<String>,
}

/// Its table `[signatures]`.
#[derive(Debug, Default)]
pub(super) struct SignaturesFile {
    pub(super) policy: Option<String>,
    pub(super) verifiers: Option<String>,
    pub(super) verifier_time: Option<String>,
}

/// Its table `[network]`.
#[derive(Debug, Default)]
pub(super) struct NetworkFile {
    pub(super) mode: Option<String>,
    pub(super) bridge: Option<String>,
    pub(super) subnet: Option<String>,
    pub(super) routed: Option<Vec<String>>,
    pub(super) cni_conf_dir: Option<String>,
    pub(super) cni_bin_dirs: Option<Vec<String>>,
    pub(super) cni_cache_dir: Option<String>,
}

/// Its table `[streaming]`.
#[derive(Debug, Default)]
pub(super) struct StreamingFile {
    pub(super) address: Option<String>,
    pub(super) certificate: Option<String>,
    pub(super) key: Option<String>,
}

/// Its table `[limits]`.
#[derive(Debug, Default)]
pub(super) struct LimitsFile {
    pub(super) writable_layer: Option<String>,
    pub(super) log: Option<String>,
}

impl File {
    pub(super) fn parse(table: toml::Table) -> Result<Self, KeyError> {
        let mut top = Section::top(table);
        let file = Self {
            listen: top.string("listen")?,
            root: top.string("root")?,
            state: top.string("state")?,
            registry_config: top.string("registry_config")?,
            default_runtime: top.string("default_runtime")?,
            cgroup_driver: top.string("cgroup_driver")?,
            cdi_spec_dirs: top.strings("cdi_spec_dirs")?,
            runtimes: runtimes(top.section("runtimes")?)?,
            images: ImagesFile::parse(top.section("images")?)?,
            signatures: SignaturesFile::parse(top.section("signatures")?)?,
            network: NetworkFile::parse(top.section("network")?)?,
            streaming: StreamingFile::parse(top.section("streaming")?)?,
            containerd: containerd(top.section("containerd")?)?,
            limits: LimitsFile::parse(top.section("limits")?)?,
            log_level: log_level(top.section("log")?)?,
        };
        top.finish()?;
        Ok(file)
    }
}

impl SignaturesFile {
    fn parse(mut section: Section) -> Result<Self, KeyError> {
        let signatures = Self {
            policy: section.string("policy")?,
            verifiers: section.string("verifiers")?,
            verifier_time: section.string("verifier_time")?,
        };
        section.finish()?;
        Ok(signatures)
    }
}

impl ImagesFile {
    fn parse(mut section: Section) -> Result<Self, KeyError> {
        let images = Self {
            layer_form: section.string("layer_form")?,
            preload: section.string("preload")?,
            scrub_rate: section.string("scrub_rate")?,
        };
        section.finish()?;
        Ok(images)
    }
}

impl NetworkFile {
    fn parse(mut section: Section) -> Result<Self, KeyError> {
        let network = Self {
            mode: section.string("mode")?,
            bridge: section.string("bridge")?,
            subnet: section.string("subnet")?,
            routed: section.strings("routed")?,
            cni_conf_dir: section.string("cni_conf_dir")?,
            cni_bin_dirs: section.strings("cni_bin_dirs")?,
            cni_cache_dir: section.string("cni_cache_dir")?,
        };
        section.finish()?;
        Ok(network)
    }
}

impl StreamingFile {
    fn parse(mut section: Section) -> Result<Self, KeyError> {
        let streaming = Self {
            address: section.string("address")?,
            certificate: section.string("certificate")?,
            key: section.string("key")?,
        };
        section.finish()?;
        Ok(streaming)
    }
}

impl LimitsFile {
    fn parse(mut section: Section) -> Result<Self, KeyError> {
        let limits = Self {
            writable_layer: section.string("writable_layer")?,
            log: section.string("log")?,
        };
        section.finish()?;
        Ok(limits)
    }
}

/// `[runtimes.NAME] path = "..."`.
fn runtimes(section: Section) -> Result<BTreeMap<String, String>, KeyError> {
    let mut runtimes = BTreeMap::new();
    for (name, mut runtime) in section.sections()? {
        let path = runtime.string("path")?;
        runtime.finish()?;
        let path = path.ok_or_else(|| KeyError::missing(format!("runtimes.{name}.path")))?;
        runtimes.insert(name, path);
    }
    Ok(runtimes)
}

/// `[containerd] listen = "..."`.
fn containerd(mut section: Section) -> Result<Option<String>, KeyError> {
    let listen = section.string("listen")?;
    section.finish()?;
    Ok(listen)
}

/// `[log] level = "..."`.
fn log_level(mut section: Section) -> Result<Option<String>, KeyError> {
    let level = section.string("level")?;
    section.finish()?;
    Ok(level)
}
