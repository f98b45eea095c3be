//! The images that critest wants, made of Debian's packages and a few lines of C.
//!
//! Names and properties are those that critest's specs look at; each is pushed under the path that
//! it has in its own registry, so that a mirror is all that the server under test needs. One image
//! is pinned by digest inside critest: the digest of ours is given back, for a copy of the binary.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::image::{Format, Image, Layer, Packed};
use crate::{Registry, debian, process, programs};

/// The digest of `test-image-digest` that is a constant of critest.
pub const PINNED: &str = "9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf";

/// Registries whose names critest asks for: each needs a mirror.
pub const HOSTS: [&str; 5] = [
    "registry.k8s.io",
    "k8s.gcr.io",
    "gcr.io",
    "docker.io",
    "public.ecr.aws",
];

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
";

const GROUP: &str = "\
root:x:0:
daemon:x:1:
tty:x:5:
www-data:x:33:
nogroup:x:65534:
";

/// Two tools that Debian's busybox does not have.
const PGREP: &str = r#"#!/bin/sh
# pgrep PATTERN: pids of processes whose name contains it.
status=1
for comm in /proc/[0-9]*/comm; do
  read -r name 2>/dev/null <"$comm" || continue
  pid=${comm#/proc/}; pid=${pid%/comm}
  case $name in *"$1"*) [ "$pid" = $$ ] || { echo "$pid"; status=0; } ;; esac
done
exit $status
"#;
const IPCS: &str = "#!/bin/sh\n# ipcs -m: shared memory segments.\ncat /proc/sysvipc/shm\n";

/// Prints who it runs as: set-user-id programs must not gain anything by no_new_privs.
const NO_NEW_PRIVS: &str = r#"
#include <stdio.h>
#include <unistd.h>
int main(void) { return printf("Effective uid: %d\n", (int)geteuid()) < 0; }
"#;

/// Waits for SIGTERM and takes in orphans; what an engine with a pause image would need.
const PAUSE: &str = r#"
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void) {
  sigset_t set; int signal;
  sigfillset(&set);
  sigprocmask(SIG_BLOCK, &set, 0);
  for (;;) {
    if (sigwait(&set, &signal)) continue;
    if (signal == SIGTERM || signal == SIGINT) return 0;
    if (signal == SIGCHLD) while (waitpid(-1, 0, WNOHANG) > 0);
  }
}
"#;

/// What Debian's busybox is made of.
const BUSYBOX: [&str; 2] = ["busybox", "libc6"];

/// What Debian's nginx is made of.
const NGINX: [&str; 7] = [
    "nginx",
    "nginx-common",
    "libpcre2-8-0",
    "libssl3",
    "zlib1g",
    "libcrypt1",
    "libc6",
];

/// Fetches the packages that all images are made of, unless the user's cache has them.
///
/// # Errors
///
/// If the packages cannot be had.
pub fn fetch() -> Result<()> {
    debian::unpacked(&BUSYBOX)?;
    debian::unpacked(&NGINX)?;
    Ok(())
}

/// Debian's busybox as an image layer.
///
/// The dynamic package, not `busybox-static`: the shell of that one runs its tools from inside
/// itself, so that masking `/bin/ls` would have no effect.
///
/// # Errors
///
/// If the packages cannot be had.
pub fn busybox() -> Result<Packed> {
    busybox_with(PASSWD, GROUP)
}

fn busybox_with(passwd: &str, group: &str) -> Result<Packed> {
    let root = debian::unpacked(&BUSYBOX)?;
    let mut layer = Layer::default();
    for (folder, mode) in [
        ("dev", 0o755),
        ("proc", 0o755),
        ("sys", 0o755),
        ("home", 0o755),
        ("var/run", 0o755),
    ] {
        layer.dir(folder, mode)?;
    }
    for (folder, mode) in [
        ("root", 0o700),
        ("tmp", 0o1777),
        ("var/tmp", 0o1777),
        ("var/www", 0o755),
    ] {
        layer.dir(folder, mode)?;
    }
    programs::add(&mut layer, &root, "/bin/busybox", "/bin/busybox")?;
    let list = process::ok(process::bounded(root.join("bin/busybox")).arg("--list"))?;
    for tool in list.split_whitespace().filter(|tool| *tool != "busybox") {
        layer.hardlink(&format!("/bin/{tool}"), "/bin/busybox")?;
    }
    layer.file("/bin/pgrep", 0o755, PGREP.as_bytes())?;
    layer.file("/bin/ipcs", 0o755, IPCS.as_bytes())?;
    layer.file("/etc/passwd", 0o644, passwd.as_bytes())?;
    layer.file("/etc/group", 0o644, group.as_bytes())?;
    Packed::new(layer)
}

/// A static program from a few lines of C.
fn compiled(source: &str) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let (code, program) = (
        folder.path().join("program.c"),
        folder.path().join("program"),
    );
    std::fs::write(&code, source)?;
    let mut compiler = process::bounded("gcc");
    process::ok(
        compiler
            .args(["-Os", "-static", "-s", "-o"])
            .arg(&program)
            .arg(&code),
    )?;
    Ok(std::fs::read(program)?)
}

/// A layer of one file.
fn single(path: &str, mode: u32, content: &[u8]) -> Result<Packed> {
    let mut layer = Layer::default();
    layer.file(path, mode, content)?;
    Packed::new(layer)
}

/// Debian's nginx, listening on a port.
fn nginx(port: u16) -> Result<Packed> {
    let root = debian::unpacked(&NGINX)?;
    let mut layer = Layer::default();
    programs::add(&mut layer, &root, "/usr/sbin/nginx", "/usr/sbin/nginx")?;
    layer.file(
        "/etc/nginx/nginx.conf",
        0o644,
        nginx_configuration(port).as_bytes(),
    )?;
    layer.dir("/var/log/nginx", 0o755)?;
    layer.dir("/var/lib/nginx", 0o755)?;
    let page = b"<html><title>Welcome to nginx!</title></html>\n";
    layer.file("/usr/share/nginx/html/index.html", 0o644, page)?;
    Packed::new(layer)
}

fn nginx_configuration(port: u16) -> String {
    let scratch: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path /tmp/nginx-{kind};\n"))
        .concat();
    format!(
        "user www-data;\nworker_processes 1;\npid /var/run/nginx.pid;\n\
         error_log /dev/stderr notice;\nevents {{}}\nhttp {{\n  access_log /dev/stdout;\n{scratch}\
         \x20 server {{ listen {port}; root /usr/share/nginx/html; index index.html; }}\n}}\n"
    )
}

/// Makes all images of critest and pushes them; gives back the digest that stands for [`PINNED`],
/// without `sha256:`.
///
/// # Errors
///
/// If packages, compiler or registry fail.
pub fn push_all(registry: &Registry) -> Result<String> {
    let base = busybox()?;
    push_basic(registry, &base)?;
    push_servers(registry, &base)?;
    push_users(registry, &base)?;
    push_tags(registry, &base)
}

/// Docker's format is what these images have in their own registries.
const FORMAT: Format = Format::Docker;

fn shell() -> Value {
    json!({"Env": [PATH], "Cmd": ["sh"]})
}

/// Pushes only the small image that most tests use, as `e2e-test-images/busybox:1.29-2`.
///
/// # Errors
///
/// If packages or registry fail.
pub fn push_busybox(registry: &Registry, layer: &Packed) -> Result<()> {
    let image = Image::indexed(FORMAT, std::slice::from_ref(layer), &shell());
    registry.push("e2e-test-images/busybox", &["1.29-2"], &image)
}

fn push_basic(registry: &Registry, base: &Packed) -> Result<()> {
    let layers = [base.clone()];
    let image = Image::indexed(FORMAT, &layers, &shell());
    registry.push("e2e-test-images/busybox", &["1.29-2"], &image)?;
    registry.push(
        "library/busybox",
        &["latest"],
        &Image::new(Format::Oci, &layers, &shell()),
    )?;
    for tag in ["1", "1-glibc", "1-musl", "1-uclibc", "1.35.0-glibc"] {
        let config = json!({"Env": [PATH], "Cmd": ["sh"], "Labels": {"tag": tag}});
        registry.push(
            "docker/library/busybox",
            &[tag],
            &Image::new(FORMAT, &layers, &config),
        )?;
    }
    push_pause(registry)?;
    let program = single("/nnp", 0o4755, &compiled(NO_NEW_PRIVS)?)?;
    let image = Image::new(
        FORMAT,
        &[base.clone(), program],
        &json!({"Entrypoint": ["/nnp"]}),
    );
    registry.push("e2e-test-images/nonewprivs", &["1.3"], &image)
}

/// Pushes `pause:3.9` and `pause:3.10`, which other engines keep a pod's namespaces with.
///
/// # Errors
///
/// If compiler or registry fail.
pub fn push_pause(registry: &Registry) -> Result<()> {
    let pause = compiled(PAUSE)?;
    for tag in ["3.9", "3.10"] {
        let config =
            json!({"Entrypoint": ["/pause"], "User": "65535:65535", "Labels": {"tag": tag}});
        let layer = single("/pause", 0o755, &pause)?;
        registry.push("pause", &[tag], &Image::indexed(FORMAT, &[layer], &config))?;
    }
    Ok(())
}

fn push_servers(registry: &Registry, base: &Packed) -> Result<()> {
    let command = ["nginx", "-c", "/etc/nginx/nginx.conf", "-g", "daemon off;"];
    for (name, tag, port) in [
        ("e2e-test-images/nginx", "1.14-2", 80),
        ("k8s-staging-cri-tools/hostnet-nginx-amd64", "latest", 12003),
    ] {
        let config = json!({"Env": [PATH], "Cmd": command, "StopSignal": "SIGQUIT",
            "ExposedPorts": {format!("{port}/tcp"): {}}});
        let image = Image::new(FORMAT, &[base.clone(), nginx(port)?], &config);
        registry.push(name, &[tag], &image)?;
    }
    let mut layer = Layer::default();
    layer.file(
        "/www/index.html",
        0o644,
        b"<html><body><h1>It works!</h1></body></html>\n",
    )?;
    // critest looks for the server's name in what it writes.
    let script = b"#!/bin/sh\necho 'httpd: serving /www' >&2\nexec httpd -f -p 80 -h /www\n";
    layer.file("/usr/local/bin/httpd-foreground", 0o755, script)?;
    let config =
        json!({"Env": [PATH], "Cmd": ["httpd-foreground"], "ExposedPorts": {"80/tcp": {}}});
    let image = Image::new(FORMAT, &[base.clone(), Packed::new(layer)?], &config);
    registry.push("e2e-test-images/httpd", &["2.4.39-4"], &image)
}

fn push_users(registry: &Registry, base: &Packed) -> Result<()> {
    let with = |user: &str| json!({"Env": [PATH], "Cmd": ["sh"], "User": user});
    for (name, user) in [
        ("uid", "1002"),
        ("username", "www-data"),
        ("uid-group", "1003:1004"),
        ("username-group", "www-data:1004"),
    ] {
        let image = Image::new(FORMAT, std::slice::from_ref(base), &with(user));
        registry.push(&staging(&format!("user-{name}")), &["latest"], &image)?;
    }
    let passwd = format!("{PASSWD}default-user:x:1000:1000::/home/default-user:/bin/sh\n");
    let group =
        format!("{GROUP}default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n");
    let image = Image::new(FORMAT, &[busybox_with(&passwd, &group)?], &with("1000"));
    registry.push(&staging("predefined-group"), &["latest"], &image)
}

fn staging(name: &str) -> String {
    format!("k8s-staging-cri-tools/test-image-{name}")
}

/// Images of which only names and number count. Each has a layer of its own.
fn push_tags(registry: &Registry, base: &Packed) -> Result<String> {
    let marked = |mark: &str| -> Result<[Packed; 2]> {
        Ok([base.clone(), single(&format!("/{mark}"), 0o644, b"")?])
    };
    for name in ["1", "2", "3"] {
        let image = Image::new(FORMAT, &marked(name)?, &shell());
        registry.push(&staging(name), &["latest"], &image)?;
    }
    let latest = Image::indexed(FORMAT, &marked("latest")?, &shell());
    registry.push(&staging("latest"), &["latest"], &latest)?;
    let same = Image::new(FORMAT, &marked("same")?, &shell());
    registry.push(&staging("tags"), &["1", "2", "3"], &same)?;
    for tag in ["test", "all"] {
        let image = Image::new(FORMAT, &marked(tag)?, &shell());
        registry.push(&staging("tag"), &[tag], &image)?;
    }
    let pinned = Image::indexed(FORMAT, &marked("digest")?, &shell());
    registry.push(&staging("digest"), &["latest"], &pinned)?;
    Ok(pinned.top.digest.trim_start_matches("sha256:").to_owned())
}

/// Copies critest with the digest of our image in place of [`PINNED`].
///
/// # Errors
///
/// If the copy cannot be written, or critest does not hold the digest.
pub fn adapt_critest(critest: &Path, copy: &Path, digest: &str) -> Result<()> {
    let mut program = std::fs::read(critest)?;
    let (old, new) = (PINNED.as_bytes(), digest.as_bytes());
    anyhow::ensure!(old.len() == new.len(), "{digest} is no SHA-256");
    let mut found = false;
    let mut at = 0;
    while let Some(next) = program[at..]
        .windows(old.len())
        .position(|window| window == old)
    {
        program[at + next..at + next + old.len()].copy_from_slice(new);
        at += next + old.len();
        found = true;
    }
    anyhow::ensure!(
        found,
        "{} does not hold the digest {PINNED}",
        critest.display()
    );
    std::fs::write(copy, program)?;
    std::fs::set_permissions(copy, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(())
}
