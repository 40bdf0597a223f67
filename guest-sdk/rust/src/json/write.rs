//! Writes values as JSON.
//!
//! A consumer that keeps state writes most of its time: every output and every value that it changes. `serde_json` puts the names of fields, the numbers and the
//! punctuation between them out one by one, each through a check of how much room there is, and looks for characters to be escaped at each byte. In a sandbox that
//! was a fifth of what a small event costs. So what most values are made of is written here: structures, numbers, text without escapes, lists. For everything
//! else `serde_json` is asked, and all of it is written as `serde_json` would.

use serde::ser::{self, Serialize, Serializer};
use serde_json::{Error, Result};
use sluice_event::{append, copy};

/// Appends a value as JSON.
///
/// # Errors
/// When it is no JSON: a map whose keys are no text, or the value's own `Serialize` says so.
#[inline]
pub(crate) fn write(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) -> Result<()> {
    let mut writer = Writer { len: out.len(), out };
    let result = value.serialize(&mut writer);
    writer.cut();
    result
}

/// Bytes of room that are made at once.
const ROOM: usize = 64;

/// Writes short pieces where they stay, into room that is made for several of them. What is put together elsewhere, and copied from there in larger parts than it
/// was written in, has the processor wait until all of it is written.
struct Writer<'a> {
    /// What there is, and room behind it.
    out: &'a mut Vec<u8>,
    /// So much is there.
    len: usize,
}

impl Writer<'_> {
    /// Takes away the room that is left.
    fn cut(&mut self) {
        self.out.truncate(self.len);
    }

    /// Has something appended to the vector itself.
    fn appended<T>(&mut self, append: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        self.cut();
        let result = append(self.out);
        self.len = self.out.len();
        result
    }

    #[inline(never)]
    fn make_room(&mut self) {
        self.cut();
        // A fixed number of bytes, which a few instructions write.
        self.out.extend_from_slice(&[0; ROOM]);
    }

    /// A place for so many bytes, unless they are more than there is ever room for.
    #[inline(always)]
    fn place(&mut self, len: usize) -> Option<&mut [u8]> {
        if len > self.out.len() - self.len {
            self.make_room();
        }
        let place = self.out.get_mut(self.len..self.len + len)?;
        self.len += len;
        Some(place)
    }

    #[inline(always)]
    fn byte(&mut self, byte: u8) {
        self.place(1).into_iter().for_each(|to| to[0] = byte);
    }

    #[inline(always)]
    fn add(&mut self, bytes: &[u8]) {
        match self.place(bytes.len()) {
            Some(to) => copy(to, bytes),
            None => self.appended(|out| append(out, bytes)),
        }
    }

    /// Digits, two at a time, where they stay.
    #[inline]
    fn number(&mut self, is_negative: bool, value: u64) {
        const PAIRS: [[u8; 2]; 100] = {
            let (mut pairs, mut at) = ([[0; 2]; 100], 0);
            while at < 100 {
                pairs[at] = [b'0' + at as u8 / 10, b'0' + at as u8 % 10];
                at += 1;
            }
            pairs
        };
        let sign = usize::from(is_negative);
        let digits = value.checked_ilog10().unwrap_or(0) as usize + 1;
        // There always is one for so few.
        let Some(to) = self.place(sign + digits) else { return };
        if is_negative {
            to[0] = b'-';
        }
        let (mut pairs, mut left) = (to[sign..].rchunks_exact_mut(2), value);
        for pair in &mut pairs {
            pair.copy_from_slice(&PAIRS[(left % 100) as usize]);
            left /= 100;
        }
        pairs.into_remainder().iter_mut().for_each(|first| *first = b'0' + left as u8);
    }

    /// Bytes between a few others.
    #[inline(always)]
    fn enclosed<const BEFORE: usize, const BEHIND: usize>(
        &mut self,
        before: [u8; BEFORE],
        bytes: &[u8],
        behind: [u8; BEHIND],
    ) {
        let Some(to) = self.place(BEFORE + bytes.len() + BEHIND) else { return self.long(before, bytes, behind) };
        let (first, rest) = to.split_at_mut(BEFORE);
        let (middle, last) = rest.split_at_mut(bytes.len());
        first.copy_from_slice(&before);
        copy(middle, bytes);
        last.copy_from_slice(&behind);
    }

    /// The same of more than there is ever room for.
    #[cold]
    #[inline(never)]
    fn long<const BEFORE: usize, const BEHIND: usize>(
        &mut self,
        before: [u8; BEFORE],
        bytes: &[u8],
        behind: [u8; BEHIND],
    ) {
        self.appended(|out| [&before[..], bytes, &behind].iter().for_each(|bytes| out.extend_from_slice(bytes)));
    }

    /// Has `serde_json` write a value.
    fn by_serde_json(&mut self, value: &(impl Serialize + ?Sized)) -> Result<()> {
        self.appended(|out| serde_json::to_writer(out, value))
    }
}

/// Whether text stands in JSON as it is, eight bytes at a time. Names of fields are known to the compiler, and so is the answer, as long as it needs no loop: those
/// it does not unroll for WebAssembly.
#[inline(always)]
fn is_plain(text: &[u8]) -> bool {
    const ONES: u64 = u64::MAX / 255;
    // The uppermost bit of each byte that is zero, and at times of those above it.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let is_plain = |word: u64| {
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let special = zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')));
        (control | special) & (ONES * 0x80) == 0
    };
    let is_plain_word = |word: &[u8; 8]| is_plain(u64::from_le_bytes(*word));
    // Where the first bytes and the last overlap, some are looked at twice.
    if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        return is_plain_word(first)
            && is_plain_word(last)
            && (text.len() <= 16 || text.as_chunks().0.iter().all(is_plain_word));
    }
    if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        let [first, last] = [first, last].map(|half| u64::from(u32::from_le_bytes(*half)));
        return is_plain(first | last << 32);
    }
    let byte = |at: usize| u64::from(text.get(at).copied().unwrap_or(b' '));
    is_plain(byte(0) | byte(1) << 8 | byte(2) << 16 | (ONES * u64::from(b' ')) << 24)
}

impl<'a> Writer<'a> {
    #[inline(always)]
    fn text(&mut self, text: &str) -> Result<()> {
        if is_plain(text.as_bytes()) {
            self.enclosed(*b"\"", text.as_bytes(), *b"\"");
            return Ok(());
        }
        self.by_serde_json(text)
    }

    /// The name of what follows, behind another byte.
    #[inline(always)]
    fn name(&mut self, before: u8, name: &'static str) -> Result<()> {
        if is_plain(name.as_bytes()) {
            self.enclosed([before, b'"'], name.as_bytes(), *b"\":");
            return Ok(());
        }
        self.byte(before);
        self.by_serde_json(name)?;
        self.byte(b':');
        Ok(())
    }

    #[inline(always)]
    fn parts<'w>(&'w mut self, begin: u8, end: &'static str) -> Parts<'w, 'a> {
        Parts { writer: self, next: begin, end }
    }
}

/// A list or an object that is being written.
struct Parts<'w, 'a> {
    writer: &'w mut Writer<'a>,
    /// What stands before the next part: what opens it all, or a comma.
    next: u8,
    end: &'static str,
}

impl Parts<'_, '_> {
    #[inline(always)]
    fn next(&mut self) -> u8 {
        std::mem::replace(&mut self.next, b',')
    }

    #[inline(always)]
    fn element(&mut self, value: &(impl Serialize + ?Sized)) -> Result<()> {
        let next = self.next();
        self.writer.byte(next);
        value.serialize(&mut *self.writer)
    }

    #[inline(always)]
    fn field(&mut self, name: &'static str, value: &(impl Serialize + ?Sized)) -> Result<()> {
        if name.starts_with(PRIVATE) {
            (self.next, self.end) = (b',', "");
            return self.writer.by_serde_json(&Private(name, value));
        }
        let next = self.next();
        self.writer.name(next, name)?;
        value.serialize(&mut *self.writer)
    }

    #[inline(always)]
    fn close(self) {
        if self.next != b',' {
            self.writer.byte(self.next);
        }
        self.writer.add(self.end.as_bytes());
    }
}

/// How the names of fields begin by which `serde_json` knows values of its own that stand for their text: raw values, and numbers of any length.
const PRIVATE: &str = "$serde_json::private::";

/// A value of `serde_json`'s own.
struct Private<'v, T: ?Sized>(&'static str, &'v T);

impl<T: Serialize + ?Sized> Serialize for Private<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct(self.0, 1)?;
        ser::SerializeStruct::serialize_field(&mut fields, self.0, self.1)?;
        ser::SerializeStruct::end(fields)
    }
}

/// An object of one key without a value.
struct Key<'k, T: ?Sized>(&'k T);

impl<T: Serialize + ?Sized> Serialize for Key<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map([(self.0, ())])
    }
}

macro_rules! parts {
    ($($trait:ident: $method:ident = $part:ident($($name:ident)?)),*) => {$(
        impl ser::$trait for Parts<'_, '_> {
            type Ok = ();
            type Error = Error;

            #[inline(always)]
            fn $method<T: Serialize + ?Sized>(&mut self, $($name: &'static str,)? value: &T) -> Result<()> {
                self.$part($($name,)? value)
            }

            #[inline(always)]
            fn end(self) -> Result<()> {
                self.close();
                Ok(())
            }
        }
    )*};
}
parts!(
    SerializeSeq: serialize_element = element(),
    SerializeTuple: serialize_element = element(),
    SerializeTupleStruct: serialize_field = element(),
    SerializeTupleVariant: serialize_field = element(),
    SerializeStruct: serialize_field = field(name),
    SerializeStructVariant: serialize_field = field(name)
);

impl ser::SerializeMap for Parts<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        // What can be a key, and how, `serde_json` tells of whole objects only: `{"key":null}`.
        let next = self.next();
        let start = self.writer.len;
        self.writer.by_serde_json(&Key(key))?;
        self.writer.out[start] = next;
        self.writer.len -= "null}".len();
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Result<()> {
        self.close();
        Ok(())
    }
}

macro_rules! integers {
    ($($method:ident: $type:ty),*) => {$(
        #[inline(always)]
        fn $method(self, value: $type) -> Result<()> {
            let value = i128::from(value);
            self.number(value < 0, value.unsigned_abs() as u64);
            Ok(())
        }
    )*};
}

macro_rules! rare {
    ($($method:ident: $type:ty),*) => {$(
        fn $method(self, value: $type) -> Result<()> {
            self.by_serde_json(&value)
        }
    )*};
}

macro_rules! variants {
    ($($method:ident: $begin:literal, $end:literal);*) => {$(
        fn $method(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Parts<'w, 'a>> {
            self.name(b'{', variant)?;
            Ok(self.parts($begin, $end))
        }
    )*};
}

impl<'w, 'a> Serializer for &'w mut Writer<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Parts<'w, 'a>;
    type SerializeTuple = Parts<'w, 'a>;
    type SerializeTupleStruct = Parts<'w, 'a>;
    type SerializeTupleVariant = Parts<'w, 'a>;
    type SerializeMap = Parts<'w, 'a>;
    type SerializeStruct = Parts<'w, 'a>;
    type SerializeStructVariant = Parts<'w, 'a>;

    integers!(
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64
    );
    rare!(serialize_i128: i128, serialize_u128: u128, serialize_f32: f32, serialize_f64: f64, serialize_char: char);

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<()> {
        self.add(if value { b"true" } else { b"false" });
        Ok(())
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<()> {
        self.text(value)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<()> {
        self.collect_seq(value)
    }

    #[inline]
    fn serialize_none(self) -> Result<()> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<()> {
        value.serialize(self)
    }

    #[inline]
    fn serialize_unit(self) -> Result<()> {
        self.add(b"null");
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<()> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<()> {
        self.serialize_str(variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<()> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<()> {
        self.name(b'{', variant)?;
        value.serialize(&mut *self)?;
        self.byte(b'}');
        Ok(())
    }

    #[inline]
    fn serialize_seq(self, _: Option<usize>) -> Result<Parts<'w, 'a>> {
        Ok(self.parts(b'[', "]"))
    }

    #[inline]
    fn serialize_tuple(self, _: usize) -> Result<Parts<'w, 'a>> {
        Ok(self.parts(b'[', "]"))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Parts<'w, 'a>> {
        Ok(self.parts(b'[', "]"))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts<'w, 'a>> {
        Ok(self.parts(b'{', "}"))
    }

    #[inline]
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Parts<'w, 'a>> {
        Ok(self.parts(b'{', "}"))
    }

    variants!(serialize_tuple_variant: b'[', "]}"; serialize_struct_variant: b'{', "}}");
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::collections::BTreeMap;

    use serde::Serialize;
    use serde_json::value::RawValue;
    use serde_json::{Number, Value, json};

    /// As `serde_json` writes it, wherever its room ends.
    fn same(value: &(impl Serialize + ?Sized)) {
        let expected = serde_json::to_string(value).unwrap();
        for before in 0..super::ROOM {
            let value = &("x".repeat(before), value);
            let mut out = b"before".to_vec();
            super::write(&mut out, value).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), format!("before[{:?},{expected}]", value.0));
        }
    }

    #[test]
    fn numbers_of_all_lengths_are_written() {
        let powers = (0..20).map(|digits| 10_u64.pow(digits));
        for n in powers.flat_map(|power| [power - 1, power, power + 1, 7 * (power / 8)]) {
            same(&n);
            same(&-i64::try_from(n).unwrap_or(i64::MAX));
        }
    }

    #[derive(Serialize)]
    struct Everything<'a> {
        small: (i8, u8, i16, u16),
        large: [u64; 2],
        below: [i64; 2],
        larger: (u128, i128),
        parts: (f32, f64, f64, f64),
        flags: [bool; 2],
        letters: (char, char),
        text: &'a str,
        none: Option<u8>,
        some: Option<Unit>,
        unit: (),
        empty: [u8; 0],
        #[serde(rename = "a \"name\"\nof two lines")]
        odd: u8,
        #[serde(
            rename = "a name that is longer than all that is put together before it goes on to the vector, by a bit"
        )]
        long: u8,
        #[serde(skip_serializing_if = "Option::is_none")]
        skipped: Option<u8>,
        #[serde(flatten)]
        rest: Flat,
    }

    #[derive(Serialize)]
    struct Unit;

    #[derive(Serialize)]
    struct Flat {
        bytes: Bytes,
        nothing: Nothing,
    }

    #[derive(Serialize)]
    struct Nothing {}

    struct Bytes;

    impl Serialize for Bytes {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(b"\0\xff")
        }
    }

    #[derive(Serialize)]
    enum Kinds {
        Unit,
        New(Cow<'static, str>),
        Pair(u8, Box<Kinds>),
        Fields { a: u8, b: Vec<Kinds> },
        None(),
        Nothing {},
    }

    #[derive(Serialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        One { n: u8 },
    }

    #[derive(Serialize)]
    struct Wrapped<T>(T);

    #[derive(Serialize)]
    struct Values {
        before: u8,
        raw: Box<RawValue>,
        number: Number,
        behind: u8,
    }

    #[test]
    fn everything_is_written_as_serde_json_does() {
        same(&Everything {
            small: (i8::MIN, u8::MAX, i16::MIN, u16::MAX),
            large: [0, u64::MAX],
            below: [i64::MIN, -1],
            larger: (u128::MAX, i128::MIN),
            parts: (0.1, -1.5e300, f64::NAN, f64::INFINITY),
            flags: [true, false],
            letters: ('x', '\u{1}'),
            text: "größer",
            none: None,
            some: Some(Unit),
            unit: (),
            empty: [],
            odd: 1,
            long: 2,
            skipped: None,
            rest: Flat { bytes: Bytes, nothing: Nothing {} },
        });
        let kinds = vec![Kinds::Unit, Kinds::New("a\\b".into()), Kinds::None(), Kinds::Nothing {}];
        same(&Wrapped(Kinds::Pair(7, Box::new(Kinds::Fields { a: 1, b: kinds }))));
        same(&Tagged::One { n: 3 });
        same(&json!({"a": [1, -2, 0.5, null, true], "b": {}, "c": {"d": "\u{7f}"}, "": []}));
        same(&Value::Null);
        same(&Values {
            before: 1,
            raw: RawValue::from_string(r#"{ "as" : "it is" }"#.to_owned()).unwrap(),
            number: Number::from(5),
            behind: 2,
        });
        same(&format_args!("{}\t{}", 1, "two"));
    }

    #[test]
    fn keys_of_maps_are_what_serde_json_takes_for_keys() {
        same(&BTreeMap::from([(1_u64, 'a'), (2, 'b')]));
        same(&BTreeMap::from([("a \"key\"", BTreeMap::from([(true, 1)])), ("b", BTreeMap::new())]));
        same(&BTreeMap::from([(Some("in an option"), 1)]));
        let of_pairs = BTreeMap::from([((1, 2), 3)]);
        let error = super::write(&mut Vec::new(), &of_pairs).unwrap_err();
        assert_eq!(error.to_string(), serde_json::to_string(&of_pairs).unwrap_err().to_string());
    }

    #[test]
    fn text_is_escaped_wherever_it_needs_it() {
        for len in 0..40 {
            let plain = "ü".repeat(len / 2) + &"x".repeat(len % 2);
            same(plain.as_str());
            for special in (0..=0x20).chain([0x21, 0x22, 0x23, 0x5b, 0x5c, 0x5d, 0x7e, 0x7f]).map(char::from) {
                for at in 0..=len {
                    let text = "a".repeat(at) + &special.to_string() + &"z".repeat(len - at);
                    let mut out = Vec::new();
                    super::write(&mut out, &text).unwrap();
                    assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&text).unwrap());
                }
            }
        }
    }
}
