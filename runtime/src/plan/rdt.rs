//! `linux.intelRdt`: shares of cache and of memory bandwidth (the resctrl file system).

use super::{Error, Result};
use crate::spec::RawIntelRdt;

/// What the container gets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Rdt {
    /// Folder of the class of service below the root of resctrl; empty: the root itself.
    pub(crate) class: String,
    /// The class is the container's own: it is made for it, and goes with it.
    pub(crate) own: bool,
    /// Lines for `schemata`, in the order in which they are written.
    pub(crate) schemata: Vec<String>,
    /// Name of a monitoring group below the class.
    pub(crate) monitor: Option<String>,
}

/// Decides for container `id`.
///
/// # Errors
///
/// A class that is no name, a schema that is no line of its kind.
pub(super) fn plan(raw: &RawIntelRdt<'_>, id: &str) -> Result<Rdt> {
    let given = raw.clos_id.as_str();
    let is_name = given == "/" || !given.contains('/') && !matches!(given, "." | "..");
    if !is_name {
        return Err(Error::new(format!("invalid intelRdt.closID {given:?}")));
    }
    let fixed = [
        schema(&raw.l3_cache_schema, "l3CacheSchema", "")?,
        schema(&raw.mem_bw_schema, "memBwSchema", "MB:")?,
    ];
    let mut schemata: Vec<String> = fixed.into_iter().flatten().collect();
    for line in &raw.schemata {
        schemata.extend(schema(line, "schemata", "")?);
    }
    Ok(Rdt {
        class: match given {
            "" => id.to_owned(),
            "/" => String::new(),
            name => name.to_owned(),
        },
        own: given.is_empty(),
        schemata,
        monitor: raw.enable_monitoring.then(|| id.to_owned()),
    })
}

/// One line; `None` if there is none.
fn schema(line: &str, what: &str, start: &str) -> Result<Option<String>> {
    if line.contains('\n') || !line.is_empty() && !line.starts_with(start) {
        return Err(Error::new(format!(
            "intelRdt.{what} {line:?} is no line of a schemata file"
        )));
    }
    Ok((!line.is_empty()).then(|| line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expect: std::result::Result<&str, &str>) {
        let raw: RawIntelRdt<'_> = serde_json::from_str(json).unwrap();
        match (plan(&raw, "c1"), expect) {
            (Ok(got), Ok(expect)) => {
                let Rdt {
                    class,
                    own,
                    schemata,
                    monitor,
                } = got;
                let lines = schemata.join("|");
                let got = format!("{class} {own} {lines} {}", monitor.unwrap_or_default());
                assert_eq!(got, expect);
            }
            (Err(error), Err(text)) => assert!(error.0.contains(text), "{error}"),
            (got, expect) => panic!("{got:?}, not {expect:?}"),
        }
    }

    #[test]
    fn a_class_is_the_containers_or_one_that_is_named() {
        check("{}", Ok("c1 true  "));
        check(r#"{"closID":"/"}"#, Ok(" false  "));
        check(
            r#"{"closID":"gold","enableMonitoring":true}"#,
            Ok("gold false  c1"),
        );
        check(r#"{"closID":"../x"}"#, Err("closID"));
        check(r#"{"closID":".."}"#, Err("closID"));
    }

    #[test]
    fn schemata_come_in_their_order() {
        check(
            r#"{"schemata":["L2:0=f"],"memBwSchema":"MB:0=20","l3CacheSchema":"L3:0=7f0"}"#,
            Ok("c1 true L3:0=7f0|MB:0=20|L2:0=f "),
        );
        check(r#"{"memBwSchema":"L3:0=1"}"#, Err("memBwSchema"));
        check(r#"{"schemata":["a\nb"]}"#, Err("no line"));
    }
}
