//! Findings for a person and for a program.

use crate::{Finding, Weight, worst};

/// Lines for a person: the weight as a word, the subject, what was found; the cure below it.
#[must_use]
pub fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.subject.len()).max();
    let width = width.unwrap_or_default();
    let mut lines: Vec<String> = findings
        .iter()
        .map(|finding| {
            let word = word(finding.weight);
            let cure = finding.cure.as_ref();
            let cure = cure.map_or_else(String::new, |cure| {
                format!("\n{:9}{:width$}  -> {cure}", "", "")
            });
            format!(
                "{word:9}{:width$}  {}{cure}",
                finding.subject, finding.found
            )
        })
        .collect();
    lines.push(verdict(findings));
    lines.join("\n") + "\n"
}

fn word(weight: Weight) -> &'static str {
    match weight {
        Weight::Good => "ok",
        Weight::Note => "note",
        Weight::Warning => "WARNING",
        Weight::Failure => "FAILURE",
    }
}

fn verdict(findings: &[Finding]) -> String {
    let count = |weight| {
        findings
            .iter()
            .filter(|finding| finding.weight == weight)
            .count()
    };
    let counts = format!(
        "{} failures, {} warnings, {} notes",
        count(Weight::Failure),
        count(Weight::Warning),
        count(Weight::Note)
    );
    match worst(findings) {
        Weight::Failure => format!("this host cannot run pods: {counts}"),
        _ => format!("this host can run pods: {counts}"),
    }
}

/// One JSON object: `{"verdict": WEIGHT, "findings": [{"subject", "weight", "found", "cure"}]}`.
#[must_use]
pub fn json(findings: &[Finding]) -> String {
    let value = serde_json::json!({ "verdict": worst(findings), "findings": findings });
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> [Finding; 2] {
        let good = Finding {
            subject: "kernel",
            weight: Weight::Good,
            found: "Linux 6.18".to_owned(),
            cure: None,
        };
        let bad = Finding {
            subject: "overlay",
            weight: Weight::Failure,
            found: "none".to_owned(),
            cure: Some("modprobe overlay".to_owned()),
        };
        [good, bad]
    }

    #[test]
    fn a_person_reads_the_cure_below() {
        let expect = "ok       kernel   Linux 6.18\n\
            FAILURE  overlay  none\n\
            \x20                 -> modprobe overlay\n\
            this host cannot run pods: 1 failures, 0 warnings, 0 notes\n";
        assert_eq!(text(&findings()), expect);
    }

    #[test]
    fn a_program_reads_json() {
        let value: serde_json::Value = serde_json::from_str(&json(&findings())).unwrap();
        assert_eq!(value["verdict"], "failure");
        assert_eq!(value["findings"][1]["cure"], "modprobe overlay");
        assert!(value["findings"][0].get("cure").is_none());
    }
}
