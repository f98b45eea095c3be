//! What a registry demands before it answers: the `WWW-Authenticate` header (RFC 9110, 11.6.1).
//!
//! Pure. Getting what is demanded is the business of `auth`.

use std::collections::HashMap;

/// One way to prove who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// `basic` or `bearer`, lower case.
    pub(crate) scheme: String,
    /// Parameters, such as `realm`.
    pub(crate) parameters: HashMap<String, String>,
}

/// Reads a header, which may hold several challenges. What is malformed ends it.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            break;
        }
        if let Some(value) = after.trim_start().strip_prefix('=') {
            let Some((value, after)) = read_value(value.trim_start()) else {
                break;
            };
            let Some(challenge) = challenges.last_mut() else {
                break;
            };
            challenge
                .parameters
                .insert(word.to_ascii_lowercase(), value);
            rest = after;
        } else {
            challenges.push(Challenge {
                scheme: word.to_ascii_lowercase(),
                parameters: HashMap::new(),
            });
            rest = after;
        }
        rest = rest.trim_start_matches([' ', ',', '\t']);
    }
    challenges
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

fn read_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text
            .find(|c: char| c == ',' || c.is_ascii_whitespace())
            .unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, expect: &[(&str, &[(&str, &str)])]) {
        let expect: Vec<_> = expect
            .iter()
            .map(|(scheme, parameters)| Challenge {
                scheme: (*scheme).to_owned(),
                parameters: parameters
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect(),
            })
            .collect();
        assert_eq!(parse(header), expect, "{header}");
    }

    #[test]
    fn headers_of_registries_are_read() {
        check(r#"Basic realm="x""#, &[("basic", &[("realm", "x")])]);
        check(
            r#"Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push""#,
            &[(
                "bearer",
                &[
                    ("realm", "https://a/t"),
                    ("service", "s"),
                    ("scope", "repository:a/b:pull,push"),
                ],
            )],
        );
        check(
            r#"Bearer realm="a\"b", error=invalid_token, Basic realm="y""#,
            &[
                ("bearer", &[("realm", "a\"b"), ("error", "invalid_token")]),
                ("basic", &[("realm", "y")]),
            ],
        );
        check("", &[]);
        check("=x", &[]);
        check("Bearer realm=\"cut", &[("bearer", &[])]);
    }
}
