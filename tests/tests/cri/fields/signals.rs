//! The signal that asks a container to stop: the request's, else the image's, else SIGTERM.

use cri_api as cri;
use serde_json::json;
use tests::conformance::images;
use tests::image::{Format, Image};

use super::Pod;

/// Says which signal came; each has another number.
const TELLS: &str = "for s in TERM USR1 USR2 37 QUIT; do trap \"echo got $s; exit 7\" $s; done; \
    echo ready; while :; do sleep 0.05; done";

/// What the container has said when it was told to stop.
fn stopped(pod: &Pod, config: cri::ContainerConfig) -> (cri::Signal, String) {
    let name = config.metadata.as_ref().unwrap().name.clone();
    let id = pod.run(config);
    let told = pod.status(&id);
    tests::wait::until("the container to be ready", || {
        let log = std::fs::read_to_string(&told.log_path).ok()?;
        log.contains("ready").then_some(())
    })
    .unwrap();
    pod.node.crictl.ok(&["stop", "-t", "20", &id]).unwrap();
    let after = pod.status(&id);
    assert_eq!(
        (after.exit_code, after.reason.as_str()),
        (7, "Error"),
        "{name}"
    );
    let log = std::fs::read_to_string(&told.log_path).unwrap();
    let last = log.lines().last().unwrap();
    let said = last.split_once(" F ").unwrap().1.to_owned();
    (told.stop_signal(), said)
}

#[test]
fn a_container_is_stopped_by_its_own_signal() {
    let Some(pod) = Pod::start(|_| {}) else {
        return;
    };
    let layers = [images::busybox().unwrap()];
    let image = Image::new(
        Format::Oci,
        &layers,
        &json!({"StopSignal": "SIGUSR2", "Env": ["PATH=/bin"]}),
    );
    pod.node.registry.push("stops", &["1"], &image).unwrap();
    let of_image = format!("{}/stops:1", pod.node.registry.host);
    pod.node.crictl.ok(&["pull", &of_image]).unwrap();

    let plain = stopped(&pod, pod.container("plain", TELLS));
    assert_eq!(plain, (cri::Signal::Sigterm, "got TERM".into()));
    let with = |name: &str, image: &str, signal: cri::Signal| {
        let mut config = pod.container(name, TELLS);
        config.image.as_mut().unwrap().image = image.to_owned();
        config.stop_signal = signal.into();
        stopped(&pod, config)
    };
    let here = pod.node.image.as_str();
    let own = with("own", here, cri::Signal::Sigusr1);
    assert_eq!(own, (cri::Signal::Sigusr1, "got USR1".into()));
    let real_time = with("real-time", here, cri::Signal::Sigrtminplus3);
    assert_eq!(real_time, (cri::Signal::Sigrtminplus3, "got 37".into()));
    let images = with("images", &of_image, cri::Signal::RuntimeDefault);
    assert_eq!(images, (cri::Signal::Sigusr2, "got USR2".into()));
    let outweighed = with("outweighed", &of_image, cri::Signal::Sigquit);
    assert_eq!(outweighed, (cri::Signal::Sigquit, "got QUIT".into()));
}
