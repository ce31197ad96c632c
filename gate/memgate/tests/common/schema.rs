//! Whether what memgate writes fits the JSON Schema that it prints.

use boon::{Compiler, Schemas};
use serde_json::Value;

use super::{memgate, stderr};

/// What a JSON Schema says of values.
pub struct Schema {
    all: Schemas,
    index: boon::SchemaIndex,
    of: String,
}

impl Schema {
    /// What `memgate schema OF` prints.
    pub fn new(of: &str) -> Self {
        let output = memgate().args(["schema", of]).output().expect("memgate starts");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let schema: Value = serde_json::from_slice(&output.stdout).expect("a schema is JSON");
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{of}");
        let (mut all, mut compiler) = (Schemas::new(), Compiler::new());
        let name = format!("file:///{of}.json");
        compiler.add_resource(&name, schema).expect("a resource of this name");
        let index = compiler.compile(&name, &mut all).unwrap_or_else(|error| panic!("the schema of {of}: {error:#}"));
        Self { all, index, of: of.to_owned() }
    }

    /// What is wrong with a value.
    pub fn refusal(&self, value: &Value) -> Option<String> {
        self.all.validate(value, self.index).err().map(|error| format!("{error:#}"))
    }

    #[track_caller]
    pub fn assert_fits(&self, value: &Value) {
        if let Some(refusal) = self.refusal(value) {
            panic!("no {}: {refusal}", self.of);
        }
    }
}

/// Fails if a value does not fit `memgate schema OF`. OF may also be the command that prints it.
#[track_caller]
pub fn assert_fits(of: &str, value: &Value) {
    Schema::new(if of == "calibrate" { "calibration" } else { of }).assert_fits(value);
}
