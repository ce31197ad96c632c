//! Places in a YAML text.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// The path to a value or to its key: `services.uaa.load.requests[0].post`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyPath {
    steps: Vec<Step>,
    at_key: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl KeyPath {
    /// The whole document.
    pub fn root() -> Self {
        Self::default()
    }

    /// The value of a key of this map.
    #[must_use]
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.with(Step::Key(key.into()))
    }

    /// An element of this sequence, from 0.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    /// The key itself instead of its value.
    #[must_use]
    pub fn at_key(mut self) -> Self {
        self.at_key = true;
        self
    }

    fn with(&self, step: Step) -> Self {
        Self { steps: self.steps.iter().cloned().chain([step]).collect(), at_key: false }
    }

    /// The value at the place; `None` if there is none.
    pub(crate) fn value<'v>(&self, document: &'v serde_yaml::Value) -> Option<&'v serde_yaml::Value> {
        self.steps.iter().try_fold(document, |value, step| match step {
            Step::Key(key) => value.get(key.as_str()),
            Step::Index(index) => value.get(*index),
        })
    }

    /// The position in bytes at which the place begins, or its innermost part that exists.
    ///
    /// `serde` reports places only in errors, so the text is deserialized again into something that fails at the place.
    pub(crate) fn find(&self, text: &str) -> Option<usize> {
        (0..=self.steps.len()).rev().find_map(|length| {
            let steps = &self.steps[..length];
            let at_key = length < self.steps.len() || self.at_key;
            let found = Finder { steps, at_key }.place(text)?;
            // The deserializer names an alias by its anchor, which is before the alias's own key.
            let key = matches!(steps.last(), Some(Step::Key(_))).then(|| Finder { steps, at_key: true }.place(text));
            match key.flatten() {
                Some(key) if found < key => Some(key + text[key..].find('*').unwrap_or(0)),
                _ => Some(found),
            }
        })
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.steps.iter().enumerate() {
            match step {
                Step::Key(key) if position == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Fails at a place.
#[derive(Clone, Copy)]
struct Finder<'a> {
    steps: &'a [Step],
    at_key: bool,
}

impl Finder<'_> {
    /// The position in bytes at which it fails; `None` if the place is not in the text.
    fn place(self, text: &str) -> Option<usize> {
        Some(self.deserialize(serde_yaml::Deserializer::from_str(text)).err()?.location()?.index())
    }

    fn found<T, E: Error>(self) -> Result<T, E> {
        Err(E::custom("found"))
    }
}

impl<'de> DeserializeSeed<'de> for Finder<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.steps.first() {
            None | Some(Step::Key(_)) => deserializer.deserialize_any(self),
            Some(Step::Index(_)) => deserializer.deserialize_seq(self),
        }
    }
}

impl<'de> Visitor<'de> for Finder<'_> {
    type Value = ();

    /// The scalar has another type than expected, which is an error at its place too.
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a place")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let Some((Step::Index(index), rest)) = self.steps.split_first() else { return self.found() };
        for _ in 0..*index {
            sequence.next_element::<IgnoredAny>()?;
        }
        sequence.next_element_seed(Self { steps: rest, ..self })?;
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Key(wanted), rest)) = self.steps.split_first() else { return self.found() };
        let fail = rest.is_empty() && self.at_key;
        while let Some(is_wanted) = map.next_key_seed(Key { wanted, fail })? {
            if is_wanted {
                map.next_value_seed(Self { steps: rest, ..self })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Whether a key is the wanted one. Fails if it is and `fail` is set.
struct Key<'a> {
    wanted: &'a str,
    fail: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        if key == self.wanted && self.fail {
            return Err(E::custom("found"));
        }
        Ok(key == self.wanted)
    }
}

/// Line and column of a byte position, both from 1, the column in characters.
pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The length in bytes of the line that contains the byte at this offset.
pub(super) fn line_length(text: &str, offset: usize) -> usize {
    let start = text[..offset].rfind('\n').map_or(0, |at| at + 1);
    text[start..].find('\n').unwrap_or(text.len() - start)
}

/// Start and length in bytes of the scalar or bracket at an offset; at the end of the text, of its last character.
pub(super) fn token(text: &str, offset: usize) -> (usize, usize) {
    match text[..offset].chars().next_back() {
        Some(last) if offset == text.len() => (offset - last.len_utf8(), last.len_utf8()),
        _ => (offset, token_length(&text[offset..])),
    }
}

/// The length in bytes of the scalar or bracket at the start of the text, as far as it lies on the first line.
fn token_length(text: &str) -> usize {
    let line = text.lines().next().unwrap_or_default();
    let end = match line.chars().next() {
        Some(quote @ ('"' | '\'')) => line[1..].find(quote).map(|at| at + 2),
        Some('[' | '{') => Some(1),
        _ => line.char_indices().map(|(at, _)| at).find(|at| is_end(&line[*at..])),
    };
    end.unwrap_or(line.len()).max(line.chars().next().map_or(0, char::len_utf8))
}

/// Whether a plain scalar ends before this rest of its line.
fn is_end(rest: &str) -> bool {
    let mut characters = rest.chars();
    match characters.next() {
        Some(':') => characters.next().is_none_or(char::is_whitespace),
        Some(' ') => rest.trim_start().is_empty() || rest.trim_start().starts_with('#'),
        Some(',' | ']' | '}') => true,
        _ => false,
    }
}
