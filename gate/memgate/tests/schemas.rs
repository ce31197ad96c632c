//! The JSON Schemas of `memgate schema` fit the committed files, and refuse what is misspelt. The tests of each command
//! hold its outputs against them.

mod common;

use std::fs;

use common::{repository, schema::Schema};
use serde_json::{Value, json};

const ALL: [&str; 9] =
    ["config", "baseline", "evidence", "report", "history", "trends", "bisection", "calibration", "selftest"];

#[test]
fn each_schema_refuses_what_has_nothing_of_its_own() {
    for of in ALL {
        let schema = Schema::new(of);
        for value in [json!({}), json!([]), json!(null), json!({ "schema": 1, "no such key": 1 })] {
            assert!(schema.refusal(&value).is_some(), "{of}: {value}");
        }
    }
}

#[test]
fn the_committed_configurations_fit_and_no_misspelt_key_does() {
    let schema = Schema::new("config");
    for file in ["memgate.yaml", "fixtures-go/memgate.yaml", "fixtures-go/field/memgate.yaml"] {
        let text = fs::read_to_string(repository().join(file)).unwrap();
        let value: Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(schema.refusal(&value), None, "{file}");
        let misspelt: Value = serde_yaml::from_str(&text.replace(" load:", " laod:")).unwrap();
        assert!(schema.refusal(&misspelt).is_some(), "{file}");
    }
}

#[test]
fn the_committed_baselines_fit_and_no_misspelt_key_does() {
    let schema = Schema::new("baseline");
    for platform in ["linux-amd64", "linux-arm64", "linux-loong64"] {
        let text = fs::read_to_string(repository().join("baselines").join(platform).join("uaa.yaml")).unwrap();
        schema.assert_fits(&serde_yaml::from_str(&text).unwrap());
        let misspelt: Value = serde_yaml::from_str(&text.replace("rss_peak:", "rss_top:")).unwrap();
        assert!(schema.refusal(&misspelt).is_some(), "{platform}");
    }
}
