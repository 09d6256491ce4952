//! What was measured: named series of numbers, the floor of each, and how they are written down.

use serde_json::{Value, json};

/// A series of numbers of one thing on one disk.
pub struct Figure {
    /// What was measured; the same on each disk.
    pub what: String,
    pub unit: &'static str,
    pub values: Vec<f64>,
    /// The least that it can be on this machine, in the same unit.
    pub floor: Option<f64>,
}

impl Figure {
    pub fn new(what: impl Into<String>, unit: &'static str, values: Vec<f64>) -> Self {
        Self {
            what: what.into(),
            unit,
            values,
            floor: None,
        }
    }

    pub fn above(mut self, floor: f64) -> Self {
        self.floor = Some(floor);
        self
    }

    /// What a quarter, a half and three quarters of the values are below.
    pub fn quartiles(&self) -> [f64; 3] {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        [1, 2, 3].map(|quarter| values[values.len() * quarter / 4])
    }

    pub fn to_json(&self) -> Value {
        json!({"what": self.what, "unit": self.unit, "values": self.values, "floor": self.floor})
    }

    pub fn from_json(value: &Value) -> Self {
        let numbers = value["values"].as_array().unwrap().iter();
        Self {
            what: value["what"].as_str().unwrap().to_owned(),
            unit: value["unit"].as_str().unwrap().to_owned().leak(),
            values: numbers.map(|number| number.as_f64().unwrap()).collect(),
            floor: value["floor"].as_f64(),
        }
    }
}

pub fn median(values: &[f64]) -> f64 {
    let [_, median, _] = Figure::new("", "", values.to_vec()).quartiles();
    median
}

/// A number with three digits that count.
pub fn short(number: f64) -> String {
    let digits = match number.abs() {
        n if n >= 99.95 => 0,
        n if n >= 9.995 => 1,
        n if n >= 0.9995 => 2,
        _ => 3,
    };
    format!("{number:.digits$}")
}
