//! JSON as `jsonb` prints it: numbers as they are written, keys in PostgreSQL's order.

use std::cmp::Ordering;
use std::fmt::{self, Write as _};

/// Deepest nesting that is understood; deeper values are written as wholes.
pub(super) const DEPTH_MAX: usize = 100;

/// A JSON value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, digit for digit: no conversion may change it.
    Number(Box<str>),
    /// A string.
    Text(Box<str>),
    /// An array.
    List(Vec<Self>),
    /// An object, in the order of its keys, each once.
    Object(Vec<(Key, Self)>),
}

/// A key of an object. Keys compare as in `jsonb`: shorter ones first, then by their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(pub Box<str>);

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Json {
    /// The value of a text; `None` when it is no JSON or nested deeper than [`DEPTH_MAX`]. Of a key
    /// that stands twice the last value counts, as in PostgreSQL.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parser = Parser { text, at: 0 };
        let value = parser.value(0)?;
        parser.skip_blanks();
        (parser.at == text.len()).then_some(value)
    }

    /// The value of a key of an object.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(entries) = self else { return None };
        entries.iter().find(|(name, _)| &*name.0 == key).map(|(_, value)| value)
    }

    /// Values in it, itself and the nested ones.
    pub fn count(&self) -> u32 {
        let nested: u32 = match self {
            Self::List(items) => items.iter().map(Self::count).sum(),
            Self::Object(entries) => entries.iter().map(|(_, value)| value.count()).sum(),
            _ => 0,
        };
        nested + 1
    }

    /// Whether it has values in it.
    pub fn is_nested(&self) -> bool {
        matches!(self, Self::List(_) | Self::Object(_))
    }

    /// An object of these entries.
    pub fn object(mut entries: Vec<(Key, Self)>) -> Self {
        // Stable, so that of equal keys the last one stays last.
        entries.sort_by(|(one, _), (two, _)| one.cmp(two));
        let mut kept: Vec<(Key, Self)> = Vec::with_capacity(entries.len());
        for entry in entries {
            match kept.last_mut() {
                Some(last) if last.0 == entry.0 => *last = entry,
                _ => kept.push(entry),
            }
        }
        Self::Object(kept)
    }
}

impl fmt::Display for Json {
    /// As PostgreSQL prints `jsonb`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(yes) => write!(f, "{yes}"),
            Self::Number(digits) => f.write_str(digits),
            Self::Text(text) => print_text(text, f),
            Self::List(items) => {
                f.write_char('[')?;
                for (place, item) in items.iter().enumerate() {
                    f.write_str(if place == 0 { "" } else { ", " })?;
                    item.fmt(f)?;
                }
                f.write_char(']')
            }
            Self::Object(entries) => {
                f.write_char('{')?;
                for (place, (key, value)) in entries.iter().enumerate() {
                    f.write_str(if place == 0 { "" } else { ", " })?;
                    print_text(&key.0, f)?;
                    f.write_str(": ")?;
                    value.fmt(f)?;
                }
                f.write_char('}')
            }
        }
    }
}

fn print_text(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\u{8}' => f.write_str("\\b")?,
            '\u{c}' => f.write_str("\\f")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c < ' ' => write!(f, "\\u{:04x}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Goes past what must stand next.
    fn expect(&mut self, what: &str) -> Option<()> {
        self.text[self.at..].starts_with(what).then(|| self.at += what.len())
    }

    fn value(&mut self, depth: usize) -> Option<Json> {
        self.skip_blanks();
        match self.peek()? {
            b'n' => self.expect("null").map(|()| Json::Null),
            b't' => self.expect("true").map(|()| Json::Bool(true)),
            b'f' => self.expect("false").map(|()| Json::Bool(false)),
            b'"' => self.string().map(Json::Text),
            b'[' if depth < DEPTH_MAX => self.list(depth),
            b'{' if depth < DEPTH_MAX => self.object(depth),
            _ => self.number().map(Json::Number),
        }
    }

    fn list(&mut self, depth: usize) -> Option<Json> {
        let mut items = Vec::new();
        self.at += 1;
        self.skip_blanks();
        if self.expect("]").is_some() {
            return Some(Json::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.skip_blanks();
            if self.expect(",").is_none() {
                break;
            }
        }
        items.shrink_to_fit();
        self.expect("]").map(|()| Json::List(items))
    }

    fn object(&mut self, depth: usize) -> Option<Json> {
        let mut entries = Vec::new();
        self.at += 1;
        self.skip_blanks();
        if self.expect("}").is_some() {
            return Some(Json::Object(entries));
        }
        loop {
            self.skip_blanks();
            let key = Key(self.string()?);
            self.skip_blanks();
            self.expect(":")?;
            entries.push((key, self.value(depth + 1)?));
            self.skip_blanks();
            if self.expect(",").is_none() {
                break;
            }
        }
        entries.shrink_to_fit();
        self.expect("}").map(|()| Json::object(entries))
    }

    fn number(&mut self) -> Option<Box<str>> {
        let begin = self.at;
        let digits = |parser: &mut Self| {
            let from = parser.at;
            while parser.peek().is_some_and(|byte| byte.is_ascii_digit()) {
                parser.at += 1;
            }
            (parser.at > from).then_some(parser.at - from)
        };
        let _ = self.expect("-");
        let leads_with_zero = self.peek() == Some(b'0');
        if digits(self)? > 1 && leads_with_zero {
            return None;
        }
        if self.expect(".").is_some() {
            digits(self)?;
        }
        if self.peek().is_some_and(|byte| matches!(byte, b'e' | b'E')) {
            self.at += 1;
            if self.peek().is_some_and(|byte| matches!(byte, b'+' | b'-')) {
                self.at += 1;
            }
            digits(self)?;
        }
        Some(self.text[begin..self.at].into())
    }

    fn string(&mut self) -> Option<Box<str>> {
        self.expect("\"")?;
        let mut text = String::new();
        loop {
            let plain = self.text[self.at..].find(|c| c < ' ' || matches!(c, '"' | '\\'))?;
            text.push_str(&self.text[self.at..self.at + plain]);
            self.at += plain;
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(text.into());
                }
                b'\\' => text.push(self.escaped()?),
                _ => return None,
            }
        }
    }

    fn escaped(&mut self) -> Option<char> {
        self.at += 1;
        let c = self.peek()?;
        self.at += 1;
        Some(match c {
            b'"' | b'\\' | b'/' => char::from(c),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.hex()?;
                if !(0xd800..0xdc00).contains(&first) {
                    return char::from_u32(first);
                }
                self.expect("\\u")?;
                let second = self.hex()?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + second)?
            }
            _ => return None,
        })
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        self.at += 4;
        is_hex.then(|| u32::from_str_radix(digits, 16).ok())?
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Small values of all kinds.
    pub(in crate::merged) fn json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::Bool),
            "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,3})?".prop_map(|n| Json::Number(n.into())),
            "[a-c\"\\\\\n\u{1}é💧]{0,5}".prop_map(|text| Json::Text(text.into())),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            let entry = ("[a-e]{1,2}".prop_map(|key| Key(key.into())), inner.clone());
            prop_oneof![
                proptest::collection::vec(inner, 0..5).prop_map(Json::List),
                proptest::collection::vec(entry, 0..5).prop_map(Json::object),
            ]
        })
    }

    #[test]
    fn jsonb_is_printed_as_postgres_prints_it() {
        let text =
            r#"{"b": 1.10, "aa": {"x": "a\"\\\n\t\u0001/"}, "é": [], "list": [1, null, true]}"#;
        assert_eq!(Json::parse(text).map(|json| json.to_string()).as_deref(), Some(text));
        let sorted = Json::parse("{\"aa\":1,\"b\":2,\"aa\":3}").unwrap();
        assert_eq!(sorted.to_string(), r#"{"b": 2, "aa": 3}"#);
        let escaped = Json::parse(r#""\u00e9\ud83d\udca7\/""#).unwrap();
        assert_eq!(escaped, Json::Text("é💧/".into()));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        let deep = "[".repeat(DEPTH_MAX + 1) + &"]".repeat(DEPTH_MAX + 1);
        for text in [
            "",
            "nul",
            "[1,]",
            "{\"a\"}",
            "01",
            "1.",
            "-",
            "1e",
            "\"",
            "\"\\x\"",
            "\"\\ud800\"",
            "[1] 2",
            "{1:2}",
            "\"\u{1}\"",
            "tru",
            &deep,
        ] {
            assert_eq!(Json::parse(text), None, "{text:?}");
        }
        let flat = "[".repeat(DEPTH_MAX) + &"]".repeat(DEPTH_MAX);
        assert!(Json::parse(&flat).is_some());
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(json in json()) {
            prop_assert_eq!(Json::parse(&json.to_string()), Some(json));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[\\[\\]{}\",:0-9a-eu\\\\ .-]{0,30}") {
            if let Some(json) = Json::parse(&text) {
                prop_assert_eq!(Json::parse(&json.to_string()), Some(json));
            }
        }
    }
}
