//! Volumes that only the engine can make.

use serde_json::json;
use tests::image::{Format, Image, Layer, Packed};
use tests::kubelet::on_node;

use crate::{container, plain, pod, ready, status};

#[test]
fn an_image_as_a_volume() {
    let Some((kubelet, node)) = on_node(&plain()).unwrap() else {
        return;
    };
    let mut layer = Layer::default();
    layer.file("/models/small", 0o644, b"weights\n").unwrap();
    let layers = [Packed::new(layer).unwrap()];
    let image = Image::new(Format::Oci, &layers, &json!({}));
    node.registry.push("models", &["1"], &image).unwrap();
    let reference = format!("{}/models:1", node.registry.host);

    let script = "cat /whole/models/small /part/small && ! touch /whole/new && exec sleep 1000";
    let mut reader = container(&node, "reader", script);
    reader["volumeMounts"] = json!([
        {"name": "models", "mountPath": "/whole"},
        {"name": "models", "mountPath": "/part", "subPath": "models"},
    ]);
    let mut reader = pod("reader", &[reader]);
    reader["spec"]["volumes"] = json!([{"name": "models", "image": {"reference": reference, "pullPolicy": "IfNotPresent"}}]);
    kubelet.add(&reader).unwrap();
    let pod = kubelet.wait("reader", "to be ready", ready).unwrap();
    assert_eq!(status(&pod, "reader")["restartCount"], 0);
    let path = kubelet.path("containerLogs", "reader", "reader");
    let log = kubelet.secure_text(&path).unwrap();
    assert!(log.starts_with("weights\nweights\n"), "{log}");
    kubelet.finish(&node.crictl).unwrap();
}
