//! The text form of values (GLib's "GVariant Text Format Strings"), as annotations carry them:
//! pure. Booleans, numbers, strings, byte strings, object paths, signatures, arrays, tuples and
//! variants; with a type in front (`uint64 7`, `@t 7`) or the form's own. Maybe and dictionary
//! types are refused: no property of a unit has them.

use crate::systemd::value::{Value, first_type};

/// How deep arrays and tuples may nest.
const MAX_DEPTH: usize = 16;
/// The longest text that is read.
const MAX_TEXT: usize = 64 << 10;

/// Reads one value.
pub(crate) fn parse(text: &str) -> Result<Value, &'static str> {
    if text.len() > MAX_TEXT {
        return Err("it is too long");
    }
    let mut parser = Parser { rest: text };
    let value = parser.value(None, 0)?;
    parser.space();
    match parser.rest {
        "" => Ok(value),
        _ => Err("something follows the value"),
    }
}

struct Parser<'a> {
    rest: &'a str,
}

/// The types that have a name of their own.
const NAMED: [(&str, &str); 13] = [
    ("boolean", "b"),
    ("byte", "y"),
    ("double", "d"),
    ("handle", "u"),
    ("int16", "n"),
    ("int32", "i"),
    ("int64", "x"),
    ("objectpath", "o"),
    ("signature", "g"),
    ("string", "s"),
    ("uint16", "q"),
    ("uint32", "u"),
    ("uint64", "t"),
];

fn named(word: &str) -> Option<&'static str> {
    NAMED
        .iter()
        .find_map(|(name, code)| (*name == word).then_some(*code))
}

impl<'a> Parser<'a> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, token: char) -> bool {
        self.space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Letters and digits up to anything else, without taking them.
    fn word(&self) -> &'a str {
        let ends = |letter: char| !(letter.is_alphanumeric() || "_+-.".contains(letter));
        let end = self.rest.find(ends).unwrap_or(self.rest.len());
        &self.rest[..end]
    }

    /// A value; `kind` is its type if that is known.
    fn value(&mut self, kind: Option<&str>, depth: usize) -> Result<Value, &'static str> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deeply");
        }
        self.space();
        if let Some(rest) = self.rest.strip_prefix('@') {
            let length = first_type(rest.split([' ', '\t']).next().unwrap_or("").as_bytes())
                .map_err(|_bad| "the type behind @ is none")?;
            let (kind, rest) = rest.split_at(length);
            self.rest = rest;
            return self.value(Some(kind), depth + 1);
        }
        if let Some(kind) = named(self.word()) {
            self.rest = &self.rest[self.word().len()..];
            return self.value(Some(kind), depth + 1);
        }
        match self.rest.chars().next() {
            Some('[') => self.array(kind, depth),
            Some('(') => self.tuple(kind, depth),
            Some('<') => self.variant(kind, depth),
            Some('"' | '\'') => {
                let text = self.quoted()?;
                string(text, kind.unwrap_or("s"))
            }
            Some('b') if self.rest[1..].starts_with(['"', '\'']) => self.byte_string(kind),
            Some(_) => self.scalar(kind),
            None => Err("a value is missing"),
        }
    }

    fn scalar(&mut self, kind: Option<&str>) -> Result<Value, &'static str> {
        let word = self.word();
        self.rest = &self.rest[word.len()..];
        match (word, kind) {
            ("true", None | Some("b")) => Ok(Value::Bool(true)),
            ("false", None | Some("b")) => Ok(Value::Bool(false)),
            ("", _) => Err("a value is missing"),
            (word, kind) => number(word, kind),
        }
    }

    /// Between quotes, with the escapes of C.
    fn quoted(&mut self) -> Result<String, &'static str> {
        let mut letters = self.rest.chars();
        let quote = letters.next();
        let mut text = String::new();
        loop {
            match letters.next() {
                None => return Err("a quote is not closed"),
                closing if closing == quote => break,
                Some('\\') => text.push(escaped(&mut letters)?),
                Some('\0') => return Err("it holds a zero byte"),
                Some(letter) => text.push(letter),
            }
        }
        self.rest = letters.as_str();
        Ok(text)
    }

    fn byte_string(&mut self, kind: Option<&str>) -> Result<Value, &'static str> {
        if kind.is_some_and(|kind| kind != "ay") {
            return Err("a byte string is of type ay");
        }
        self.rest = &self.rest[1..];
        let mut bytes = self.quoted()?.into_bytes();
        bytes.push(0);
        Ok(Value::bytes(&bytes))
    }

    /// Values up to `end`, separated by commas; the type of each comes from `kind`.
    fn list<'k>(
        &mut self,
        end: char,
        depth: usize,
        mut kind: impl FnMut(&[Value]) -> Result<Option<&'k str>, &'static str>,
    ) -> Result<Vec<Value>, &'static str> {
        let mut values = Vec::new();
        while !self.eat(end) {
            if !values.is_empty() && !self.eat(',') {
                return Err("a comma is missing");
            }
            // A tuple of one ends in a comma.
            if values.len() == 1 && self.eat(end) {
                break;
            }
            let kind = kind(&values)?;
            values.push(self.value(kind, depth + 1)?);
        }
        Ok(values)
    }

    fn array(&mut self, kind: Option<&str>, depth: usize) -> Result<Value, &'static str> {
        self.eat('[');
        let element = match kind {
            None => None,
            Some(kind) => Some(kind.strip_prefix('a').ok_or("it is no array")?),
        };
        let values = self.list(']', depth, |_| Ok(element))?;
        let element = match (element, values.first()) {
            (Some(element), _) => element.to_owned(),
            (None, Some(first)) => first.signature(),
            (None, None) => return Err("an empty array needs a type"),
        };
        if values.iter().any(|value| value.signature() != element) {
            return Err("the elements of an array have one type");
        }
        Ok(Value::Array(element, values))
    }

    fn tuple(&mut self, kind: Option<&str>, depth: usize) -> Result<Value, &'static str> {
        self.eat('(');
        let inner = match kind {
            None => None,
            Some(kind) => {
                let inner = kind.strip_prefix('(').and_then(|k| k.strip_suffix(')'));
                Some(inner.ok_or("it is no tuple")?)
            }
        };
        let values = self.list(')', depth, |before| match inner {
            None => Ok(None),
            Some(inner) => nth_type(inner, before.len()).map(Some),
        })?;
        let value = Value::Struct(values);
        match kind {
            Some(kind) if value.signature() != kind => Err("a tuple lacks values"),
            _ if value == Value::Struct(Vec::new()) => Err("a tuple has values"),
            _ => Ok(value),
        }
    }

    fn variant(&mut self, kind: Option<&str>, depth: usize) -> Result<Value, &'static str> {
        self.eat('<');
        let inner = self.value(None, depth + 1)?;
        match kind {
            Some(kind) if kind != "v" => Err("it is no variant"),
            _ if !self.eat('>') => Err("a variant is not closed"),
            _ => Ok(Value::Variant(Box::new(inner))),
        }
    }
}

fn nth_type(signature: &str, index: usize) -> Result<&str, &'static str> {
    let mut rest = signature;
    let mut one = "";
    for _ in 0..=index {
        let length = first_type(rest.as_bytes()).map_err(|_end| "a tuple has too many values")?;
        (one, rest) = rest.split_at(length);
    }
    Ok(one)
}

fn escaped(letters: &mut std::str::Chars<'_>) -> Result<char, &'static str> {
    let code = |letters: &mut std::str::Chars<'_>, count: usize| {
        let digits: String = letters.by_ref().take(count).collect();
        let number = u32::from_str_radix(&digits, 16).ok();
        let letter = number
            .and_then(char::from_u32)
            .filter(|letter| *letter != '\0');
        letter.ok_or("an escape names no letter")
    };
    match letters.next() {
        Some('n') => Ok('\n'),
        Some('t') => Ok('\t'),
        Some('r') => Ok('\r'),
        Some('u') => code(letters, 4),
        Some('U') => code(letters, 8),
        Some('\0') | None => Err("an escape is not finished"),
        Some(letter) => Ok(letter),
    }
}

fn string(text: String, kind: &str) -> Result<Value, &'static str> {
    match kind {
        "s" => Ok(Value::Text(text)),
        "o" if is_object_path(&text) => Ok(Value::Path(text)),
        "g" if is_signature(&text) => Ok(Value::Signature(text)),
        "o" => Err("it is no object path"),
        "g" => Err("it is no signature"),
        _ => Err("a string cannot be of that type"),
    }
}

fn is_object_path(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    text == "/"
        || text
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(part))
}

fn is_signature(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match first_type(rest) {
            Ok(length) => rest = &rest[length..],
            Err(_) => return false,
        }
    }
    text.len() <= 255
}

fn number(word: &str, kind: Option<&str>) -> Result<Value, &'static str> {
    const RANGE: &str = "the number does not fit its type";
    let whole = integer(word);
    let kind = kind.unwrap_or(if whole.is_some() { "i" } else { "d" });
    if kind == "d" {
        let number = word.parse().map_err(|_not_number| "it is no number");
        return number.map(Value::F64);
    }
    let whole = whole.ok_or("it is no whole number")?;
    let value = match kind {
        "y" => whole.try_into().ok().map(Value::Byte),
        "n" => whole.try_into().ok().map(Value::I16),
        "q" => whole.try_into().ok().map(Value::U16),
        "i" => whole.try_into().ok().map(Value::I32),
        "u" => whole.try_into().ok().map(Value::U32),
        "x" => whole.try_into().ok().map(Value::I64),
        "t" => whole.try_into().ok().map(Value::U64),
        _ => return Err("a number cannot be of that type"),
    };
    value.ok_or(RANGE)
}

/// Decimal, hexadecimal or octal, with a sign.
fn integer(word: &str) -> Option<i128> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let (digits, radix) = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        None => (digits, 10),
    };
    // Sixteen hexadecimal digits and more than that never fit, and i128 takes them all.
    let plain = !digits.starts_with(['+', '-']);
    let number = i128::from_str_radix(digits, radix).ok().filter(|_| plain)?;
    number.checked_mul(sign)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &Value) {
        assert_eq!(parse(text).as_ref(), Ok(expect), "{text}");
    }

    #[test]
    fn scalars() {
        check("true", &Value::Bool(true));
        check(" 42 ", &Value::I32(42));
        check("-0x10", &Value::I32(-16));
        check("uint64 300000000", &Value::U64(300_000_000));
        check("@t 18446744073709551615", &Value::U64(u64::MAX));
        check("byte 0x2a", &Value::Byte(42));
        check("1.5", &Value::F64(1.5));
        check("@d 3", &Value::F64(3.0));
        check("'inactive-or-failed'", &Value::text("inactive-or-failed"));
        check(r#""a\"b\n\u00e9""#, &Value::text("a\"b\né"));
        check("objectpath '/a/b'", &Value::Path("/a/b".into()));
        check("signature 'a(st)'", &Value::Signature("a(st)".into()));
    }

    #[test]
    fn containers() {
        check("['a', 'b']", &Value::texts(&["a", "b"]));
        check("@as []", &Value::Array("s".into(), vec![]));
        check("[byte 1, byte 2]", &Value::bytes(&[1, 2]));
        check("@ay [1, 2]", &Value::bytes(&[1, 2]));
        check("b'ab'", &Value::bytes(b"ab\0"));
        let pair = Value::Struct(vec![Value::text("/dev/null"), Value::U64(7)]);
        check("('/dev/null', uint64 7)", &pair);
        check("@(st) ('/dev/null', 7)", &pair);
        check(
            "@a(st) [('/dev/null', 7)]",
            &Value::Array("(st)".into(), vec![pair]),
        );
        check("(1,)", &Value::Struct(vec![Value::I32(1)]));
        check("<5>", &Value::Variant(Box::new(Value::I32(5))));
    }

    #[test]
    fn refusals() {
        for text in [
            "",
            "tru",
            "'a",
            "[1, 'a']",
            "[]",
            "()",
            "@s 5",
            "byte 256",
            "1 2",
            "uint32 -1",
            "{'a': 1}",
            "just 1",
            "@z 1",
            "@(st) ('a')",
            "@(s) ('a', 'b')",
            "'\0'",
            "'\\u0000'",
            "objectpath 'a'",
            "[1 2]",
            "99999999999",
            "b'a",
            "<1",
            "@",
            "--5",
        ] {
            assert!(parse(text).is_err(), "{text:?}: {:?}", parse(text));
        }
        assert!(parse(&"[".repeat(1000)).is_err());
    }

    proptest! {
        #[test]
        fn text_never_panics(text in "[@a-z0-9'\"\\[\\](){}<>, \\\\.+é-]{0,40}") {
            drop(parse(&text));
        }
    }
}
