//! Whose process ids a container sees, what is hidden from it, and who it may become.

use cri_api as cri;
use tonic::Code;

use super::{Pod, run, sandbox, security};

fn sees(config: &mut cri::ContainerConfig, target: &str) {
    security(config).namespace_options = Some(cri::NamespaceOption {
        pid: cri::NamespaceMode::Target.into(),
        target_id: target.to_owned(),
        ..Default::default()
    });
}

#[test]
fn a_container_may_see_the_processes_of_another() {
    let Some(pod) = Pod::start(|_| {}) else {
        return;
    };
    let target = pod.run(pod.container("target", "exec sleep 4321"));
    let mut config = pod.container("debugger", "exec sleep 1000");
    sees(&mut config, &target);
    let debugger = pod.run(config);
    let first = "tr '\\0' ' ' </proc/1/cmdline";
    assert_eq!(pod.exec(&debugger, first), "sleep 4321");
    assert!(!pod.exec(&target, "readlink /proc/self/ns/mnt").is_empty());
    let mounts = |id: &str| pod.exec(id, "readlink /proc/self/ns/mnt");
    assert_ne!(mounts(&target), mounts(&debugger));

    // One that has ended, and one of another pod, have nothing to show.
    let other = run(&pod.client, sandbox(&pod.node, "other")).unwrap();
    let stranger = cri::CreateContainerRequest {
        pod_sandbox_id: other,
        config: Some({
            let mut config = pod.container("stranger", "exec sleep 1000");
            sees(&mut config, &target);
            config
        }),
        sandbox_config: Some(sandbox(&pod.node, "other")),
    };
    let refused = pod
        .client
        .call(async |mut cri| cri.create_container(stranger).await)
        .unwrap_err();
    let check = |refused: &tonic::Status| {
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains("target_id"), "{refused:?}");
    };
    check(&refused);
    pod.node.crictl.ok(&["stop", "-t", "0", &target]).unwrap();
    let mut late = pod.container("late", "exec sleep 1000");
    sees(&mut late, &target);
    check(&pod.create(late).unwrap_err());
}

#[test]
fn paths_are_hidden_exactly_as_asked() {
    let Some(pod) = Pod::start(|_| {}) else {
        return;
    };
    let mut config = pod.container("hides", "exec sleep 1000");
    security(&mut config).masked_paths = vec!["/etc/group".into(), "/proc/sys/kernel".into()];
    security(&mut config).readonly_paths = vec!["/bin".into()];
    let hides = pod.run(config);
    let bare = pod.run(pod.container("bare", "exec sleep 1000"));
    let group = "wc -c </etc/group | tr -d ' '; ls /proc/sys/kernel | wc -l | tr -d ' '";
    assert_eq!(pod.exec(&hides, group), "0\n0");
    assert_ne!(pod.exec(&bare, group), "0\n0");
    let write = "(: >/bin/new) 2>/dev/null && echo written || echo refused";
    assert_eq!(pod.exec(&hides, write), "refused");
    // Nothing is hidden or protected that was not named.
    assert_eq!(pod.exec(&bare, write), "written");
}

#[test]
fn old_names_of_profiles_still_count() {
    let Some(pod) = Pod::start(|_| {}) else {
        return;
    };
    let mode = |name: &str, change: &dyn Fn(&mut cri::LinuxContainerSecurityContext)| {
        let mut config = pod.container(name, "exec sleep 1000");
        change(security(&mut config));
        let id = pod.run(config);
        let filters = pod.exec(&id, "grep ^Seccomp: /proc/1/status | tr -dc 0-9");
        let privileges = pod.exec(&id, "grep ^NoNewPrivs: /proc/1/status | tr -dc 0-9");
        (filters, privileges)
    };
    let own = |filters: &str, privileges: &str| (filters.to_owned(), privileges.to_owned());
    #[expect(deprecated, reason = "what older clients send")]
    let old = |path: &'static str| {
        move |context: &mut cri::LinuxContainerSecurityContext| {
            context.seccomp_profile_path = path.into();
        }
    };
    assert_eq!(mode("default", &old("runtime/default")), own("2", "0"));
    assert_eq!(mode("docker", &old("docker/default")), own("2", "0"));
    assert_eq!(mode("none", &old("unconfined")), own("0", "0"));
    assert_eq!(mode("silent", &|_| {}), own("0", "0"));
    let newer = |context: &mut cri::LinuxContainerSecurityContext| {
        old("unconfined")(context);
        context.seccomp = Some(cri::SecurityProfile::default());
        context.no_new_privs = true;
    };
    assert_eq!(mode("newer", &newer), own("2", "1"));
}
