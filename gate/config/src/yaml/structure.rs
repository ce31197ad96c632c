//! Checks on a YAML file's structure: no duplicate keys, no tags, and no aliases that expand without end.

use std::{cell::Cell, collections::HashSet, fmt};

use memgate_verdict::quoted::shorten;
use serde::{
    Deserializer,
    de::{DeserializeSeed, EnumAccess, Error, MapAccess, SeqAccess, Visitor},
};

use super::{Problem, message};

/// How many values aliases may add to those that are written out.
const ALIASED_VALUES: usize = 10_000;

/// Walks through the whole document, following aliases.
pub(super) fn check(text: &str) -> Result<(), serde_yaml::Error> {
    // The shortest YAML, `[:,:,`, has three values in two bytes.
    let remaining = Cell::new(2 * text.len() + ALIASED_VALUES);
    Value { remaining: &remaining }.deserialize(serde_yaml::Deserializer::from_str(text))
}

/// Any value.
#[derive(Clone, Copy)]
struct Value<'a> {
    remaining: &'a Cell<usize>,
}

impl Value<'_> {
    fn count<E: Error>(self) -> Result<(), E> {
        let remaining = self.remaining.get();
        self.remaining.set(remaining.saturating_sub(1));
        if remaining > 0 {
            return Ok(());
        }
        Err(message::custom(Problem::new(
            "the file's aliases (`*name`) stand for too many values",
            "too many values",
            "write the values out, without anchors and aliases",
        )))
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.count()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.count()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.count()
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<(), E> {
        self.count()
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<(), E> {
        self.count()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.count()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.count()
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.count()
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.count()?;
        if !text.contains('\0') {
            return Ok(());
        }
        // No argument, variable or file name can contain NUL.
        Err(message::custom(Problem::new("a string holds a NUL character", "holds `\\0`", "remove the NUL character")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        self.count()?;
        while sequence.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.count()?;
        let mut seen = HashSet::new();
        while map.next_key_seed(Key { seen: &mut seen })?.is_some() {
            map.next_value_seed(self)?;
        }
        Ok(())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<(), A::Error> {
        let (tag, _) = data.variant::<String>()?;
        Err(message::custom(Problem::new(
            format!("the tag `!{}` has no meaning here", shorten(&tag)),
            "this tag",
            "remove the tag; a string that begins with `!` needs quotes",
        )))
    }
}

/// A key, which must be new in its map. The error is raised here, where its place is known.
struct Key<'a> {
    seen: &'a mut HashSet<String>,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key, which is a string")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<(), E> {
        if self.seen.insert(key.to_owned()) {
            return Ok(());
        }
        let key = shorten(key);
        Err(message::custom(Problem::new(
            format!("duplicate key `{key}`"),
            format!("the second `{key}`"),
            format!("keep one of the two `{key}`; memgate cannot know which one was meant"),
        )))
    }
}
