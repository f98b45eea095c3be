//! Classes of block I/O: what their file says, and what a class comes to on this host's devices.
//!
//! The file is YAML in the form of goresctrl (package blockio), the library behind containerd's and
//! CRI-O's classes, so that one file serves all three:
//!
//! ```yaml
//! Classes:
//!   slow:
//!     - Weight: 80                    # of all devices that are not named below
//!     - Devices: ["/dev/sd[a-z]"]     # patterns; symbolic links are followed
//!       ThrottleReadBps: 50M          # also ThrottleWriteBps, ThrottleReadIOPS, ThrottleWriteIOPS
//!       Weight: 50
//! ```
//!
//! Of entries that name the same device, the last one holds, for each value by itself. The file is
//! read when the engine is opened and at a reload; devices are looked up when a container gets the
//! class, since they come and go.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxBlockIo, LinuxThrottleDevice, LinuxThrottleDeviceBuilder, LinuxWeightDevice,
    LinuxWeightDeviceBuilder,
};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Visitor};

/// Weights that there are (OCI specification, config-linux.md: `blockIO.weight`).
const WEIGHTS: std::ops::RangeInclusive<u64> = 10..=1000;
/// The weight of who has none (goresctrl, package blockio).
const USUAL_WEIGHT: u16 = 100;
/// Largest file of classes, bytes.
const MAX_FILE: u64 = 1 << 20;
/// Most paths that one pattern may match.
const MAX_MATCHES: usize = 4096;

/// Values of one entry, in the order of [`FIELDS`].
type Values = [Option<u64>; 5];
/// The values' names in the file.
const FIELDS: [&str; 5] = [
    "ThrottleReadBps",
    "ThrottleWriteBps",
    "ThrottleReadIOPS",
    "ThrottleWriteIOPS",
    "Weight",
];
/// The place of the weight among them.
const WEIGHT: usize = 4;

/// The classes of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct BlockIoClasses {
    path: PathBuf,
    classes: BTreeMap<String, Vec<Entry>>,
}

/// What a class says of some devices, or of all others where it names none.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    devices: Vec<Pattern>,
    values: Values,
}

/// A pattern for paths of devices.
#[derive(Clone, Debug, PartialEq)]
struct Pattern {
    /// As the file has it.
    text: String,
    /// As the library for patterns has it.
    glob: String,
}

/// A number of a device: major, minor.
type Number = (i64, i64);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(rename = "Classes", alias = "classes", default)]
    classes: BTreeMap<String, Vec<RawEntry>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "PascalCase")]
struct RawEntry {
    #[serde(alias = "devices")]
    devices: Option<Vec<String>>,
    #[serde(alias = "throttlereadbps", alias = "throttleReadBps")]
    throttle_read_bps: Option<Text>,
    #[serde(alias = "throttlewritebps", alias = "throttleWriteBps")]
    throttle_write_bps: Option<Text>,
    #[serde(
        rename = "ThrottleReadIOPS",
        alias = "throttlereadiops",
        alias = "throttleReadIOPS"
    )]
    throttle_read_iops: Option<Text>,
    #[serde(
        rename = "ThrottleWriteIOPS",
        alias = "throttlewriteiops",
        alias = "throttleWriteIOPS"
    )]
    throttle_write_iops: Option<Text>,
    #[serde(alias = "weight")]
    weight: Option<Text>,
}

/// A quantity, written as a number or as a string.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number such as 80 or 10M")
            }
            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Text, E> {
                match number.is_finite() {
                    true => Ok(Text(number.to_string())),
                    false => Err(E::custom("is no number")),
                }
            }
        }
        deserializer
            .deserialize_any(Any)
            .map_err(|error| D::Error::custom(error.to_string()))
    }
}

impl BlockIoClasses {
    /// Reads a file of classes. The error says what is wrong with it, without its path.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let size = std::fs::metadata(path)
            .map_err(|error| error.to_string())?
            .len();
        if size > MAX_FILE {
            return Err(format!("it has {size} bytes, at most {MAX_FILE} are read"));
        }
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        Ok(Self {
            path: path.into(),
            classes: parse(&text)?,
        })
    }

    /// What a class comes to on the devices that are there now; a pattern that matches none is told
    /// in the log.
    pub(crate) fn resolve(&self, class: &str) -> Result<LinuxBlockIo, String> {
        let entries = self.classes.get(class).ok_or_else(|| self.unknown(class))?;
        let mut weight = None;
        let mut devices: BTreeMap<Number, Values> = BTreeMap::new();
        for entry in entries {
            if entry.devices.is_empty() {
                weight = entry.values[WEIGHT].or(weight);
            }
            for pattern in &entry.devices {
                let found = pattern.devices();
                if found.is_empty() {
                    let (path, pattern) = (&self.path, &pattern.text);
                    tracing::warn!(?path, class, pattern, "no block device fits this pattern");
                }
                for number in found {
                    let values = devices.entry(number).or_default();
                    for (old, new) in values.iter_mut().zip(entry.values) {
                        *old = new.or(*old);
                    }
                }
            }
        }
        Ok(assemble(weight, &devices))
    }

    fn unknown(&self, class: &str) -> String {
        let known: Vec<&str> = self.classes.keys().map(String::as_str).collect();
        let known = match known.is_empty() {
            true => "none".to_owned(),
            false => known.join(", "),
        };
        format!(
            "{class:?} is no class of block I/O; {} has {known}",
            self.path.display()
        )
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, Vec<Entry>>, String> {
    // Nothing but comments is no classes.
    let file: Option<RawFile> = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let raw = file.map(|file| file.classes).unwrap_or_default();
    let class = |(name, entries): (String, Vec<RawEntry>)| {
        let numbered = (1..).zip(entries);
        let entries = numbered.map(|(place, entry)| {
            let within = |what| format!("class {name:?}, entry {place}: {what}");
            self::entry(entry).map_err(within)
        });
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        match name.is_empty() {
            true => Err("a class has no name".to_owned()),
            false => Ok((name, entries)),
        }
    };
    raw.into_iter().map(class).collect()
}

fn entry(raw: RawEntry) -> Result<Entry, String> {
    let texts = [
        raw.throttle_read_bps,
        raw.throttle_write_bps,
        raw.throttle_read_iops,
        raw.throttle_write_iops,
        raw.weight,
    ];
    let mut values = Values::default();
    for ((field, text), value) in FIELDS.iter().zip(texts).zip(&mut values) {
        // An empty one says nothing, as no value does.
        if let Some(Text(text)) = text.filter(|text| !text.0.is_empty()) {
            let read = quantity(&text).ok_or_else(|| {
                format!("{field}: {text:?} is no quantity such as 80, 10k or 1.5Gi")
            })?;
            *value = Some(read);
        }
    }
    if let Some(weight) = values[WEIGHT].filter(|weight| !WEIGHTS.contains(weight)) {
        return Err(format!("Weight: {weight} is not within 10 and 1000"));
    }
    let devices = raw.devices.unwrap_or_default();
    let throttle = FIELDS.iter().zip(values).take(WEIGHT);
    let throttle = throttle
        .filter(|(_, value)| value.is_some())
        .map(|(name, _)| name);
    if let (true, Some(field)) = (devices.is_empty(), throttle.into_iter().next()) {
        return Err(format!(
            "{field}: it is said for Devices only, and none is named"
        ));
    }
    let devices = devices.into_iter().map(Pattern::read);
    let devices = devices.collect::<Result<_, _>>()?;
    Ok(Entry { devices, values })
}

/// A quantity as Kubernetes has them (`resource.Quantity`): digits, perhaps with a point, then nothing,
/// `n`, `u`, `m`, `k`, `M`, `G`, `T`, `P`, `E` or `Ki` to `Ei`. Rounded up. `None` for anything else.
fn quantity(text: &str) -> Option<u64> {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let (times, parts): (u128, u128) = match &text[number.len()..] {
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "" => (1, 1),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let all = format!("{whole}{fraction}");
    // A sign is no digit, and parse() would take one.
    if all.is_empty() || !digits(&all) {
        return None;
    }
    let places = u32::try_from(fraction.len()).ok()?;
    let parts = parts.checked_mul(10_u128.checked_pow(places)?)?;
    let scaled = all.parse::<u128>().ok()?.checked_mul(times)?;
    u64::try_from(scaled.div_ceil(parts)).ok()
}

impl Pattern {
    /// A pattern as Go's `path/filepath` has them: `*`, `?`, `[a-z]`, `[^a-z]`.
    fn read(text: String) -> Result<Self, String> {
        let refused = |why: &str| Err(format!("Devices: {text:?} {why}"));
        if !text.starts_with('/') {
            return refused("is no absolute path");
        }
        if text.contains('\\') {
            return refused("has a backslash, which is not understood here");
        }
        let mut glob = text.replace("[^", "[!");
        // Two of them are one here: none goes over a slash.
        while glob.contains("**") {
            glob = glob.replace("**", "*");
        }
        match glob::Pattern::new(&glob) {
            Ok(_) => Ok(Self { text, glob }),
            Err(error) => refused(&format!("is no pattern: {error}")),
        }
    }

    /// The block devices that it names now.
    fn devices(&self) -> Vec<Number> {
        let paths = glob::glob(&self.glob).into_iter().flatten();
        let numbers = paths.take(MAX_MATCHES).filter_map(|path| {
            let metadata = std::fs::metadata(path.ok()?).ok()?;
            let number = metadata.rdev();
            let parts = (rustix::fs::major(number), rustix::fs::minor(number));
            let block = metadata.file_type().is_block_device();
            block.then(|| (i64::from(parts.0), i64::from(parts.1)))
        });
        numbers.collect()
    }
}

/// The values by device as the OCI specification has them.
fn assemble(weight: Option<u64>, devices: &BTreeMap<Number, Values>) -> LinuxBlockIo {
    let rates = |place: usize| {
        let rate = |(number, values): (&Number, &Values)| {
            values[place].map(|rate| throttle(*number, rate))
        };
        let all: Vec<LinuxThrottleDevice> = devices.iter().filter_map(rate).collect();
        (!all.is_empty()).then_some(all)
    };
    let weights: Vec<LinuxWeightDevice> = devices
        .iter()
        .filter_map(|(number, values)| Some(weigh(*number, narrow(values[WEIGHT]?))))
        .collect();
    let mut io = LinuxBlockIo::default();
    io.set_weight(weight.map(narrow));
    io.set_weight_device((!weights.is_empty()).then_some(weights));
    io.set_throttle_read_bps_device(rates(0));
    io.set_throttle_write_bps_device(rates(1));
    io.set_throttle_read_iops_device(rates(2));
    io.set_throttle_write_iops_device(rates(3));
    io
}

fn narrow(weight: u64) -> u16 {
    u16::try_from(weight).expect("weights were looked at when they were read")
}

const WHOLE: &str = "every field of it has a default";

fn throttle((major, minor): Number, rate: u64) -> LinuxThrottleDevice {
    let device = LinuxThrottleDeviceBuilder::default();
    let device = device.major(major).minor(minor).rate(rate);
    device.build().expect(WHOLE)
}

fn weigh((major, minor): Number, weight: u16) -> LinuxWeightDevice {
    let device = LinuxWeightDeviceBuilder::default();
    let device = device.major(major).minor(minor).weight(weight);
    device.build().expect(WHOLE)
}

/// What takes a container from `before` to `after`: a limit that is not named any more has to be lifted,
/// since a runtime changes only what it is told.
pub(crate) fn change(before: &LinuxBlockIo, after: &LinuxBlockIo) -> LinuxBlockIo {
    let rates = |before: &Option<Vec<LinuxThrottleDevice>>, after: &Option<Vec<_>>| {
        let mut all: Vec<LinuxThrottleDevice> = after.clone().unwrap_or_default();
        for device in before.iter().flatten() {
            let number = (device.major(), device.minor());
            if all.iter().all(|one| (one.major(), one.minor()) != number) {
                all.push(throttle(number, 0));
            }
        }
        (!all.is_empty()).then_some(all)
    };
    let lifted = before.weight().map(|_| USUAL_WEIGHT);
    let weight = after.weight().or(lifted);
    let mut weights = after.weight_device().clone().unwrap_or_default();
    for device in before.weight_device().iter().flatten() {
        let number = (device.major(), device.minor());
        if weights
            .iter()
            .all(|one| (one.major(), one.minor()) != number)
        {
            weights.push(weigh(number, weight.unwrap_or(USUAL_WEIGHT)));
        }
    }
    let mut io = LinuxBlockIo::default();
    io.set_weight(weight);
    io.set_weight_device((!weights.is_empty()).then_some(weights));
    io.set_throttle_read_bps_device(rates(
        before.throttle_read_bps_device(),
        after.throttle_read_bps_device(),
    ));
    io.set_throttle_write_bps_device(rates(
        before.throttle_write_bps_device(),
        after.throttle_write_bps_device(),
    ));
    io.set_throttle_read_iops_device(rates(
        before.throttle_read_iops_device(),
        after.throttle_read_iops_device(),
    ));
    io.set_throttle_write_iops_device(rates(
        before.throttle_write_iops_device(),
        after.throttle_write_iops_device(),
    ));
    io
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities() {
        for (text, expect) in [
            ("80", Some(80)),
            ("10k", Some(10_000)),
            ("50M", Some(50_000_000)),
            ("1.5Ki", Some(1536)),
            ("0", Some(0)),
            ("1500m", Some(2)),
            ("1E", Some(1_000_000_000_000_000_000)),
            ("16Ei", None),
            ("10K", None),
            ("64 M", None),
            ("-1", None),
            ("+1", None),
            (".", None),
            ("M", None),
            ("", None),
        ] {
            assert_eq!(quantity(text), expect, "{text:?}");
        }
    }

    #[test]
    fn the_usual_example_is_read() {
        // The form in which goresctrl's documentation shows its file.
        let classes = parse(
            "# classes\n\
             Classes:\n\
             \x20 low:\n\
             \x20   - Weight: 80\n\
             \x20   - Devices:\n\
             \x20       - /dev/sd[a-z]\n\
             \x20       - /dev/vd[^b]\n\
             \x20     ThrottleReadBps: 50M   # a comment\n\
             \x20     ThrottleWriteIOPS: \"5k\"\n\
             \x20     Weight: '50'\n\
             \x20 high:\n\
             \x20   - Weight: 400\n",
        )
        .unwrap();
        assert_eq!(classes.keys().collect::<Vec<_>>(), ["high", "low"]);
        let low = &classes["low"];
        assert_eq!(low[0].values, [None, None, None, None, Some(80)]);
        let values = [Some(50_000_000), None, None, Some(5000), Some(50)];
        assert_eq!(low[1].values, values);
        assert_eq!(low[1].devices[1].glob, "/dev/vd[!b]");
        assert!(parse("# nothing\n").unwrap().is_empty());
        assert!(parse("Classes: {}\n").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("Classes: {a: [{Wait: 1}]}", "Wait"),
            ("Klasses: {}", "Klasses"),
            (
                "Classes: {a: [{Weight: 9}]}",
                "class \"a\", entry 1: Weight: 9",
            ),
            ("Classes: {a: [{Weight: 1001}]}", "within 10 and 1000"),
            (
                "Classes: {a: [{Weight: much}]}",
                "Weight: \"much\" is no quantity",
            ),
            ("Classes: {a: [{Weight: -20}]}", "is no quantity"),
            (
                "Classes: {a: [{}, {ThrottleReadBps: 1}]}",
                "entry 2: ThrottleReadBps: it is said for Devices only",
            ),
            ("Classes: {a: [{Devices: [sda]}]}", "no absolute path"),
            ("Classes: {a: [{Devices: ['/dev/[']}]}", "is no pattern"),
            ("Classes: {a: [{Devices: ['/dev/\\a']}]}", "backslash"),
            ("Classes: [", ""),
            ("Classes: {'': []}", "no name"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn an_unknown_class_is_named_with_the_known() {
        let classes = BlockIoClasses {
            path: "/etc/classes".into(),
            classes: parse("Classes: {a: [], b: []}").unwrap(),
        };
        let error = classes.resolve("c").unwrap_err();
        let expect = "\"c\" is no class of block I/O; /etc/classes has a, b";
        assert_eq!(error, expect);
        assert_eq!(classes.resolve("a"), Ok(LinuxBlockIo::default()));
    }

    #[test]
    fn a_later_entry_holds_for_each_value() {
        let values = |read, weight| [read, None, None, None, weight];
        let devices = BTreeMap::from([
            ((8, 0), values(Some(7), Some(50))),
            ((8, 16), values(None, Some(60))),
        ]);
        let found = serde_json::to_value(assemble(Some(80), &devices)).unwrap();
        let expect = json!({
            "weight": 80,
            "weightDevice": [
                {"major": 8, "minor": 0, "weight": 50}, {"major": 8, "minor": 16, "weight": 60}],
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 7}],
        });
        assert_eq!(found, expect);
    }

    #[test]
    fn what_is_no_block_device_is_none() {
        let pattern = |text: &str| Pattern::read(text.to_owned()).unwrap();
        assert_eq!(pattern("/dev/null").devices(), []);
        assert_eq!(pattern("/dev/nul[a-l]").devices(), []);
        assert_eq!(pattern("/no/such/*").devices(), []);
    }

    #[test]
    fn limits_that_are_not_named_any_more_are_lifted() {
        let of = |value| serde_json::from_value::<LinuxBlockIo>(value).unwrap();
        let before = of(json!({
            "weight": 80,
            "weightDevice": [{"major": 8, "minor": 0, "weight": 50}],
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 7}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 8}],
        }));
        let after = of(json!({"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 9}]}));
        let found = serde_json::to_value(change(&before, &after)).unwrap();
        let expect = json!({
            "weight": 100,
            "weightDevice": [{"major": 8, "minor": 0, "weight": 100}],
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 9}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}],
        });
        assert_eq!(found, expect);
        assert_eq!(change(&LinuxBlockIo::default(), &after), after);
    }
}
