//! D-Bus messages as bytes and back (D-Bus specification, "Type System" and "Message Protocol"):
//! pure. Not a general library: file descriptors and maps as such are not needed here.

use std::fmt;

/// The largest message that is read. systemd's are a few kilobytes.
const MAX_MESSAGE: usize = 4 << 20;
/// How deep containers may nest in what is read; the specification allows 64.
const MAX_DEPTH: usize = 32;
/// What comes before the header's fields.
const FIXED: usize = 16;

const KIND_CALL: u8 = 1;
const KIND_RETURN: u8 = 2;
const KIND_ERROR: u8 = 3;
const KIND_SIGNAL: u8 = 4;
const FIELD_PATH: u8 = 1;
const FIELD_INTERFACE: u8 = 2;
const FIELD_MEMBER: u8 = 3;
const FIELD_ERROR_NAME: u8 = 4;
const FIELD_REPLY_SERIAL: u8 = 5;
const FIELD_DESTINATION: u8 = 6;
const FIELD_SIGNATURE: u8 = 8;

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

/// A method call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) destination: &'a str,
    pub(crate) path: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) member: &'a str,
    pub(crate) body: &'a [Value],
}

impl Call<'_> {
    /// The bytes, little-endian; `serial` is what the answer refers to, and not 0.
    pub(crate) fn to_bytes(self, serial: u32) -> Vec<u8> {
        let mut body = Writer::default();
        let signature: String = self.body.iter().map(Value::signature).collect();
        self.body.iter().for_each(|value| body.put(value));
        let field =
            |code, value| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]);
        let mut fields = vec![
            field(FIELD_PATH, Value::Path(self.path.to_owned())),
            field(FIELD_INTERFACE, Value::text(self.interface)),
            field(FIELD_MEMBER, Value::text(self.member)),
            field(FIELD_DESTINATION, Value::text(self.destination)),
        ];
        if !signature.is_empty() {
            fields.push(field(FIELD_SIGNATURE, Value::Signature(signature)));
        }
        let mut message = Writer::default();
        for byte in [b'l', KIND_CALL, 0, 1] {
            message.put(&Value::Byte(byte));
        }
        message.put_length(body.0.len());
        message.put(&Value::U32(serial));
        message.put(&Value::Array("(yv)".to_owned(), fields));
        message.pad(8);
        message.0.extend(body.0);
        message.0
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn pad(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn put_length(&mut self, length: usize) {
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

    fn put(&mut self, value: &Value) {
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

/// A message for us.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Received {
    /// A call succeeded.
    Return { to: u32, body: Vec<Value> },
    /// A call failed.
    Error {
        to: u32,
        name: String,
        message: String,
    },
    /// Something happened.
    Signal { member: String, body: Vec<Value> },
    /// Nothing that we wait for.
    Other,
}

/// How many bytes the message at the start of `bytes` has; `None` until enough of it is there.
pub(crate) fn length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(head) = bytes.first_chunk::<FIXED>() else {
        return Ok(None);
    };
    let mut reader = Reader::of(head, order(head)?);
    reader.at = 4;
    let body = reader.length()?;
    reader.at = 12;
    let length = FIXED + reader.length()?.next_multiple_of(8) + body;
    if length > MAX_MESSAGE {
        return Err(Malformed("too long"));
    }
    Ok(Some(length))
}

/// Whether numbers are big-endian.
fn order(head: &[u8]) -> Result<bool, Malformed> {
    match head.first() {
        Some(b'l') => Ok(false),
        Some(b'B') => Ok(true),
        _ => Err(Malformed("unknown byte order")),
    }
}

/// Reads a whole message. Bodies of signals other than `wanted` are left unread.
pub(crate) fn read(bytes: &[u8], wanted: &str) -> Result<Received, Malformed> {
    let big = order(bytes)?;
    let mut reader = Reader::of(bytes, big);
    reader.at = 12;
    let Value::Array(_, fields) = reader.value(b"a(yv)", 0)? else {
        return Err(Malformed("no header"));
    };
    reader.pad(8)?;
    let mut header = Header::default();
    fields.into_iter().for_each(|field| header.take(field));
    let body = Reader::of(&bytes[reader.at..], big);
    let kind = bytes.get(1).copied().unwrap_or(0);
    let to = || header.reply_to.ok_or(Malformed("an answer to nothing"));
    Ok(match kind {
        KIND_RETURN => Received::Return {
            to: to()?,
            body: body.values(&header.signature)?,
        },
        KIND_ERROR => Received::Error {
            to: to()?,
            message: match body.values(&header.signature)?.into_iter().next() {
                Some(Value::Text(message)) => message,
                _ => String::new(),
            },
            name: header.error_name,
        },
        KIND_SIGNAL if header.member == wanted => Received::Signal {
            member: header.member,
            body: body.values(&header.signature)?,
        },
        _ => Received::Other,
    })
}

#[derive(Default)]
struct Header {
    reply_to: Option<u32>,
    member: String,
    error_name: String,
    signature: String,
}

impl Header {
    fn take(&mut self, field: Value) {
        let Value::Struct(field) = field else { return };
        let Ok([Value::Byte(code), Value::Variant(value)]) = <[Value; 2]>::try_from(field) else {
            return;
        };
        match (code, *value) {
            (FIELD_MEMBER, Value::Text(member)) => self.member = member,
            (FIELD_ERROR_NAME, Value::Text(name)) => self.error_name = name,
            (FIELD_REPLY_SERIAL, Value::U32(serial)) => self.reply_to = Some(serial),
            (FIELD_SIGNATURE, Value::Signature(signature)) => self.signature = signature,
            _ => {}
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
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
    fn of(bytes: &'a [u8], big: bool) -> Self {
        Self { bytes, at: 0, big }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed("too long"))?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed("cut short"))?;
        self.at = end;
        Ok(taken)
    }

    fn pad(&mut self, to: usize) -> Result<(), Malformed> {
        self.take(self.at.next_multiple_of(to) - self.at).map(drop)
    }

    fn length(&mut self) -> Result<usize, Malformed> {
        usize::try_from(number!(self, u32)).map_err(|_too_large| Malformed("too long"))
    }

    /// All values of a body.
    fn values(mut self, signature: &str) -> Result<Vec<Value>, Malformed> {
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
    fn value(&mut self, signature: &[u8], depth: usize) -> Result<Value, Malformed> {
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
    use proptest::prelude::*;

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

    /// A call as `busctl call` puts it on the wire, but for the order of the header's fields.
    #[test]
    fn a_call() {
        let call = Call {
            destination: "a.b",
            path: "/p",
            interface: "c.d",
            member: "M",
            body: &[Value::text("x")],
        };
        let expect: Vec<u8> = [
            &b"l\x01\x00\x01"[..],
            &[6, 0, 0, 0],
            &[9, 0, 0, 0],
            // Without the padding behind the last field.
            &[71, 0, 0, 0],
            b"\x01\x01o\x00\x02\x00\x00\x00/p\x00\x00\x00\x00\x00\x00",
            b"\x02\x01s\x00\x03\x00\x00\x00c.d\x00\x00\x00\x00\x00",
            b"\x03\x01s\x00\x01\x00\x00\x00M\x00\x00\x00\x00\x00\x00\x00",
            b"\x06\x01s\x00\x03\x00\x00\x00a.b\x00\x00\x00\x00\x00",
            b"\x08\x01g\x00\x01s\x00\x00",
            b"\x01\x00\x00\x00x\x00",
        ]
        .concat();
        let bytes = call.to_bytes(9);
        assert_eq!(bytes, expect);
        assert_eq!(length(&bytes).unwrap(), Some(bytes.len()));
        assert_eq!(length(&bytes[..15]).unwrap(), None);
        assert_eq!(read(&bytes, "M").unwrap(), Received::Other);
    }

    /// An answer or a signal, made with the same writer.
    fn message(kind: u8, fields: Vec<(u8, Value)>, body: &[Value]) -> Vec<u8> {
        let signature: String = body.iter().map(Value::signature).collect();
        let mut fields = fields;
        fields.push((FIELD_SIGNATURE, Value::Signature(signature)));
        let fields = fields.into_iter().map(|(code, value)| {
            Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))])
        });
        let mut content = Writer::default();
        body.iter().for_each(|value| content.put(value));
        let mut writer = Writer(vec![b'l', kind, 0, 1]);
        writer.put_length(content.0.len());
        writer.put(&Value::U32(1));
        writer.put(&Value::Array("(yv)".into(), fields.collect()));
        writer.pad(8);
        writer.0.extend(content.0);
        writer.0
    }

    #[test]
    fn answers() {
        let job = Value::Path("/job/1".into());
        let bytes = message(
            KIND_RETURN,
            vec![(FIELD_REPLY_SERIAL, Value::U32(4))],
            std::slice::from_ref(&job),
        );
        let expect = Received::Return {
            to: 4,
            body: vec![job],
        };
        assert_eq!(read(&bytes, "").unwrap(), expect);
        let bytes = message(
            KIND_ERROR,
            vec![
                (FIELD_REPLY_SERIAL, Value::U32(5)),
                (FIELD_ERROR_NAME, Value::text("a.Error")),
            ],
            &[Value::text("no")],
        );
        let expect = Received::Error {
            to: 5,
            name: "a.Error".into(),
            message: "no".into(),
        };
        assert_eq!(read(&bytes, "").unwrap(), expect);
        let signal = message(
            KIND_SIGNAL,
            vec![(FIELD_MEMBER, Value::text("Gone"))],
            &[Value::U32(2)],
        );
        assert_eq!(read(&signal, "Else").unwrap(), Received::Other);
        let expect = Received::Signal {
            member: "Gone".into(),
            body: vec![Value::U32(2)],
        };
        assert_eq!(read(&signal, "Gone").unwrap(), expect);
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

    proptest! {
        /// Whatever comes in, the answer is a message or an error.
        #[test]
        fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_u8..6) {
            let mut bytes = bytes;
            let head = [b'l', kind, 0, 1];
            let shared = bytes.len().min(4);
            bytes[..shared].copy_from_slice(&head[..shared]);
            let _ = length(&bytes);
            drop(read(&bytes, "X"));
        }

        /// A message with some bytes changed neither.
        #[test]
        fn changed_bytes_never_panic(at in 12_usize..60, byte in any::<u8>()) {
            let fields = vec![(FIELD_REPLY_SERIAL, Value::U32(4))];
            let body = [Value::Array("(sv)".into(), vec![Value::Struct(vec![
                Value::text("k"), Value::Variant(Box::new(Value::U64(7)))])])];
            let mut bytes = message(KIND_RETURN, fields, &body);
            if let Some(place) = bytes.get_mut(at) { *place = byte; }
            drop(read(&bytes, ""));
        }
    }
}
