//! Deserialization of scalars by their text, so that errors have the scalar's place.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserializer,
    de::{Error, Unexpected, Visitor},
};

use super::{Problem, message};

/// Deserializes any scalar by its text, quoted or not.
pub(crate) fn scalar<'de, D, T>(
    deserializer: D,
    expected: &str,
    parse: impl FnOnce(&str) -> Result<T, Problem>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    deserializer.deserialize_str(Scalar { expected, parse, parsed: PhantomData })
}

struct Scalar<'a, T, F> {
    expected: &'a str,
    parse: F,
    parsed: PhantomData<T>,
}

impl<T, F: FnOnce(&str) -> Result<T, Problem>> Visitor<'_> for Scalar<'_, T, F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(message::custom)
    }
}

/// Deserializes a whole number from `least` to `most`.
pub(crate) fn whole<'de, D: Deserializer<'de>>(deserializer: D, least: u64, most: u64) -> Result<u64, D::Error> {
    deserializer.deserialize_u64(Whole { least, most })
}

struct Whole {
    least: u64,
    most: u64,
}

impl Visitor<'_> for Whole {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.most {
            u64::MAX => write!(f, "a whole number of at least {}", self.least),
            most => write!(f, "a whole number from {} to {most}", self.least),
        }
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        if (self.least..=self.most).contains(&number) {
            return Ok(number);
        }
        Err(E::invalid_value(Unexpected::Unsigned(number), &self))
    }
}
