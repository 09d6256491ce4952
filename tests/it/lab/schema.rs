//! Output in JSON, held against the schemas in `docs/`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::Output;

/// The lines on standard output, each held against `docs/<name>.schema.json`.
pub fn lines(output: &Output, name: &str) -> Vec<Value> {
    let lines = output.stdout.lines();
    lines.map(|line| read(line, name)).collect()
}

/// Standard output as one document, held against `docs/<name>.schema.json`.
pub fn document(output: &Output, name: &str) -> Value {
    read(&output.stdout, name)
}

fn read(text: &str, name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/{name}.schema.json"));
    let schema: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let value = serde_json::from_str(text).unwrap_or_else(|_| panic!("no JSON: {text}"));
    if let Err(fault) = check(&value, &schema) {
        panic!("{fault}: {text}");
    }
    value
}

/// The lines of a command with `--format json`, each held against its schema, and all against each
/// other.
pub fn events(output: &Output, command: &str) -> Vec<Value> {
    let lines = lines(output, &format!("{command}-events"));
    let (last, before) = lines.split_last().unwrap_or_else(|| panic!("{output:?}"));
    assert_eq!(last["kind"], "end");
    assert_eq!(last["exit"].as_i64(), output.code.map(i64::from));
    assert!(before.iter().all(|line| line["kind"] != "end"));
    assert!(lines.is_sorted_by_key(|line| line["seconds"].as_f64().unwrap()));
    lines
}

/// Holds a value against the part of JSON Schema that our schemas use; another keyword panics. A
/// field that is not described is a fault, although JSON Schema lets it pass.
fn check(value: &Value, schema: &Value) -> Result<(), String> {
    for (keyword, rule) in schema.as_object().unwrap() {
        let holds = match keyword.as_str() {
            "$schema" | "title" | "description" => true,
            "type" => {
                let types = rule.as_array().map_or(vec![rule.clone()], Clone::clone);
                types.iter().any(|kind| match kind.as_str().unwrap() {
                    "object" => value.is_object(),
                    "string" => value.is_string(),
                    "number" => value.is_number(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "boolean" => value.is_boolean(),
                    "array" => value.is_array(),
                    "null" => value.is_null(),
                    other => panic!("type `{other}`"),
                })
            }
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value
                .as_f64()
                .is_none_or(|number| number >= rule.as_f64().unwrap()),
            "maximum" => value
                .as_f64()
                .is_none_or(|number| number <= rule.as_f64().unwrap()),
            "oneOf" => {
                let all = rule.as_array().unwrap().iter();
                let faults: Vec<String> = all.filter_map(|one| check(value, one).err()).collect();
                if faults.len() + 1 != rule.as_array().unwrap().len() {
                    return Err(faults.join("; "));
                }
                true
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    check(item, rule)?;
                }
                true
            }
            "required" => rule
                .as_array()
                .unwrap()
                .iter()
                .all(|name| value.get(name.as_str().unwrap()).is_some()),
            "properties" => {
                for (name, field) in value.as_object().into_iter().flatten() {
                    let known = rule
                        .get(name)
                        .ok_or_else(|| format!("`{name}` is not described"))?;
                    check(field, known).map_err(|fault| format!("{name}: {fault}"))?;
                }
                true
            }
            other => panic!("keyword `{other}`"),
        };
        if !holds {
            return Err(format!("`{value}` breaks `{keyword}`: {rule}"));
        }
    }
    Ok(())
}
