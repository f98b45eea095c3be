//! The built-in network: what pods, the host and the outside see of it, and what is left of it.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use network::{Config, Error, Network};

use crate::lab::{
    HOST, fails, ip, lab_test, links, port, reaches, serve, serve_on_host, serve_udp_once, sh, udp,
    within,
};

lab_test!(pods_the_host_and_the_gateway_reach_each_other, lab, {
    let network = lab.network();
    network.status().unwrap();
    assert_eq!(
        links(),
        Vec::<String>::new(),
        "nothing is made before the first pod"
    );
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let got = network.attach(&a).await.unwrap();
    assert_eq!(
        (ip(&got).to_string().as_str(), got.interface.as_str()),
        ("10.97.0.2", "eth0")
    );
    network.attach(&b).await.unwrap();
    serve(&b.netns, 80);
    serve_on_host(81);
    reaches(Some(&a.netns), "10.97.0.3:80", "10.97.0.2");
    reaches(None, "10.97.0.3:80", "10.97.0.1");
    reaches(Some(&a.netns), "10.97.0.1:81", "10.97.0.2");
    reaches(Some(&b.netns), "127.0.0.1:80", "127.0.0.1");
    network.status().unwrap();
});

lab_test!(detaching_leaves_no_link_rule_or_file, lab, {
    let network = lab.network();
    let mut pod = lab.pod("a");
    pod.ports = vec![port("tcp", 8080, 80), port("udp", 8080, 80)];
    network.attach(&pod).await.unwrap();
    assert_eq!(lab.names("root/addresses"), ["10.97.0.2"]);
    assert_eq!(lab.names("root/attachments"), ["a.json"]);
    assert!(sh("nft list table inet wherry0").contains("dnat ip to 10.97.0.2:80"));
    network.detach("a").await.unwrap();
    assert_eq!(links(), ["wherry0"]);
    assert!(lab.names("root/addresses").is_empty());
    assert!(lab.names("root/attachments").is_empty());
    assert!(!sh("nft list table inet wherry0").contains("10.97.0.2"));
    network.detach("a").await.unwrap();
    network.detach("never-seen").await.unwrap();
});

lab_test!(host_ports_lead_into_the_pod_from_everywhere, lab, {
    let outside = lab.outside();
    let network = lab.network();
    let (mut pod, other) = (lab.pod("pod"), lab.pod("other"));
    pod.ports = vec![port("tcp", 8080, 80), port("udp", 8053, 80)];
    network.attach(&pod).await.unwrap();
    network.attach(&other).await.unwrap();
    serve(&pod.netns, 80);
    let at_host = &format!("{HOST}:8080");
    reaches(Some(&outside), at_host, "192.0.2.2");
    reaches(None, at_host, HOST);
    reaches(None, "127.0.0.1:8080", "10.97.0.1");
    reaches(None, "10.97.0.1:8080", "10.97.0.1");
    reaches(Some(&other.netns), at_host, "10.97.0.1");
    reaches(Some(&pod.netns), at_host, "10.97.0.1");
    let udp_at_host = &format!("{HOST}:8053");
    assert_eq!(udp(Some(&outside), udp_at_host).as_deref(), Ok("192.0.2.2"));
    assert_eq!(
        udp(Some(&pod.netns), udp_at_host).as_deref(),
        Ok("10.97.0.1")
    );
    network.detach("pod").await.unwrap();
    fails(Some(&outside), at_host);
    fails(None, "127.0.0.1:8080");
});

lab_test!(a_host_port_on_one_address_answers_there_only, lab, {
    let outside = lab.outside();
    let network = lab.network();
    let (mut local, mut public) = (lab.pod("local"), lab.pod("public"));
    local.ports = vec![port("tcp", 8080, 80)];
    local.ports[0].host_ip = Some("127.0.0.1".parse().unwrap());
    public.ports = vec![port("tcp", 8080, 80)];
    public.ports[0].host_ip = Some(HOST.parse().unwrap());
    network.attach(&local).await.unwrap();
    serve(&local.netns, 80);
    let at_host = &format!("{HOST}:8080");
    reaches(None, "127.0.0.1:8080", "10.97.0.1");
    fails(Some(&outside), at_host);
    network.attach(&public).await.unwrap();
    serve(&public.netns, 80);
    reaches(Some(&outside), at_host, "192.0.2.2");
    reaches(None, "127.0.0.1:8080", "10.97.0.1");
});

lab_test!(pods_reach_the_outside_and_it_does_not_reach_them, lab, {
    let outside = lab.outside();
    let network = lab.network();
    let pod = lab.pod("a");
    network.attach(&pod).await.unwrap();
    serve(&outside, 80);
    serve(&pod.netns, 80);
    reaches(Some(&pod.netns), "192.0.2.2:80", HOST);
    fails(Some(&outside), "10.97.0.2:80");
});

lab_test!(
    a_routed_range_reaches_pods_and_sees_their_own_addresses,
    lab,
    {
        let outside = lab.outside();
        let (pod, later) = (lab.pod("a"), lab.pod("b"));
        // A daemon without the key was here before, and its table with it.
        lab.network().attach(&pod).await.unwrap();
        serve(&outside, 80);
        serve(&pod.netns, 80);
        fails(Some(&outside), "10.97.0.2:80");
        let network = Network::open(&Config {
            routed: vec!["192.0.2.0/24".to_owned()],
            ..lab.config()
        })
        .unwrap();
        network.attach(&later).await.unwrap();
        reaches(Some(&outside), "10.97.0.2:80", "192.0.2.2");
        reaches(Some(&later.netns), "192.0.2.2:80", "10.97.0.3");
        reaches(Some(&later.netns), "10.97.0.2:80", "10.97.0.3");
    }
);

lab_test!(links_that_come_and_go_disturb_no_pod, lab, {
    lab.outside();
    let network = lab.network();
    // So many that the kernel tells them in several parts, between which they change.
    sh(
        "for i in $(seq 150); do echo link add many$i type veth peer name more$i; done | ip -batch -",
    );
    let busy = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&busy);
    let others = std::thread::spawn(move || {
        while still.load(Ordering::Relaxed) {
            sh("for i in $(seq 10); do
                  echo link add some$i type veth peer name other$i; echo link del some$i; done | ip -batch -");
        }
    });
    let mut attached = vec![];
    for number in 0..10 {
        attached.push(network.attach(&lab.pod(&format!("p{number}"))).await);
    }
    busy.store(false, Ordering::Relaxed);
    others.join().unwrap();
    for got in attached {
        got.unwrap();
    }
});

lab_test!(a_taken_host_port_names_its_owner, lab, {
    let network = lab.network();
    let (mut one, mut two) = (lab.pod("one"), lab.pod("two"));
    one.ports = vec![port("tcp", 8080, 80)];
    two.ports = vec![port("tcp", 8080, 81)];
    network.attach(&one).await.unwrap();
    let refused = network.attach(&two).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Conflict(why) if why.contains("one")),
        "{refused}"
    );
    assert_eq!(lab.names("root/addresses"), ["10.97.0.2"]);
    network.detach("one").await.unwrap();
    network.attach(&two).await.unwrap();
});

lab_test!(a_port_that_a_program_listens_on_is_refused, lab, {
    let network = lab.network();
    serve_on_host(8080);
    for protocol in ["tcp", "udp"] {
        let mut pod = lab.pod(protocol);
        pod.ports = vec![port(protocol, 8080, 80)];
        let error = network.attach(&pod).await.unwrap_err();
        assert!(
            matches!(&error, Error::Conflict(why) if why.contains("program")),
            "{error}"
        );
    }
    assert!(lab.names("root/attachments").is_empty());
});

lab_test!(a_udp_sender_that_never_pauses_reaches_the_new_pod, lab, {
    let outside = lab.outside();
    let network = lab.network();
    network.attach(&lab.pod("other")).await.unwrap();
    let sender = within(&outside, || UdpSocket::bind("192.0.2.2:7000").unwrap());
    sender
        .set_read_timeout(Some(std::time::Duration::from_secs(5)))
        .unwrap();
    let before = serve_udp_once(8053);
    sender.send_to(b"?", (HOST, 8053)).unwrap();
    sender.recv(&mut [0; 64]).unwrap();
    before.join().unwrap();
    let mut pod = lab.pod("pod");
    pod.ports = vec![port("udp", 8053, 80)];
    network.attach(&pod).await.unwrap();
    serve(&pod.netns, 80);
    sender.send_to(b"?", (HOST, 8053)).unwrap();
    let length = sender.recv(&mut [0; 64]).unwrap();
    assert_eq!(length, "192.0.2.2".len());
});

lab_test!(
    a_port_on_loopback_is_not_reached_by_a_forged_destination,
    lab,
    {
        let outside = lab.outside();
        let network = lab.network();
        let mut pod = lab.pod("a");
        pod.ports = vec![port("tcp", 8080, 80)];
        pod.ports[0].host_ip = Some("127.0.0.1".parse().unwrap());
        network.attach(&pod).await.unwrap();
        serve(&pod.netns, 80);
        let forge = "ip addr del 127.0.0.1/8 dev lo
        echo 1 > /proc/sys/net/ipv4/conf/wire1/route_localnet
        ip route add 127.0.0.1/32 via 192.0.2.1 dev wire1 src 192.0.2.2";
        within(&outside, || sh(forge));
        fails(Some(&outside), "127.0.0.1:8080");
        // The forgery is a good one: without the rule it arrives.
        sh("nft flush chain inet wherry0 raw");
        reaches(Some(&outside), "127.0.0.1:8080", "192.0.2.2");
    }
);

async fn refused(lab: &crate::lab::Lab, expect: &str) {
    let network = lab.network();
    let error = network.attach(&lab.pod("a")).await.unwrap_err();
    assert!(
        matches!(&error, Error::Conflict(why) if why.contains(expect)),
        "{error}"
    );
    let status = network.status().unwrap_err();
    assert!(
        matches!(&status, Error::NotReady(why) if why.contains(expect)),
        "{status}"
    );
    assert!(lab.names("root/addresses").is_empty());
    assert!(lab.names("root/attachments").is_empty());
}

lab_test!(
    a_foreign_bridge_of_our_name_is_refused_and_untouched,
    lab,
    {
        sh("ip link add wherry0 type bridge");
        refused(&lab, "link wherry0 exists and is not ours").await;
        assert!(!sh("ip addr show wherry0").contains("10.97"));
    }
);

lab_test!(a_route_into_our_range_is_refused, lab, {
    sh("ip link add other type bridge; ip addr add 10.97.5.1/24 dev other; ip link set other up");
    refused(&lab, "10.97.5.").await;
    assert_eq!(links(), Vec::<String>::new());
});

lab_test!(a_foreign_table_of_our_name_is_refused_and_untouched, lab, {
    sh("nft add table inet wherry0; nft add chain inet wherry0 theirs");
    refused(&lab, "firewall table inet wherry0 exists and is not ours").await;
    assert!(sh("nft list table inet wherry0").contains("theirs"));
});

lab_test!(a_failed_attach_leaves_nothing, lab, {
    let network = lab.network();
    let mut pod = lab.pod("a");
    pod.ports = vec![port("tcp", 8080, 80)];
    pod.netns = lab.folder.join("no-such-netns");
    let error = network.attach(&pod).await.unwrap_err().to_string();
    assert!(error.contains("no-such-netns"), "{error}");
    assert!(lab.names("root/addresses").is_empty());
    assert!(lab.names("root/attachments").is_empty());
    assert_eq!(links(), ["wherry0"]);
    // Inside, eth0 is taken: the pair cannot be made.
    let pod = lab.pod("b");
    within(&pod.netns, || sh("ip link add eth0 type bridge"));
    network.attach(&pod).await.unwrap_err();
    assert!(lab.names("root/attachments").is_empty());
    assert_eq!(links(), ["wherry0"]);
});

lab_test!(what_a_crash_left_half_made_is_undone, lab, {
    let pod = lab.pod("a");
    lab.network().attach(&pod).await.unwrap();
    let link = links()
        .into_iter()
        .find(|name| name.starts_with("vw"))
        .unwrap();
    // The daemon died before the link came: the record and the address are all there is.
    sh(&format!("ip link del {link}"));
    let network = lab.network();
    network.detach("a").await.unwrap();
    assert!(lab.names("root/addresses").is_empty());
    // It died before the record came: the address is all there is.
    std::fs::write(lab.folder.join("root/addresses/10.97.0.9"), "b").unwrap();
    network.detach("b").await.unwrap();
    assert!(lab.names("root/addresses").is_empty());
    // A power cut tore the record.
    network.attach(&pod).await.unwrap();
    std::fs::write(lab.folder.join("root/attachments/a.json"), "").unwrap();
    lab.network().reconcile(&HashSet::new(), false).await;
    assert!(lab.names("root/addresses").is_empty());
    assert!(lab.names("root/attachments").is_empty());
    assert_eq!(links(), ["wherry0"]);
});

lab_test!(
    an_attach_that_is_tried_again_takes_the_place_of_the_first,
    lab,
    {
        let network = lab.network();
        let pod = lab.pod("a");
        network.attach(&pod).await.unwrap();
        let got = network.attach(&pod).await.unwrap();
        assert_eq!(lab.names("root/addresses"), [ip(&got).to_string()]);
        assert_eq!(links().len(), 2);
    }
);

lab_test!(detaching_works_after_the_namespace_is_gone, lab, {
    let network = lab.network();
    let pod = lab.pod("a");
    network.attach(&pod).await.unwrap();
    nix::mount::umount2(&pod.netns, nix::mount::MntFlags::MNT_DETACH).unwrap();
    std::fs::remove_file(&pod.netns).unwrap();
    network.detach("a").await.unwrap();
    assert_eq!(links(), ["wherry0"]);
    assert!(lab.names("root/addresses").is_empty());
});

lab_test!(fifty_pods_at_once_get_fifty_addresses, lab, {
    let network = lab.network();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..50_u16 {
        let mut pod = lab.pod(&format!("pod{number}"));
        pod.ports = vec![port("tcp", 9000 + number, 80)];
        let network = network.clone();
        tasks.spawn(async move { ip(&network.attach(&pod).await.unwrap()) });
    }
    let ips: HashSet<_> = tasks.join_all().await.into_iter().collect();
    assert_eq!(ips.len(), 50);
    assert_eq!(
        sh("nft list table inet wherry0")
            .matches("dnat ip to")
            .count(),
        50
    );
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..50 {
        let network = network.clone();
        tasks.spawn(async move { network.detach(&format!("pod{number}")).await.unwrap() });
    }
    tasks.join_all().await;
    assert_eq!(links(), ["wherry0"]);
    assert_eq!(
        sh("nft list table inet wherry0")
            .matches("dnat ip to")
            .count(),
        0
    );
    assert!(lab.names("root/addresses").is_empty());
});

lab_test!(
    reconciling_mends_what_others_broke_and_frees_the_dead,
    lab,
    {
        let outside = lab.outside();
        let (mut live, dead) = (lab.pod("live"), lab.pod("dead"));
        live.ports = vec![port("tcp", 8080, 80)];
        let network = lab.network();
        network.attach(&live).await.unwrap();
        network.attach(&dead).await.unwrap();
        serve(&live.netns, 80);
        drop(network);
        sh("nft flush ruleset; ip link del wherry0");
        let network = lab.network();
        network
            .reconcile(&HashSet::from(["live".to_owned()]), false)
            .await;
        assert_eq!(lab.names("root/attachments"), ["live.json"]);
        reaches(Some(&outside), &format!("{HOST}:8080"), "192.0.2.2");
        let link = links()
            .into_iter()
            .find(|name| name.starts_with("vw"))
            .unwrap();
        sh(&format!("ip link del {link}"));
        network
            .reconcile(&HashSet::from(["live".to_owned()]), false)
            .await;
        reaches(Some(&outside), &format!("{HOST}:8080"), "192.0.2.2");
    }
);

lab_test!(the_next_pod_mends_a_flushed_table, lab, {
    let outside = lab.outside();
    let network = lab.network();
    network.attach(&lab.pod("a")).await.unwrap();
    sh("nft flush ruleset");
    let pod = lab.pod("b");
    network.attach(&pod).await.unwrap();
    serve(&outside, 80);
    reaches(Some(&pod.netns), "192.0.2.2:80", HOST);
});

lab_test!(a_reboot_frees_all, lab, {
    let network = lab.network();
    network.attach(&lab.pod("a")).await.unwrap();
    network
        .reconcile(&HashSet::from(["a".to_owned()]), true)
        .await;
    assert!(lab.names("root/addresses").is_empty());
    assert!(lab.names("root/attachments").is_empty());
});

lab_test!(a_reset_leaves_nothing, lab, {
    let network = lab.network();
    let mut pod = lab.pod("a");
    pod.ports = vec![port("tcp", 8080, 80)];
    network.attach(&pod).await.unwrap();
    let forwarding = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    assert_eq!(forwarding().trim(), "1");
    network.reset().await.unwrap();
    assert_eq!(links(), Vec::<String>::new());
    assert_eq!(sh("nft list ruleset"), "");
    assert_eq!(forwarding().trim(), "0");
    assert_eq!(lab.names("root"), Vec::<String>::new());
    assert_eq!(lab.names("state"), Vec::<String>::new());
    network.reset().await.unwrap();
});

lab_test!(two_daemons_live_beside_each_other, lab, {
    let one = lab.network();
    let at = |name: &str| lab.folder.join(name);
    let two = Network::open(&Config {
        bridge: "wherry1".to_owned(),
        subnet: "10.98.0.0/24".to_owned(),
        root: at("root2"),
        state: at("state2"),
        ..lab.config()
    })
    .unwrap();
    let same_names = Network::open(&Config {
        root: at("root3"),
        state: at("state3"),
        ..lab.config()
    })
    .unwrap();
    let (mut a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    a.ports = vec![port("tcp", 8080, 80)];
    one.attach(&a).await.unwrap();
    two.attach(&b).await.unwrap();
    same_names.attach(&c).await.unwrap_err();
    serve(&a.netns, 80);
    reaches(Some(&b.netns), "10.97.0.1:8080", "10.97.0.1");
    fails(Some(&b.netns), "10.97.0.2:80");
    two.reset().await.unwrap();
    same_names.reset().await.unwrap();
    reaches(None, "10.97.0.2:80", "10.97.0.1");
    reaches(None, "127.0.0.1:8080", "10.97.0.1");
});

lab_test!(a_small_range_runs_out_with_a_clear_word, lab, {
    let network = Network::open(&Config {
        subnet: "10.97.0.0/29".to_owned(),
        ..lab.config()
    })
    .unwrap();
    for number in 0..5 {
        network
            .attach(&lab.pod(&format!("p{number}")))
            .await
            .unwrap();
    }
    let error = network
        .attach(&lab.pod("more"))
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "no address is left in 10.97.0.0/29: all 5 are in use"
    );
});

lab_test!(loopback_alone_comes_up, lab, {
    let pod = lab.pod("a");
    lab.network().loopback(&pod.netns).await.unwrap();
    serve(&pod.netns, 80);
    reaches(Some(&pod.netns), "127.0.0.1:80", "127.0.0.1");
    assert_eq!(links(), Vec::<String>::new());
});

lab_test!(a_configuration_without_sense_is_refused, lab, {
    for (bridge, subnet) in [
        ("", "10.97.0.0/16"),
        ("a/b", "10.97.0.0/16"),
        ("b", "10.97.0.1/16"),
    ] {
        let config = Config {
            bridge: bridge.to_owned(),
            subnet: subnet.to_owned(),
            ..lab.config()
        };
        assert!(
            matches!(Network::open(&config), Err(Error::Invalid(_))),
            "{bridge} {subnet}"
        );
    }
});
