//! Whole configurations: what they come to, what is refused and how that is said.

use std::os::unix::fs::PermissionsExt;

use ::network::Mode;

use super::*;

/// A folder with the programs that a daemon needs beside it.
fn programs() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in [SHIM, OWN_RUNTIME, "runc"] {
        let path = folder.path().join(name);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    std::fs::write(folder.path().join("boot"), "one\n").unwrap();
    std::fs::write(folder.path().join("not-a-program"), "").unwrap();
    folder
}

/// Loads `text` with `@` standing for the folder of programs.
fn load_text(text: &str, change: impl FnOnce(&mut Flags)) -> Result<Settings, String> {
    let folder = programs();
    let file = folder.path().join("config.toml");
    let here = folder.path().to_str().unwrap();
    std::fs::write(&file, text.replace('@', here)).unwrap();
    let mut flags = Flags {
        config: Some(file),
        boot_id_file: folder.path().join("boot"),
        ..Flags::default()
    };
    change(&mut flags);
    load(&flags, folder.path()).map_err(|error| error.to_string().replace(here, "@"))
}

fn refused(text: &str, expect: &str) {
    let error = load_text(text, |_| {}).expect_err(text);
    assert!(
        error.contains(expect),
        "{text}\n  gave: {error}\n  not:  {expect}"
    );
}

#[test]
fn a_second_socket() {
    let none = load_text("", |_| {}).unwrap();
    assert_eq!((none.containerd, none.engine.pod_process), (None, false));
    let text = "[containerd]\nlisten = \"unix:///run/c.sock\"\n";
    let some = load_text(text, |_| {}).unwrap();
    assert_eq!(some.containerd.as_deref(), Some(Path::new("/run/c.sock")));
    assert!(some.engine.pod_process, "cAdvisor knows a pod by a process");
    refused(
        "[containerd]\nlisten = \"tcp://localhost\"\n",
        "containerd.listen: \"tcp://localhost\" is not of the form unix:///path",
    );
    refused(
        "listen = \"unix:///run/c.sock\"\n[containerd]\nlisten = \"/run/c.sock\"\n",
        "containerd.listen: \"/run/c.sock\" is the socket of CRI",
    );
}

#[test]
fn defaults() {
    let settings = load_text("", |_| {}).unwrap();
    assert_eq!(settings.listen, Path::new("/run/wherry/wherryd.sock"));
    let engine = settings.engine;
    assert_eq!(engine.root, Path::new("/var/lib/wherry"));
    assert_eq!(engine.state, Path::new("/run/wherry"));
    assert_eq!(engine.default_runtime, "wrun");
    assert_eq!(engine.runtimes.keys().collect::<Vec<_>>(), ["wrun"]);
    assert_eq!(engine.boot_id, "one");
    assert_eq!(
        engine.image.registry_config,
        Path::new("/etc/wherry/certs.d")
    );
    assert_eq!(engine.network.mode, Mode::Auto);
    assert_eq!(engine.network.root, Path::new("/var/lib/wherry/network"));
}

#[test]
fn every_key() {
    let settings = load_text(
        r#"
        listen = "unix:///a/b.sock"
        root = "/r"
        state = "/s"
        registry_config = "/c"
        default_runtime = "runc"
        [runtimes.runc]
        path = "@/runc"
        [images]
        layer_form = "erofs"
        [network]
        mode = "cni"
        bridge = "b0"
        subnet = "10.1.0.0/24"
        routed = ["10.1.0.0/16"]
        cni_conf_dir = "/x"
        cni_bin_dirs = ["/y", "/z"]
        cni_cache_dir = "/w"
        [log]
        level = "warn,engine=debug"
        "#,
        |_| {},
    )
    .unwrap();
    assert_eq!(settings.listen, Path::new("/a/b.sock"));
    let engine = settings.engine;
    assert_eq!((engine.root, engine.state), ("/r".into(), "/s".into()));
    assert_eq!(engine.default_runtime, "runc");
    assert_eq!(engine.runtimes.len(), 2);
    assert_eq!(engine.image.registry_config, Path::new("/c"));
    assert_eq!(engine.image.layer_form, image::LayerForm::Erofs);
    assert_eq!(engine.network.mode, Mode::Cni);
    assert_eq!(engine.network.bridge, "b0");
    assert_eq!(engine.network.routed, ["10.1.0.0/16"]);
    assert_eq!(engine.network.cni_bin_dirs.len(), 2);
    assert!(settings.log.would_enable("engine", &tracing::Level::DEBUG));
    assert!(!settings.log.would_enable("image", &tracing::Level::INFO));
}

#[test]
fn flags_beat_the_file() {
    let settings = load_text(
        "root = \"/file\"\nlisten = \"unix:///file.sock\"",
        |flags| {
            flags.root = Some("/flag".into());
            flags.listen = Some("unix:///flag.sock".into());
        },
    )
    .unwrap();
    assert_eq!(settings.engine.root, Path::new("/flag"));
    assert_eq!(settings.listen, Path::new("/flag.sock"));
}

#[test]
fn an_unknown_key_is_refused_with_its_nearest() {
    refused(
        "lisen = \"x\"",
        "\"@/config.toml\", line 1: unknown key lisen; did you mean listen?",
    );
    refused(
        "[network]\nbridg = \"x\"",
        "unknown key network.bridg; did you mean network.bridge?",
    );
    refused("[netwrk]", "unknown key netwrk; did you mean network?");
    refused(
        "[runtimes.a]\npth = \"/x\"",
        "line 2: unknown key runtimes.a.pth; did you mean runtimes.a.path?",
    );
}

#[test]
fn a_wrong_value_is_refused_by_name() {
    let cases = [
        ("root = 7", "root: a string is wanted, not an integer"),
        ("root =", "line 1: this is not TOML"),
        (
            "[images]\nlayer_form = \"tar\"",
            "images.layer_form: \"tar\" is none of auto, dir, erofs",
        ),
        ("root = \"here\"", "root: \"here\" is not an absolute path"),
        ("root = \"/a\"\nstate = \"/a/b\"", "must lie apart"),
        (
            "listen = \"tcp://1.2.3.4:5\"",
            "listen: \"tcp://1.2.3.4:5\" is not of the form",
        ),
        ("listen = \"unix:///a/\"", "is not of the form"),
        (
            "cgroup_driver = \"moon\"",
            "cgroup_driver: \"moon\" is none of auto, systemd, cgroupfs",
        ),
        (
            "default_runtime = \"crun\"",
            "default_runtime: \"crun\" is none of wrun",
        ),
        ("runtimes = 1", "runtimes: a table is wanted"),
        ("[runtimes]\nrunc = 1", "runtimes.runc: a table is wanted"),
        (
            "[runtimes.runc]",
            "runtimes.runc.path: it is missing in the table at @/config.toml:1",
        ),
        (
            "[runtimes.runc]\npath = \"runc\"",
            "is not an absolute path",
        ),
        (
            "[runtimes.runc]\npath = \"@/none\"",
            "runtimes.runc.path: looking at \"@/none\"",
        ),
        (
            "[runtimes.runc]\npath = \"@/not-a-program\"",
            "is not a program",
        ),
        ("[runtimes.\"../x\"]\npath = \"@/runc\"", "a handler's name"),
        (
            "[network]\nmode = \"bridge\"",
            "network.mode: \"bridge\" is none of",
        ),
        ("[network]\nsubnet = \"10.0.0.0\"", "network.subnet"),
        ("[network]\nrouted = [\"10.0.0.0\"]", "network.routed"),
        ("[network]\nsubnet = \"10.0.0.0/31\"", "network.subnet"),
        (
            "[network]\nbridge = \"much-too-long-name\"",
            "network.bridge",
        ),
        (
            "[streaming]\naddress = \"here\"",
            "streaming.address: an address and a port are wanted",
        ),
        (
            "[streaming]\ncertificate = \"/c.pem\"",
            "streaming.key: the certificate needs its key",
        ),
        (
            "[network]\ncni_bin_dirs = [1]",
            "network.cni_bin_dirs: a list of strings is wanted",
        ),
        (
            "[log]\nlevel = \"loud\"",
            "log.level: \"loud\" is not a level",
        ),
        ("[log]\nlevel = \"info,engine=loud\"", "log.level"),
    ];
    for (text, expect) in cases {
        refused(text, expect);
    }
    refused(
        &format!("listen = \"unix:///{}\"", "a".repeat(120)),
        "bytes, at most",
    );
}

#[test]
fn a_file_asked_for_must_exist() {
    let error = load_text("", |flags| flags.config = Some("/no/such/file".into()));
    assert!(
        error
            .unwrap_err()
            .contains("reading the configuration \"/no/such/file\"")
    );
}

#[test]
fn the_boot_must_have_a_name() {
    let error = load_text("", |flags| flags.boot_id_file = "/no/such/boot".into());
    assert!(error.unwrap_err().contains("--boot-id-file"));
}

#[test]
fn every_key_of_the_table_is_read() {
    let settings = load_text("", |_| {}).unwrap();
    let asked = settings.values.asked.lock().unwrap();
    for key in keys::KEYS {
        assert!(asked.contains(key.name), "nobody asks for {}", key.name);
    }
}

#[test]
fn files_of_the_folder_win_in_order() {
    let folder = programs();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("config.d")).unwrap();
    let files = [
        (
            "config.toml",
            "default_runtime = \"runc\"\n[log]\nlevel = \"error\"\n",
        ),
        ("config.d/20-b.toml", "[log]\nlevel = \"debug\"\n"),
        (
            "config.d/10-a.toml",
            "[log]\nlevel = \"warn\"\n[network]\nbridge = \"a0\"\n",
        ),
        ("config.d/.30-c.toml", "[log]\nlevel = \"off\"\n"),
        ("config.d/40-d.toml.bak", "no TOML"),
    ];
    for (name, text) in files {
        std::fs::write(path(name), text).unwrap();
    }
    let flags = Flags {
        config: Some(path("config.toml")),
        root: Some("/flag".into()),
        ..Flags::default()
    };
    let values = gather(&flags).unwrap();
    let shown = values.shown();
    let check = |name: &str, value: &str, origin: &str| {
        let shown = shown.iter().find(|shown| shown.name == name).unwrap();
        assert_eq!(shown.value.as_ref().unwrap().to_string(), value);
        let here = format!("{}/", folder.path().display());
        assert_eq!(
            shown.origin.to_string().replace(&here, ""),
            origin,
            "{name}"
        );
    };
    check("log.level", "\"debug\"", "config.d/20-b.toml:2");
    check("network.bridge", "\"a0\"", "config.d/10-a.toml:4");
    check("default_runtime", "\"runc\"", "config.toml:1");
    check("root", "\"/flag\"", "--root");
    check("state", "\"/run/wherry\"", "default");
    std::fs::write(path("config.d/50-e.toml"), "\n[log]\nlevl = 1\n").unwrap();
    let error = gather(&flags).unwrap_err().to_string();
    assert!(
        error.contains("config.d/50-e.toml\", line 3: unknown key log.levl"),
        "{error}"
    );
}

#[test]
fn what_differs() {
    let values = |text: &str| load_text(text, |_| {}).unwrap().values;
    let old = values("[limits]\nlog = \"1Mi\"\n[runtimes.runc]\npath = \"@/runc\"\n");
    let new =
        values("[limits]\nlog = \"2Mi\"\n[network]\nbridge = \"x0\"\n[log]\nlevel = \"info\"");
    let differing = old.differing(&new);
    let names: Vec<&str> = differing.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["limits.log", "network.bridge", "runtimes.runc.path"]
    );
    assert_eq!(differing[0].1, Applies::AtReload);
    assert_eq!(differing[1].1, Applies::AtStart);
}

#[test]
fn flags_say_what_the_table_says() {
    use clap::CommandFactory as _;
    let command = crate::cli::Cli::command();
    for key in keys::KEYS {
        let Some(flag) = key.flag else { continue };
        let mut arguments = command.get_arguments();
        let name = flag.trim_start_matches('-');
        let argument = arguments
            .find(|it| it.get_long() == Some(name))
            .expect(flag);
        let help = argument.get_help().unwrap().to_string();
        let default = values::Value::to_string(&key.default().unwrap());
        let default = format!("[default: {}]", default.trim_matches('"'));
        assert!(help.ends_with(&default), "{flag}: {help}");
    }
}

#[test]
fn plugins() {
    let settings = load_text("", |_| {}).unwrap();
    let socket = settings.plugins.unwrap();
    assert_eq!(socket.path, Path::new("/var/run/nri/nri.sock"));
    assert!(!socket.chosen && settings.engine.plugins.enable);
    assert!(!settings.engine.plugins.validator.enable);
    let text = "[nri]\nsocket = \"/run/n.sock\"\nconnections = \"no\"\nvalidator = \"yes\"\n\
                reject = [\"hooks\", \"seccomp-localhost\"]\nrequest_timeout = \"7s\"\n";
    let settings = load_text(text, |_| {}).unwrap();
    assert_eq!(settings.plugins, None);
    let plugins = settings.engine.plugins;
    assert_eq!(plugins.request_timeout, Duration::from_secs(7));
    let validator = plugins.validator;
    assert!(validator.enable && validator.reject_oci_hook_adjustment);
    assert!(validator.reject_custom_seccomp_adjustment && !validator.reject_sysctl_adjustment);
    refused(
        "[nri]\nreject = [\"all\"]\n",
        "nri.reject: \"all\" is none of hooks, namespaces, sysctls",
    );
    refused(
        "listen = \"unix:///run/n.sock\"\n[nri]\nsocket = \"/run/n.sock\"\n",
        "nri.socket: \"/run/n.sock\" is the socket of CRI",
    );
}
