//! The plugin of these tests: what it is told to do, what it has heard.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tests::node::Node;
use tests::process::{self, Running};
use tests::{peers, wait};

/// The plugin's program; `None`, said so, where it is not there.
pub(super) fn program() -> Option<PathBuf> {
    peers::peer("bin/nri-plugin")
}

/// A node, and the plugin's program; `None`, said so, where something is not there.
pub(super) fn node(keys: &str) -> Option<Node> {
    program()?;
    Node::start_with(|setup| setup.plugins(keys)).unwrap()
}

/// A plugin that has connected.
#[derive(Debug)]
pub(super) struct Plugin {
    running: Running,
    pub(super) log: PathBuf,
}

impl Plugin {
    /// Starts a plugin with a script, and waits until it is synchronized.
    pub(super) fn start(node: &Node, index: &str, name: &str, script: Value) -> Plugin {
        let plugin = Plugin::connect(node, index, name, script);
        plugin.wait("Synchronize", "");
        // The engine takes it in once it has the answer.
        let mine = format!("{index}-{name}");
        node.wait_for_log(&mine);
        plugin
    }

    /// Starts a plugin, whatever becomes of it.
    pub(super) fn connect(node: &Node, index: &str, name: &str, mut script: Value) -> Plugin {
        let place = |end: &str| node.daemon.scratch().join(format!("{index}-{name}{end}"));
        let (log, said) = (place(".log"), place(".said"));
        fs::remove_file(&log).ok();
        script["log"] = json!(log);
        fs::write(place(".json"), script.to_string()).unwrap();
        let mut command = process::lasting(program().unwrap());
        command.args(["-idx", index, "-name", name]);
        command.arg("-socket").arg(node.daemon.plugin_socket());
        command.arg("-script").arg(place(".json"));
        let running = Running::spawn(&mut command, &said).unwrap();
        Plugin { running, log }
    }

    /// All that it has heard, in order.
    pub(super) fn events(&self) -> Vec<Value> {
        events(&self.log)
    }

    /// Waits for an event about a container or pod of that name; empty: about any.
    pub(super) fn wait(&self, event: &str, of: &str) -> Value {
        wait_in(&self.log, event, of)
    }

    /// The names of the events about a container or a pod, in order.
    pub(super) fn heard_of(&self, name: &str) -> Vec<String> {
        let all = self.events();
        let about = all.iter().filter(|event| is_of(event, name));
        about
            .map(|event| event["event"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Ends it.
    pub(super) fn kill(&mut self) {
        self.running.kill();
    }

    /// Waits for its end, which the engine brings about.
    pub(super) fn wait_for_end(&mut self) {
        wait::until("the plugin's end", || self.running.ended()).unwrap();
    }
}

/// What was written down in a file.
pub(super) fn events(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Waits for an event in a file.
pub(super) fn wait_in(log: &Path, event: &str, of: &str) -> Value {
    let found = || {
        let all = events(log);
        all.into_iter()
            .find(|one| one["event"] == event && (of.is_empty() || is_of(one, of)))
    };
    wait::until(&format!("{event} of {of:?} in {}", log.display()), found).unwrap()
}

fn is_of(event: &Value, name: &str) -> bool {
    match event.get("container") {
        Some(container) => container["name"] == name,
        None => event["pod"]["name"] == name,
    }
}

/// What these tests ask of a node.
pub(super) trait Asked {
    /// Waits until the daemon has said that a plugin takes part.
    fn wait_for_log(&self, plugin: &str);

    /// Waits until the daemon has said that a plugin has gone.
    fn wait_until_gone(&self, plugin: &str);

    /// Waits until as many plugins have gone as took part.
    fn wait_until_alone(&self);

    /// The specification of a container, as its runtime got it.
    fn spec(&self, container: &str) -> Value;
}

impl Asked for Node {
    fn wait_for_log(&self, plugin: &str) {
        let found = || {
            let log = self.daemon.log();
            log.lines()
                .any(|line| line.contains("takes part") && line.contains(plugin))
                .then_some(())
        };
        wait::until(&format!("plugin {plugin} in the daemon's log"), found).unwrap();
    }

    fn wait_until_gone(&self, plugin: &str) {
        let found = || {
            let log = self.daemon.log();
            log.lines()
                .any(|line| line.contains("plugin has gone") && line.contains(plugin))
                .then_some(())
        };
        wait::until(&format!("the end of plugin {plugin} in the log"), found).unwrap();
    }

    fn wait_until_alone(&self) {
        let found = || {
            let log = self.daemon.log();
            let count = |what: &str| log.lines().filter(|line| line.contains(what)).count();
            (count("plugin has gone") >= count("takes part")).then_some(())
        };
        wait::until("the end of all plugins", found).unwrap();
    }

    fn spec(&self, container: &str) -> Value {
        let bundle = self.daemon.state().join("containers").join(container);
        let text = fs::read(bundle.join("config.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}
