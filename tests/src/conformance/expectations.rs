//! What critest is expected to say, and where it says something else.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

/// How a spec ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As the suite wants it.
    Passed,
    /// Not as the suite wants it.
    Failed,
    /// The spec says itself that it cannot run here.
    Skipped,
}

/// A spec that does not pass, and why that is known.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// Part of the spec's full name.
    pub spec: String,
    /// How it ends.
    pub outcome: Outcome,
    /// Why.
    pub reason: String,
    /// What the kernel must lack for this to count; without it, it always counts.
    #[serde(default)]
    pub without: Option<Feature>,
}

/// What a kernel may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Feature {
    /// AppArmor, with the program that loads profiles.
    AppArmor,
}

impl Feature {
    /// Whether the kernel that this runs on has it.
    pub fn is_here(self) -> bool {
        match self {
            Self::AppArmor => {
                let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
                let parser = std::path::Path::new("/sbin/apparmor_parser").exists();
                parser && enabled.is_ok_and(|text| text.starts_with('Y'))
            }
        }
    }
}

/// The list of all that does not pass.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectations {
    /// In any order; the first that fits a name counts.
    #[serde(default)]
    pub expect: Vec<Expectation>,
}

/// What a spec said.
#[derive(Clone, Debug)]
pub struct Spec {
    /// How it ended.
    pub outcome: Outcome,
    /// The suite's message, for what did not pass; the whole story is in its log.
    pub message: String,
    /// Seconds.
    pub seconds: f64,
}

/// Ginkgo's JSON report: an array of suites.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    spec_reports: Option<Vec<Report>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    #[serde(default)]
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    run_time: f64,
    failure: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

/// Reads ginkgo's JSON report; specs that the focus left out are not in the answer.
///
/// # Errors
///
/// If it is not such a report.
pub fn read(report: &str) -> Result<BTreeMap<String, Spec>> {
    let suites: Vec<Suite> = serde_json::from_str(report).context("reading critest's report")?;
    let reports = suites
        .into_iter()
        .flat_map(|suite| suite.spec_reports.unwrap_or_default());
    Ok(reports
        .filter(|report| report.leaf_node_type == "It")
        .filter_map(spec)
        .collect())
}

fn spec(report: Report) -> Option<(String, Spec)> {
    let message = report
        .failure
        .map(|failure| failure.message)
        .unwrap_or_default();
    let outcome = match report.state.as_str() {
        "passed" => Outcome::Passed,
        "skipped" | "pending" if message.is_empty() => return None,
        "skipped" | "pending" => Outcome::Skipped,
        _ => Outcome::Failed,
    };
    let mut words = report.container_hierarchy_texts.unwrap_or_default();
    words.push(report.leaf_node_text);
    Some((
        words.join(" "),
        Spec {
            outcome,
            message,
            seconds: report.run_time / 1e9,
        },
    ))
}

impl Expectations {
    /// Reads the list.
    ///
    /// # Errors
    ///
    /// If it is not TOML, or has a key that is not known.
    pub fn parse(text: &str) -> Result<Expectations> {
        toml::from_str(text).context("reading the expectations")
    }

    /// The same list without what does not count on a kernel that has these features.
    #[must_use]
    pub fn on(mut self, has: impl Fn(Feature) -> bool) -> Expectations {
        self.expect
            .retain(|expectation| !expectation.without.is_some_and(&has));
        self
    }

    /// How a spec should end.
    pub fn of(&self, name: &str) -> Outcome {
        let fits = self
            .expect
            .iter()
            .find(|expectation| name.contains(&expectation.spec));
        fits.map_or(Outcome::Passed, |expectation| expectation.outcome)
    }

    /// One line for each spec that ended otherwise than expected.
    pub fn differences(&self, specs: &BTreeMap<String, Spec>) -> Vec<String> {
        let differs = specs
            .iter()
            .filter(|(name, spec)| self.of(name) != spec.outcome);
        differs
            .map(|(name, spec)| {
                let expected = self.of(name);
                format!(
                    "{name}: {:?}, expected {expected:?}: {}",
                    spec.outcome, spec.message
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"[{"SpecReports": [
        {"LeafNodeType": "BeforeSuite", "State": "passed"},
        {"ContainerHierarchyTexts": ["A", "b"], "LeafNodeType": "It", "LeafNodeText": "c",
         "State": "passed", "RunTime": 2000000000},
        {"ContainerHierarchyTexts": ["A"], "LeafNodeType": "It", "LeafNodeText": "left out",
         "State": "skipped"},
        {"ContainerHierarchyTexts": ["A"], "LeafNodeType": "It", "LeafNodeText": "lsm",
         "State": "skipped", "Failure": {"Message": "no AppArmor"}},
        {"ContainerHierarchyTexts": null, "LeafNodeType": "It", "LeafNodeText": "slow",
         "State": "timedout", "Failure": {"Message": "too slow"}}]}]"#;

    #[test]
    fn a_report_is_compared() {
        let specs = read(REPORT).unwrap();
        let names: Vec<&str> = specs.keys().map(String::as_str).collect();
        assert_eq!(names, ["A b c", "A lsm", "slow"]);
        let list = "[[expect]]\nspec = \"lsm\"\noutcome = \"skipped\"\nreason = \"no LSM\"\n";
        let expectations = Expectations::parse(list).unwrap();
        assert_eq!(
            expectations.differences(&specs),
            ["slow: Failed, expected Passed: too slow"]
        );
    }

    #[test]
    fn what_the_kernel_has_is_no_excuse() {
        let list = "[[expect]]\nspec = \"lsm\"\noutcome = \"skipped\"\nreason = \"no LSM\"\n\
            without = \"apparmor\"\n";
        let specs = read(REPORT).unwrap();
        for (has, count) in [(false, 1), (true, 2)] {
            let expectations = Expectations::parse(list).unwrap().on(|_| has);
            assert_eq!(expectations.differences(&specs).len(), count, "{has}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(Expectations::parse("[[expect]]\nspc = \"a\"\n").is_err());
    }
}
