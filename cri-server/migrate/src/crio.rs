//! What CRI-O was told: crio.conf with its folder, and what containers' tools share: registries.conf,
//! policy.json, storage.conf, certs.d.

use std::path::{Path, PathBuf};

use toml::Value;

use crate::tree::Tree;
use crate::{Error, Moved, RDT_FILE, children, plugins, program};

/// Where containers/storage lies, unless told otherwise.
const STORAGE: &str = "/var/lib/containers/storage";

/// Where CRI-O's configuration lies.
#[derive(Clone, Debug)]
pub struct Files {
    /// crio.conf; files of the folder `crio.conf.d` beside it come on top.
    pub config: PathBuf,
    /// The folder of registries.conf, policy.json, storage.conf and certs.d.
    pub containers: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            config: "/etc/crio/crio.conf".into(),
            containers: "/etc/containers".into(),
        }
    }
}

/// What CRI-O was told, and where it keeps its things.
#[derive(Debug)]
pub struct Crio {
    /// In our words.
    pub moved: Moved,
    /// The folder of its storage.
    pub root: PathBuf,
    /// Patterns of images that must never be collected.
    pub pinned: Vec<String>,
}

impl Crio {
    /// Whether an image of that name must never be collected.
    #[must_use]
    pub fn is_pinned(&self, name: &str) -> bool {
        self.pinned.iter().any(|pattern| fits(pattern, name))
    }
}

/// `name`, `start*` or `*part*`.
fn fits(pattern: &str, name: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(_), Some(_)) => name.contains(pattern.trim_matches('*')),
        (None, Some(start)) => name.starts_with(start),
        _ => name == pattern,
    }
}

/// Reads CRI-O's configuration; files that do not exist say nothing.
///
/// # Errors
///
/// A file cannot be read.
pub fn configuration(files: &Files) -> Result<Crio, Error> {
    let mut tree = Tree::default();
    if files.config.exists() {
        tree.read_over(&files.config)?;
    }
    let mut folder = files.config.clone().into_os_string();
    folder.push(".d");
    for file in children(Path::new(&folder))? {
        if file.is_file() {
            tree.read_over(&file)?;
        }
    }
    let mut moved = Moved::default();
    let root = root(&mut tree, &files.containers, &mut moved)?;
    runtimes(&mut tree, &mut moved);
    node(&mut tree, &mut moved);
    plugins::move_over(tree.table(&["crio", "nri"]), &plugins::CRIO, &mut moved);
    let pinned = tree
        .texts(&["crio", "image", "pinned_images"])
        .unwrap_or_default();
    images(&mut tree, files, &mut moved)?;
    tree.name_rest("", &reason, &mut moved);
    Ok(Crio {
        moved,
        root,
        pinned,
    })
}

/// The folder of the storage: CRI-O's own key beats that of containers' tools.
fn root(tree: &mut Tree, containers: &Path, moved: &mut Moved) -> Result<PathBuf, Error> {
    let mut storage = Tree::default();
    let file = containers.join("storage.conf");
    if file.exists() {
        storage.read_over(&file)?;
    }
    let driver = tree.text(&["crio", "storage_driver"]);
    let driver = driver.or_else(|| storage.text(&["storage", "driver"]));
    if let Some(driver) = driver.filter(|driver| driver != "overlay") {
        let why = "images are taken along from the overlay driver only; with others they have to be pulled";
        moved.unlike(format!("storage driver = {driver:?}"), why);
    }
    let root = tree.text(&["crio", "root"]);
    let root = root.or_else(|| storage.text(&["storage", "graphroot"]));
    Ok(root.unwrap_or_else(|| STORAGE.into()).into())
}

fn runtimes(tree: &mut Tree, moved: &mut Moved) {
    let default = tree.text(&["crio", "runtime", "default_runtime"]);
    let table = tree.table(&["crio", "runtime", "runtimes"]);
    for (name, value) in table.0 {
        let Value::Table(table) = value else { continue };
        let mut runtime = Tree(table);
        let key = format!("crio.runtime.runtimes.{name}");
        let kind = runtime
            .text(&["runtime_type"])
            .unwrap_or_else(|| "oci".into());
        if !["oci", "pod"].contains(&kind.as_str()) {
            let why = "its shim speaks containerd's protocol; wherryd runs programs with runc's command line";
            moved.unlike(format!("{key}.runtime_type = {kind:?}"), why);
            continue;
        }
        let path = runtime
            .text(&["runtime_path"])
            .unwrap_or_else(|| name.clone());
        match program(&path) {
            Some(path) => {
                let path = path.display().to_string();
                moved.set(
                    &["runtimes", &name, "path"],
                    path,
                    &format!("{key}.runtime_path"),
                );
            }
            None => moved.unlike(format!("{key} ({path})"), "the program is not here"),
        }
        if runtime.texts(&["allowed_annotations"]).is_some() {
            let why =
                "wherryd hands all annotations to the runtime, and acts on none of CRI-O's own";
            moved.unlike(format!("{key}.allowed_annotations"), why);
        }
        for known in [
            "runtime_root",
            "monitor_path",
            "monitor_cgroup",
            "monitor_exec_cgroup",
            "monitor_env",
        ] {
            runtime.take(&[known]);
        }
        runtime.name_rest(&key, &|_| None, moved);
    }
    if let Some(default) = default {
        moved.unlike(
            format!("crio.runtime.default_runtime = {default:?}"),
            format!("wrun makes the containers of pods that name no handler; default_runtime = {default:?} keeps the old way"),
        );
    }
}

fn node(tree: &mut Tree, moved: &mut Moved) {
    let texts = [
        (
            ["crio", "runtime", "cgroup_manager"],
            &["cgroup_driver"][..],
        ),
        (
            ["crio", "runtime", "blockio_config_file"],
            &["blockio", "config"],
        ),
        (
            ["crio", "network", "network_dir"],
            &["network", "cni_conf_dir"],
        ),
        (
            ["crio", "api", "stream_tls_cert"],
            &["streaming", "certificate"],
        ),
        (["crio", "api", "stream_tls_key"], &["streaming", "key"]),
    ];
    for (theirs, ours) in texts {
        if let Some(text) = tree.text(&theirs) {
            moved.set(ours, text.trim_end_matches('/'), &theirs.join("."));
        }
    }
    moved.set(
        &["network", "mode"],
        "cni",
        "CRI-O has no network of its own",
    );
    if let Some(dirs) = tree.texts(&["crio", "network", "plugin_dirs"]) {
        let dirs: Vec<String> = dirs
            .iter()
            .map(|dir| dir.trim_end_matches('/').into())
            .collect();
        moved.set(
            &["network", "cni_bin_dirs"],
            dirs,
            "crio.network.plugin_dirs",
        );
    }
    if let Some(dirs) = tree.texts(&["crio", "runtime", "cdi_spec_dirs"]) {
        moved.set(&["cdi_spec_dirs"], dirs, "crio.runtime.cdi_spec_dirs");
    }
    if let Some(level) = tree.text(&["crio", "runtime", "log_level"]) {
        let level = match level.as_str() {
            "fatal" | "panic" => "error",
            level => level,
        };
        moved.set(&["log", "level"], level, "crio.runtime.log_level");
    }
    if let Some(file) = tree.text(&["crio", "runtime", "rdt_config_file"]) {
        moved.unlike(format!("crio.runtime.rdt_config_file = {file:?}"), RDT_FILE);
    }
    metrics(tree, moved);
    let address = tree.text(&["crio", "api", "stream_address"]);
    let port = tree.text(&["crio", "api", "stream_port"]);
    if address.is_some() || port.is_some() {
        let address = address.unwrap_or_else(|| "127.0.0.1".into());
        let port = port.unwrap_or_else(|| "0".into());
        moved.set(
            &["streaming", "address"],
            format!("{address}:{port}"),
            "crio.api.stream_address",
        );
    }
}

/// Where Prometheus asks; CRI-O serves nobody unless told to.
fn metrics(tree: &mut Tree, moved: &mut Moved) {
    let on = tree.truth(&["crio", "metrics", "enable_metrics"]) == Some(true);
    let host = tree.text(&["crio", "metrics", "metrics_host"]);
    let port = tree.take(&["crio", "metrics", "metrics_port"]);
    let port = port.and_then(|port| port.as_integer()).unwrap_or(9090);
    if on {
        let address = format!("{}:{port}", host.as_deref().unwrap_or("127.0.0.1"));
        moved.set(
            &["metrics", "address"],
            address,
            "crio.metrics.enable_metrics",
        );
    }
}

fn images(tree: &mut Tree, files: &Files, moved: &mut Moved) -> Result<(), Error> {
    let auth = tree.text(&["crio", "image", "global_auth_file"]);
    let auth = auth.map(PathBuf::from).filter(|file| file.exists());
    if let Some(file) = auth {
        moved.copy(&file, "credentials.json".into(), true)?;
    }
    if let Some(names) = tree.texts(&["crio", "image", "insecure_registries"]) {
        let why = "an entry with insecure = true in registries.conf says so, or skip_verify in a hosts.toml";
        moved.unlike(format!("crio.image.insecure_registries = {names:?}"), why);
    }
    let conf = files.containers.join("registries.conf");
    if conf.exists() {
        moved.copy(&conf, "registries.conf".into(), false)?;
    }
    for file in children(&files.containers.join("registries.conf.d"))? {
        if let (Some("conf"), Some(name)) = (
            file.extension().and_then(|it| it.to_str()),
            file.file_name(),
        ) {
            let to = Path::new("registries.conf.d").join(name);
            moved.copy(&file, to, false)?;
        }
    }
    moved.copy_hosts(&files.containers.join("certs.d"))?;
    let policy = tree
        .text(&["crio", "image", "signature_policy"])
        .map(PathBuf::from);
    let policy = policy.unwrap_or_else(|| files.containers.join("policy.json"));
    if policy.exists() && !accepts_anything(&policy)? {
        let why =
            "who must have signed an image is said in TOML: signatures.policy (docs/formats.md)";
        moved.unlike(policy.display().to_string(), why);
    }
    Ok(())
}

/// Whether a policy asks for nothing, whatever the image.
fn accepts_anything(path: &Path) -> Result<bool, Error> {
    let bytes = std::fs::read(path).map_err(Error::io("reading", path))?;
    let policy: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|cause| Error::unreadable(path, cause))?;
    let anything = |list: &serde_json::Value| {
        let mut items = list.as_array().into_iter().flatten();
        items.all(|item| item["type"] == "insecureAcceptAnything")
    };
    let mut scopes = policy["transports"]
        .as_object()
        .into_iter()
        .flat_map(|it| it.values());
    let scoped = scopes.all(|scopes| {
        scopes
            .as_object()
            .is_none_or(|it| it.values().all(anything))
    });
    Ok(anything(&policy["default"]) && scoped)
}

/// What there is to say of a key or table that was not taken. Empty: nothing.
fn reason(key: &str) -> Option<&'static str> {
    Some(match key {
        "crio.image.pause_image"
        | "crio.image.pause_image_auth_file"
        | "crio.image.pause_command"
        | "crio.runtime.pinns_path"
        | "crio.runtime.drop_infra_ctr" => "a pod needs no image and no process here",
        "crio.runtime.pids_limit" => {
            "the kubelet's podPidsLimit bounds a pod; a container alone is not bounded"
        }
        "crio.runtime.default_capabilities" | "crio.runtime.add_inheritable_capabilities" => {
            "containers start with the capabilities of CRI's other engines; pods add and drop"
        }
        "crio.runtime.default_sysctls" => "pods ask for sysctls; the host's own are for sysctl.d",
        "crio.runtime.default_ulimits" => {
            "containers have the limits that the daemon was started with (LimitNOFILE=)"
        }
        "crio.runtime.seccomp_profile" => {
            "the profile RuntimeDefault comes with wherryd; pods name others as Localhost"
        }
        "crio.runtime.apparmor_profile" => "pods name profiles; the default comes with wherryd",
        "crio.runtime.hooks_dir" => {
            "hooks of the OCI runtime are not injected; CDI and NRI are there for that"
        }
        "crio.runtime.default_mounts_file" | "crio.runtime.default_env" => {
            "pods say what they mount and what their environment is"
        }
        "crio.image.default_transport"
        | "crio.image.image_volumes"
        | "crio.image.short_name_mode"
        | "crio.image.pull_progress_timeout"
        | "crio.runtime.conmon"
        | "crio.runtime.conmon_cgroup"
        | "crio.runtime.conmon_env"
        | "crio.runtime.container_exits_dir"
        | "crio.runtime.container_attach_socket_dir"
        | "crio.runtime.namespaces_dir"
        | "crio.runtime.ctr_stop_timeout"
        | "crio.runtime.log_to_journald"
        | "crio.log_dir"
        | "crio.version_file"
        | "crio.version_file_persist"
        | "crio.clean_shutdown_file"
        | "crio.internal_wipe"
        | "crio.internal_repair"
        | "crio.runroot"
        | "crio.imagestore"
        | "crio.api.listen"
        | "crio.api.grpc_max_send_msg_size"
        | "crio.api.grpc_max_recv_msg_size"
        | "crio.runtime.enable_criu_support"
        | "crio.runtime.selinux"
        // Devices of a class are looked up whenever a container gets it.
        | "crio.runtime.blockio_reload" => "",
        "crio.metrics.metrics_collectors" => "all metrics are served",
        "crio.tracing" => "wherryd's own traces are for its own keys to say",
        "crio.storage_option" => "options of the overlay driver; wherryd mounts layers by itself",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_folder_come_on_top() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in [
            "crio.conf.d",
            "containers/registries.conf.d",
            "containers/certs.d/r.example",
        ] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        let files = [
            (
                "crio.conf",
                "[crio.runtime]\ncgroup_manager = \"systemd\"\npids_limit = 9\nstrange = 1\n",
            ),
            (
                "crio.conf.d/10-a.conf",
                "[crio.runtime]\ncgroup_manager = \"cgroupfs\"\nblockio_config_file = \"/b.yaml\"\n\
                 blockio_reload = true\nrdt_config_file = \"/r.yaml\"\n\
                 [crio.nri]\nenable_nri = false\n[crio.runtime.runtimes.sh]\nruntime_path = \"/bin/sh\"\n\
                 [crio.image]\npause_image = \"p\"\npinned_images = [\"a.example/x:1\", \"*keep*\"]\n\
                 [crio.metrics]\nenable_metrics = true\nmetrics_port = 9537\n\
                 [crio.network]\nplugin_dirs = [\"/opt/cni/bin/\"]\n",
            ),
            (
                "containers/storage.conf",
                "[storage]\ndriver = \"overlay\"\ngraphroot = \"/data\"\n",
            ),
            ("containers/registries.conf", "# mirrors\n"),
            ("containers/registries.conf.d/1.conf", "# more\n"),
            ("containers/certs.d/r.example/ca.crt", "pem"),
            (
                "containers/policy.json",
                r#"{"default": [{"type": "reject"}]}"#,
            ),
        ];
        for (name, text) in files {
            std::fs::write(path(name), text).unwrap();
        }
        let crio = configuration(&Files {
            config: path("crio.conf"),
            containers: path("containers"),
        })
        .unwrap();
        assert_eq!(crio.root, Path::new("/data"));
        assert!(crio.is_pinned("a.example/x:1") && crio.is_pinned("b/keep:2"));
        assert!(!crio.is_pinned("a.example/x:12"));
        let moved = crio.moved;
        let check = |key: &str, value: &str| {
            let found = moved.settings.iter().find(|it| it.key.join(".") == key);
            assert_eq!(found.expect(key).value.to_string(), value, "{key}");
        };
        check("cgroup_driver", "\"cgroupfs\"");
        check("metrics.address", "\"127.0.0.1:9537\"");
        check("blockio.config", "\"/b.yaml\"");
        check("nri.enable", "\"no\"");
        check("runtimes.sh.path", "\"/bin/sh\"");
        check("network.cni_bin_dirs", "[\"/opt/cni/bin\"]");
        let to: Vec<_> = moved
            .files
            .iter()
            .map(|file| file.to.display().to_string())
            .collect();
        assert_eq!(
            to,
            [
                "registries.conf",
                "registries.conf.d/1.conf",
                "certs.d/r.example/ca.crt"
            ]
        );
        assert!(moved.unlike.iter().all(|it| !it.key.contains("blockio")));
        let unlike: Vec<&str> = moved.unlike.iter().map(|it| it.key.as_str()).collect();
        for key in [
            "pids_limit",
            "strange",
            "pause_image",
            "policy.json",
            "rdt_config_file",
        ] {
            assert!(
                unlike.iter().any(|it| it.contains(key)),
                "{key}: {unlike:?}"
            );
        }
    }
}
