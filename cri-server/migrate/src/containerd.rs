//! What containerd was told: its config.toml in versions 2 and 3, with imports.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::json;
use toml::Value;

use crate::tree::Tree;
use crate::{Error, File, Moved, RDT_FILE, children, plugins, program};

/// Where containerd keeps what survives, unless told otherwise.
const ROOT: &str = "/var/lib/containerd";
/// Most files that imports may name.
const MAX_IMPORTS: usize = 100;
/// The shim of containerd whose containers any program like runc makes.
const RUNC_SHIM: &str = "io.containerd.runc.v2";

/// What containerd was told, and where it keeps its things.
#[derive(Debug)]
pub struct Containerd {
    /// In our words.
    pub moved: Moved,
    /// Its folder for what survives.
    pub root: PathBuf,
}

/// Reads containerd's configuration; a file that does not exist says nothing.
///
/// # Errors
///
/// A file cannot be read, or is of a version that is not known.
pub fn configuration(path: &Path) -> Result<Containerd, Error> {
    let mut tree = read(path)?;
    let version = tree.take(&["version"]).and_then(|value| value.as_integer());
    let places = match version {
        Some(2) => Places::two(),
        Some(3 | 4) => Places::three(),
        None if tree.0.is_empty() => Places::three(),
        other => {
            let version = other.unwrap_or(1);
            let reason = format!(
                "version {version} of the format is not known; `containerd config migrate` writes a newer one"
            );
            return Err(Error::unreadable(path, reason));
        }
    };
    let root = tree.text(&["root"]).unwrap_or_else(|| ROOT.into());
    let mut moved = Moved::default();
    Mover {
        tree: &mut tree,
        places: &places,
        moved: &mut moved,
    }
    .all(path.parent().unwrap_or(Path::new("/")))?;
    tree.name_rest("", &|key| reason(key), &mut moved);
    let root = root.into();
    Ok(Containerd { moved, root })
}

fn read(path: &Path) -> Result<Tree, Error> {
    let mut tree = Tree::default();
    if !path.exists() {
        return Ok(tree);
    }
    tree.read_over(path)?;
    let imports = tree.texts(&["imports"]).unwrap_or_default();
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut files = Vec::new();
    for import in imports {
        files.extend(expand(&folder.join(import))?);
    }
    for file in files.iter().take(MAX_IMPORTS) {
        tree.read_over(file)?;
        tree.take(&["imports"]);
    }
    Ok(tree)
}

/// The files that a pattern with `*` in its last part names.
fn expand(pattern: &Path) -> Result<Vec<PathBuf>, Error> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy();
    let Some((start, end)) = name.split_once('*') else {
        return Ok(vec![pattern.into()]);
    };
    let mut files = children(pattern.parent().unwrap_or(Path::new("/")))?;
    files.retain(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
    });
    Ok(files)
}

/// Where the parts of the CRI plugin stand in a version of the format.
struct Places {
    runtime: [&'static str; 2],
    images: [&'static str; 2],
    server: [&'static str; 2],
}

impl Places {
    fn two() -> Self {
        let cri = ["plugins", "io.containerd.grpc.v1.cri"];
        Self {
            runtime: cri,
            images: cri,
            server: cri,
        }
    }

    fn three() -> Self {
        Self {
            runtime: ["plugins", "io.containerd.cri.v1.runtime"],
            images: ["plugins", "io.containerd.cri.v1.images"],
            server: ["plugins", "io.containerd.grpc.v1.cri"],
        }
    }
}

/// A key in a part of the CRI plugin.
fn at<'a>(place: [&'a str; 2], path: &[&'a str]) -> Vec<&'a str> {
    place.iter().chain(path).copied().collect()
}

struct Mover<'a> {
    tree: &'a mut Tree,
    places: &'a Places,
    moved: &'a mut Moved,
}

impl Mover<'_> {
    fn all(&mut self, folder: &Path) -> Result<(), Error> {
        self.runtimes();
        self.network();
        self.streaming();
        self.devices();
        self.images();
        self.registries(folder)?;
        self.nri();
        self.classes();
        if let Some(address) = self.tree.text(&["metrics", "address"]) {
            self.moved
                .set(&["metrics", "address"], address, "metrics.address");
        }
        if let Some(level) = self.tree.text(&["debug", "level"]) {
            let level = match level.as_str() {
                "fatal" | "panic" => "error",
                level => level,
            };
            self.moved.set(&["log", "level"], level, "debug.level");
        }
        Ok(())
    }

    fn runtimes(&mut self) {
        let place = self.places.runtime;
        let default = self
            .tree
            .text(&at(place, &["containerd", "default_runtime_name"]));
        let default = default.unwrap_or_else(|| "runc".into());
        let runtimes = self.tree.table(&at(place, &["containerd", "runtimes"]));
        for (name, value) in runtimes.0 {
            let Value::Table(table) = value else { continue };
            self.runtime(&name, Tree(table), name == default);
        }
    }

    fn runtime(&mut self, name: &str, mut runtime: Tree, is_default: bool) {
        let key = format!("runtimes.{name}");
        let kind = runtime
            .text(&["runtime_type"])
            .unwrap_or_else(|| RUNC_SHIM.into());
        if kind != RUNC_SHIM {
            let why = "its shim speaks containerd's protocol; wherryd runs programs with runc's command line, \
                       so name that program in [runtimes] if there is one";
            self.moved
                .unlike(format!("{key}.runtime_type = {kind:?}"), why);
            return;
        }
        let own_path = runtime.text(&["runtime_path"]);
        let binary = runtime.text(&["options", "BinaryName"]).or(own_path);
        let binary = binary.unwrap_or_else(|| "runc".into());
        match program(&binary) {
            Some(path) => {
                let path = path.display().to_string();
                self.moved.set(
                    &["runtimes", name, "path"],
                    path,
                    &format!("{key}.options.BinaryName"),
                );
            }
            None => self.moved.unlike(
                format!("{key} ({binary})"),
                "the program is not here; pods that name the handler have to name another",
            ),
        }
        let systemd = runtime.truth(&["options", "SystemdCgroup"]);
        if is_default {
            if let Some(systemd) = systemd {
                let driver = if systemd { "systemd" } else { "cgroupfs" };
                let from = format!("{key}.options.SystemdCgroup");
                self.moved.set(&["cgroup_driver"], driver, &from);
            }
            self.moved.unlike(
                format!("containerd.default_runtime_name = {name:?}"),
                format!("wrun makes the containers of pods that name no handler; default_runtime = {name:?} keeps the old way"),
            );
        }
        for list in ["pod_annotations", "container_annotations"] {
            if runtime.texts(&[list]).is_some() {
                let why =
                    "wherryd hands all annotations of a pod and of a container to its runtime";
                self.moved.unlike(format!("{key}.{list}"), why);
            }
        }
        let known = ["sandboxer", "io_type", "snapshotter"];
        for name in known {
            runtime.take(&[name]);
        }
        runtime.name_rest(&key, &|_| None, self.moved);
    }

    fn network(&mut self) {
        let place = self.places.runtime;
        // containerd knows no network but CNI's; with ours a node without a configuration would be
        // ready too early.
        self.moved.set(
            &["network", "mode"],
            "cni",
            "containerd has no network of its own",
        );
        let mut cni = self.tree.table(&at(place, &["cni"]));
        let bin_dirs = cni.texts(&["bin_dirs"]);
        let bin_dirs = bin_dirs.or_else(|| cni.text(&["bin_dir"]).map(|dir| vec![dir]));
        if let Some(dirs) = bin_dirs {
            self.moved
                .set(&["network", "cni_bin_dirs"], dirs, "cni.bin_dirs");
        }
        if let Some(dir) = cni.text(&["conf_dir"]) {
            self.moved
                .set(&["network", "cni_conf_dir"], dir, "cni.conf_dir");
        }
        cni.take(&["bin_dir"]);
        let is_one = |value: Value| value.as_integer() == Some(1);
        if cni
            .take(&["max_conf_num"])
            .is_some_and(|value| !is_one(value))
        {
            self.moved.unlike(
                "cni.max_conf_num",
                "the first configuration of the folder is used",
            );
        }
        cni.take(&["use_internal_loopback"]);
        cni.take(&["setup_serially"]);
        cni.name_rest("cni", &|key| reason(key), self.moved);
    }

    fn streaming(&mut self) {
        let place = self.places.server;
        let address = self.tree.text(&at(place, &["stream_server_address"]));
        let port = self.tree.text(&at(place, &["stream_server_port"]));
        if address.is_some() || port.is_some() {
            let address = address.unwrap_or_else(|| "127.0.0.1".into());
            let port = port.unwrap_or_else(|| "0".into());
            let address = match address.contains(':') {
                true => format!("[{address}]:{port}"),
                false => format!("{address}:{port}"),
            };
            self.moved
                .set(&["streaming", "address"], address, "stream_server_address");
        }
        let mut pair = self.tree.table(&at(place, &["x509_key_pair_streaming"]));
        let files = (pair.text(&["tls_cert_file"]), pair.text(&["tls_key_file"]));
        let on = self.tree.truth(&at(place, &["enable_tls_streaming"])) == Some(true);
        match (on, files) {
            (true, (Some(certificate), Some(key))) => {
                let from = "x509_key_pair_streaming";
                self.moved.set(&["streaming", "certificate"], certificate, from);
                self.moved.set(&["streaming", "key"], key, from);
            }
            (true, _) => self.moved.unlike(
                "enable_tls_streaming",
                "without a certificate of its own containerd makes one; wherryd wants streaming.certificate and streaming.key",
            ),
            (false, _) => {}
        }
    }

    fn devices(&mut self) {
        let place = self.places.runtime;
        if let Some(dirs) = self.tree.texts(&at(place, &["cdi_spec_dirs"])) {
            self.moved.set(&["cdi_spec_dirs"], dirs, "cdi_spec_dirs");
        }
        if self.tree.truth(&at(place, &["enable_cdi"])) == Some(false) {
            self.moved.unlike(
                "enable_cdi = false",
                "devices of CDI are there for pods that ask for them",
            );
        }
    }

    fn images(&mut self) {
        let place = self.places.images;
        let snapshotter = self.tree.text(&at(place, &["snapshotter"]));
        let old = self.tree.text(&at(place, &["containerd", "snapshotter"]));
        if let Some(name) = snapshotter.or(old).filter(|name| name != "overlayfs") {
            self.moved.unlike(
                format!("snapshotter = {name:?}"),
                "wherryd unpacks layers by itself and mounts them as an overlay",
            );
        }
        for path in [&["sandbox_image"][..], &["pinned_images"][..]] {
            if self.tree.take(&at(place, path)).is_some() {
                let why =
                    "a pod needs no image here; that of containerd is taken along, pinned as it is";
                self.moved.unlike(path.join("."), why);
            }
        }
        let verifier = ["plugins", "io.containerd.image-verifier.v1.bindir"];
        let mut verifier = self.tree.table(&verifier);
        let folder = verifier
            .text(&["bin_dir"])
            .filter(|folder| Path::new(folder).is_dir());
        if let Some(folder) = folder {
            let from = "image-verifier.v1.bindir.bin_dir";
            self.moved.set(&["signatures", "verifiers"], folder, from);
            let time = verifier.text(&["per_verifier_timeout"]);
            if let Some(time) = time.filter(|time| is_seconds(time)) {
                let from = "image-verifier.v1.bindir.per_verifier_timeout";
                self.moved.set(&["signatures", "verifier_time"], time, from);
            }
        }
    }

    fn nri(&mut self) {
        let nri = self.tree.table(&["plugins", "io.containerd.nri.v1.nri"]);
        plugins::move_over(nri, &plugins::CONTAINERD, self.moved);
    }

    fn classes(&mut self) {
        let tasks = |key| ["plugins", "io.containerd.service.v1.tasks-service", key];
        if let Some(file) = self.tree.text(&tasks("blockio_config_file")) {
            let from = "tasks-service.blockio_config_file";
            self.moved.set(&["blockio", "config"], file, from);
        }
        if let Some(file) = self.tree.text(&tasks("rdt_config_file")) {
            let key = format!("tasks-service.rdt_config_file = {file:?}");
            self.moved.unlike(key, RDT_FILE);
        }
        for (theirs, ours) in [
            ("ignore_blockio_not_enabled_errors", "blockio"),
            ("ignore_rdt_not_enabled_errors", "rdt"),
        ] {
            let place = at(self.places.runtime, &["containerd", theirs]);
            if self.tree.truth(&place) == Some(true) {
                self.moved.set(&[ours, "unavailable"], "ignore", theirs);
            }
        }
    }

    fn registries(&mut self, folder: &Path) -> Result<(), Error> {
        let place = self.places.images;
        let mut registry = self.tree.table(&at(place, &["registry"]));
        if let Some(paths) = registry.text(&["config_path"]) {
            for path in paths.split(':').filter(|path| !path.is_empty()) {
                self.moved.copy_hosts(&folder.join(path))?;
            }
        }
        let mirrors = registry.table(&["mirrors"]);
        let mut configs = registry.table(&["configs"]);
        let mut credentials = BTreeMap::new();
        for (host, value) in mirrors.0 {
            let endpoints: Vec<String> = value
                .get("endpoint")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|url| url.as_str().map(str::to_owned))
                .collect();
            self.mirror(&host, &endpoints, &configs);
        }
        for (host, value) in std::mem::take(&mut configs.0) {
            let Value::Table(table) = value else { continue };
            let mut config = Tree(table);
            let auth = config.table(&["auth"]);
            if let Some(entry) = credential(auth) {
                credentials.insert(host.clone(), entry);
            }
            let file = Path::new("certs.d").join(&host).join("hosts.toml");
            let tls = config.table(&["tls"]);
            if !tls.0.is_empty() && !self.moved.files.iter().any(|known| known.to == file) {
                let url = format!("https://{host}");
                let mut text = format!("server = {url:?}\n");
                text.push_str(&host_table(&url, &tls));
                self.text(file, text, &format!("registry.configs.{host:?}.tls"), false);
            }
        }
        if !credentials.is_empty() {
            let text = format!("{:#}\n", json!({ "auths": credentials }));
            self.text(
                "credentials.json".into(),
                text,
                "registry.configs.*.auth",
                true,
            );
        }
        registry.name_rest("registry", &|key| reason(key), self.moved);
        Ok(())
    }

    /// Mirrors as older versions have them: endpoints in order, then the registry itself.
    fn mirror(&mut self, host: &str, endpoints: &[String], configs: &Tree) {
        if endpoints.is_empty() {
            return;
        }
        let name = if host == "*" { "_default" } else { host };
        let mut text = match host {
            "*" => String::new(),
            "docker.io" => "server = \"https://registry-1.docker.io\"\n".into(),
            host => format!("server = \"https://{host}\"\n"),
        };
        for endpoint in endpoints {
            let own = endpoint.split("://").last().unwrap_or(endpoint);
            let own = own.split('/').next().unwrap_or(own);
            let tls = configs.0.get(own).and_then(|config| config.get("tls"));
            let tls = tls.and_then(Value::as_table).cloned().unwrap_or_default();
            text.push_str(&host_table(endpoint, &Tree(tls)));
        }
        let file = Path::new("certs.d").join(name).join("hosts.toml");
        let from = format!("registry.mirrors.{host:?}");
        if self.moved.files.iter().any(|known| known.to == file) {
            self.moved
                .unlike(from, "the hosts.toml of that registry says where it lies");
        } else {
            self.text(file, text, &from, false);
        }
    }

    fn text(&mut self, to: PathBuf, text: String, from: &str, secret: bool) {
        self.moved.files.push(File {
            to,
            content: text.into_bytes(),
            secret,
            from: from.to_owned(),
        });
    }
}

fn is_seconds(text: &str) -> bool {
    text.strip_suffix('s')
        .is_some_and(|number| number.parse::<u16>().is_ok())
}

/// A host of a hosts.toml.
fn host_table(url: &str, tls: &Tree) -> String {
    let mut text = format!("\n[host.{url:?}]\ncapabilities = [\"pull\", \"resolve\"]\n");
    let get = |key: &str| tls.0.get(key);
    let file = |key: &str| {
        get(key)
            .and_then(Value::as_str)
            .filter(|file| !file.is_empty())
    };
    if let Some(ca) = file("ca_file") {
        text.push_str(&format!("ca = {ca:?}\n"));
    }
    if let (Some(certificate), Some(key)) = (file("cert_file"), file("key_file")) {
        text.push_str(&format!("client = [[{certificate:?}, {key:?}]]\n"));
    }
    if get("insecure_skip_verify").and_then(Value::as_bool) == Some(true) {
        text.push_str("skip_verify = true\n");
    }
    text
}

/// An entry of `auths`, as docker has it.
fn credential(mut auth: Tree) -> Option<serde_json::Value> {
    if let Some(token) = auth.text(&["identitytoken"]) {
        return Some(json!({ "identitytoken": token }));
    }
    if let Some(auth) = auth.text(&["auth"]) {
        return Some(json!({ "auth": auth }));
    }
    let pair = format!(
        "{}:{}",
        auth.text(&["username"])?,
        auth.text(&["password"])?
    );
    let auth = base64::engine::general_purpose::STANDARD.encode(pair);
    Some(json!({ "auth": auth }))
}

/// What there is to say of a key or table that was not taken. Empty: nothing.
fn reason(key: &str) -> Option<&'static str> {
    const CRI: [&str; 3] = [
        "plugins.\"io.containerd.grpc.v1.cri\"",
        "plugins.\"io.containerd.cri.v1.runtime\"",
        "plugins.\"io.containerd.cri.v1.images\"",
    ];
    let own = CRI
        .iter()
        .find_map(|cri| key.strip_prefix(cri)?.strip_prefix('.'));
    match own {
        None => of_the_daemon(key),
        Some(own) => of_cri(own),
    }
}

fn of_the_daemon(key: &str) -> Option<&'static str> {
    match key {
        "plugins" => None,
        "plugins.\"io.containerd.grpc.v1.cri\""
        | "plugins.\"io.containerd.cri.v1.runtime\""
        | "plugins.\"io.containerd.cri.v1.images\"" => None,
        "state" | "temp" | "grpc" | "ttrpc" | "timeouts" | "plugin_dir" | "oom_score"
        | "cgroup" | "debug" | "stream_processors" | "disabled_plugins" | "required_plugins" => {
            Some("")
        }
        "metrics.grpc_histogram" => Some("all operations have histograms"),
        "proxy_plugins" => Some("other snapshotters and stores cannot be plugged in"),
        key if key.starts_with("plugins.") => {
            Some("a part of containerd that wherryd has not, or needs not be told of")
        }
        _ => None,
    }
}

fn of_cri(key: &str) -> Option<&'static str> {
    Some(match key {
        "max_concurrent_downloads" => "layers of all pulls share as many connections as do well",
        "containerd.discard_unpacked_layers" | "discard_unpacked_layers" => {
            "layers are kept once, unpacked, and exported byte by byte all the same; containerd's own \
             images can be taken along only as far as it kept them"
        }
        "stream_idle_timeout" => "streams end with their clients",
        "max_container_log_line_size" => "lines longer than 16 KiB are logged in parts",
        "enable_selinux" => "SELinux labels of pods are applied where SELinux is on",
        "disable_apparmor" => "profiles are applied where AppArmor is on",
        "image_pull_progress_timeout" => {
            "a pull that brings less than 1 KiB/s over 30 s goes on at the next host"
        }
        "image_pull_with_sync_fs" => {
            "layers are verified after a power cut, and synced in the background"
        }
        "image_decryption" => "encrypted layers cannot be read",
        "enable_unprivileged_ports" => {
            "pods ask for the sysctl net.ipv4.ip_unprivileged_port_start"
        }
        "enable_unprivileged_icmp" => "pods ask for the sysctl net.ipv4.ping_group_range",
        "containerd.no_pivot" => "the root is always pivoted",
        "unset_seccomp_profile" => "a container without a profile is unconfined, as CRI has it",
        "device_ownership_from_security_context" => "devices belong to whom the host says",
        "ignore_image_defined_volumes" => "volumes of images are made as folders",
        // How containerd does what needs no word here, at its defaults.
        "disable_tcp_service"
        | "disable_hugetlb_controller"
        | "tolerate_missing_hugetlb_controller"
        | "selinux_category_range"
        | "stats_collect_period"
        | "stats_retention_period"
        | "netns_mounts_under_state_dir"
        | "systemd_cgroup"
        | "restrict_oom_score_adj"
        | "containerd.disable_snapshot_annotations"
        | "disable_snapshot_annotations"
        | "drain_exec_sync_io_timeout"
        | "cdi_spec_dirs"
        | "enable_cdi"
        | "cni.setup_serially"
        | "use_local_image_pull"
        | "concurrent_layer_fetch_buffer"
        | "max_concurrent_unpacks"
        | "runtime_platforms"
        | "ignore_deprecation_warnings" => "",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(text: &str) -> Moved {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::create_dir_all(folder.path().join("hosts/r.example:5000")).unwrap();
        std::fs::write(
            folder.path().join("hosts/r.example:5000/hosts.toml"),
            "a = 1\n",
        )
        .unwrap();
        std::fs::write(&file, text.replace('@', folder.path().to_str().unwrap())).unwrap();
        configuration(&file).unwrap().moved
    }

    fn check(moved: &Moved, key: &str, value: &str) {
        let found = moved.settings.iter().find(|it| it.key.join(".") == key);
        assert_eq!(found.expect(key).value.to_string(), value, "{key}");
    }

    #[test]
    fn version_two_with_inline_mirrors() {
        let moved = moved(
            r#"version = 2
            [debug]
            level = "warn"
            [metrics]
            address = "127.0.0.1:1338"
            [plugins."io.containerd.grpc.v1.cri"]
            sandbox_image = "pause:3"
            max_concurrent_downloads = 7
            stream_server_address = "10.0.0.1"
            stream_server_port = "9"
            made_up = "x"
            [plugins."io.containerd.grpc.v1.cri".cni]
            bin_dir = "/b"
            conf_dir = "/c"
            [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
            runtime_type = "io.containerd.runc.v2"
            [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
            BinaryName = "/bin/sh"
            SystemdCgroup = true
            [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
            runtime_type = "io.containerd.kata.v2"
            [plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]
            endpoint = ["https://m.example", "http://n.example/v2"]
            [plugins."io.containerd.grpc.v1.cri".registry.configs."m.example".tls]
            ca_file = "/ca.pem"
            [plugins."io.containerd.grpc.v1.cri".registry.configs."m.example".auth]
            username = "u"
            password = "p"
            "#,
        );
        check(&moved, "log.level", "\"warn\"");
        check(&moved, "metrics.address", "\"127.0.0.1:1338\"");
        check(&moved, "streaming.address", "\"10.0.0.1:9\"");
        check(&moved, "network.cni_bin_dirs", "[\"/b\"]");
        check(&moved, "network.cni_conf_dir", "\"/c\"");
        check(&moved, "runtimes.runc.path", "\"/bin/sh\"");
        check(&moved, "cgroup_driver", "\"systemd\"");
        let text = |name: &str| {
            let file = moved.files.iter().find(|file| file.to == Path::new(name));
            String::from_utf8(file.expect(name).content.clone()).unwrap()
        };
        let hosts = text("certs.d/docker.io/hosts.toml");
        let places = [
            "registry-1.docker.io",
            "https://m.example\"]",
            "ca = \"/ca.pem\"",
            "n.example/v2",
        ];
        let places = places.map(|part| hosts.find(part).expect(part));
        assert!(places.is_sorted(), "{hosts}");
        assert!(text("credentials.json").contains("\"auth\": \"dTpw\""));
        let unlike: Vec<&str> = moved.unlike.iter().map(|it| it.key.as_str()).collect();
        for key in [
            "sandbox_image",
            "max_concurrent_downloads",
            "made_up",
            "runtimes.kata.runtime_type",
        ] {
            assert!(
                unlike.iter().any(|it| it.contains(key)),
                "{key}: {unlike:?}"
            );
        }
    }

    #[test]
    fn version_three_with_folders() {
        let moved = moved(
            r#"version = 3
            [plugins."io.containerd.cri.v1.images".registry]
            config_path = "@/hosts"
            [plugins."io.containerd.cri.v1.images".pinned_images]
            sandbox = "pause"
            [plugins."io.containerd.cri.v1.runtime"]
            cdi_spec_dirs = ["/d"]
            [plugins."io.containerd.cri.v1.runtime".containerd]
            ignore_blockio_not_enabled_errors = true
            ignore_rdt_not_enabled_errors = true
            [plugins."io.containerd.service.v1.tasks-service"]
            blockio_config_file = "/blockio.yaml"
            rdt_config_file = "/rdt.yaml"
            [plugins."io.containerd.nri.v1.nri"]
            disable = true
            [plugins."io.containerd.cri.v1.runtime".cni]
            bin_dirs = ["/x", "/y"]
            "#,
        );
        check(&moved, "cdi_spec_dirs", "[\"/d\"]");
        check(&moved, "blockio.config", "\"/blockio.yaml\"");
        check(&moved, "blockio.unavailable", "\"ignore\"");
        check(&moved, "rdt.unavailable", "\"ignore\"");
        check(&moved, "nri.enable", "\"no\"");
        check(&moved, "network.cni_bin_dirs", "[\"/x\", \"/y\"]");
        let files: Vec<_> = moved.files.iter().map(|file| file.to.clone()).collect();
        assert_eq!(files, [Path::new("certs.d/r.example:5000/hosts.toml")]);
        // The pinned image, and the classes of RDT.
        assert_eq!(moved.unlike.len(), 2, "{:?}", moved.unlike);
    }

    #[test]
    fn version_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, "[plugins.cri]\nx = 1\n").unwrap();
        let error = configuration(&file).unwrap_err().to_string();
        assert!(error.contains("version 1"), "{error}");
        assert!(configuration(Path::new("/no/such")).is_ok());
    }
}
