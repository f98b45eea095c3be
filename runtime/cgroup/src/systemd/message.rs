//! D-Bus messages as bytes and back (D-Bus specification, "Message Protocol"): pure. Calls are
//! written, answers and signals are read.

use crate::systemd::value::{Malformed, Reader, Value, Writer};

/// The largest message that is read. systemd's are a few kilobytes.
const MAX_MESSAGE: usize = 4 << 20;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
