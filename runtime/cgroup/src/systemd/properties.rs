//! What a unit is told of its limits: OCI's resources as properties (systemd.resource-control(5)),
//! and properties that a container's annotations carry: pure.

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use crate::devices::Lists;
use crate::systemd::value::Value;
use crate::systemd::variant;
use crate::{Error, convert};

/// systemd keeps quotas in steps of this many microseconds a second, rounded up.
const QUOTA_STEP: u64 = 10_000;
const SECOND: u64 = 1_000_000;
/// `cpu.max` without a period (the kernel's default).
const DEFAULT_PERIOD: u64 = 100_000;
/// "No limit", as every limit of systemd has it.
const INFINITY: u64 = u64::MAX;
/// The highest CPU or memory node in a list; the kernel's own limit is 8192 CPUs.
const MAX_CPU: usize = 65_535;

/// A property of a systemd unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Property {
    pub(crate) name: String,
    pub(crate) value: Value,
    /// An older systemd may not know it; the group's own file says the same.
    pub(crate) optional: bool,
}

impl Property {
    pub(crate) fn new(name: &str, value: Value) -> Self {
        Self {
            name: name.to_owned(),
            value,
            optional: false,
        }
    }

    fn newer(name: &str, value: Value) -> Self {
        Self {
            optional: true,
            ..Self::new(name, value)
        }
    }

    /// A property by its name, as the annotation `org.systemd.property.NAME` has it, and the text
    /// form of its value (`true`, `'text'`, `uint64 5`, `@as []`; GLib's "GVariant Text Format").
    /// A name that ends in `Sec` takes seconds and becomes the one in `USec` that D-Bus has.
    ///
    /// # Errors
    ///
    /// [`Error::Property`] for a name that is no word and a value that cannot be read.
    pub fn parse(name: &str, text: &str) -> Result<Self, Error> {
        let bad = |reason| Error::Property {
            name: name.to_owned(),
            text: text.to_owned(),
            reason,
        };
        if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(bad("a property's name consists of three letters or more"));
        }
        let value = variant::parse(text).map_err(bad)?;
        let seconds = name
            .strip_suffix("Sec")
            .filter(|stem| stem.ends_with(|letter: char| letter.is_ascii_lowercase()));
        let Some(stem) = seconds else {
            return Ok(Self::new(name, value));
        };
        let value = microseconds(&value).ok_or_else(|| bad("it is no time in seconds"))?;
        Ok(Self::new(&format!("{stem}USec"), Value::U64(value)))
    }

    /// As the methods of systemd take it: `(sv)`.
    pub(crate) fn to_value(&self) -> Value {
        let value = Value::Variant(Box::new(self.value.clone()));
        Value::Struct(vec![Value::text(&*self.name), value])
    }
}

fn microseconds(seconds: &Value) -> Option<u64> {
    let whole = match *seconds {
        Value::Byte(number) => u64::from(number),
        Value::I16(number) => number.try_into().ok()?,
        Value::U16(number) => number.into(),
        Value::I32(number) => number.try_into().ok()?,
        Value::U32(number) => number.into(),
        Value::I64(number) => number.try_into().ok()?,
        Value::U64(number) => number,
        Value::F64(number) => {
            let time = std::time::Duration::try_from_secs_f64(number).ok()?;
            return time.as_micros().try_into().ok();
        }
        _ => return None,
    };
    whole.checked_mul(SECOND)
}

/// The limits of `resources` that systemd can keep on v2; the others are the group's own files'
/// alone.
///
/// Device rules are not among them: the group's own program is the filter, and a second one by
/// systemd would be asked at every open besides.
pub(crate) fn limits(resources: &LinuxResources) -> Result<Vec<Property>, Error> {
    let mut properties = Vec::new();
    if let Some(memory) = resources.memory() {
        properties.extend(memory_limits(memory)?);
    }
    if let Some(cpu) = resources.cpu() {
        properties.extend(cpu_limits(cpu)?);
    }
    let weight = resources.block_io().as_ref().and_then(|io| io.weight());
    if let Some(weight) = weight.filter(|weight| *weight != 0) {
        let weight = convert::blkio_to_io_weight(weight);
        properties.push(Property::new("IOWeight", Value::U64(weight)));
    }
    if let Some(pids) = resources.pids() {
        let limit = number("pids.max", &convert::pids(pids.limit()))?;
        properties.push(Property::new("TasksMax", limit));
    }
    // The last one decides, and unified overrides the typed limits.
    for (file, value) in resources.unified().iter().flatten() {
        properties.extend(unified(file, value)?);
    }
    Ok(properties)
}

/// The limits that systemd can keep on v1.
pub(crate) fn limits_v1(resources: &LinuxResources) -> Result<Vec<Property>, Error> {
    let mut properties = Vec::new();
    let memory = resources.memory().as_ref();
    if let Some(limit) = memory.and_then(|m| convert::limit(m.limit().unwrap_or(0))) {
        properties.push(Property::new("MemoryMax", number("memory", &limit)?));
    }
    if let Some(cpu) = resources.cpu() {
        // systemd's own way from weight to shares is not the kernel's users'.
        let shares = cpu.shares().filter(|shares| *shares != 0);
        properties.extend(shares.map(|shares| Property::new("CPUShares", Value::U64(shares))));
        let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
        if quota != 0 || period != 0 {
            properties.extend(quota_limits(u64::try_from(quota).unwrap_or(0), period));
        }
    }
    if let Some(pids) = resources.pids() {
        let limit = number("pids.max", &convert::pids(pids.limit()))?;
        properties.push(Property::new("TasksMax", limit));
    }
    Ok(properties)
}

/// v1's lists of devices as systemd keeps them: without these it would open all devices at its
/// next reload. `majors` is /proc/devices.
pub(crate) fn devices_v1(lists: &Lists, majors: &str) -> [Property; 2] {
    let policy = if lists.allow { "auto" } else { "strict" };
    let exceptions = lists.exceptions.iter().filter(|_| !lists.allow);
    let allowed: Vec<Value> = exceptions
        .filter_map(|line| device(line, majors))
        .map(|(device, access)| Value::Struct(vec![Value::Text(device), Value::text(access)]))
        .collect();
    [
        Property::new("DevicePolicy", Value::text(policy)),
        Property::new("DeviceAllow", Value::Array("(ss)".to_owned(), allowed)),
    ]
}

/// `c 1:3 rw` to systemd's name and the access. A minor number of every major has no name there,
/// nor has a major without a driver.
fn device<'a>(line: &'a str, majors: &str) -> Option<(String, &'a str)> {
    let mut words = line.split(' ');
    let (kind, heading) = match words.next()? {
        "b" => ("block", "Block devices:"),
        _ => ("char", "Character devices:"),
    };
    let (major, minor) = words.next()?.split_once(':')?;
    let access = words.next()?;
    let name = match (major, minor) {
        ("*", "*") => format!("{kind}-*"),
        ("*", _) => return None,
        (major, "*") => format!("{kind}-{}", driver(heading, major, majors)?),
        (major, minor) => format!("/dev/{kind}/{major}:{minor}"),
    };
    Some((name, access))
}

/// The driver of a major number in /proc/devices, where each kind has a heading.
fn driver<'a>(heading: &str, major: &str, majors: &'a str) -> Option<&'a str> {
    let list = majors.lines().skip_while(|line| *line != heading).skip(1);
    list.take_while(|line| !line.is_empty())
        .filter_map(|line| line.trim_start().split_once(' '))
        .find_map(|(number, name)| (number == major).then_some(name))
}

fn memory_limits(memory: &LinuxMemory) -> Result<Vec<Property>, Error> {
    let limit = memory.limit().unwrap_or(0);
    let values = [
        ("MemoryMax", convert::limit(limit)),
        (
            "MemoryLow",
            convert::limit(memory.reservation().unwrap_or(0)),
        ),
        (
            "MemorySwapMax",
            convert::swap(memory.swap().unwrap_or(0), limit)?,
        ),
    ];
    let values = values
        .iter()
        .filter_map(|(name, value)| Some((name, value.as_ref()?)));
    values
        .map(|(name, value)| Ok(Property::new(name, number(name, value)?)))
        .collect()
}

fn cpu_limits(cpu: &LinuxCpu) -> Result<Vec<Property>, Error> {
    let mut properties = Vec::new();
    match (
        cpu.idle(),
        convert::shares_to_weight(cpu.shares().unwrap_or(0)),
    ) {
        // Idle is systemd's weight of 0.
        (Some(1), _) => properties.push(Property::newer("CPUWeight", Value::U64(0))),
        // No longer: without another weight the default one.
        (Some(_), 0) => properties.push(Property::newer("CPUWeight", Value::U64(INFINITY))),
        (None, 0) => {}
        (_, weight) => properties.push(Property::new("CPUWeight", Value::U64(weight))),
    }
    let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
    if quota != 0 || period != 0 {
        properties.extend(quota_limits(u64::try_from(quota).unwrap_or(0), period));
    }
    for (name, list) in [
        ("AllowedCPUs", cpu.cpus()),
        ("AllowedMemoryNodes", cpu.mems()),
    ] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            properties.push(Property::newer(name, bit_mask(list)?));
        }
    }
    Ok(properties)
}

/// A quota of 0 is none.
fn quota_limits(quota: u64, period: u64) -> Vec<Property> {
    let mut properties = Vec::new();
    if period != 0 {
        let name = "CPUQuotaPeriodUSec";
        properties.push(Property::newer(name, Value::U64(period)));
    }
    let period = if period == 0 { DEFAULT_PERIOD } else { period };
    let per_second = match quota {
        0 => INFINITY,
        quota => quota
            .checked_mul(SECOND)
            .and_then(|quota| (quota / period).checked_next_multiple_of(QUOTA_STEP))
            .unwrap_or(INFINITY),
    };
    properties.push(Property::new("CPUQuotaPerSecUSec", Value::U64(per_second)));
    properties
}

/// A file of the group whose limit systemd keeps, too.
fn unified(file: &str, value: &str) -> Result<Vec<Property>, Error> {
    let value = value.trim();
    let one = |name: &str| Ok(vec![Property::new(name, number(file, value)?)]);
    match file {
        "cpu.weight" => one("CPUWeight"),
        "cpu.idle" if value == "1" => Ok(vec![Property::newer("CPUWeight", Value::U64(0))]),
        "cpu.max" => {
            let (quota, period) = value.split_once(' ').unwrap_or((value, "0"));
            let bad = || bad_unified(file, value);
            let period = period.trim().parse().map_err(|_not_number| bad())?;
            let quota = match quota {
                "max" => 0,
                quota => quota.parse().map_err(|_not_number| bad())?,
            };
            Ok(quota_limits(quota, period))
        }
        "cpuset.cpus" => Ok(vec![Property::newer("AllowedCPUs", bit_mask(value)?)]),
        "cpuset.mems" => Ok(vec![Property::newer(
            "AllowedMemoryNodes",
            bit_mask(value)?,
        )]),
        "memory.min" => one("MemoryMin"),
        "memory.low" => one("MemoryLow"),
        "memory.high" => one("MemoryHigh"),
        "memory.max" => one("MemoryMax"),
        "memory.swap.max" => one("MemorySwapMax"),
        "pids.max" => one("TasksMax"),
        // The others systemd does not touch, so nothing must keep them from it.
        _ => Ok(Vec::new()),
    }
}

fn bad_unified(file: &str, value: &str) -> Error {
    Error::Limit(format!("unified resource {file:?}: bad value {value:?}"))
}

fn number(file: &str, value: &str) -> Result<Value, Error> {
    match value {
        "max" => Ok(Value::U64(INFINITY)),
        value => value
            .parse()
            .map(Value::U64)
            .map_err(|_not_number| bad_unified(file, value)),
    }
}

/// `0-1,4` as bits, the lowest of the first byte for 0 (cpuset(7), "List format").
fn bit_mask(list: &str) -> Result<Value, Error> {
    let bad = || Error::Limit(format!("bad list of CPUs or memory nodes {list:?}"));
    let parse = |text: &str| {
        let number = text.trim().parse::<usize>().ok();
        number.filter(|number| *number <= MAX_CPU).ok_or_else(bad)
    };
    let mut mask: Vec<u8> = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (parse(first)?, parse(last)?);
        if first > last {
            return Err(bad());
        }
        mask.resize(mask.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|bit| mask[bit / 8] |= 1 << (bit % 8));
    }
    Ok(Value::bytes(&mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expect: &[(&str, Value)]) {
        let limits = limits(&serde_json::from_str(json).unwrap()).unwrap();
        let limits: Vec<_> = limits
            .iter()
            .map(|one| (one.name.as_str(), one.value.clone()))
            .collect();
        assert_eq!(limits, expect, "{json}");
    }

    #[test]
    fn memory() {
        check("{}", &[]);
        check(
            r#"{"memory":{"limit":100,"swap":300,"reservation":50}}"#,
            &[
                ("MemoryMax", Value::U64(100)),
                ("MemoryLow", Value::U64(50)),
                ("MemorySwapMax", Value::U64(200)),
            ],
        );
        check(
            r#"{"memory":{"limit":-1}}"#,
            &[
                ("MemoryMax", Value::U64(u64::MAX)),
                ("MemorySwapMax", Value::U64(u64::MAX)),
            ],
        );
    }

    #[test]
    fn processor() {
        check(
            r#"{"cpu":{"shares":1024}}"#,
            &[("CPUWeight", Value::U64(100))],
        );
        check(r#"{"cpu":{"idle":1}}"#, &[("CPUWeight", Value::U64(0))]);
        let quota = |quota| ("CPUQuotaPerSecUSec", Value::U64(quota));
        check(r#"{"cpu":{"quota":5000}}"#, &[quota(50_000)]);
        let period = |period| ("CPUQuotaPeriodUSec", Value::U64(period));
        check(
            r#"{"cpu":{"quota":12345,"period":100000}}"#,
            &[period(100_000), quota(130_000)],
        );
        check(
            r#"{"cpu":{"quota":-1,"period":7000}}"#,
            &[period(7000), quota(u64::MAX)],
        );
        check(
            r#"{"cpu":{"cpus":"0-2,9","mems":"0"}}"#,
            &[
                ("AllowedCPUs", Value::bytes(&[7, 2])),
                ("AllowedMemoryNodes", Value::bytes(&[1])),
            ],
        );
    }

    #[test]
    fn the_rest() {
        check(r#"{"pids":{"limit":0}}"#, &[("TasksMax", Value::U64(1))]);
        check(
            r#"{"pids":{"limit":-1},"blockIO":{"weight":500}}"#,
            &[
                ("IOWeight", Value::U64(4950)),
                ("TasksMax", Value::U64(u64::MAX)),
            ],
        );
        check(
            r#"{"unified":{"memory.high":"max","io.max":"8:0 rbps=1"}}"#,
            &[("MemoryHigh", Value::U64(u64::MAX))],
        );
        check(
            r#"{"unified":{"cpu.max":"50000 100000"}}"#,
            &[
                ("CPUQuotaPeriodUSec", Value::U64(100_000)),
                ("CPUQuotaPerSecUSec", Value::U64(500_000)),
            ],
        );
    }

    #[test]
    fn limits_of_v1() {
        let json = r#"{"cpu":{"shares":1024},"memory":{"limit":100,"swap":50}}"#;
        let limits = limits_v1(&serde_json::from_str(json).unwrap()).unwrap();
        let expect = [
            Property::new("MemoryMax", Value::U64(100)),
            Property::new("CPUShares", Value::U64(1024)),
        ];
        assert_eq!(limits, expect);
    }

    #[test]
    fn devices_of_v1() {
        let majors = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  8 sd\n";
        let check = |line: &str, expect: Option<(&str, &str)>| {
            let name = device(line, majors);
            let name = name.as_ref().map(|(name, access)| (name.as_str(), *access));
            assert_eq!(name, expect, "{line}");
        };
        check("c 1:3 rwm", Some(("/dev/char/1:3", "rwm")));
        check("b 8:0 r", Some(("/dev/block/8:0", "r")));
        check("c 136:* rw", Some(("char-pts", "rw")));
        check("b 8:* m", Some(("block-sd", "m")));
        check("b 1:* m", None);
        check("c *:* m", Some(("char-*", "m")));
        check("c *:3 m", None);
    }

    #[test]
    fn refusals() {
        for json in [
            r#"{"cpu":{"cpus":"2-1"}}"#,
            r#"{"cpu":{"cpus":"0,"}}"#,
            r#"{"cpu":{"cpus":"99999999999"}}"#,
            r#"{"unified":{"memory.max":"lots"}}"#,
            r#"{"unified":{"cpu.max":"1 x"}}"#,
            r#"{"memory":{"swap":5}}"#,
        ] {
            let resources = serde_json::from_str(json).unwrap();
            assert!(matches!(limits(&resources), Err(Error::Limit(_))), "{json}");
        }
    }

    #[test]
    fn from_annotations() {
        let check = |name: &str, text: &str, expect: (&str, Value)| {
            let property = Property::parse(name, text).unwrap();
            assert_eq!((&*property.name, property.value), expect, "{name} {text}");
        };
        let mode = Value::text("inactive-or-failed");
        check("CollectMode", "'inactive-or-failed'", ("CollectMode", mode));
        let time = Value::U64(5_500_000);
        check("TimeoutStopSec", "5.5", ("TimeoutStopUSec", time));
        let time = Value::U64(7);
        check("TimeoutStopUSec", "uint64 7", ("TimeoutStopUSec", time));
        for (name, text) in [
            ("A", "1"),
            ("Memory-Max", "1"),
            ("MemoryMax", ""),
            ("StopSec", "-1"),
            ("StopSec", "'x'"),
        ] {
            let parsed = Property::parse(name, text);
            assert!(matches!(parsed, Err(Error::Property { .. })), "{name}");
        }
    }
}
