//! Reads values from JSON.
//!
//! Most consumers read JSON, and that took half of what a small event costs in a sandbox: `serde_json` looks at fields' names and at what nobody asks for four
//! bytes at a time there, or one, counts what it would need for an error, and checks what it has found once more. So what most values are made of is read here:
//! structures, lists, whole numbers, short decimals, text without escapes. A part that is anything else is handed to `serde_json` as it stands, and where
//! anything is wrong it reads all of it again and says what. So whatever is read here has to be what it would read, and what it refuses has to be refused.

use std::cell::Cell;
use std::fmt;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Reads a value from JSON.
///
/// # Errors
/// As `serde_json` says.
#[inline]
pub(crate) fn read<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> serde_json::Result<T> {
    read_here(bytes).or_else(|_| read_again(bytes))
}

#[inline]
fn read_here<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T> {
    let mut reader = Reader { bytes, at: 0, depth: 0 };
    // A type may read others within, from text of its own.
    let outer = GIVEN_UP.replace(false);
    let value = T::deserialize(&mut reader);
    if GIVEN_UP.replace(outer) || reader.significant().is_some() { Err(other()) } else { value }
}

#[cold]
#[inline(never)]
fn read_again<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> serde_json::Result<T> {
    serde_json::from_slice(bytes)
}

thread_local! {
    /// Whether anything was not read here. A type may deal with an error by itself and take another value instead: it is not to see errors that
    /// `serde_json` would not have given it.
    static GIVEN_UP: Cell<bool> = const { Cell::new(false) };
}

/// Something is wrong, or is not read here: `serde_json` is to say.
struct Other(());

/// Made here, and not by a type that refuses what it was given.
#[cold]
#[inline(never)]
fn other() -> Other {
    GIVEN_UP.set(true);
    Other(())
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Who asks what is wrong is to hear it from `serde_json`.
        GIVEN_UP.set(true);
        f.write_str("not read here")
    }
}

impl fmt::Debug for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Other {}

impl de::Error for Other {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(())
    }
}

type Result<T> = std::result::Result<T, Other>;

/// Half of the depth at which `serde_json` stops: what is handed to it may be as deep again.
const MOST_DEEP: u32 = 63;
/// Powers of ten that a double has exactly.
const POWERS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

struct Reader<'de> {
    bytes: &'de [u8],
    at: usize,
    depth: u32,
}

/// What stands between two quotation marks.
struct Quoted<'de> {
    bytes: &'de [u8],
    seen: u64,
}

/// Seen between two quotation marks, besides the top bits of all bytes: an escape; and that there is no second mark.
const ESCAPE: u64 = 1;
const NO_END: u64 = 2;

impl<'de> Quoted<'de> {
    #[inline(always)]
    fn has_escapes(&self) -> bool {
        self.seen & ESCAPE != 0
    }

    /// Whether it is text as it stands there, and of ASCII only.
    #[inline(always)]
    fn is_plain(&self) -> bool {
        self.seen == 0
    }

    /// As text, when it stands there as it is.
    #[inline(always)]
    #[expect(unsafe_code, reason = "text was looked at when its end was looked for")]
    fn text(&self) -> Result<&'de str> {
        if self.is_plain() {
            // SAFETY: no byte's top bit is set, so it is ASCII.
            return Ok(unsafe { std::str::from_utf8_unchecked(self.bytes) });
        }
        if self.has_escapes() {
            return Err(other());
        }
        std::str::from_utf8(self.bytes).map_err(|_| other())
    }
}

/// A number.
enum Number {
    Below(i64),
    Whole(u64),
    Decimal(f64),
}

impl<'de> Reader<'de> {
    #[inline(always)]
    fn byte(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// The next byte that is no white space; that is passed over.
    #[inline(always)]
    fn significant(&mut self) -> Option<u8> {
        loop {
            match self.byte() {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                other => return other,
            }
        }
    }

    /// Takes a byte that has to come next, behind white space.
    #[inline(always)]
    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.significant() != Some(byte) {
            return Err(other());
        }
        self.at += 1;
        Ok(())
    }

    fn word(&mut self, word: &[u8]) -> Result<()> {
        if !self.bytes[self.at..].starts_with(word) {
            return Err(other());
        }
        self.at += word.len();
        Ok(())
    }

    /// Takes what stands between quotation marks. Escapes are looked at only as far as it takes to find the end.
    #[inline(always)]
    fn quoted(&mut self) -> Result<Quoted<'de>> {
        self.expect(b'"')?;
        let from = self.at;
        let seen = self.pass_over_mark();
        if seen & NO_END != 0 {
            return Err(other());
        }
        Ok(Quoted { bytes: &self.bytes[from..self.at - 1], seen })
    }

    /// Passes over the next quotation mark, and says what is seen before it: in one number, which stays in a register.
    #[inline]
    fn pass_over_mark(&mut self) -> u64 {
        const ONES: u64 = u64::from_le_bytes([1; 8]);
        const TOPS: u64 = ONES << 7;
        let (mut escapes, mut seen) = (0, 0);
        loop {
            let rest = &self.bytes[self.at..];
            if let Some(eight) = rest.first_chunk() {
                let eight = u64::from_le_bytes(*eight);
                // The lowest top bit that is set stands at the first byte that is below 0x20, a quotation mark or a backslash.
                let is = |byte: u8| {
                    let differs = eight ^ (ONES * u64::from(byte));
                    differs.wrapping_sub(ONES) & !differs
                };
                let special = (eight.wrapping_sub(ONES * 0x20) & !eight | is(b'"') | is(b'\\')) & TOPS;
                if special == 0 {
                    seen |= eight;
                    self.at += 8;
                    continue;
                }
                let before = special.trailing_zeros() / 8;
                seen |= eight & ((1 << (8 * before)) - 1);
                self.at += before as usize;
            }
            match self.byte() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escapes = ESCAPE;
                    self.at += 2;
                    if self.at > self.bytes.len() {
                        return NO_END;
                    }
                }
                Some(plain @ 0x20..) => {
                    seen |= u64::from(plain);
                    self.at += 1;
                }
                _ => return NO_END,
            }
        }
        self.at += 1;
        seen & TOPS | escapes
    }

    /// Takes digits: how many there are, and the number that they make behind another. What is too long is refused by its length.
    #[inline(always)]
    fn digits(&mut self, before: u64) -> (usize, u64) {
        let (from, mut number) = (self.at, before);
        while let Some(eight) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk) {
            let (count, value) = leading_digits(*eight);
            number = number.wrapping_mul(TENS[count]).wrapping_add(value);
            self.at += count;
            if count < 8 {
                return (self.at - from, number);
            }
        }
        while let Some(digit @ b'0'..=b'9') = self.byte() {
            number = number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        (self.at - from, number)
    }

    /// Takes a number that is as exact here as it is there.
    #[inline]
    fn number(&mut self) -> Option<Number> {
        let is_below = self.significant() == Some(b'-');
        self.at += usize::from(is_below);
        let first = self.byte();
        let (len, whole) = self.digits(0);
        if len == 0 || len > 18 || (first == Some(b'0') && len > 1) {
            return None;
        }
        match self.byte() {
            Some(b'.') => {
                self.at += 1;
                let (behind, all) = self.digits(whole);
                // Up to 15 digits are a whole number that a double has, and one division rounds once.
                if behind == 0 || len + behind > 15 || matches!(self.byte(), Some(b'e' | b'E')) {
                    return None;
                }
                let decimal = all as f64 / POWERS[behind];
                Some(Number::Decimal(if is_below { -decimal } else { decimal }))
            }
            Some(b'e' | b'E') => None,
            // There, this is a double.
            _ if is_below && whole == 0 => None,
            _ if is_below => Some(Number::Below(-whole.cast_signed())),
            _ => Some(Number::Whole(whole)),
        }
    }

    /// Passes over a value that nobody asks for.
    fn pass_over(&mut self) -> Result<()> {
        match self.significant() {
            Some(b'"') => {
                let quoted = self.quoted()?;
                if quoted.has_escapes() { escapes_are_right(quoted.bytes) } else { Ok(()) }
            }
            Some(b'-' | b'0'..=b'9') => self.pass_over_number(),
            Some(b'{') => self.pass_over_parts(b'}', |reader| {
                let quoted = reader.quoted()?;
                if quoted.has_escapes() {
                    escapes_are_right(quoted.bytes)?;
                }
                reader.expect(b':')
            }),
            Some(b'[') => self.pass_over_parts(b']', |_| Ok(())),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            _ => Err(other()),
        }
    }

    fn pass_over_number(&mut self) -> Result<()> {
        self.at += usize::from(self.byte() == Some(b'-'));
        let first = self.byte();
        let (len, _) = self.digits(0);
        if len == 0 || (first == Some(b'0') && len > 1) {
            return Err(other());
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            if self.digits(0).0 == 0 {
                return Err(other());
            }
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            if self.digits(0).0 == 0 {
                return Err(other());
            }
        }
        Ok(())
    }

    fn pass_over_parts(&mut self, close: u8, before: fn(&mut Self) -> Result<()>) -> Result<()> {
        self.deeper(|reader| {
            if reader.significant() != Some(close) {
                loop {
                    before(reader)?;
                    reader.pass_over()?;
                    if reader.significant() != Some(b',') {
                        break;
                    }
                    reader.at += 1;
                }
            }
            reader.expect(close)
        })
    }

    /// Deals with what a bracket opens.
    #[inline]
    fn deeper<T>(&mut self, deal: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.at += 1;
        self.depth += 1;
        if self.depth > MOST_DEEP {
            return Err(other());
        }
        let dealt = deal(self)?;
        self.depth -= 1;
        Ok(dealt)
    }

    /// The value that comes next, as it stands there, for `serde_json`; to which the features that it was built with say what it makes of it.
    #[cold]
    fn part<T>(
        &mut self,
        read: impl FnOnce(&mut serde_json::Deserializer<serde_json::de::SliceRead<'de>>) -> serde_json::Result<T>,
    ) -> Result<T> {
        self.significant();
        let from = self.at;
        self.pass_over()?;
        let mut deserializer = serde_json::Deserializer::from_slice(&self.bytes[from..self.at]);
        let value = read(&mut deserializer).map_err(|_| other())?;
        deserializer.end().map_err(|_| other())?;
        Ok(value)
    }

    #[inline]
    fn visit_map<V: Visitor<'de>>(&mut self, visitor: V, is_struct: bool) -> Result<V::Value> {
        self.deeper(|reader| {
            let value = visitor.visit_map(Fields { reader, is_struct, is_first: true }).map_err(|_| other())?;
            reader.expect(b'}')?;
            Ok(value)
        })
    }

    #[inline]
    fn visit_seq<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value> {
        self.deeper(|reader| {
            let value = visitor.visit_seq(Elements { reader, is_first: true }).map_err(|_| other())?;
            reader.expect(b']')?;
            Ok(value)
        })
    }

    #[inline]
    fn visit_number<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value> {
        self.significant();
        let from = self.at;
        match self.number() {
            Some(Number::Whole(number)) => visitor.visit_u64(number),
            Some(Number::Below(number)) => visitor.visit_i64(number),
            Some(Number::Decimal(number)) => visitor.visit_f64(number),
            None => {
                self.at = from;
                if !matches!(self.byte(), Some(b'-' | b'0'..=b'9')) {
                    return Err(other());
                }
                self.part(|part| part.deserialize_f64(visitor))
            }
        }
    }

    #[inline]
    fn visit_text<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value> {
        self.significant();
        let from = self.at;
        let quoted = self.quoted()?;
        if quoted.has_escapes() {
            self.at = from;
            return self.part(|part| part.deserialize_str(visitor));
        }
        visitor.visit_borrowed_str(quoted.text()?)
    }
}

/// Powers of ten, up to that of eight digits.
const TENS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// How many digits come first of eight bytes, and the number that they make.
#[inline(always)]
fn leading_digits(eight: [u8; 8]) -> (usize, u64) {
    const fn each(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }
    // Of digits, their values.
    let values = u64::from_le_bytes(eight) ^ each(b'0');
    // The top bit is set of what is above nine.
    let others = (((values & each(0x7f)) + each(0x7f - 9)) | values) & each(0x80);
    let count = others.trailing_zeros() / 8;
    // What comes first counts most: zeros are put before it, and neighbours are joined, twice as many digits at a time.
    let ones = values.checked_shl(u64::BITS - 8 * count).unwrap_or(0);
    let pairs = (10 * ones + (ones >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (100 * pairs + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    (count as usize, (10_000 * fours + (fours >> 32)) & 0xffff_ffff)
}

/// Whether escapes are those that there are.
#[cold]
fn escapes_are_right(bytes: &[u8]) -> Result<()> {
    let mut bytes = bytes.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'\\' {
            continue;
        }
        let is_right = match bytes.next() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => true,
            Some(b'u') => (0..4).all(|_| bytes.next().is_some_and(u8::is_ascii_hexdigit)),
            _ => false,
        };
        if !is_right {
            return Err(other());
        }
    }
    Ok(())
}

/// Such as are read by `serde_json` only.
macro_rules! parts {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        $(fn $name<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value> {
            self.part(|part| part.$name($($argument,)* visitor))
        })*
    };
}

/// Such as are read like another.
macro_rules! alike {
    ($($how:ident: $($name:ident)*;)*) => {
        $($(#[inline]
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            self.$how(visitor)
        })*)*
    };
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = Other;

    alike! {
        visit_number: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
            deserialize_f64;
        visit_text: deserialize_char deserialize_str deserialize_string deserialize_identifier;
    }

    parts! {
        deserialize_i128();
        deserialize_u128();
        deserialize_f32();
        deserialize_bytes();
        deserialize_byte_buf();
        deserialize_unit();
        deserialize_unit_struct(name: &'static str);
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.significant() {
            Some(b'"') => self.visit_text(visitor),
            Some(b'{') => self.visit_map(visitor, false),
            Some(b'[') => self.visit_seq(visitor),
            _ => self.part(|part| part.deserialize_any(visitor)),
        }
    }

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let is_true = self.significant() == Some(b't');
        self.word(if is_true { b"true" } else { b"false" })?;
        visitor.visit_bool(is_true)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.significant() == Some(b'n') {
            self.word(b"null")?;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value> {
        // Names of its own, by which it is asked for a value as it stands there.
        if name.starts_with("$serde_json") {
            return self.part(|part| part.deserialize_newtype_struct(name, visitor));
        }
        visitor.visit_newtype_struct(self)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.significant() == Some(b'[') { self.visit_seq(visitor) } else { Err(other()) }
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.significant() == Some(b'{') { self.visit_map(visitor, false) } else { Err(other()) }
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self.significant() {
            Some(b'{') => self.visit_map(visitor, true),
            Some(b'[') => self.visit_seq(visitor),
            _ => Err(other()),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        if self.significant() == Some(b'"') {
            // A variant without fields.
            return visitor.visit_enum(BorrowedStrDeserializer::new(self.quoted()?.text()?));
        }
        self.part(|part| part.deserialize_enum(name, variants, visitor))
    }

    #[inline]
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.pass_over()?;
        visitor.visit_unit()
    }
}

/// The fields of a structure, or the entries of a map.
struct Fields<'a, 'de> {
    reader: &'a mut Reader<'de>,
    /// Names are compared, and nothing else is done with them: a map keeps them.
    is_struct: bool,
    is_first: bool,
}

/// No comma stands where one has to be. Where something was given up before, that may be why, and there is nothing more: who passes over errors would
/// ask for ever.
#[cold]
fn ends_early() -> Result<bool> {
    if GIVEN_UP.get() { Ok(false) } else { Err(other()) }
}

/// Goes on to the next part, if there is one.
#[inline(always)]
fn goes_on(reader: &mut Reader<'_>, is_first: &mut bool, close: u8) -> Result<bool> {
    if reader.significant() == Some(close) {
        return Ok(false);
    }
    if !std::mem::take(is_first) {
        if reader.significant() != Some(b',') {
            return ends_early();
        }
        reader.at += 1;
    }
    Ok(true)
}

impl<'de> MapAccess<'de> for Fields<'_, 'de> {
    type Error = Other;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        if !goes_on(self.reader, &mut self.is_first, b'}')? {
            return Ok(None);
        }
        let key = Key { quoted: self.reader.quoted()?, is_struct: self.is_struct };
        seed.deserialize(key).map(Some)
    }

    #[inline]
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        self.reader.expect(b':')?;
        seed.deserialize(&mut *self.reader)
    }
}

/// The elements of a list.
struct Elements<'a, 'de> {
    reader: &'a mut Reader<'de>,
    is_first: bool,
}

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Other;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let comes_first = self.is_first;
        if !goes_on(self.reader, &mut self.is_first, b']')? {
            return Ok(None);
        }
        if !comes_first && self.reader.significant() == Some(b']') {
            // A type that takes nothing would not see that nothing is there.
            return Err(other());
        }
        seed.deserialize(&mut *self.reader).map(Some)
    }
}

/// A field's name, or a map's key.
struct Key<'de> {
    quoted: Quoted<'de>,
    is_struct: bool,
}

/// What keys are `serde_json` takes from their text; that is not done here.
macro_rules! not_keys {
    ($($name:ident)*) => {
        $(fn $name<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
            Err(other())
        })*
    };
}

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = Other;

    not_keys! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128 deserialize_u8 deserialize_u16
        deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64 deserialize_bytes deserialize_byte_buf
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_borrowed_str(self.quoted.text()?)
    }

    #[inline]
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.is_struct && self.quoted.is_plain() {
            return visitor.visit_borrowed_bytes(self.quoted.bytes);
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value> {
        if name.starts_with("$serde_json") {
            return Err(other());
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_enum(BorrowedStrDeserializer::new(self.quoted.text()?))
    }

    serde::forward_to_deserialize_any! {
        char str string unit unit_struct seq tuple tuple_struct map struct ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::collections::{BTreeMap, HashMap, HashSet};
    use std::fmt::Debug;
    use std::marker::PhantomData;

    use serde::de::{DeserializeOwned, IgnoredAny, SeqAccess, Visitor};
    use serde::{Deserialize, Deserializer, Serialize};
    use serde_json::value::RawValue;
    use serde_json::{Number, Value, json};

    use super::read_here;

    /// What is read here is what `serde_json` reads, whatever is cut off or wrong in it.
    fn same<T: DeserializeOwned + Debug + PartialEq>(text: &str) {
        let check = |bytes: &[u8]| {
            if let Ok(value) = read_here::<T>(bytes) {
                let expected = serde_json::from_slice::<T>(bytes);
                let is_same = expected.as_ref().is_ok_and(|expected| *expected == value);
                assert!(is_same, "{}: {value:?}, not {expected:?}", String::from_utf8_lossy(bytes));
            }
        };
        let bytes = text.as_bytes();
        for at in 0..bytes.len() {
            check(&bytes[..at]);
            check(&[&bytes[..at], &bytes[at + 1..]].concat());
            for other in b"\0\x1f \t\"\\{}[],:-+.eE019tnu/a\x7f\x80\xc3\xff" {
                check(&[&bytes[..at], &[*other], &bytes[at + 1..]].concat());
                check(&[&bytes[..at], &[*other], &bytes[at..]].concat());
            }
        }
        check(bytes);
        check(&[bytes, b" \n\t\r"].concat());
    }

    /// The same, and it is read here.
    fn here<T: DeserializeOwned + Debug + PartialEq>(text: &str) {
        assert!(read_here::<T>(text.as_bytes()).is_ok(), "{text}");
        same::<T>(text);
    }

    #[derive(Debug, PartialEq, Deserialize, Serialize, Default)]
    #[serde(default)]
    struct Order {
        id: u64,
        kind: String,
        user: Option<String>,
        amount: f64,
        change: i64,
        small: (u8, i16),
        paid: bool,
        tags: Vec<String>,
        inner: Option<Box<Order>>,
        nothing: (),
        #[serde(rename = "größe")]
        size: f32,
    }

    #[test]
    fn structures_are_read_as_serde_json_does() {
        here::<Order>(
            r#"{"id":123456789012345678,"kind":"order","user":null,"amount":12.50,"change":-7,"small":[255,-32768],"paid":true,"tags":["a","größer",""]}"#,
        );
        here::<Order>(
            r#" { "page" : "/shop/0123456789abcdef" , "more" : {"a":[1,2.5e-3,{}],"b":"\u00e9\n"} , "inner" : {"id":0,"größe":1.5} } "#,
        );
        here::<Order>(r#"[1,"kind","user",0.1,2,[3,4],false,[],null,null,0]"#);
        here::<Order>(r#"{"kind":"with \"escapes\" \u00e4","user":"\ud83d\ude00","nothing":null}"#);
        same::<Order>(r#"{"id":18446744073709551615,"id":1,"change":-0,"amount":1E5}"#);
    }

    #[test]
    fn numbers_are_those_that_serde_json_reads() {
        for text in [
            "0",
            "-0",
            "7",
            "-7",
            "00",
            "1.",
            ".1",
            "-",
            "1e5",
            "1E-7",
            "0.1",
            "-0.0",
            "123456789012345678",
            "1234567890123456789",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775808",
            "-9223372036854775809",
            "0.123456789012345",
            "0.1234567890123456",
            "999999999999999.5",
            "1.7976931348623157e308",
            "1e400",
            "3.0",
            "300",
            "-129",
            "0.30000000000000004",
            "123456789.012345",
        ] {
            same::<u64>(text);
            same::<i64>(text);
            same::<u8>(text);
            same::<i8>(text);
            same::<u128>(text);
            same::<i128>(text);
            same::<f64>(text);
            same::<f32>(text);
            same::<Number>(text);
            same::<Value>(text);
        }
        here::<f64>("1234.56");
        here::<i64>("-123456789012345678");
        // Every number of up to four digits with a point anywhere, and some long ones: to the last bit.
        let mut random = 1_u64;
        for number in 0..20_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            for digits in [number.to_string(), (random >> 14).to_string()] {
                for point in 1..digits.len() {
                    let text = format!("{}.{}", &digits[..point], &digits[point..]);
                    if let Ok(value) = read_here::<f64>(text.as_bytes()) {
                        assert_eq!(value.to_bits(), serde_json::from_str::<f64>(&text).unwrap().to_bits(), "{text}");
                    }
                }
            }
        }
    }

    #[derive(Debug, PartialEq, Deserialize)]
    enum Kinds {
        Unit,
        New(String),
        Pair(u8, Box<Kinds>),
        Fields { a: u8 },
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(tag = "kind", content = "of")]
    enum Beside {
        One { n: u8 },
        Two(u8),
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(tag = "kind")]
    enum Within {
        One { n: u8 },
        Two,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Decimal(f64),
        Text(String),
        List(Vec<Either>),
        Map(BTreeMap<String, Either>),
        Nothing(()),
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        a: u8,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Flat {
        a: u8,
        #[serde(flatten)]
        rest: BTreeMap<String, Value>,
    }

    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
    struct Wrapped<T>(T);

    #[derive(Debug, PartialEq, Deserialize)]
    struct Unit;

    #[test]
    fn whatever_types_ask_for_is_what_serde_json_gives_them() {
        here::<Vec<Kinds>>(r#"["Unit",{"New":"x"},{"Pair":[1,"Unit"]},{"Fields":{"a":2}},{"Unit":null}]"#);
        here::<Vec<Beside>>(r#"[{"kind":"One","of":{"n":1}},{"of":2,"kind":"Two"}]"#);
        here::<Vec<Within>>(r#"[{"kind":"One","n":1,"x":[]},{"kind":"Two"}]"#);
        here::<Either>(r#"{"a":1,"b":-1.5,"c":"text","d":[null,{"e":[]}]}"#);
        here::<Strict>(r#"{"a":1}"#);
        same::<Strict>(r#"{"a":1,"b":2}"#);
        here::<Flat>(r#"{"a":1,"b":{"c":[true,false,null]},"größe":1e3}"#);
        here::<Wrapped<Option<Wrapped<u8>>>>("1");
        here::<Value>(r#"{"a":[1,-2,0.5,null,true,"\u0041"],"b":{},"":[]}"#);
        here::<(Unit, (), Option<u8>, Option<()>, char, char)>(r#"[null,null,null,null,"x","ü"]"#);
        here::<BTreeMap<Wrapped<Option<String>>, Vec<u8>>>(r#"{"a":[1],"b":[]}"#);
        same::<BTreeMap<u64, u8>>(r#"{"1":2,"03":4}"#);
        same::<BTreeMap<bool, u8>>(r#"{"true":2}"#);
        same::<BTreeMap<String, u8>>(r#"{"a \"key\"":2}"#);
        here::<HashSet<String>>(r#"["a","b"]"#);
        same::<Vec<u8>>("[1,2,]");
        same::<Cow<'_, str>>(r#""x""#);
        same::<std::time::Duration>(r#"{"secs":1,"nanos":2}"#);
        let raw: Vec<Box<RawValue>> = read_here(br#"[{ "as" : "it is" }, 1.50 ]"#).unwrap();
        assert_eq!((raw[0].get(), raw[1].get()), (r#"{ "as" : "it is" }"#, "1.50"));
    }

    /// Nothing where something else was expected.
    #[derive(Debug, PartialEq, Eq, Hash)]
    struct Lenient<T>(Option<T>);

    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Lenient<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Ok(Self(T::deserialize(deserializer).ok()))
        }
    }

    /// What is wrong, as told.
    #[derive(Debug, PartialEq)]
    struct Told<T>(Result<T, String>);

    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Told<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Ok(Self(T::deserialize(deserializer).map_err(|error| error.to_string())))
        }
    }

    /// Takes nothing at all.
    #[derive(Debug, PartialEq)]
    struct Blind;

    impl<'de> Deserialize<'de> for Blind {
        fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            Ok(Self)
        }
    }

    /// Those elements of a list that can be read.
    #[derive(Debug, PartialEq)]
    struct Readable<T>(Vec<T>);

    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Readable<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct All<T>(PhantomData<T>);
            impl<'de, T: Deserialize<'de>> Visitor<'de> for All<T> {
                type Value = Readable<T>;

                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("a list")
                }

                fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                    let mut all = Vec::new();
                    loop {
                        match list.next_element() {
                            Ok(Some(one)) => all.push(one),
                            Ok(None) => return Ok(Readable(all)),
                            Err(_) => {}
                        }
                    }
                }
            }
            deserializer.deserialize_seq(All(PhantomData))
        }
    }

    #[test]
    fn who_deals_with_errors_by_itself_gets_those_of_serde_json() {
        type Map<T> = BTreeMap<String, T>;
        for part in [
            "5",
            "[1]",
            "{}",
            "null",
            "1.5",
            "-1",
            "300",
            "-0",
            "1e99999999999",
            r#""Unit""#,
            r#""Un\u0069t""#,
            r#""\ud800x""#,
            r#""\x""#,
            r#"{"Unknown":1}"#,
            r#"{"a":1}"#,
            r#"{"b":1}"#,
            r#"{"1":2}"#,
            r#"{"a\n":1}"#,
        ] {
            let text = format!("{{\"a\": {part} }}");
            same::<Map<Lenient<Kinds>>>(&text);
            same::<Map<Lenient<f32>>>(&text);
            same::<Map<Lenient<f64>>>(&text);
            same::<Map<Lenient<u8>>>(&text);
            same::<Map<Lenient<i128>>>(&text);
            same::<Map<Lenient<String>>>(&text);
            same::<Map<Lenient<Strict>>>(&text);
            same::<Map<Lenient<(u8, u8)>>>(&text);
            same::<Map<Told<u8>>>(&text);
            same::<Map<Told<Strict>>>(&text);
            same::<Map<HashMap<Lenient<u64>, u8>>>(&text);
            same::<Map<HashMap<Lenient<String>, u8>>>(&text);
            same::<Map<Lenient<Blind>>>(&text);
            let text = format!("[{part},1,{part}]");
            same::<Vec<Lenient<u8>>>(&text);
            same::<Vec<Lenient<Kinds>>>(&text);
            same::<Vec<Told<String>>>(&text);
            same::<Lenient<Vec<u8>>>(&text);
        }
        same::<Vec<Blind>>("[,]");
        assert_eq!(
            super::read::<Readable<BTreeMap<u64, u8>>>(br#"[{"1":2}]"#).unwrap(),
            Readable(vec![BTreeMap::from([(1, 2)])])
        );
        // What is refused by the type, and not by the reader, is none of its business.
        here::<Vec<Lenient<u8>>>("[300,1]");
        assert_eq!(super::read::<u8>(b"1").unwrap(), 1);
    }

    #[test]
    fn digits_are_taken_as_far_as_they_go_whatever_comes_behind() {
        let mut random = 3_u64;
        for len in 0..=8 {
            for behind in 0..=u8::MAX {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let mut eight: [u8; 8] = std::array::from_fn(|at| b'0' + (random >> (8 * at + 4)) as u8 % 10);
                eight[len..].iter_mut().step_by(2).for_each(|byte| *byte = behind);
                let count = eight.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let value = eight[..count].iter().fold(0, |value, digit| 10 * value + u64::from(digit - b'0'));
                assert_eq!(super::leading_digits(eight), (count, value), "{eight:?}");
            }
        }
        for number in (0..20).map(|digits| 10_u64.pow(digits) / 7) {
            for behind in ["", ",", ",1", "  ", ".5", ".25     ", "e3", "  ]         "] {
                same::<Vec<f64>>(&format!("[{number}{behind}]"));
                same::<Vec<u64>>(&format!("[{number}{behind}]"));
                same::<(u64, u64)>(&format!("[{number},{number}{behind}]"));
            }
        }
    }

    #[test]
    fn what_nobody_asks_for_has_to_be_json_all_the_same() {
        let check = |text: &str| {
            let here = read_here::<IgnoredAny>(text.as_bytes()).is_ok();
            assert_eq!(here, serde_json::from_str::<IgnoredAny>(text).is_ok(), "{text}");
        };
        for text in [
            r#"{"a":[1,-2.5e+10,"\\ \" \u00fF",{}],"b":null,"c":true,"d":false}"#,
            "[1,]",
            "[,1]",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            "01",
            "1.e5",
            "1e",
            "-",
            r#""\x""#,
            r#""\u00g0""#,
            r#""\u00""#,
            "\"\u{1f}\"",
            "nul",
            "true false",
            "[[[[]]]]",
            "",
            " ",
            "\"",
            r#""\"#,
            r#""\""#,
            r#"{"a\q":1}"#,
        ] {
            check(text);
        }
        for depth in [60, 63, 64, 127, 128, 129] {
            let text = "[".repeat(depth) + &"]".repeat(depth);
            same_depth::<Value>(&text);
            assert!(read_here::<IgnoredAny>(text.as_bytes()).is_ok() == (depth <= 63));
        }
    }

    fn same_depth<T: DeserializeOwned + PartialEq + Debug>(text: &str) {
        let (read, expected) = (super::read::<T>(text.as_bytes()), serde_json::from_str::<T>(text));
        assert_eq!(read.map_err(|error| error.to_string()), expected.map_err(|error| error.to_string()));
    }

    #[test]
    fn text_ends_where_it_ends_and_is_borrowed() {
        for len in 0..40 {
            for special in ["", "\\\"", "\\\\", "ü", "\u{1f}", "\u{20}", "\u{7f}", "\\u0041", "\\", "\"", "€"] {
                for at in 0..=len {
                    let text = format!("\"{}{special}{}\"", "a".repeat(at), "z".repeat(len - at));
                    let (read, expected) =
                        (super::read::<String>(text.as_bytes()), serde_json::from_str::<String>(&text));
                    assert_eq!(
                        read.map_err(|error| error.to_string()),
                        expected.map_err(|error| error.to_string()),
                        "{text}"
                    );
                }
            }
        }
        let borrowed: BTreeMap<&str, &str> = read_here(br#"{"key":"value of some length"}"#).unwrap();
        assert_eq!(borrowed["key"], "value of some length");
        assert!(super::read::<&str>(br#""with \n""#).is_err());
    }

    #[test]
    fn what_is_wrong_is_told_as_serde_json_tells_it() {
        for text in [r#"{"id":"x"}"#, r#"{"id":1"#, r#"{"id":1} x"#, "", r#"{"kind":1}"#, r#"{"id":-1}"#] {
            let told = super::read::<Order>(text.as_bytes()).unwrap_err().to_string();
            assert_eq!(told, serde_json::from_str::<Order>(text).unwrap_err().to_string());
        }
        assert_eq!(super::read::<Value>(br#"{"a":1}"#).unwrap(), json!({"a": 1}));
    }
}
