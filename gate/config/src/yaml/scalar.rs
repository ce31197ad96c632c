//! Scalars that are checked during deserialization, so that errors have their place.

use std::{borrow::Cow, fmt, marker::PhantomData};

use memgate_verdict::quoted::shorten;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error, Unexpected, Visitor},
};

use super::{Problem, message};

/// A kind of scalar: how its text is read, and what it looks like.
pub trait Kind {
    /// The type of the value.
    type Value;
    /// Describes the text, to follow “expected”, such as `a duration such as 30s`.
    const EXPECTED: &'static str;
    /// A regular expression that every text of this kind matches, for editors.
    const PATTERN: Option<&'static str> = None;

    /// Reads the text, quoted or not.
    fn read(text: &str) -> Result<Self::Value, Problem>;

    /// The JSON Schema of the text.
    fn schema() -> Schema {
        let mut schema = json_schema!({ "type": "string", "description": Self::EXPECTED });
        if let Some(pattern) = Self::PATTERN {
            schema.insert("pattern".to_owned(), pattern.into());
        }
        schema
    }
}

/// A scalar of a kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scalar<K: Kind>(pub(crate) K::Value);

impl<'de, K: Kind> Deserialize<'de> for Scalar<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Reader(PhantomData))
    }
}

struct Reader<K>(PhantomData<K>);

impl<K: Kind> Visitor<'_> for Reader<K> {
    type Value = Scalar<K>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(K::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        K::read(text).map(Scalar).map_err(message::custom)
    }
}

impl<K: Kind> JsonSchema for Scalar<K> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        K::EXPECTED.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        K::schema()
    }
}

/// The text of any scalar: `8080` and `true` are strings to a process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text;

impl Kind for Text {
    type Value = String;
    const EXPECTED: &'static str = "a string";

    fn read(text: &str) -> Result<String, Problem> {
        Ok(text.to_owned())
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

/// The version of a format, 1.
#[derive(Debug)]
pub struct Version;

impl Kind for Version {
    type Value = ();
    const EXPECTED: &'static str = "version 1";

    fn read(text: &str) -> Result<(), Problem> {
        if text == "1" {
            return Ok(());
        }
        let what = format!("version `{}` is not known", shorten(text));
        Err(Problem::new(
            what,
            "expected 1",
            "write `version: 1`, or use the release of memgate that the file was written for",
        ))
    }

    fn schema() -> Schema {
        json_schema!({ "const": 1 })
    }
}

/// A whole number from `LEAST` to `MOST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole<const LEAST: u64, const MOST: u64>(pub(crate) u64);

impl<const LEAST: u64, const MOST: u64> Whole<LEAST, MOST> {
    /// The number, for values of `MOST` that fit.
    pub fn as_u32(self) -> u32 {
        const { assert!(MOST <= u32::MAX as u64) };
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl<'de, const LEAST: u64, const MOST: u64> Deserialize<'de> for Whole<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u64(WholeReader::<LEAST, MOST>)
    }
}

struct WholeReader<const LEAST: u64, const MOST: u64>;

impl<const LEAST: u64, const MOST: u64> Visitor<'_> for WholeReader<LEAST, MOST> {
    type Value = Whole<LEAST, MOST>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match MOST {
            u64::MAX => write!(f, "a whole number of at least {LEAST}"),
            _ => write!(f, "a whole number from {LEAST} to {MOST}"),
        }
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        if (LEAST..=MOST).contains(&number) {
            return Ok(Whole(number));
        }
        Err(E::invalid_value(Unexpected::Unsigned(number), &self))
    }
}

impl<const LEAST: u64, const MOST: u64> JsonSchema for Whole<LEAST, MOST> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("whole number from {LEAST} to {MOST}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": LEAST, "maximum": MOST })
    }
}
