//! The values of variables that are passed on, such as passwords. memgate writes `***` in their place.

use std::{borrow::Cow, collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

/// What stands in place of a secret.
pub const MASK: &str = "***";

/// The shortest value that is replaced, bytes. Shorter ones are parts of other words.
pub const SHORTEST: usize = 4;

/// Values that memgate must not write.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secrets(BTreeSet<String>);

/// Without the values.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl Secrets {
    /// Adds a value, and its lines if it has several. Those shorter than [`SHORTEST`] are left out.
    pub fn add(&mut self, value: &str) {
        let lines = value.lines().map(str::trim).filter(|line| value.contains('\n') && !line.is_empty());
        let all = [value.trim()].into_iter().chain(lines);
        self.0.extend(all.filter(|value| value.len() >= SHORTEST).map(str::to_owned));
    }

    /// Adds the values of others.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values, longest first: a value may begin with another one.
    pub fn longest_first(&self) -> Vec<&str> {
        let mut all: Vec<_> = self.0.iter().map(String::as_str).collect();
        all.sort_by_key(|value| std::cmp::Reverse(value.len()));
        all
    }

    /// The text with [`MASK`] in place of each value.
    pub fn mask<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.longest_first().into_iter().fold(Cow::Borrowed(text), |text, value| {
            if text.contains(value) { Cow::Owned(text.replace(value, MASK)) } else { text }
        })
    }

    /// Masks each string in a value, but no keys and no numbers.
    pub fn mask_all(&self, value: &mut serde_json::Value) {
        match value {
            serde_json::Value::String(text) => {
                if let Cow::Owned(masked) = self.mask(text) {
                    *text = masked;
                }
            }
            serde_json::Value::Array(values) => values.iter_mut().for_each(|value| self.mask_all(value)),
            serde_json::Value::Object(fields) => fields.values_mut().for_each(|value| self.mask_all(value)),
            serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(values: &[&str]) -> Secrets {
        let mut secrets = Secrets::default();
        values.iter().for_each(|value| secrets.add(value));
        secrets
    }

    #[test]
    fn values_are_masked_wherever_they_are() {
        let secrets = secrets(&["hunter2", "hunter2-of-root", "abc", "", "  \n", "first line\nsecond line\n"]);
        assert_eq!(secrets.mask("hunter2, hunter2-of-root and abc"), "***, *** and abc");
        assert_eq!(secrets.mask("first line\nsecond line"), "***");
        assert_eq!(secrets.mask("> second line <"), "> *** <");
        assert!(matches!(secrets.mask("nothing"), Cow::Borrowed("nothing")));
        assert_eq!(format!("{secrets:?}"), "Secrets(5)");
        assert!(!secrets.is_empty() && super::tests::secrets(&["abc"]).is_empty());
    }

    #[test]
    fn of_a_value_only_texts_are_masked() {
        let mut value = serde_json::json!({ "1234": [1234, "x1234", null, { "a": "1234" }] });
        secrets(&["1234"]).mask_all(&mut value);
        assert_eq!(value, serde_json::json!({ "1234": [1234, "x***", null, { "a": "***" }] }));
    }
}
