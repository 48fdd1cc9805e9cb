//! The published JSON Schema describes what is printed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use boon::{Compiler, SchemaIndex, Schemas};
use ras_core::{AddressMode, ErrorClass, ErrorSource, Severity};
use serde_json::Value;

use super::files::{Scratch, rasctl};

/// The schema, compiled.
struct Schema {
    all: Schemas,
    line: SchemaIndex,
    record: SchemaIndex,
}

impl Schema {
    fn published() -> Self {
        let text: Value = serde_json::from_str(rasctl::json::SCHEMA).unwrap();
        let id = text["$id"].as_str().unwrap().to_owned();
        let (mut all, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource(&id, text).unwrap();
        let line = compiler.compile(&id, &mut all).unwrap();
        let record = compiler.compile(&format!("{id}#/$defs/record"), &mut all).unwrap();
        Self { all, line, record }
    }

    fn check(&self, value: &Value, against: SchemaIndex, what: &str) {
        if let Err(error) = self.all.validate(value, against) {
            panic!("{what}: {error:#}\n{value:#}");
        }
    }
}

#[test]
fn every_golden_is_as_the_schema_says() {
    let schema = Schema::published();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut records = 0;
    for kind in fs::read_dir(root).unwrap() {
        for file in fs::read_dir(kind.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "expected") {
                continue;
            }
            let value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            let found = match &value["records"] {
                Value::Array(records) => records.clone(),
                _ if value.get("source").is_some() => vec![value],
                _ => vec![],
            };
            for record in &found {
                schema.check(record, schema.record, &path.display().to_string());
            }
            records += found.len();
        }
    }
    println!("{records} records");
    assert!(records >= 70, "only {records} records were found");
}

#[test]
fn what_rasctl_prints_is_as_the_schema_says() {
    let schema = Schema::published();
    let scratch = Scratch::new();
    let file = scratch.write("mixed.jsonl", super::files::MIXED.as_bytes());
    let printed = rasctl(&["decode", "--json", &file], b"");
    let mut kinds = BTreeSet::new();
    for line in printed.out.lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        schema.check(&value, schema.line, line);
        kinds.extend(value.as_object().unwrap().keys().cloned());
    }
    assert!(kinds.contains("witnesses") && kinds.contains("problem"), "{kinds:?}");
    let published = rasctl(&["schema"], b"");
    assert!(published.code == 0 && published.out == rasctl::json::SCHEMA);
}

#[test]
fn the_schema_refuses_what_is_never_printed() {
    let schema = Schema::published();
    let scratch = Scratch::new();
    let file = scratch.write("mixed.jsonl", super::files::MIXED.as_bytes());
    let printed = rasctl(&["decode", "--json", &file], b"");
    let line: Value = serde_json::from_str(printed.out.lines().next().unwrap()).unwrap();
    for (name, value) in [
        ("source", Value::from("rumour")),
        ("count", Value::from(0)),
        ("time", Value::from("yesterday")),
        ("address", serde_json::json!({ "addr": "1234", "lsb": 12, "mode": "physical" })),
        ("tomorrow", Value::from(1)),
        ("offset", Value::from("0x0")),
    ] {
        let mut wrong = line.clone();
        wrong[name] = value;
        assert!(schema.all.validate(&wrong, schema.line).is_err(), "{name}: {wrong:#}");
    }
}

/// serde knows all variants of an enumeration: it lists them where one does not exist.
#[test]
fn enumerations_are_complete() {
    fn check<T: serde::de::DeserializeOwned>(name: &str) {
        let schema: Value = serde_json::from_str(rasctl::json::SCHEMA).unwrap();
        let listed = match name {
            "mode" => &schema["$defs"]["address"]["properties"]["mode"]["enum"],
            _ => &schema["$defs"][name]["enum"],
        };
        let listed: BTreeSet<&str> =
            listed.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let error = serde_json::from_str::<T>("\"no such variant\"").err().unwrap().to_string();
        let (_, known) = error.split_once("expected one of ").unwrap();
        let known: BTreeSet<&str> = known.split('`').skip(1).step_by(2).collect();
        assert_eq!(listed, known, "{name}");
    }
    check::<ErrorSource>("source");
    check::<ErrorClass>("class");
    check::<Severity>("severity");
    check::<AddressMode>("mode");
}
