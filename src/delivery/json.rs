//! Reads JSON, and what was JSON before something damaged it.
//!
//! Valid JSON is read as any other reader does. Everything else is read as far as it can be understood, and the
//! result says what had to be mended. A webhook's body is signed before a proxy, a cut text or a careless writer
//! damages it, so the signature is valid and the alarm in it is real.
//!
//! The reader reads a body at most twice. The first time, a quotation mark always ends a string. If that leaves parts
//! that fit nowhere, the second reading ends a string only where JSON goes on behind it; `"Fro"t Door"` is then one
//! string. The reading with fewer such parts is taken. Both take time in proportion to the body, and both are bounded
//! in depth: what is nested deeper is left out.
//!
//! Numbers keep their text. An id of twenty digits is no `f64`, and two of them must not become equal.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// Objects and lists inside one another; `serde_json` stops there as well.
const MAX_DEPTH: usize = 127;
/// Bytes behind a quotation mark that decide whether it ends a string.
const MAX_LOOK: usize = 256;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, and what has no value in JSON (`NaN`).
    Null,
    /// A boolean.
    Bool(bool),
    /// A number, as the sender spells it.
    Number(String),
    /// A string.
    String(String),
    /// A list.
    Array(Vec<Value>),
    /// An object, in the order of its keys.
    Object(BTreeMap<String, Value>),
}

/// As JSON.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |text: &str| serde_json::to_string(text).map_err(|_| fmt::Error);
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Number(number) => f.write_str(number),
            Value::String(text) => f.write_str(&quoted(text)?),
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i == 0 { '[' } else { ',' })?;
                }
                f.write_str(if items.is_empty() { "[]" } else { "]" })
            }
            Value::Object(fields) => {
                for (i, (name, value)) in fields.iter().enumerate() {
                    let before = if i == 0 { '{' } else { ',' };
                    write!(f, "{before}{}:{value}", quoted(name)?)?;
                }
                f.write_str(if fields.is_empty() { "{}" } else { "}" })
            }
        }
    }
}

/// What had to be mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mend {
    /// It begins with a byte order mark.
    ByteOrderMark,
    /// It is UTF-16 or UTF-32.
    Encoding,
    /// Bytes that are not UTF-8 became U+FFFD.
    Utf8,
    /// Half of a surrogate pair became U+FFFD.
    Surrogate,
    /// An escape that JSON does not have became U+FFFD.
    Escape,
    /// A control character stands where it must be escaped, or between two values.
    Control,
    /// A quotation mark inside a string is not escaped, or single quotation marks are used.
    Quote,
    /// A comma is missing, or there is one too many.
    Comma,
    /// A comment.
    Comment,
    /// A name or a value without quotation marks.
    Word,
    /// A number that JSON does not have, or that other readers have no room for.
    Number,
    /// A name stands twice in one object; the last one counts.
    Twice,
    /// Objects and lists that are nested too deep were left out.
    Depth,
    /// Bytes that fit nowhere were left out.
    Structure,
    /// The end is missing; a value that is not whole was left out.
    Cut,
    /// Something follows the object, and was not read.
    Trailing,
    /// The object is in a list or in a string.
    Wrapped,
    /// More than one object is in the list; only the first was read.
    More,
    /// A name that CHeKT documents is spelled in another case.
    Case,
}

impl fmt::Display for Mend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mend::ByteOrderMark => "byte order mark",
            Mend::Encoding => "UTF-16 or UTF-32",
            Mend::Utf8 => "invalid UTF-8",
            Mend::Surrogate => "lone surrogate",
            Mend::Escape => "invalid escape",
            Mend::Control => "control character",
            Mend::Quote => "stray quotation mark",
            Mend::Comma => "stray or missing comma",
            Mend::Comment => "comment",
            Mend::Word => "missing quotation marks",
            Mend::Number => "number out of range",
            Mend::Twice => "duplicate key",
            Mend::Depth => "nested too deep",
            Mend::Structure => "unreadable part left out",
            Mend::Cut => "end missing",
            Mend::Trailing => "trailing bytes not read",
            Mend::Wrapped => "object in a list or string",
            Mend::More => "only the first of several objects read",
            Mend::Case => "name in another case",
        })
    }
}

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The value.
    pub value: Value,
    /// What had to be mended, each once; empty for valid JSON.
    pub mended: Vec<Mend>,
}

/// Reads a body. `wanted` says of a value whether it is what is looked for; a reading in which it is not is only
/// taken if no other has it. `None` if nothing at all can be read.
pub fn read(body: &[u8], wanted: fn(&Value) -> bool) -> Option<Reading> {
    let (text, mended) = decoded(body);
    let first = unwrapped(pass(&text, false)?, wanted);
    let chosen = if first.broken == 0 && wanted(&first.value) {
        first
    } else {
        match pass(&text, true).map(|second| unwrapped(second, wanted)) {
            Some(second) if rank(&second, wanted) < rank(&first, wanted) => second,
            _ => first,
        }
    };
    let mut all = chosen.mended;
    all.extend(mended);
    all.sort_unstable();
    all.dedup();
    Some(Reading {
        value: chosen.value,
        mended: all,
    })
}

/// What one pass made of a text.
struct Pass {
    value: Value,
    mended: Vec<Mend>,
    /// Places at which the text did not go on as it must.
    broken: usize,
}

fn rank(pass: &Pass, wanted: fn(&Value) -> bool) -> (bool, usize) {
    (!wanted(&pass.value), pass.broken)
}

fn pass(text: &[u8], looks: bool) -> Option<Pass> {
    let mut reader = Reader {
        text,
        at: 0,
        looks,
        open: Vec::new(),
        mended: Vec::new(),
        broken: 0,
    };
    let value = reader.value()?;
    reader.space();
    if reader.at < text.len() {
        reader.mend(Mend::Trailing);
    }
    Some(Pass {
        value,
        mended: reader.mended,
        broken: reader.broken,
    })
}

/// The object in a list, or in a string.
fn unwrapped(mut pass: Pass, wanted: fn(&Value) -> bool) -> Pass {
    match pass.value {
        Value::Array(items) => {
            if items.len() > 1 {
                pass.mended.push(Mend::More);
            }
            pass.mended.push(Mend::Wrapped);
            pass.value = match items.into_iter().next() {
                Some(item) if wanted(&item) => item,
                _ => Value::Array(Vec::new()),
            };
            pass
        }
        Value::String(text) => match self::pass(text.as_bytes(), false) {
            Some(mut inner) if wanted(&inner.value) => {
                inner.mended.append(&mut pass.mended);
                inner.mended.push(Mend::Wrapped);
                inner.broken += pass.broken;
                inner
            }
            _ => Pass {
                value: Value::String(text),
                ..pass
            },
        },
        value => Pass { value, ..pass },
    }
}

/// The body as UTF-8, more or less. JSON begins with two ASCII characters, so the zeros around them tell its encoding
/// (RFC 4627, 3).
fn decoded(body: &[u8]) -> (Cow<'_, [u8]>, Vec<Mend>) {
    let (rest, width, big, marked) = match body {
        [0xEF, 0xBB, 0xBF, rest @ ..] => {
            return (Cow::Borrowed(rest), vec![Mend::ByteOrderMark]);
        }
        [0xFF, 0xFE, 0, 0, rest @ ..] => (rest, 4, false, true),
        [0, 0, 0xFE, 0xFF, rest @ ..] => (rest, 4, true, true),
        [0xFF, 0xFE, rest @ ..] => (rest, 2, false, true),
        [0xFE, 0xFF, rest @ ..] => (rest, 2, true, true),
        [0, 0, 0, 1..=u8::MAX, ..] => (body, 4, true, false),
        [1..=u8::MAX, 0, 0, 0, ..] => (body, 4, false, false),
        [0, 1..=u8::MAX, 0, 1..=u8::MAX, ..] => (body, 2, true, false),
        [1..=u8::MAX, 0, 1..=u8::MAX, 0, ..] => (body, 2, false, false),
        _ => return (Cow::Borrowed(body), Vec::new()),
    };
    let mut mended = vec![Mend::Encoding];
    if marked {
        mended.push(Mend::ByteOrderMark);
    }
    if !rest.len().is_multiple_of(width) {
        mended.push(Mend::Cut);
    }
    let units = rest.chunks_exact(width).map(|unit| {
        let add = |sum: u32, byte: &u8| (sum << 8) | u32::from(*byte);
        if big {
            unit.iter().fold(0, add)
        } else {
            unit.iter().rev().fold(0, add)
        }
    });
    let mut broken = false;
    let mut or_mark = |c: Option<char>| {
        broken |= c.is_none();
        c.unwrap_or(char::REPLACEMENT_CHARACTER)
    };
    let text: String = if width == 4 {
        units.map(|unit| or_mark(char::from_u32(unit))).collect()
    } else {
        let units = units.map(|unit| u16::try_from(unit).unwrap_or(0xFFFD));
        char::decode_utf16(units).map(|c| or_mark(c.ok())).collect()
    };
    if broken {
        mended.push(Mend::Surrogate);
    }
    (Cow::Owned(text.into_bytes()), mended)
}

/// Where an object is: what may come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Beginning,
    BehindValue,
    BehindComma,
}

struct Reader<'t> {
    text: &'t [u8],
    at: usize,
    /// Whether a quotation mark ends a string only where JSON goes on behind it.
    looks: bool,
    /// The brackets that are open.
    open: Vec<u8>,
    mended: Vec<Mend>,
    broken: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn mend(&mut self, mend: Mend) {
        if !self.mended.contains(&mend) {
            self.mended.push(mend);
        }
    }

    fn cut(&mut self) {
        self.at = self.text.len();
        self.broken += 1;
        self.mend(Mend::Cut);
    }

    /// What fits nowhere begins here.
    fn broken(&mut self) {
        self.broken += 1;
        self.mend(Mend::Structure);
    }

    /// Steps over white space, and what others take for it.
    fn space(&mut self) {
        while let Some(byte) = self.peek() {
            let rest = &self.text[self.at..];
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                0..0x20 | 0x7F => {
                    self.mend(Mend::Control);
                    self.at += 1;
                }
                b'/' if rest.starts_with(b"//") => {
                    self.mend(Mend::Comment);
                    let line = rest.iter().position(|b| *b == b'\n');
                    self.at += line.unwrap_or(rest.len());
                }
                b'/' if rest.starts_with(b"/*") => {
                    self.mend(Mend::Comment);
                    let end = rest[2..].windows(2).position(|pair| pair == b"*/");
                    self.at += end.map_or(rest.len(), |end| end + 4);
                }
                0xEF if rest.starts_with(&[0xEF, 0xBB, 0xBF]) => {
                    self.mend(Mend::ByteOrderMark);
                    self.at += 3;
                }
                0xC2 if rest.starts_with(&[0xC2, 0xA0]) => {
                    self.mend(Mend::Control);
                    self.at += 2;
                }
                _ => return,
            }
        }
    }

    /// The value that begins here. `None` if there is none, or none that is whole.
    fn value(&mut self) -> Option<Value> {
        self.space();
        match self.peek() {
            None => {
                self.cut();
                None
            }
            Some(b'{' | b'[') if self.open.len() == MAX_DEPTH => {
                self.skip();
                Some(Value::Null)
            }
            Some(b'{') => Some(self.object()),
            Some(b'[') => Some(self.array()),
            Some(b'"' | b'\'') => self.string().map(Value::String),
            Some(_) => self.word(),
        }
    }

    fn object(&mut self) -> Value {
        let mut fields = BTreeMap::new();
        let mut place = Place::Beginning;
        self.open.push(b'{');
        self.at += 1;
        loop {
            self.space();
            match self.peek() {
                None => {
                    self.cut();
                    break;
                }
                Some(b'}') => {
                    if place == Place::BehindComma {
                        self.mend(Mend::Comma);
                    }
                    self.at += 1;
                    break;
                }
                Some(b',') => {
                    if place != Place::BehindValue {
                        self.mend(Mend::Comma);
                    }
                    self.at += 1;
                    place = Place::BehindComma;
                }
                Some(_) => {
                    let Some(name) = self.name() else {
                        self.lost();
                        place = Place::BehindValue;
                        continue;
                    };
                    if place == Place::BehindValue {
                        self.mend(Mend::Comma);
                    }
                    if let Some(value) = self.value()
                        && fields.insert(name, value).is_some()
                    {
                        self.mend(Mend::Twice);
                    }
                    place = Place::BehindValue;
                }
            }
        }
        self.open.pop();
        Value::Object(fields)
    }

    fn array(&mut self) -> Value {
        let mut items = Vec::new();
        let mut place = Place::Beginning;
        self.open.push(b'[');
        self.at += 1;
        loop {
            self.space();
            match self.peek() {
                None => {
                    self.cut();
                    break;
                }
                Some(b']') => {
                    if place == Place::BehindComma {
                        self.mend(Mend::Comma);
                    }
                    self.at += 1;
                    break;
                }
                Some(b',') => {
                    if place != Place::BehindValue {
                        self.mend(Mend::Comma);
                    }
                    self.at += 1;
                    place = Place::BehindComma;
                }
                Some(b':' | b'}') => {
                    self.lost();
                    place = Place::BehindValue;
                }
                Some(_) => {
                    if place == Place::BehindValue {
                        self.mend(Mend::Comma);
                    }
                    items.extend(self.value());
                    place = Place::BehindValue;
                }
            }
        }
        self.open.pop();
        Value::Array(items)
    }

    /// The name of a field with its colon. If there is none here, nothing is read; if it has no end, all is read.
    fn name(&mut self) -> Option<String> {
        let before = (self.at, self.mended.len());
        let name = match self.peek() {
            // A name is never looked behind: else each of many would be searched to the end of the text.
            Some(b'"' | b'\'') => {
                let looks = std::mem::replace(&mut self.looks, false);
                let name = self.string();
                self.looks = looks;
                name
            }
            Some(_) => {
                let rest = &self.text[self.at..];
                let is_end =
                    |b: &u8| !(b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'$'));
                let end = rest.iter().take(MAX_LOOK).position(is_end).unwrap_or(0);
                self.at += end;
                if end > 0 {
                    self.mend(Mend::Word);
                }
                (end > 0).then(|| String::from_utf8_lossy(&rest[..end]).into_owned())
            }
            None => None,
        };
        let name = name?;
        // Not over a comment: each of many could hide the rest of the text.
        while self
            .peek()
            .is_some_and(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r'))
        {
            self.at += 1;
        }
        match self.peek() {
            Some(b':') => {
                self.at += 1;
                return Some(name);
            }
            None => {
                self.cut();
                return None;
            }
            Some(_) => {}
        }
        self.at = before.0;
        self.mended.truncate(before.1);
        None
    }

    /// Steps over what fits nowhere, up to where an object or a list may go on.
    fn lost(&mut self) {
        if self.peek().is_none() {
            return;
        }
        self.broken();
        let mut first = true;
        while let Some(byte) = self.peek() {
            match byte {
                b',' | b'}' | b']' if !first => return,
                b'"' | b'\'' if !first && self.is_before(self.at, b":") == Some(true) => return,
                b'{' | b'[' if self.open.len() == MAX_DEPTH => self.skip(),
                b'{' => drop(self.object()),
                b'[' => drop(self.array()),
                _ => self.at += 1,
            }
            first = false;
        }
    }

    /// Steps over what is nested too deep.
    fn skip(&mut self) {
        self.mend(Mend::Depth);
        let mut depth = 0_usize;
        let mut quoted = false;
        while let Some(byte) = self.peek() {
            match byte {
                b'\\' if quoted => self.at += 1,
                b'"' => quoted = !quoted,
                b'{' | b'[' if !quoted => depth += 1,
                b'}' | b']' if !quoted => {
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        return;
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
        self.cut();
    }

    /// The string whose quotation mark is here. `None` if it has no end.
    fn string(&mut self) -> Option<String> {
        let quote = self.peek()?;
        if quote == b'\'' {
            self.mend(Mend::Quote);
        }
        let mut text = Vec::new();
        let mut at = self.at + 1;
        let mut plain = at;
        loop {
            let Some(byte) = self.text.get(at).copied() else {
                self.cut();
                return None;
            };
            if byte == quote {
                if !self.looks || self.ends(at + 1, quote) {
                    break;
                }
                self.mend(Mend::Quote);
                at += 1;
            } else if byte == b'\\' {
                text.extend_from_slice(&self.text[plain..at]);
                let before_end =
                    self.looks && self.text.get(at + 1) == Some(&quote) && self.ends(at + 2, quote);
                if before_end {
                    self.spoiled(Mend::Escape, &mut text);
                    at += 1;
                    plain = at;
                    break;
                }
                at = self.escape(at + 1, &mut text);
                plain = at;
            } else {
                if byte < 0x20 {
                    self.mend(Mend::Control);
                }
                at += 1;
            }
        }
        text.extend_from_slice(&self.text[plain..at]);
        self.at = at + 1;
        Some(String::from_utf8(text).unwrap_or_else(|error| {
            self.mend(Mend::Utf8);
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        }))
    }

    fn spoiled(&mut self, mend: Mend, text: &mut Vec<u8>) {
        self.mend(mend);
        push(text, char::REPLACEMENT_CHARACTER);
    }

    /// What stands behind a backslash. Returns where the text goes on.
    fn escape(&mut self, at: usize, text: &mut Vec<u8>) -> usize {
        let Some(byte) = self.text.get(at).copied() else {
            return at;
        };
        let plain = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 0x08,
            b'f' => 0x0C,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => return self.unit(at + 1, text),
            b'\'' => {
                self.mend(Mend::Quote);
                byte
            }
            // The backslash is what was damaged; what follows it is itself.
            _ => {
                self.spoiled(Mend::Escape, text);
                return at;
            }
        };
        text.push(plain);
        at + 1
    }

    /// The four digits behind `\u`, and the other half of a pair.
    fn unit(&mut self, at: usize, text: &mut Vec<u8>) -> usize {
        let (count, high) = self.digits(at);
        let end = at + count;
        if count < 4 {
            self.spoiled(Mend::Escape, text);
            return end;
        }
        if let Some(c) = char::from_u32(high) {
            push(text, c);
            return end;
        }
        if (0xD800..0xDC00).contains(&high) && self.text[end..].starts_with(b"\\u") {
            let (count, low) = self.digits(end + 2);
            if count == 4 && (0xDC00..0xE000).contains(&low) {
                let point = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                push(
                    text,
                    char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER),
                );
                return end + 6;
            }
        }
        self.spoiled(Mend::Surrogate, text);
        end
    }

    /// Up to four hexadecimal digits: how many, and their number.
    fn digits(&self, at: usize) -> (usize, u32) {
        let rest = self.text.get(at..).unwrap_or_default();
        let digits = rest
            .iter()
            .take(4)
            .map_while(|b| char::from(*b).to_digit(16));
        digits.fold((0, 0), |(count, sum), digit| (count + 1, sum * 16 + digit))
    }

    /// Whether JSON goes on here as it does behind a string that is a value.
    fn ends(&self, mut at: usize, quote: u8) -> bool {
        let limit = at + MAX_LOOK;
        let mut open = self.open.as_slice();
        loop {
            at = self.behind_space(at, limit);
            if at >= limit {
                return true;
            }
            match (self.text.get(at), open) {
                (None, _) => return true,
                (Some(b'}'), [rest @ .., b'{']) | (Some(b']'), [rest @ .., b'[']) => {
                    open = rest;
                    at += 1;
                }
                (Some(b','), [.., b'{']) => {
                    let at = self.behind_space(at + 1, limit);
                    return match self.text.get(at) {
                        None => true,
                        Some(byte) => *byte == quote && self.is_before(at, b":") != Some(false),
                    };
                }
                (Some(b','), [.., _]) => {
                    let at = self.behind_space(at + 1, limit);
                    return match self.text.get(at) {
                        Some(b'"' | b'\'') => self.is_before(at, b",]") != Some(false),
                        Some(b'{' | b'[' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') | None => true,
                        Some(_) => false,
                    };
                }
                (Some(_), _) => return false,
            }
        }
    }

    /// Whether one of these comes behind the text in quotation marks that begins here. `None` if that is too far away to
    /// be seen.
    fn is_before(&self, at: usize, next: &[u8]) -> Option<bool> {
        let quote = self.text.get(at)?;
        let limit = at + MAX_LOOK;
        let mut at = at + 1;
        while at < limit {
            match self.text.get(at)? {
                b'\\' => at += 2,
                byte if byte == quote => {
                    let at = self.behind_space(at + 1, limit);
                    return self.text.get(at).map(|byte| next.contains(byte));
                }
                _ => at += 1,
            }
        }
        None
    }

    fn behind_space(&self, mut at: usize, limit: usize) -> usize {
        while at < limit && self.text.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        at
    }

    /// A value without quotation marks.
    fn word(&mut self) -> Option<Value> {
        let is_end =
            |b: &u8| b.is_ascii_whitespace() || b.is_ascii_control() || b",:{}[]\"'".contains(b);
        let rest = &self.text[self.at..];
        let end = rest.iter().position(is_end).unwrap_or(rest.len());
        let word = &rest[..end];
        self.at += end;
        if end == rest.len() && !self.open.is_empty() {
            // It may go on where the text does not.
            self.cut();
            return None;
        }
        if word.is_empty() {
            self.broken();
            return None;
        }
        let text = || String::from_utf8_lossy(word).into_owned();
        if is_number(word) {
            let text = text();
            // So long a number that others have no room for it; as text it is exact.
            if text.parse::<f64>().is_ok_and(f64::is_infinite) {
                self.mend(Mend::Number);
            }
            return Some(Value::Number(text));
        }
        Some(match word {
            b"null" => Value::Null,
            b"true" => Value::Bool(true),
            b"false" => Value::Bool(false),
            _ => {
                let numeric = matches!(word, [b'0'..=b'9' | b'-' | b'+' | b'.', ..]);
                self.mend(if numeric { Mend::Number } else { Mend::Word });
                match word.to_ascii_lowercase().as_slice() {
                    b"true" => Value::Bool(true),
                    b"false" => Value::Bool(false),
                    b"null" | b"none" | b"nil" | b"undefined" | b"nan" | b"infinity"
                    | b"-infinity" | b"+infinity" | b"-nan" | b"inf" | b"-inf" => Value::Null,
                    _ => Value::String(text()),
                }
            }
        })
    }
}

fn push(text: &mut Vec<u8>, c: char) {
    text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Whether a text is a number of JSON (RFC 8259, 6).
fn is_number(text: &[u8]) -> bool {
    fn digits(text: &[u8]) -> Option<&[u8]> {
        let count = text.iter().take_while(|b| b.is_ascii_digit()).count();
        (count > 0).then(|| &text[count..])
    }
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let Some(mut rest) = text.strip_prefix(b"0").or_else(|| digits(text)) else {
        return false;
    };
    if let Some(fraction) = rest.strip_prefix(b".") {
        let Some(behind) = digits(fraction) else {
            return false;
        };
        rest = behind;
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = exponent
            .strip_prefix(b"-")
            .or_else(|| exponent.strip_prefix(b"+"))
            .unwrap_or(exponent);
        let Some(behind) = digits(exponent) else {
            return false;
        };
        rest = behind;
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    /// An object with a field `e`.
    fn has_e(value: &Value) -> bool {
        matches!(value, Value::Object(fields) if matches!(fields.get("e"), Some(Value::String(_))))
    }

    fn reading(text: impl AsRef<[u8]>) -> (String, Vec<Mend>) {
        let reading = read(text.as_ref(), has_e).unwrap();
        (reading.value.to_string(), reading.mended)
    }

    fn utf16(text: &str, order: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(order).collect()
    }

    fn utf32(text: &str, order: fn(u32) -> [u8; 4]) -> Vec<u8> {
        text.chars().map(u32::from).flat_map(order).collect()
    }

    #[test]
    fn what_was_damaged_is_read_as_far_as_it_can_be_understood() {
        for (text, expected, mended) in [
            // Strings.
            (r#"{"e":"a\ud83d"}"#, r#"{"e":"a�"}"#, vec![Mend::Surrogate]),
            (
                r#"{"e":"\ud83d\ud83d\ude00"}"#,
                r#"{"e":"�😀"}"#,
                vec![Mend::Surrogate],
            ),
            (
                r#"{"e":"\ude00\n"}"#,
                r#"{"e":"�\n"}"#,
                vec![Mend::Surrogate],
            ),
            (r#"{"e":"\u12"}"#, r#"{"e":"�"}"#, vec![Mend::Escape]),
            (r#"{"e":"a\ b"}"#, r#"{"e":"a� b"}"#, vec![Mend::Escape]),
            (
                "{\"e\":\"a\tb\0c\nd\"}",
                r#"{"e":"a\tb\u0000c\nd"}"#,
                vec![Mend::Control],
            ),
            (
                r#"{"z":"Fro"t Door","e":"x"}"#,
                r#"{"e":"x","z":"Fro\"t Door"}"#,
                vec![Mend::Quote],
            ),
            (
                r#"{"d":{"z":"a "}c"},"e":"x"}"#,
                r#"{"d":{"z":"a \"}c"},"e":"x"}"#,
                vec![Mend::Quote],
            ),
            (
                r#"{"z":"a ",","e":"x"}"#,
                r#"{"e":"x","z":"a \","}"#,
                vec![Mend::Quote],
            ),
            (
                r#"{"z":"Doo\","e":"x"}"#,
                r#"{"e":"x","z":"Doo�"}"#,
                vec![Mend::Escape],
            ),
            (
                r#"{"d":["a",{"z":"Doo\"}],"e":"x"}"#,
                r#"{"d":["a",{"z":"Doo�"}],"e":"x"}"#,
                vec![Mend::Escape],
            ),
            (r"{'e':'Bob\'s'}", r#"{"e":"Bob's"}"#, vec![Mend::Quote]),
            // Numbers and words.
            (
                r#"{"e":"x","n":1e400}"#,
                r#"{"e":"x","n":1e400}"#,
                vec![Mend::Number],
            ),
            (
                r#"{"e":"x","n":007}"#,
                r#"{"e":"x","n":"007"}"#,
                vec![Mend::Number],
            ),
            (
                r#"{"e":"x","n":-.5e}"#,
                r#"{"e":"x","n":"-.5e"}"#,
                vec![Mend::Number],
            ),
            (
                r#"{"e":"x","n":NaN}"#,
                r#"{"e":"x","n":null}"#,
                vec![Mend::Word],
            ),
            (
                r#"{"e":"x","n":[True,None,high]}"#,
                r#"{"e":"x","n":[true,null,"high"]}"#,
                vec![Mend::Word],
            ),
            (r#"{e:"x"}"#, r#"{"e":"x"}"#, vec![Mend::Word]),
            // Structure.
            (r#"{"e":"x","e":"y"}"#, r#"{"e":"y"}"#, vec![Mend::Twice]),
            (
                r#"{,"e":"x",,"n":[1,],}"#,
                r#"{"e":"x","n":[1]}"#,
                vec![Mend::Comma],
            ),
            (
                r#"{"e":"x" "n":[1 2]}"#,
                r#"{"e":"x","n":[1,2]}"#,
                vec![Mend::Comma],
            ),
            (
                r#"{"e":"x"/* "e":"y" */}// z"#,
                r#"{"e":"x"}"#,
                vec![Mend::Comment],
            ),
            (
                r#"{"e":"x","n" 1,"m":2}"#,
                r#"{"e":"x","m":2}"#,
                vec![Mend::Structure],
            ),
            (r#"{"e":"x","n":}"#, r#"{"e":"x"}"#, vec![Mend::Structure]),
            (r#"{"e":"x"]}"#, r#"{"e":"x"}"#, vec![Mend::Structure]),
            (
                r#"{"e":"x"} trailing"#,
                r#"{"e":"x"}"#,
                vec![Mend::Trailing],
            ),
            (
                r#"{"e":"x"}{"e":"y"}"#,
                r#"{"e":"x"}"#,
                vec![Mend::Trailing],
            ),
            ("{\"e\":\"x\"}\0\0", r#"{"e":"x"}"#, vec![Mend::Control]),
            (r#"{"e":"x","n":12"#, r#"{"e":"x"}"#, vec![Mend::Cut]),
            (r#"{"e":"x","n":"wh"#, r#"{"e":"x"}"#, vec![Mend::Cut]),
            (
                r#"{"e":"x","d":{"n":1,"m"#,
                r#"{"d":{"n":1},"e":"x"}"#,
                vec![Mend::Cut],
            ),
            // Around it.
            (
                "\u{feff}{\"e\":\"x\"}",
                r#"{"e":"x"}"#,
                vec![Mend::ByteOrderMark],
            ),
            (r#"[{"e":"x"}]"#, r#"{"e":"x"}"#, vec![Mend::Wrapped]),
            (
                r#"[{"e":"x"},{"e":"y"}]"#,
                r#"{"e":"x"}"#,
                vec![Mend::Wrapped, Mend::More],
            ),
            (r#""{\"e\":\"x\"}""#, r#"{"e":"x"}"#, vec![Mend::Wrapped]),
        ] {
            assert_eq!(reading(text), (expected.to_owned(), mended), "{text}");
        }
        let utf8 = reading(b"{\"e\":\"T\xfcr\xff\"}");
        let expected = r#"{"e":"T�r�"}"#.to_owned();
        assert_eq!(utf8, (expected, vec![Mend::Utf8]));
    }

    #[test]
    fn every_encoding_of_unicode_is_read_with_and_without_its_mark() {
        let text = r#"{"e":"Tür 😀"}"#;
        let marked = format!("\u{feff}{text}");
        for (bytes, with) in [
            (
                utf16(text, u16::to_le_bytes),
                utf16(&marked, u16::to_le_bytes),
            ),
            (
                utf16(text, u16::to_be_bytes),
                utf16(&marked, u16::to_be_bytes),
            ),
            (
                utf32(text, u32::to_le_bytes),
                utf32(&marked, u32::to_le_bytes),
            ),
            (
                utf32(text, u32::to_be_bytes),
                utf32(&marked, u32::to_be_bytes),
            ),
        ] {
            assert_eq!(reading(&bytes), (text.to_owned(), vec![Mend::Encoding]));
            let mended = vec![Mend::ByteOrderMark, Mend::Encoding];
            assert_eq!(reading(&with), (text.to_owned(), mended));
        }
        let mut lone = utf16(text, u16::to_le_bytes);
        lone.drain(lone.len() - 6..lone.len() - 4);
        let mended = vec![Mend::Encoding, Mend::Surrogate];
        let expected = r#"{"e":"Tür �"}"#.to_owned();
        assert_eq!(reading(lone), (expected, mended));
    }

    #[test]
    fn what_is_nested_too_deep_is_left_out_and_the_rest_is_read() {
        for depth in [126, 127, 1_000, 100_000] {
            let deep = format!(r#"{}"}}]"{}"#, "[".repeat(depth), "]".repeat(depth));
            let (text, mended) = reading(format!(r#"{{"d":{deep},"e":"x"}}"#));
            assert_eq!(mended.is_empty(), depth < MAX_DEPTH, "{depth}");
            assert!(text.ends_with(r#""e":"x"}"#), "{depth}");
            let objects = r#"{"e":"#.repeat(depth);
            let cut = read(objects.as_bytes(), has_e).unwrap().mended;
            assert_eq!(cut.contains(&Mend::Depth), depth > MAX_DEPTH, "{depth}");
        }
    }

    /// Largest bodies of what makes a reader go back or look ahead most often. A reader whose time grows with the square
    /// of the length takes minutes.
    #[test]
    fn the_largest_body_is_read_in_time_in_proportion_to_it() {
        for unit in [
            "{\"",
            "{\"a\":\"",
            "[\"",
            "\\\"",
            ",\"",
            ",\"a",
            "\"a\"/*",
            ",\"a\"/*,",
            "{",
            "[",
            "'\"",
            "\",",
            "\\\",",
            "}\"]",
            "\"\\",
            ":\"\":",
            "/*",
            "//\n",
            "{\"a\":",
            "\"}",
            "\"]",
            "a ",
            ",'a,\"b",
            "\"a\":\"\"b\"",
            "\" ",
            ", ",
            "\"a\" ,",
        ] {
            let many = unit.repeat(256 * 1024 / unit.len());
            for head in ["{\"", "{\"a\":\"", "{\"a\":{\"b\":[\"", "[", "{"] {
                let text = format!("{head}{many}");
                let began = Instant::now();
                let _ = read(text.as_bytes(), has_e);
                let took = began.elapsed();
                assert!(
                    took < Duration::from_secs(20),
                    "{took:?} for {head}{unit}..."
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

        #[test]
        fn valid_json_is_read_as_any_reader_reads_it_and_nothing_else_passes_for_it(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "{", "}", "[", "]", ":", ",", "\"", "'", "\\", "/", "*", "0", "12", ".", "e", "E", "+", "-", " ", "\n", "\0",
                    "\"a\":", "\"b\":", "\"ab\"", "true", "null", "\\ud83d", "\\ude00", "\\u00e9", "\u{feff}", "ü", "{\"a\":1}",
                    "[1,2]", "\"\\\"", "1.5e3", "}}", "]}",
                ]),
                0..24,
            ),
        ) {
            let text = pieces.concat();
            let strict = serde_json::from_str::<serde_json::Value>(&text);
            let lenient = read(text.as_bytes(), |value| matches!(value, Value::Object(_)));
            match (strict, lenient) {
                (Ok(strict), Some(lenient)) => {
                    let others = lenient.mended.iter().filter(|mend| **mend != Mend::Twice && **mend != Mend::Wrapped && **mend != Mend::More);
                    prop_assert_eq!(others.count(), 0, "{}: {:?}", &text, lenient.mended);
                    if !lenient.mended.contains(&Mend::Wrapped) {
                        let again: serde_json::Value = serde_json::from_str(&lenient.value.to_string()).unwrap();
                        prop_assert_eq!(again, strict);
                    }
                }
                (Err(_), lenient) => prop_assert!(lenient.is_none_or(|l| !l.mended.is_empty()), "{}", text),
                (Ok(_), None) => prop_assert!(false, "{text} is JSON"),
            }
        }

        #[test]
        fn every_value_is_read_as_it_was_written(
            rows in prop::collection::vec(any::<(String, Option<i64>, u64, bool)>(), 0..6),
        ) {
            let value = serde_json::json!({"e": "x", "rows": rows});
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                let (again, mended) = reading(&text);
                prop_assert_eq!(mended, vec![]);
                let again: serde_json::Value = serde_json::from_str(&again).unwrap();
                prop_assert_eq!(&again, &value);
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let _ = read(&bytes, has_e);
        }
    }
}
