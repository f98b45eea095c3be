//! Making a sandbox and making a container: plans carried out, step by step.
//!
//! Each begins with a record on disk that says what is about to exist; on failure the caller walks
//! the one road of [`crate::teardown`].

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::mount::MsFlags;
use oci_spec::runtime::Spec;
use pod::lifecycle::SandboxPhase;
use pod::plan::{
    ClassNames, ContainerInputs, ContainerPlan, Edits, Namespace, NewAccount, SandboxPlan, Shares,
    class_names, mount_label, storage_limits,
};
use pod::sandbox::{IdRange, PidMode, UserNamespace};
use pod::{ContainerSpec, NodeFacts};
use shim_api::{Create, Start, State, reply, request, state_reply};
use tokio::sync::mpsc;

use crate::checkpoint::restore;
use crate::error::Error;
use crate::leaks::Leak;
use crate::owned::{self, OwnedContainer, Pod, Process};
use crate::plugins::{self, About};
use crate::shim::{Launch, News, Shim};
use crate::store::{self, ContainerRecord, SandboxRecord};
use crate::{
    Inner, LOCK, apparmor, blocking, cdi, classes, elf, facts, namespaces, new_id, now, relabel,
    rootfs, shim, teardown, volumes,
};

/// How long the sources of mounts may take to answer: behind them may be a server that is gone.
const SOURCE_PATIENCE: Duration = Duration::from_secs(20);

/// How many containers' sources are looked at at once, on the whole node: each may hang for good.
pub(crate) const MAX_LOOKUPS: usize = 8;

/// How long a shim may take to say how its container is, when the daemon asks after a restart.
const STATE_PATIENCE: Duration = Duration::from_secs(5);

/// Makes a sandbox. What was made before a failure is left to [`teardown::sandbox`].
pub(crate) async fn sandbox(pod: &mut Pod) -> Result<(), Error> {
    let id = pod.record.id.clone();
    let engine = Arc::clone(&pod.engine);
    let paths = engine.paths.for_plan(&id, &engine.config.shim);
    let facts = facts::refresh(&engine.facts_of(&pod.record.spec.handler));
    let plan = pod::plan_sandbox(&id, &pod.record.spec, &paths, &facts)?;
    pod.record.has_init = plan.init.is_some();
    keep_sandbox(&engine, &pod.record).await?;
    let prepared = prepare(&engine, &id, &pod.record.spec.log_directory, plan.clone());
    step!("namespaces", prepared).await?;
    if plan.namespaces.contains(&Namespace::Network) {
        let wanted = attachment(&engine, &pod.record);
        let attached = step!("network_setup", engine.network.attach(&wanted)).await?;
        pod.record.ips = attached.ips;
        pod.record.cni_result = attached.cni_result;
    }
    if let Some(spec) = plan.init {
        step!("init", start_init(pod, *spec)).await?;
    }
    Box::pin(plugins::run_pod(pod)).await?;
    pod.record.phase = SandboxPhase::Ready;
    keep_sandbox(&engine, &pod.record).await
}

/// Writes a sandbox's record.
pub(crate) async fn keep_sandbox(engine: &Inner, record: &SandboxRecord) -> Result<(), Error> {
    let (paths, record) = (engine.paths.clone(), record.clone());
    let written = blocking(move || store::put_sandbox(&paths, &record));
    let written = step!("record", written).await;
    step("writing the sandbox's record", written)
}

/// Writes a container's record.
pub(crate) async fn keep_container(engine: &Inner, record: &ContainerRecord) -> Result<(), Error> {
    let (paths, record) = (engine.paths.clone(), record.clone());
    let written = blocking(move || store::put_container(&paths, &record));
    let written = step!("record", written).await;
    step("writing the container's record", written)
}

/// Folders, files, shared memory and namespaces of a sandbox.
async fn prepare(
    engine: &Inner,
    id: &str,
    log_directory: &str,
    plan: SandboxPlan,
) -> Result<(), Error> {
    let (paths, id, logs, shim) = (
        engine.paths.clone(),
        id.to_owned(),
        PathBuf::from(log_directory),
        engine.config.shim.clone(),
    );
    blocking(move || {
        let folder = paths.sandbox(&id);
        step(
            "making the sandbox's folder",
            own_folder(&folder, plan.user),
        )?;
        step(
            "making the sandbox's folder",
            make_folder(&paths.namespaces(&id), 0o711),
        )?;
        let write = |name: &str, text: &str| {
            fs::write(folder.join(name), text)?;
            give(&folder.join(name), plan.user)
        };
        step(
            "writing the sandbox's hostname",
            write("hostname", &plan.etc_hostname),
        )?;
        step(
            "writing the sandbox's hosts",
            write("hosts", &plan.etc_hosts),
        )?;
        step(
            "writing the sandbox's resolv.conf",
            write("resolv.conf", &plan.etc_resolv_conf),
        )?;
        if let Some(size) = plan.shm_size {
            step(
                "mounting the sandbox's /dev/shm",
                mount_shm(&paths.shm(&id), size, plan.user),
            )?;
        }
        if !logs.as_os_str().is_empty() {
            step("making the log directory", make_folder(&logs, 0o755))?;
        }
        step(
            "making the sandbox's namespaces",
            namespaces::pin(&plan, &paths.namespaces(&id), &shim),
        )
    })
    .await
}

fn step<T>(what: &str, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull => Error::Exhausted(format!("{what}: {error}")),
        _ => Error::failed(what, error),
    })
}

pub(crate) fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
}

/// Gives a file of the pod to its root, where that is not the host's.
fn give(path: &Path, user: Option<UserNamespace>) -> io::Result<()> {
    match user {
        Some(user) => std::os::unix::fs::lchown(path, Some(user.uids.host), Some(user.gids.host)),
        None => Ok(()),
    }
}

/// Makes a folder that no other user of the machine gets into: in it are a container's environment
/// and programs, a pod's shared memory. The root of a pod's user namespace may pass, because a
/// runtime may look up what it mounts as that one.
fn own_folder(path: &Path, user: Option<UserNamespace>) -> io::Result<()> {
    make_folder(path, 0o700)?;
    if let Some(user) = user {
        std::os::unix::fs::chown(path, None, Some(user.gids.host))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o710))?;
    }
    Ok(())
}

fn mount_shm(target: &Path, size: u64, user: Option<UserNamespace>) -> io::Result<()> {
    make_folder(target, 0o755)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mut data = format!("mode=1777,size={size}");
    if let Some(user) = user {
        data += &format!(",uid={},gid={}", user.uids.host, user.gids.host);
    }
    nix::mount::mount(
        Some("shm"),
        target,
        Some("tmpfs"),
        flags,
        Some(data.as_str()),
    )?;
    Ok(())
}

fn attachment(engine: &Inner, record: &SandboxRecord) -> network::Attachment {
    let spec = &record.spec;
    let args = [
        ("K8S_POD_NAMESPACE", &spec.namespace),
        ("K8S_POD_NAME", &spec.name),
        ("K8S_POD_UID", &spec.uid),
        ("K8S_POD_INFRA_CONTAINER_ID", &record.id),
    ];
    let ports = spec
        .port_mappings
        .iter()
        .filter(|mapping| mapping.host_port != 0);
    network::Attachment {
        id: record.id.clone(),
        netns: engine.paths.namespaces(&record.id).join("net"),
        args: args
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .into(),
        ports: ports.map(port).collect(),
        cgroup_parent: spec.cgroup_parent.clone(),
        annotations: spec.annotations.clone(),
    }
}

fn port(mapping: &pod::sandbox::PortMapping) -> network::Port {
    use pod::sandbox::Protocol;
    let protocol = match mapping.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    network::Port {
        protocol: protocol.into(),
        host: mapping.host_port,
        container: mapping.container_port,
        host_ip: mapping.host_ip,
    }
}

/// Starts the built-in init, and pins its process id namespace if it is to be shared.
async fn start_init(pod: &mut Pod, spec: Spec) -> Result<(), Error> {
    let engine = Arc::clone(&pod.engine);
    let id = pod.record.id.clone();
    let launch = engine.launch_in(&pod.record, &id);
    let (bundle, user) = (launch.bundle.clone(), pod.record.spec.namespaces.user);
    let program = engine.config.shim.clone();
    let process = pod.init.insert(Process::new(launch));
    blocking(move || {
        stands_alone(&program)?;
        step("making the bundle", own_folder(&bundle, user))?;
        write_bundle(&bundle, &spec)?;
        // Places to mount at are made in it.
        let given = give(&bundle.join("rootfs"), user);
        step("giving the init its root file system", given)
    })
    .await?;
    begin(
        process,
        &pod.teller,
        request::Call::Create(Create::default()),
    )
    .await?;
    let shim = process.shim.clone().expect("it was just connected");
    shim.call(request::Call::Start(Start {}), &[]).await?;
    if pod.record.spec.namespaces.pid != PidMode::Pod {
        return Ok(());
    }
    let (pid, folder) = (
        process.pid.unwrap_or_default(),
        engine.paths.namespaces(&id),
    );
    blocking(move || {
        step(
            "pinning the pod's process ids",
            namespaces::pin_pid(pid, &folder),
        )
    })
    .await
}

/// Refuses a program for the init that needs others: it runs in a root that has nothing else.
fn stands_alone(program: &Path) -> Result<(), Error> {
    let needs = step("looking at the init's program", elf::interpreter(program))?;
    needs.map_or(Ok(()), |needs| {
        Err(Error::Failed(format!(
            "the pod's init cannot run: {program:?} is linked dynamically and needs {needs:?}, which \
             an empty root file system does not have; a static {program:?} is wanted"
        )))
    })
}

/// Starts a shim, connects to it and has it make the container of its bundle: by Create or Restore.
async fn begin(
    process: &mut Process,
    teller: &mpsc::UnboundedSender<News>,
    call: request::Call,
) -> Result<(), Error> {
    let launch = process.launch.clone();
    let started = async { step("starting the shim", shim::start(&launch)) };
    step!("shim_start", started).await?;
    let connected = Shim::connect(&launch, teller.clone());
    let shim = process
        .shim
        .insert(step("connecting to the shim", connected)?);
    match step!("runtime_create", shim.call(call, &[])).await? {
        (reply::Result::Created(created), _) => {
            process.pid = Some(created.pid).filter(|pid| *pid > 0);
        }
        (other, _) => {
            return Err(Error::Failed(format!(
                "the shim answered create with {other:?}"
            )));
        }
    }
    Ok(())
}

/// The bundle's folders and its `config.json`.
fn write_bundle(bundle: &Path, spec: &Spec) -> Result<(), Error> {
    step(
        "making the bundle",
        make_folder(&bundle.join("rootfs"), 0o755),
    )?;
    let config = serde_json::to_vec(spec)
        .map_err(|error| Error::failed("writing the container's config", error))?;
    step(
        "writing the container's config",
        fs::write(bundle.join("config.json"), config),
    )
}

/// Where a container is made.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) engine: Arc<Inner>,
    pub(crate) sandbox: SandboxRecord,
    pub(crate) teller: mpsc::UnboundedSender<News>,
    /// The process whose process ids are shared, where the container asks for that.
    pub(crate) target_pid: Option<i32>,
}

impl Place {
    /// How the ids of images appear in the pod; `None`: as they are.
    fn ids(&self) -> Option<image::IdMap> {
        let user = self.sandbox.spec.namespaces.user?;
        let range = |range: IdRange| range.host..range.host.saturating_add(range.length);
        Some(image::IdMap {
            namespace: self.engine.paths.namespaces(&self.sandbox.id).join("user"),
            uids: range(user.uids),
            gids: range(user.gids),
        })
    }
}

/// A container that could not be made.
#[derive(Debug)]
pub(crate) struct NotMade {
    pub(crate) error: Error,
    /// What could not be undone of it, for its client to remove.
    pub(crate) left: Option<Box<OwnedContainer>>,
}

/// Makes a container. On failure nothing of it is left, unless that would not go.
pub(crate) async fn container(
    place: &Place,
    spec: Arc<ContainerSpec>,
) -> Result<OwnedContainer, NotMade> {
    let engine = &place.engine;
    let launch = engine.launch_in(&place.sandbox, &new_id());
    let (id, sandbox) = (launch.container.clone(), place.sandbox.id.clone());
    let mut container = OwnedContainer {
        record: ContainerRecord::reserved(id, sandbox, spec, now()),
        process: Process::new(launch),
        stopping: None,
        end_told: false,
    };
    let mut told = None;
    let Err(error) = carry_out(place, &mut container, &mut told).await else {
        return Ok(container);
    };
    container.process.shim = None;
    let id = container.record.id.clone();
    engine.view.withdraw(&id);
    engine.shims.lock().expect(LOCK).remove(&id);
    let launch = &container.process.launch;
    let logs = place.sandbox.spec.log_directory();
    let log = container.record.spec.log_file(logs);
    let undone = teardown::unfinished(engine, &container.record, launch, log).await;
    if let Some((plugins, about)) = told {
        Box::pin(plugins::undo_container(&plugins, about)).await;
        container.end_told = true;
    }
    let left = undone.err().map(|left| {
        tracing::error!(container = id, error = %left, "undoing a container");
        engine.leaks.found(Leak::Stuck);
        container.settle_unknown(&error.to_string());
        Box::new(container)
    });
    Err(NotMade { error, left })
}

/// `told` gets what plugins were told of the container, if they were.
async fn carry_out(
    place: &Place,
    container: &mut OwnedContainer,
    told: &mut Option<(nri::Nri, About)>,
) -> Result<(), Error> {
    let engine = &place.engine;
    let asked = Arc::clone(&container.record.spec);
    let pod = &place.sandbox.spec;
    let node = *engine.limits.lock().expect(LOCK);
    container.record.limits = storage_limits(&asked, pod, node)?;
    // What a checkpoint takes of the disk is found by the record.
    keep_container(engine, &container.record).await?;
    let restored = restore::prepare(place, &container.process.launch, &asked).await?;
    let spec = restored
        .as_ref()
        .map_or(asked, |from| Arc::clone(&from.spec));
    let image = engine.images.resolve(&spec.image);
    let image = image.ok_or_else(|| image_missing(&spec.image))?;
    // A base that a checkpoint names was asked for by nobody under another name.
    let named = match &restored {
        None => asked_as(&spec.image, &spec.user_specified_image),
        Some(_) => &spec.image,
    };
    let permitted = engine.images.permit(&image, named, &pod.namespace);
    step!("signatures", permitted).await?;
    let names = class_names(&spec, pod);
    let mut lookups = step!("lookup", look_up(engine, &spec, names)).await?;
    let label = mount_label(&spec.security, &engine.facts)?;
    let ids = place.ids();
    let rootfs = container.process.launch.bundle.join("rootfs");
    let (bundle, folder) = (container.process.launch.bundle.clone(), rootfs.clone());
    let user = place.sandbox.spec.namespaces.user;
    blocking(move || {
        let made = own_folder(&bundle, user).and_then(|()| make_folder(&folder, 0o755));
        step("making the bundle", made)
    })
    .await?;
    let mounted = engine.images.mount_changed(
        &image.id,
        &container.record.id,
        &rootfs,
        ids.as_ref(),
        restored.as_ref().map(|from| from.changes.clone()),
        label.as_deref(),
    );
    step!("mount", mounted).await?;
    let (launch, mounts) = (&container.process.launch, &container.record.spec.mounts);
    let volumes = volumes::mount(place, launch, mounts, ids.as_ref(), &mut lookups.sources);
    let volumes = step!("volumes", volumes).await?;
    container.record.volume_refs = volumes;
    if let Some(label) = label {
        let relabelled = relabel(place, &spec, &lookups.sources, label);
        step!("relabel", relabelled).await?;
    }
    let mut plan = plan(place, container, &spec, &image, &lookups, &rootfs).await?;
    if plan.account != NewAccount::default() {
        let (account, rootfs) = (plan.account.clone(), rootfs.clone());
        blocking(move || rootfs::add_account(&rootfs, &account)).await?;
    }
    describe(&mut container.record, &image, &plan);
    container.record.restored = restored.is_some();
    let planned = (&*spec, &*image, &mut lookups, rootfs.as_path());
    ask_plugins(place, container, planned, &mut plan, told).await?;
    keep_container(engine, &container.record).await?;
    let create = create_request(place, &container.record, &plan).await?;
    let call = match &restored {
        None => request::Call::Create(create),
        Some(from) => request::Call::Restore(from.request(create, &plan.spec).await?),
    };
    let bundle = container.process.launch.bundle.clone();
    blocking(move || write_bundle(&bundle, &plan.spec)).await?;
    begin(&mut container.process, &place.teller, call).await?;
    if let Some(shim) = &container.process.shim {
        remember(engine, &container.record.id, shim);
    }
    container.record.made = true;
    keep_container(engine, &container.record).await
}

/// Makes what plugins of the node want to a plan.
async fn ask_plugins(
    place: &Place,
    container: &mut OwnedContainer,
    (spec, image, lookups, rootfs): (&ContainerSpec, &image::Image, &mut Lookups, &Path),
    plan: &mut ContainerPlan,
    told: &mut Option<(nri::Nri, About)>,
) -> Result<(), Error> {
    let engine = &place.engine;
    let picture = owned::picture(engine, &place.sandbox, container);
    // Before anybody is asked: a plugin that comes now either is asked or sees it.
    engine.view.announce(picture);
    let asked = plugins::about(place, container, plan)?;
    let Some((plugins, about)) = asked else {
        return Ok(());
    };
    let about = &told.insert((plugins.clone(), about)).1;
    let created = Box::pin(plugins::create(&plugins, about)).await?;
    if !created.adjust.cdi_devices.is_empty() {
        let names = plugins::wanted_devices(spec, &created);
        let folders = engine.config.cdi_spec_dirs.clone();
        lookups.edits = blocking(move || cdi::edits(&folders, &names)).await?;
        *plan = self::plan(place, container, spec, image, lookups, rootfs).await?;
    }
    plugins::adjust(place, &mut container.record, &created, plan).await?;
    describe(&mut container.record, image, plan);
    let picture = owned::picture(engine, &place.sandbox, container);
    engine.view.announce(picture);
    Ok(())
}

/// Gives the pod's files, and the sources of mounts that ask for it, the label of a container. For a
/// big volume that takes long; its pod goes on with other things meanwhile.
async fn relabel(
    place: &Place,
    spec: &ContainerSpec,
    sources: &[PathBuf],
    label: String,
) -> Result<(), Error> {
    let (paths, sandbox) = (&place.engine.paths, &place.sandbox.id);
    let names = ["hostname", "hosts", "resolv.conf", "shm"];
    let mut wanted: Vec<PathBuf> = names.map(|name| paths.sandbox(sandbox).join(name)).into();
    wanted.retain(|path| path.exists());
    let asked = spec.mounts.iter().zip(sources);
    let asked = asked.filter(|(mount, _)| mount.selinux_relabel && mount.image.is_none());
    wanted.extend(asked.map(|(_, source)| source.clone()));
    blocking(move || {
        wanted.iter().try_for_each(|path| {
            relabel::all_below(path, relabel::ATTRIBUTE, &label)
                .map_err(|error| Error::failed(format!("labelling {path:?} {label}"), error))
        })
    })
    .await
}

/// Makes a container's shim known to those who do not change it: execs, log files, limits.
fn remember(engine: &Inner, container: &str, shim: &Arc<Shim>) {
    let mut shims = engine.shims.lock().expect(LOCK);
    shims.insert(container.to_owned(), Arc::clone(shim));
}

fn image_missing(name: &str) -> Error {
    Error::NotFound {
        kind: "image",
        id: name.into(),
    }
}

/// What a plan needs to know of the host's files.
struct Lookups {
    sources: Vec<PathBuf>,
    devices: Vec<(pod::facts::HostDevice, pod::container::Device)>,
    edits: Edits,
    seccomp: Option<String>,
    shares: Shares,
}

/// Looks at what a container wants of the host. Behind a path may be a server that is gone: the
/// thread that asks it is given up after a while, and counts as long as it hangs.
async fn look_up(
    engine: &Inner,
    spec: &Arc<ContainerSpec>,
    names: ClassNames,
) -> Result<Lookups, Error> {
    let shares = classes::shares(engine, names).await?;
    // Many containers that are made at once are no sign of a fault: each is looked at in a moment.
    let turn = Arc::clone(&engine.lookups).acquire_owned();
    let Ok(permit) = tokio::time::timeout(SOURCE_PATIENCE, turn).await else {
        return Err(Error::Unavailable(format!(
            "{MAX_LOOKUPS} containers already wait for the sources of their mounts, devices or \
             profiles; some of these do not answer"
        )));
    };
    let permit = permit.expect("nobody closes the semaphore");
    let spec = Arc::clone(spec);
    let (cdi, facts) = (engine.config.cdi_spec_dirs.clone(), engine.facts.clone());
    let work = blocking(move || {
        let _permit = permit;
        apparmor::prepare(&spec.security, &facts)?;
        Ok(Lookups {
            sources: rootfs::mount_sources(&spec.mounts)?,
            devices: rootfs::devices(&spec.devices)?,
            edits: cdi::edits(&cdi, &cdi::wanted(&spec))?,
            seccomp: rootfs::seccomp_profile(&spec.security.seccomp)?,
            shares,
        })
    });
    tokio::time::timeout(SOURCE_PATIENCE, work)
        .await
        .unwrap_or_else(|_elapsed| {
            Err(Error::DeadlineExceeded(format!(
                "the sources of the container's mounts, its devices or its profile did not answer \
                 within {SOURCE_PATIENCE:?}"
            )))
        })
}

async fn plan(
    place: &Place,
    container: &OwnedContainer,
    spec: &ContainerSpec,
    image: &image::Image,
    lookups: &Lookups,
    rootfs: &Path,
) -> Result<ContainerPlan, Error> {
    let engine = &place.engine;
    let rootfs = rootfs.to_path_buf();
    let accounts = blocking(move || rootfs::accounts(&rootfs)).await?;
    let facts = engine.facts_of(&place.sandbox.spec.handler);
    let facts = facts_for(facts, spec.security.privileged).await;
    let inputs = ContainerInputs {
        id: &container.record.id,
        sandbox_id: &place.sandbox.id,
        sandbox: &place.sandbox.spec,
        paths: &engine
            .paths
            .for_plan(&place.sandbox.id, &engine.config.shim),
        image: &rootfs::image_facts(image),
        accounts: &accounts,
        target_pid: place.target_pid,
        devices: &lookups.devices,
        shares: &lookups.shares,
        edits: &lookups.edits,
        seccomp_profile: lookups.seccomp.as_deref(),
        mount_sources: &lookups.sources,
    };
    Ok(pod::plan_container(spec, &inputs, &facts)?)
}

/// The node's facts, with all its devices where a container gets them all.
async fn facts_for(facts: NodeFacts, privileged: bool) -> NodeFacts {
    if !privileged {
        return facts;
    }
    NodeFacts {
        devices: blocking(rootfs::all_devices).await,
        ..facts
    }
}

/// The name that a user wrote for an image, where the client tells it: it may ask by the id.
pub(crate) fn asked_as<'a>(image: &'a str, user_specified: &'a str) -> &'a str {
    if user_specified.is_empty() {
        image
    } else {
        user_specified
    }
}

/// The name by which an image can be had again; an image that came without one has its id.
pub(crate) fn digest_name(image: &image::Image) -> String {
    image.digests.first().unwrap_or(&image.id).clone()
}

/// Adds to a record what its plan has decided.
fn describe(record: &mut ContainerRecord, image: &image::Image, plan: &ContainerPlan) {
    record.image_id.clone_from(&image.id);
    record.image_name = image.tags.first().unwrap_or(&record.spec.image).clone();
    record.image_ref = digest_name(image);
    record.uid = plan.uid;
    record.gid = plan.gid;
    record
        .supplemental_groups
        .clone_from(&plan.supplemental_groups);
    record.stop_signal = plan.stop_signal;
    record.stop_signal_name.clone_from(&plan.stop_signal_name);
    record.cgroup.clone_from(&plan.cgroup);
    let linux = plan.spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    record.block_io = resources.and_then(|resources| resources.block_io().clone());
}

async fn create_request(
    place: &Place,
    record: &ContainerRecord,
    plan: &ContainerPlan,
) -> Result<Create, Error> {
    let log = record.spec.log_file(place.sandbox.spec.log_directory());
    if let Some(folder) = log
        .as_ref()
        .and_then(|log| log.parent())
        .map(Path::to_path_buf)
    {
        blocking(move || step("making the log directory", make_folder(&folder, 0o755))).await?;
    }
    let group = place
        .engine
        .group(&plan.cgroup)
        .map_err(|error| Error::failed("locating the container's cgroup", error))?;
    let text = |path: Option<PathBuf>| {
        path.map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let (owner_uid, owner_gid) = place.sandbox.spec.namespaces.root();
    Ok(Create {
        owner_uid,
        owner_gid,
        log_path: text(log),
        terminal: record.spec.tty,
        stdin: record.spec.stdin,
        stdin_once: record.spec.stdin_once,
        oom_counter: text(group.oom_counter()),
        kill_file: text(group.kill_file()),
        procs_file: text(Some(group.procs_file())),
        log_limit: record.limits.log.unwrap_or(0),
    })
}

/// Connects anew to the shim of a container; `None` if there is none.
pub(crate) fn reconnect(
    launch: &Launch,
    teller: &mpsc::UnboundedSender<News>,
) -> io::Result<Option<Arc<Shim>>> {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    match Shim::connect(launch, teller.clone()) {
        Ok(shim) => Ok(Some(shim)),
        Err(error) if matches!(error.kind(), ConnectionRefused | NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tells the operator of a shim that is not of this build, which is what an upgrade leaves.
fn note_version(container: &str, state: &shim_api::StateReply) {
    let (version, protocol) = (&state.version, state.protocol);
    if protocol != shim_api::PROTOCOL || version != env!("CARGO_PKG_VERSION") {
        let ours = shim_api::PROTOCOL;
        tracing::info!(
            container,
            version,
            protocol,
            ours,
            "a shim of another version"
        );
    }
}

/// Asks a shim that was just reached how its container is. One that does not answer in time is
/// taken at the record's word.
pub(crate) async fn ask_state(engine: &Inner, record: &mut ContainerRecord, process: &mut Process) {
    let Some(shim) = process.shim.clone() else {
        return;
    };
    remember(engine, &record.id, &shim);
    let asked = shim.call(request::Call::State(State {}), &[]);
    match tokio::time::timeout(STATE_PATIENCE, asked).await {
        Ok(Ok((reply::Result::State(state), _))) => {
            note_version(&record.id, &state);
            process.pid = Some(state.pid).filter(|pid| *pid > 0);
            let started = state.phase() != state_reply::Phase::Created;
            if record.started_at == 0 && started {
                record.started_at = now();
            }
        }
        answer => tracing::warn!(
            container = record.id,
            ?answer,
            "asking a shim for its state"
        ),
    }
}
