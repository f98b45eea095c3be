//! Groups that systemd makes: transient scopes around a process, and slices.
//!
//! ```text
//! names (pure)      slice:prefix:name -> unit, path
//! properties (pure) resources, annotations -> properties     variant (pure) their text form
//! value, message (pure) values, messages <-> bytes           bus  one connection, one deadline
//! ```
//!
//! What is in the group, and its limits beyond what systemd knows, is the group's own affair: this
//! module has systemd make it, change it and end it, and knows when it has.

mod bus;
mod message;
mod names;
mod properties;
mod value;
mod variant;

use std::path::{Path, PathBuf};

use self::bus::{Bus, JOB_REMOVED, MANAGER, MANAGER_PATH, Manager, SYSTEMD};
use self::message::{Call, Received};
use self::names::Names;
pub use self::properties::Property;
pub(crate) use self::properties::{devices_v1, limits, limits_v1};
use self::value::Value;
use crate::Error;

/// Is there where systemd is the init system (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
/// A unit of that name is loaded: what `StartTransientUnit` answers.
pub(crate) const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
/// What older and newer systemds say of a property that they do not know.
const UNKNOWN_PROPERTY: [&str; 2] = [
    "org.freedesktop.DBus.Error.PropertyReadOnly",
    "org.freedesktop.DBus.Error.UnknownProperty",
];

/// A unit of a manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    name: String,
    /// Only known to who makes it.
    slice: String,
    manager: Manager,
}

impl Unit {
    /// The unit that `path` (`slice:prefix:name`) stands for, and its group's path in the
    /// hierarchy.
    pub(crate) fn plan(path: &str) -> Result<(Self, PathBuf), Error> {
        if !Path::new(BOOTED).is_dir() {
            return Err(Error::NoSystemd);
        }
        let manager = Manager::of_this_process();
        let (slice, above) = match manager {
            Manager::System => ("system.slice", PathBuf::from("/")),
            Manager::User => ("user.slice", own_group(&mut manager.connect()?)?),
        };
        let names = Names::parse(path, slice)?;
        let below = names.path()?;
        let unit = Self {
            name: names.unit,
            slice: names.slice,
            manager,
        };
        Ok((unit, above.join(below)))
    }

    /// Whether it is the machine's, not a user's.
    pub(crate) fn is_of_the_machine(&self) -> bool {
        self.manager == Manager::System
    }

    /// A unit that exists.
    pub(crate) fn open(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            slice: String::new(),
            manager: Manager::of_this_process(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A scope comes to life with a process, a slice by itself.
    pub(crate) fn is_scope(&self) -> bool {
        !names::is_slice(&self.name)
    }

    /// Has systemd make the unit, with `process` in it if it is a scope; returns when it is there.
    ///
    /// A unit of the same name that has failed is forgotten first. Properties that an older
    /// systemd does not know are left out if the group's files say the same.
    pub(crate) fn start(&self, process: Option<i32>, properties: &[Property]) -> Result<(), Error> {
        let mut all = self.own_properties(process);
        all.extend_from_slice(properties);
        let mut bus = self.manager.connect()?;
        bus.watch_jobs(&self.name)?;
        match self.start_with(&mut bus, &all) {
            Err(Error::Refused { name, .. }) if name == UNIT_EXISTS => {
                self.forget(&mut bus);
                self.start_with(&mut bus, &all)
            }
            Err(Error::Refused { name, .. }) if UNKNOWN_PROPERTY.contains(&&*name) => {
                all.retain(|property| !property.optional);
                self.start_with(&mut bus, &all)
            }
            started => started,
        }
        .map_err(|error| self.explain("start", error))
    }

    fn start_with(&self, bus: &mut Bus, properties: &[Property]) -> Result<(), Error> {
        let body = [
            Value::text(self.name()),
            Value::text("replace"),
            property_list(properties),
            // Units that shall be made along with it: none.
            Value::Array("(sa(sv))".to_owned(), Vec::new()),
        ];
        let started = self.job(bus, "StartTransientUnit", &body);
        if matches!(started, Err(Error::Job { .. })) {
            self.forget(bus);
        }
        started
    }

    /// What every unit of ours is told, whatever its limits.
    fn own_properties(&self, process: Option<i32>) -> Vec<Property> {
        let on = |name| Property::new(name, Value::Bool(true));
        let mut properties = vec![
            Property::new(
                "Description",
                Value::Text(format!("container {}", self.name)),
            ),
            on("MemoryAccounting"),
            on("CPUAccounting"),
            on("IOAccounting"),
            on("TasksAccounting"),
            // A container neither waits for the boot to finish nor keeps the shutdown waiting.
            Property::new("DefaultDependencies", Value::Bool(false)),
        ];
        if !self.is_scope() {
            // A slice's place is in its name; its parent comes with it.
            properties.push(Property::new("Wants", Value::texts(&[&self.slice])));
            return properties;
        }
        properties.extend([
            Property::new("Slice", Value::text(&*self.slice)),
            on("Delegate"),
            // So that one whose last process was killed does not stay behind as failed.
            Property::new("CollectMode", Value::text("inactive-or-failed")),
        ]);
        let process = process.and_then(|process| u32::try_from(process).ok());
        if let Some(process) = process {
            let processes = Value::Array("u".to_owned(), vec![Value::U32(process)]);
            properties.push(Property::new("PIDs", processes));
        }
        properties
    }

    /// Moves a process of the same user into the unit, which a manager may where the user may not: the
    /// nearest group that holds the old place and the new one need not be the user's.
    pub(crate) fn attach(&self, process: i32) -> Result<(), Error> {
        let process = u32::try_from(process).into_iter().map(Value::U32);
        let body = [
            Value::text(self.name()),
            // Not to one of the groups below the unit's.
            Value::text(""),
            Value::Array("u".to_owned(), process.collect()),
        ];
        let mut bus = self.manager.connect()?;
        bus.manager("AttachProcessesToUnit", &body)
            .map(drop)
            .map_err(|error| self.explain("move a process to", error))
    }

    /// Ends the unit with all processes in it; returns when it has ended. One that is gone has.
    pub(crate) fn stop(&self) -> Result<(), Error> {
        let mut bus = self.manager.connect()?;
        bus.watch_jobs(&self.name)?;
        let body = [Value::text(self.name()), Value::text("replace")];
        match self.job(&mut bus, "StopUnit", &body) {
            Err(Error::Refused { name, .. }) if name == NO_SUCH_UNIT => Ok(()),
            stopped => stopped.map_err(|error| self.explain("stop", error)),
        }
    }

    /// Changes properties until the unit ends; returns when they are in effect.
    pub(crate) fn set(&self, properties: &[Property]) -> Result<(), Error> {
        if properties.is_empty() {
            return Ok(());
        }
        let mut bus = self.manager.connect()?;
        match self.set_with(&mut bus, properties) {
            Err(Error::Refused { name, .. }) if UNKNOWN_PROPERTY.contains(&&*name) => {
                let known = properties.iter().filter(|property| !property.optional);
                self.set_with(&mut bus, &known.cloned().collect::<Vec<_>>())
            }
            set => set,
        }
        .map_err(|error| self.explain("change", error))
    }

    fn set_with(&self, bus: &mut Bus, properties: &[Property]) -> Result<(), Error> {
        let runtime = Value::Bool(true);
        let body = [Value::text(self.name()), runtime, property_list(properties)];
        bus.manager("SetUnitProperties", &body)?;
        // systemd writes the group's files after it has answered and before it takes the next
        // message; what is written there by us must come last.
        const PEER: &str = "org.freedesktop.DBus.Peer";
        bus.call(SYSTEMD, MANAGER_PATH, PEER, "Ping", &[]).map(drop)
    }

    /// Calls a method that begins a job, and waits for the job's end.
    fn job(&self, bus: &mut Bus, member: &str, body: &[Value]) -> Result<(), Error> {
        let serial = bus.send(Call {
            destination: SYSTEMD,
            path: MANAGER_PATH,
            interface: MANAGER,
            member,
            body,
        })?;
        let mut ended: Vec<(String, String)> = Vec::new();
        let mut ours: Option<String> = None;
        loop {
            match bus.next()? {
                Received::Return { to, body } if to == serial => {
                    ours = body.into_iter().next().and_then(path_of);
                }
                Received::Error { to, name, message } if to == serial => {
                    return Err(Error::Refused { name, message });
                }
                Received::Signal { member, body } if member == JOB_REMOVED => {
                    ended.extend(self.ended_job(body));
                }
                _ => {}
            }
            let end = ended.iter().find(|(job, _)| Some(job) == ours.as_ref());
            match end {
                Some((_, result)) if result == "done" => return Ok(()),
                Some((_, result)) => {
                    return Err(Error::Job {
                        unit: self.name.clone(),
                        result: result.clone(),
                    });
                }
                None => {}
            }
        }
    }

    /// The job and its result, if it was one of this unit.
    fn ended_job(&self, body: Vec<Value>) -> Option<(String, String)> {
        let [_, Value::Path(job), Value::Text(unit), Value::Text(result)] =
            <[Value; 4]>::try_from(body).ok()?
        else {
            return None;
        };
        (unit == self.name).then_some((job, result))
    }

    /// Takes away what is left of a unit of this name that has failed.
    fn forget(&self, bus: &mut Bus) {
        // What it could not do shows when the name is used.
        drop(bus.manager("ResetFailedUnit", &[Value::text(self.name())]));
    }

    fn explain(&self, what: &'static str, error: Error) -> Error {
        match error {
            Error::Refused { name, message } => Error::Unit {
                what,
                unit: self.name.clone(),
                name,
                message,
            },
            error => error,
        }
    }
}

fn property_list(properties: &[Property]) -> Value {
    let values = properties.iter().map(Property::to_value);
    Value::Array("(sv)".to_owned(), values.collect())
}

fn path_of(value: Value) -> Option<String> {
    match value {
        Value::Path(path) => Some(path),
        _ => None,
    }
}

/// The group that a manager itself lies in, below which all its units' are.
fn own_group(bus: &mut Bus) -> Result<PathBuf, Error> {
    const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
    let which = [Value::text(MANAGER), Value::text("ControlGroup")];
    let answer = bus.call(SYSTEMD, MANAGER_PATH, PROPERTIES, "Get", &which)?;
    let group = answer.into_iter().next().and_then(|value| match value {
        Value::Variant(inner) => match *inner {
            Value::Text(path) => Some(PathBuf::from(path)),
            _ => None,
        },
        _ => None,
    });
    group.ok_or(Error::Format {
        path: PathBuf::from("ControlGroup"),
        reason: "systemd gave no text",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str) -> Unit {
        Unit {
            name: name.to_owned(),
            slice: "a.slice".to_owned(),
            manager: Manager::System,
        }
    }

    fn property(properties: &[Property], name: &str) -> Option<Value> {
        let found = properties.iter().find(|property| property.name == name);
        found.map(|property| property.value.clone())
    }

    #[test]
    fn a_scope_has_a_process_and_a_slice_a_parent() {
        let scope = unit("p-n.scope").own_properties(Some(7));
        let processes = Value::Array("u".to_owned(), vec![Value::U32(7)]);
        assert_eq!(property(&scope, "PIDs"), Some(processes));
        assert_eq!(property(&scope, "Slice"), Some(Value::text("a.slice")));
        assert_eq!(property(&scope, "Delegate"), Some(Value::Bool(true)));
        let slice = unit("a-b.slice").own_properties(None);
        assert_eq!(property(&slice, "Wants"), Some(Value::texts(&["a.slice"])));
        assert_eq!(property(&slice, "PIDs"), None);
        assert_eq!(property(&slice, "Delegate"), None);
    }

    #[test]
    fn jobs_of_other_units_do_not_count() {
        let body = |unit: &str| {
            vec![
                Value::U32(1),
                Value::Path("/job/1".to_owned()),
                Value::text(unit),
                Value::text("done"),
            ]
        };
        let ended = unit("p-n.scope").ended_job(body("p-n.scope"));
        assert_eq!(ended, Some(("/job/1".to_owned(), "done".to_owned())));
        assert_eq!(unit("p-n.scope").ended_job(body("p-m.scope")), None);
        assert_eq!(unit("p-n.scope").ended_job(Vec::new()), None);
    }
}
