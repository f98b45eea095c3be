//! CNI: which network a pod gets, how plugins are called, and that what they gave is given back.
//!
//! The plugins are shell scripts that note how they were called, real processes all the same; the
//! last test uses Debian's own.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use network::{Config, Error, Mode, Network};
use serde_json::Value;

use crate::lab::{Lab, ip, lab_test, links, port, reaches, serve, sh};

/// Notes its call, fails if told so, and on ADD gives an address.
const PLUGIN: &str = r#"#!/bin/sh
name=${0##*/}
cat > "$NOTES/$CNI_COMMAND-$name.json"
echo "$CNI_COMMAND $name netns=${CNI_NETNS##*/} $CNI_IFNAME $CNI_ARGS" >> "$NOTES/calls"
if [ -e "$NOTES/fail-$CNI_COMMAND-$name" ]; then
    echo '{"code":7,"msg":"told to fail"}'
    exit 1
fi
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/n"}],'
echo '"ips":[{"interface":0,"address":"10.1.2.3/24"}],"from":"'$name'"}'
"#;

const LIST: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[
    {"type":"first","own":1},{"type":"second","capabilities":{"portMappings":true}}]}"#;

/// A network that uses CNI in this mode, with plugins `first` and `second`.
fn network(lab: &Lab, mode: Mode) -> Arc<Network> {
    let folder = &lab.folder;
    for name in ["net.d", "bin", "notes"] {
        std::fs::create_dir_all(folder.join(name)).unwrap();
    }
    for name in ["first", "second"] {
        let path = folder.join("bin").join(name);
        let notes = folder.join("notes");
        let script = PLUGIN.replace("$NOTES", &notes.display().to_string());
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    Network::open(&Config {
        mode,
        ..lab.config()
    })
    .unwrap()
}

fn write(lab: &Lab, name: &str, text: &str) {
    std::fs::write(lab.folder.join(name), text).unwrap();
}

/// The calls since the last time we asked.
fn calls(lab: &Lab) -> Vec<String> {
    let path = lab.folder.join("notes/calls");
    let calls = std::fs::read_to_string(&path).unwrap_or_default();
    std::fs::write(path, "").unwrap();
    calls.lines().map(str::to_owned).collect()
}

/// What a plugin read from its standard input.
fn input(lab: &Lab, call: &str) -> Value {
    let path = lab.folder.join(format!("notes/{call}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

lab_test!(
    plugins_add_in_order_and_delete_in_reverse_with_what_was_kept,
    lab,
    {
        let network = network(&lab, Mode::Cni);
        write(&lab, "net.d/10-net.conflist", LIST);
        let mut pod = lab.pod("a");
        pod.ports = vec![port("tcp", 8080, 80)];
        pod.args.insert("K8S_POD_NAME".to_owned(), "web".to_owned());
        let got = network.attach(&pod).await.unwrap();
        assert_eq!(
            (ip(&got).to_string().as_str(), got.interface.as_str()),
            ("10.1.2.3", "eth0")
        );
        assert!(
            got.cni_result.contains(r#""from":"second""#),
            "{}",
            got.cni_result
        );
        let rest = "netns=netns-a eth0 IgnoreUnknown=1;K8S_POD_NAME=web";
        assert_eq!(
            calls(&lab),
            [format!("ADD first {rest}"), format!("ADD second {rest}")]
        );
        let (first, second) = (input(&lab, "ADD-first"), input(&lab, "ADD-second"));
        assert_eq!((&first["own"], &first["name"]), (&1.into(), &"net".into()));
        assert!(first.get("runtimeConfig").is_none() && first.get("prevResult").is_none());
        assert_eq!(second["prevResult"]["from"], "first");
        assert_eq!(second["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);
        network.check("a").await.unwrap();
        assert_eq!(
            calls(&lab),
            [
                format!("CHECK first {rest}"),
                format!("CHECK second {rest}")
            ]
        );
        // The folder says something else by now, and the daemon is another one.
        write(&lab, "net.d/10-net.conflist", "{");
        Network::open(&lab.config())
            .unwrap()
            .detach("a")
            .await
            .unwrap();
        assert_eq!(
            calls(&lab),
            [format!("DEL second {rest}"), format!("DEL first {rest}")]
        );
        assert_eq!(input(&lab, "DEL-first")["prevResult"]["from"], "second");
        assert!(lab.names("root/attachments").is_empty());
        assert!(lab.names("results").is_empty());
    }
);

lab_test!(results_are_kept_as_libcni_keeps_them, lab, {
    let network = network(&lab, Mode::Cni);
    write(&lab, "net.d/10-net.conflist", LIST);
    network.attach(&lab.pod("a")).await.unwrap();
    assert_eq!(lab.names("results"), ["net-a-eth0"]);
    let path = lab.folder.join("results/net-a-eth0");
    let kept: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(kept["kind"], "cniCacheV1");
    assert_eq!(kept["containerId"], "a");
    assert_eq!(kept["ifName"], "eth0");
    assert_eq!(kept["networkName"], "net");
    assert!(kept["netns"].as_str().unwrap().ends_with("netns-a"));
    assert_eq!(kept["result"]["from"], "second");
    assert!(
        kept["config"].as_str().unwrap().starts_with("ey"),
        "an object in base64"
    );
});

lab_test!(a_failed_add_is_deleted_at_once, lab, {
    let network = network(&lab, Mode::Cni);
    write(&lab, "net.d/10-net.conflist", LIST);
    write(&lab, "notes/fail-ADD-second", "");
    let error = network.attach(&lab.pod("a")).await.unwrap_err().to_string();
    let expect = "CNI network net: ADD by plugin second for a: told to fail (code 7)";
    assert_eq!(error, expect);
    let order: Vec<_> = calls(&lab)
        .iter()
        .map(|call| call[..10].trim().to_owned())
        .collect();
    assert_eq!(
        order,
        ["ADD first", "ADD second", "DEL second", "DEL first"]
    );
    assert!(lab.names("root/attachments").is_empty());
    assert!(lab.names("results").is_empty());
});

lab_test!(a_failed_delete_asks_all_and_may_be_tried_again, lab, {
    let network = network(&lab, Mode::Cni);
    write(&lab, "net.d/10-net.conflist", LIST);
    let pod = lab.pod("a");
    network.attach(&pod).await.unwrap();
    write(&lab, "notes/fail-DEL-second", "");
    calls(&lab);
    let error = network.detach("a").await.unwrap_err().to_string();
    assert!(error.contains("DEL by plugin second"), "{error}");
    assert_eq!(calls(&lab).len(), 2);
    assert_eq!(lab.names("root/attachments"), ["a.json"]);
    std::fs::remove_file(lab.folder.join("notes/fail-DEL-second")).unwrap();
    nix::mount::umount2(&pod.netns, nix::mount::MntFlags::MNT_DETACH).unwrap();
    network.detach("a").await.unwrap();
    assert!(
        calls(&lab).iter().all(|call| call.contains("netns= ")),
        "the namespace is gone"
    );
    assert!(lab.names("root/attachments").is_empty());
    network.detach("a").await.unwrap();
    assert!(calls(&lab).is_empty());
});

lab_test!(a_reset_keeps_what_plugins_refuse_to_take_back, lab, {
    let network = network(&lab, Mode::Auto);
    network.attach(&lab.pod("old")).await.unwrap();
    write(&lab, "net.d/10-net.conflist", LIST);
    network.attach(&lab.pod("a")).await.unwrap();
    write(&lab, "notes/fail-DEL-first", "");
    network.reset().await.unwrap_err();
    assert_eq!(lab.names("root/attachments"), ["a.json"]);
    assert_eq!(links(), Vec::<String>::new());
    std::fs::remove_file(lab.folder.join("notes/fail-DEL-first")).unwrap();
    network.reset().await.unwrap();
    assert_eq!(lab.names("root"), Vec::<String>::new());
});

lab_test!(an_intent_without_result_is_deleted_too, lab, {
    let network = network(&lab, Mode::Cni);
    write(&lab, "net.d/10-net.conflist", LIST);
    network.attach(&lab.pod("a")).await.unwrap();
    // The daemon died before the plugins' answer was kept.
    std::fs::remove_file(lab.folder.join("results/net-a-eth0")).unwrap();
    calls(&lab);
    let network = Network::open(&lab.config()).unwrap();
    network.reconcile(&HashSet::new(), false).await;
    assert_eq!(calls(&lab).len(), 2);
    assert!(input(&lab, "DEL-first").get("prevResult").is_none());
    assert!(lab.names("root/attachments").is_empty());
});

lab_test!(a_reboot_gives_back_what_plugins_gave, lab, {
    let network = network(&lab, Mode::Cni);
    write(&lab, "net.d/10-net.conflist", LIST);
    let pod = lab.pod("a");
    network.attach(&pod).await.unwrap();
    nix::mount::umount2(&pod.netns, nix::mount::MntFlags::MNT_DETACH).unwrap();
    calls(&lab);
    network
        .reconcile(&HashSet::from(["a".to_owned()]), true)
        .await;
    assert_eq!(calls(&lab).len(), 2);
    assert!(lab.names("root/attachments").is_empty());
});

lab_test!(many_sandboxes_that_are_gone_are_all_released, lab, {
    let network = network(&lab, Mode::Cni);
    write(&lab, "net.d/10-net.conflist", LIST);
    for number in 0..20 {
        network
            .attach(&lab.pod(&format!("p{number}")))
            .await
            .unwrap();
    }
    calls(&lab);
    network
        .reconcile(&HashSet::from(["p7".to_owned()]), false)
        .await;
    assert_eq!(calls(&lab).len(), 38);
    assert_eq!(lab.names("root/attachments"), ["p7.json"]);
});

lab_test!(new_pods_use_a_list_as_soon_as_it_appears, lab, {
    let network = network(&lab, Mode::Auto);
    network.status().unwrap();
    network.attach(&lab.pod("old")).await.unwrap();
    write(&lab, "net.d/10-net.conflist", LIST);
    network.status().unwrap();
    let got = network.attach(&lab.pod("new")).await.unwrap();
    assert_eq!(ip(&got).to_string(), "10.1.2.3");
    network.detach("old").await.unwrap();
    assert_eq!(links(), ["wherry0"]);
    assert_eq!(
        calls(&lab).len(),
        2,
        "the old pod is none of the plugins' business"
    );
    network.reset().await.unwrap();
    assert_eq!(calls(&lab).len(), 2);
    assert_eq!(links(), Vec::<String>::new());
});

#[track_caller]
fn not_ready(network: &Network, expect: &str) {
    let why = network.status().unwrap_err();
    assert!(
        matches!(&why, Error::NotReady(why) if why.contains(expect)),
        "{why}"
    );
}

lab_test!(without_a_usable_list_the_network_is_not_ready, lab, {
    let network = network(&lab, Mode::Cni);
    not_ready(&network, "no CNI configuration is in");
    let error = network.attach(&lab.pod("a")).await.unwrap_err();
    assert!(matches!(error, Error::NotReady(_)), "{error}");
    write(&lab, "net.d/00-broken.conflist", "{");
    not_ready(&network, "00-broken.conflist");
    not_ready(&crate::cni::network(&lab, Mode::Auto), "00-broken.conflist");
    let missing = LIST.replace("second", "third");
    write(&lab, "net.d/10-net.conflist", &missing);
    not_ready(&network, "plugin third is not in");
    write(&lab, "net.d/10-net.conflist", LIST);
    network.status().unwrap();
});

lab_test!(
    a_result_without_address_and_bad_arguments_are_refused,
    lab,
    {
        let network = network(&lab, Mode::Cni);
        write(&lab, "net.d/10-net.conflist", LIST);
        let mut pod = lab.pod("a");
        pod.args
            .insert("K8S_POD_NAME".to_owned(), "a;IgnoreUnknown=0".to_owned());
        let error = network.attach(&pod).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        assert!(calls(&lab).is_empty());
        write(&lab, "bin/second", "#!/bin/sh\necho '{}'\n");
        let error = network.attach(&lab.pod("a")).await.unwrap_err().to_string();
        assert_eq!(error, "CNI network net: its result has no address");
        write(&lab, "bin/second", "#!/bin/sh\necho nonsense\n");
        let error = network.attach(&lab.pod("a")).await.unwrap_err().to_string();
        assert!(error.contains("its result is no JSON"), "{error}");
        assert!(lab.names("root/attachments").is_empty());
    }
);

lab_test!(debian_plugins_give_and_take_a_network, lab, {
    let folder = PathBuf::from("/usr/lib/cni");
    if !["bridge", "host-local"]
        .iter()
        .all(|name| folder.join(name).exists())
    {
        println!("skipped: needs CNI plugins");
        return;
    }
    let addresses = lab.folder.join("host-local");
    let list = serde_json::json!({"cniVersion": "1.0.0", "name": "debian", "plugins": [
        {"type": "bridge", "bridge": "cni9", "isGateway": true, "hairpinMode": true, "ipam": {
            "type": "host-local", "dataDir": addresses, "subnet": "10.99.0.0/24",
            "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}]});
    std::fs::create_dir_all(lab.folder.join("net.d")).unwrap();
    write(&lab, "net.d/10-debian.conflist", &list.to_string());
    let network = Network::open(&Config {
        mode: Mode::Cni,
        cni_bin_dirs: vec![folder],
        ..lab.config()
    })
    .unwrap();
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    network.attach(&a).await.unwrap();
    let got = network.attach(&b).await.unwrap();
    serve(&b.netns, 80);
    reaches(Some(&a.netns), &format!("{}:80", ip(&got)), "10.99.0.2");
    reaches(Some(&b.netns), "127.0.0.1:80", "127.0.0.1");
    network.check("a").await.unwrap();
    network.detach("a").await.unwrap();
    network.detach("b").await.unwrap();
    let given: Vec<_> = lab.names("host-local/debian");
    assert!(
        !given.iter().any(|name| name.starts_with("10.99")),
        "{given:?}"
    );
    assert!(!sh("ip -o link").contains("veth"));
});
