//! Values of D-Bus's types as bytes and back (D-Bus specification, "Type System"): pure. Not a
//! general library: file descriptors and whether names are valid are not needed here.

use std::fmt;

/// How deep containers may nest in what is read; the specification allows 64.
const MAX_DEPTH: usize = 32;

/// A value of any D-Bus type. Strings hold no zero byte; whoever makes one sees to it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F64(f64),
    Text(String),
    Path(String),
    Signature(String),
    /// With the signature of its elements, which an empty one needs.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Entry(Box<(Value, Value)>),
    Variant(Box<Value>),
}

impl Value {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(crate) fn bytes(bytes: &[u8]) -> Self {
        let bytes = bytes.iter().copied().map(Self::Byte);
        Self::Array("y".to_owned(), bytes.collect())
    }

    pub(crate) fn texts(texts: &[&str]) -> Self {
        let texts = texts.iter().copied().map(Self::text);
        Self::Array("s".to_owned(), texts.collect())
    }

    /// Its type, as the specification writes it.
    pub(crate) fn signature(&self) -> String {
        let all = |values: &[Value]| values.iter().map(Self::signature).collect::<String>();
        match self {
            Self::Array(element, _) => format!("a{element}"),
            Self::Struct(fields) => format!("({})", all(fields)),
            Self::Entry(pair) => format!("{{{}{}}}", pair.0.signature(), pair.1.signature()),
            simple => simple.code().to_string(),
        }
    }

    fn code(&self) -> char {
        match self {
            Self::Byte(_) => 'y',
            Self::Bool(_) => 'b',
            Self::I16(_) => 'n',
            Self::U16(_) => 'q',
            Self::I32(_) => 'i',
            Self::U32(_) => 'u',
            Self::I64(_) => 'x',
            Self::U64(_) => 't',
            Self::F64(_) => 'd',
            Self::Text(_) => 's',
            Self::Path(_) => 'o',
            Self::Signature(_) => 'g',
            Self::Array(..) => 'a',
            Self::Struct(_) => '(',
            Self::Entry(_) => '{',
            Self::Variant(_) => 'v',
        }
    }
}

/// The boundary on which a type begins, by its first letter.
fn alignment(code: u8) -> usize {
    match code {
        b'n' | b'q' => 2,
        b'b' | b'i' | b'u' | b's' | b'o' | b'a' => 4,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 1,
    }
}

#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn pad(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(crate) fn put_length(&mut self, length: usize) {
        let length = u32::try_from(length).expect("what is sent is a few kilobytes");
        self.put(&Value::U32(length));
    }

    fn put_text(&mut self, text: &str) {
        self.put_length(text.len());
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn put_signature(&mut self, signature: &str) {
        let length = u8::try_from(signature.len()).expect("our signatures are a few letters");
        self.0.push(length);
        self.0.extend(signature.as_bytes());
        self.0.push(0);
    }

    fn put_array(&mut self, element: &str, values: &[Value]) {
        self.put_length(0);
        let length_at = self.0.len() - 4;
        // The padding before the first element is not part of the length, and is there even
        // without any element.
        self.pad(element.bytes().next().map_or(1, alignment));
        let start = self.0.len();
        values.iter().for_each(|value| self.put(value));
        let length = u32::try_from(self.0.len() - start).expect("a few kilobytes");
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    pub(crate) fn put(&mut self, value: &Value) {
        let code = u8::try_from(value.code()).expect("a code is ASCII");
        self.pad(alignment(code));
        match value {
            Value::Byte(byte) => self.0.push(*byte),
            Value::Bool(bool) => self.0.extend(u32::from(*bool).to_le_bytes()),
            Value::I16(number) => self.0.extend(number.to_le_bytes()),
            Value::U16(number) => self.0.extend(number.to_le_bytes()),
            Value::I32(number) => self.0.extend(number.to_le_bytes()),
            Value::U32(number) => self.0.extend(number.to_le_bytes()),
            Value::I64(number) => self.0.extend(number.to_le_bytes()),
            Value::U64(number) => self.0.extend(number.to_le_bytes()),
            Value::F64(number) => self.0.extend(number.to_le_bytes()),
            Value::Text(text) | Value::Path(text) => self.put_text(text),
            Value::Signature(signature) => self.put_signature(signature),
            Value::Array(element, values) => self.put_array(element, values),
            Value::Struct(fields) => fields.iter().for_each(|field| self.put(field)),
            Value::Entry(pair) => {
                self.put(&pair.0);
                self.put(&pair.1);
            }
            Value::Variant(inner) => {
                self.put_signature(&inner.signature());
                self.put(inner);
            }
        }
    }
}

/// What is wrong with bytes that claim to be a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a D-Bus message: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    /// What is read next.
    pub(crate) at: usize,
    /// Whether numbers are big-endian.
    big: bool,
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader at {} of {}", self.at, self.bytes.len())
    }
}

macro_rules! number {
    ($reader:expr, $type:ty) => {{
        let bytes = *$reader
            .take(size_of::<$type>())?
            .first_chunk()
            .ok_or(Malformed("cut short"))?;
        if $reader.big {
            <$type>::from_be_bytes(bytes)
        } else {
            <$type>::from_le_bytes(bytes)
        }
    }};
}

impl<'a> Reader<'a> {
    pub(crate) fn of(bytes: &'a [u8], big: bool) -> Self {
        Self { bytes, at: 0, big }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed("too long"))?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed("cut short"))?;
        self.at = end;
        Ok(taken)
    }

    pub(crate) fn pad(&mut self, to: usize) -> Result<(), Malformed> {
        self.take(self.at.next_multiple_of(to) - self.at).map(drop)
    }

    pub(crate) fn length(&mut self) -> Result<usize, Malformed> {
        usize::try_from(number!(self, u32)).map_err(|_too_large| Malformed("too long"))
    }

    /// All values of a body.
    pub(crate) fn values(mut self, signature: &str) -> Result<Vec<Value>, Malformed> {
        self.sequence(signature.as_bytes(), 0)
    }

    fn sequence(&mut self, mut signature: &[u8], depth: usize) -> Result<Vec<Value>, Malformed> {
        let mut values = Vec::new();
        while !signature.is_empty() {
            let (one, rest) = signature.split_at(first_type(signature)?);
            values.push(self.value(one, depth)?);
            signature = rest;
        }
        Ok(values)
    }

    fn text(&mut self, length: usize) -> Result<String, Malformed> {
        let text = self.take(length)?.to_vec();
        self.take(1)?;
        String::from_utf8(text).map_err(|_not_text| Malformed("a string that is no text"))
    }

    fn array(&mut self, element: &[u8], depth: usize) -> Result<Value, Malformed> {
        let length = self.length()?;
        self.pad(element.first().map_or(1, |code| alignment(*code)))?;
        let end = self.at.checked_add(length).ok_or(Malformed("too long"))?;
        let mut values = Vec::new();
        while self.at < end {
            values.push(self.value(element, depth)?);
        }
        let element = String::from_utf8_lossy(element).into_owned();
        Ok(Value::Array(element, values))
    }

    /// One value of the type `signature`.
    pub(crate) fn value(&mut self, signature: &[u8], depth: usize) -> Result<Value, Malformed> {
        let code = *signature.first().ok_or(Malformed("an empty signature"))?;
        if depth > MAX_DEPTH {
            return Err(Malformed("nested too deeply"));
        }
        self.pad(alignment(code))?;
        let inner = |end: usize| signature.get(1..end).unwrap_or_default();
        Ok(match code {
            b'y' => Value::Byte(number!(self, u8)),
            b'b' => Value::Bool(number!(self, u32) != 0),
            b'n' => Value::I16(number!(self, i16)),
            b'q' => Value::U16(number!(self, u16)),
            b'i' => Value::I32(number!(self, i32)),
            b'u' | b'h' => Value::U32(number!(self, u32)),
            b'x' => Value::I64(number!(self, i64)),
            b't' => Value::U64(number!(self, u64)),
            b'd' => Value::F64(number!(self, f64)),
            b's' | b'o' => {
                let length = self.length()?;
                let text = self.text(length)?;
                match code {
                    b's' => Value::Text(text),
                    _ => Value::Path(text),
                }
            }
            b'g' => {
                let length = usize::from(number!(self, u8));
                Value::Signature(self.text(length)?)
            }
            b'a' => self.array(inner(signature.len()), depth + 1)?,
            b'(' => Value::Struct(self.sequence(inner(signature.len() - 1), depth + 1)?),
            b'{' => {
                let pair = self.sequence(inner(signature.len() - 1), depth + 1)?;
                let [key, value] = <[Value; 2]>::try_from(pair)
                    .map_err(|_not_two| Malformed("an entry that is no pair"))?;
                Value::Entry(Box::new((key, value)))
            }
            b'v' => {
                let length = usize::from(number!(self, u8));
                let signature = self.text(length)?;
                let signature = signature.as_bytes();
                if first_type(signature)? != signature.len() {
                    return Err(Malformed("a variant of several types"));
                }
                Value::Variant(Box::new(self.value(signature, depth + 1)?))
            }
            _ => return Err(Malformed("an unknown type")),
        })
    }
}

/// The length of the first complete type of a signature.
pub(crate) fn first_type(signature: &[u8]) -> Result<usize, Malformed> {
    // The specification's limit; it bounds the recursion of who reads by it.
    if signature.len() > 255 {
        return Err(Malformed("a signature that is too long"));
    }
    let mut closing: Vec<u8> = Vec::new();
    for (at, code) in signature.iter().enumerate() {
        match code {
            b'(' => closing.push(b')'),
            b'{' => closing.push(b'}'),
            b')' | b'}' if closing.last() == Some(code) && signature[at - 1] != b'a' => {
                closing.pop();
            }
            b'a' => continue,
            b'y' | b'b' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' | b's' | b'o' | b'g'
            | b'v' | b'h' => {}
            _ => return Err(Malformed("a signature that is none")),
        }
        if closing.is_empty() {
            return Ok(at + 1);
        }
    }
    Err(Malformed("a signature that is cut short"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(value: &Value) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.put(value);
        writer.0
    }

    /// A value, its signature, its bytes.
    #[track_caller]
    fn check(value: &Value, signature: &str, expect: &[u8]) {
        assert_eq!(value.signature(), signature);
        assert_eq!(bytes_of(value), expect, "{value:?}");
        let back = Reader::of(expect, false).values(signature).unwrap();
        assert_eq!(back, std::slice::from_ref(value));
    }

    #[test]
    fn values() {
        check(&Value::Byte(7), "y", &[7]);
        check(&Value::Bool(true), "b", &[1, 0, 0, 0]);
        check(&Value::I16(-2), "n", &[0xfe, 0xff]);
        check(&Value::U32(0x0102_0304), "u", &[4, 3, 2, 1]);
        check(&Value::U64(1), "t", &[1, 0, 0, 0, 0, 0, 0, 0]);
        check(&Value::text("ab"), "s", &[2, 0, 0, 0, b'a', b'b', 0]);
        check(&Value::Signature("as".into()), "g", &[2, b'a', b's', 0]);
        check(
            &Value::Variant(Box::new(Value::U32(5))),
            "v",
            &[1, b'u', 0, 0, 5, 0, 0, 0],
        );
    }

    #[test]
    fn containers() {
        check(&Value::bytes(&[9, 8]), "ay", &[2, 0, 0, 0, 9, 8]);
        check(
            &Value::Array("t".into(), vec![]),
            "at",
            &[0, 0, 0, 0, 0, 0, 0, 0],
        );
        check(
            &Value::Array("t".into(), vec![Value::U64(3)]),
            "at",
            &[8, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0],
        );
        check(
            &Value::Struct(vec![Value::Byte(1), Value::U64(2)]),
            "(yt)",
            &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
        );
        let entry = Value::Entry(Box::new((Value::text("k"), Value::Byte(2))));
        check(
            &Value::Array("{sy}".into(), vec![entry]),
            "a{sy}",
            &[7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, b'k', 0, 2],
        );
    }

    #[test]
    fn big_endian() {
        let bytes = [0, 0, 0, 1, b'x', 0, 0, 0, 0, 0, 0, 9];
        let back = Reader::of(&bytes, true).values("su").unwrap();
        assert_eq!(back, [Value::text("x"), Value::U32(9)]);
    }

    #[test]
    fn first_types() {
        for (signature, length) in [("s", 1), ("a(yv)u", 5), ("aas", 3), ("{sa{sv}}x", 8)] {
            assert_eq!(first_type(signature.as_bytes()), Ok(length), "{signature}");
        }
        for bad in ["", "a", "(", "(s", "}", "z", "(a)", "(s}"] {
            assert!(first_type(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
