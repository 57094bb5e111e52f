//! The part of OpenAPI 3.1 that is needed to build requests from a document and to check responses against it.

use serde_json::{Map, Value, json};

/// An OpenAPI document.
pub(crate) struct Document(Value);

/// A method on a path.
pub(crate) struct Operation {
    /// With its parameters in braces.
    pub(crate) path: String,
    /// In lower case.
    pub(crate) method: String,
    parameters: Vec<Value>,
    body: Option<Value>,
    responses: Value,
}

/// A request to an operation.
pub(crate) struct Made {
    /// Path and query.
    pub(crate) target: String,
    /// Header fields.
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub(crate) body: Option<String>,
}

/// Numbers that look random and are the same each time.
pub(crate) struct Dice(u64);

impl Dice {
    /// From a seed that is not 0.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    /// With this chance in a hundred.
    fn hits(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// What a client that is broken, or bad, may write.
const JUNK: [&str; 12] = [
    "",
    "a",
    "b1",
    "-1",
    "18446744073709551616",
    "null",
    "\u{0}",
    "../../x",
    "ü€\u{1f512}",
    "' OR 1=1 --",
    "call_00000000000000000000000000000000",
    "%00%ff",
];

impl Document {
    /// Of its text.
    pub(crate) fn new(text: &str) -> Self {
        Self(serde_json::from_str(text).unwrap())
    }

    /// Every operation.
    pub(crate) fn operations(&self) -> Vec<Operation> {
        let mut all = Vec::new();
        for (path, item) in self.0["paths"].as_object().unwrap() {
            for method in ["get", "put", "post", "delete", "patch"] {
                let Some(operation) = item.get(method) else {
                    continue;
                };
                let lists = [&item["parameters"], &operation["parameters"]];
                let parameters = lists
                    .into_iter()
                    .filter_map(Value::as_array)
                    .flatten()
                    .map(|parameter| self.resolved(parameter).clone())
                    .collect();
                let body = operation.get("requestBody");
                let body = body.map(|body| body["content"]["application/json"]["schema"].clone());
                all.push(Operation {
                    path: path.clone(),
                    method: method.to_owned(),
                    parameters,
                    body,
                    responses: operation["responses"].clone(),
                });
            }
        }
        all
    }

    fn resolved<'a>(&'a self, mut value: &'a Value) -> &'a Value {
        while let Some(name) = value.get("$ref").and_then(Value::as_str) {
            value = self.0.pointer(name.trim_start_matches('#')).unwrap();
        }
        value
    }

    /// A value that the schema describes, more or less.
    fn make(&self, schema: &Value, dice: &mut Dice, depth: usize) -> Value {
        let schema = self.resolved(schema);
        if dice.hits(4) || depth > 6 {
            return match dice.below(5) {
                0 => Value::Null,
                1 => json!(-1.5e300),
                2 => json!([[]]),
                3 => json!({"x": {}}),
                _ => json!(*dice.of(&JUNK)),
            };
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(choices) = schema[key].as_array() {
                let choice = dice.below(choices.len());
                return self.make(&choices[choice], dice, depth + 1);
            }
        }
        if let Some(value) = schema.get("const") {
            return value.clone();
        }
        if let Some(values) = schema["enum"].as_array() {
            return dice.of(values).clone();
        }
        let kinds: Vec<&str> = match &schema["type"] {
            Value::String(kind) => vec![kind],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => vec!["string"],
        };
        match *dice.of(&kinds) {
            "null" => Value::Null,
            "boolean" => json!(dice.hits(50)),
            "integer" | "number" => json!(*dice.of(&[0_i64, 1, 2, 60, 86_400, -1, i64::MAX])),
            "array" => {
                let count = dice.below(3);
                let items = (0..count).map(|_| self.make(&schema["items"], dice, depth + 1));
                Value::Array(items.collect())
            }
            "object" => self.object(schema, dice, depth),
            _ => json!(*dice.of(&[
                "a",
                "t-1",
                "b1",
                "http://127.0.0.1:9/x",
                "POST",
                "2026-11-30T12:00:00Z",
                "x y",
                "",
                "ü"
            ])),
        }
    }

    fn object(&self, schema: &Value, dice: &mut Dice, depth: usize) -> Value {
        let mut made = Map::new();
        if let Some(properties) = schema["properties"].as_object() {
            let required = schema["required"].as_array();
            let is_required = |name: &str| required.is_some_and(|all| all.contains(&json!(name)));
            for (name, property) in properties {
                let percent = if is_required(name) { 95 } else { 35 };
                if dice.hits(percent) {
                    made.insert(name.clone(), self.make(property, dice, depth + 1));
                }
            }
        }
        if schema["additionalProperties"].is_object() && dice.hits(50) {
            let more = &schema["additionalProperties"];
            made.insert("x-more".into(), self.make(more, dice, depth + 1));
        }
        if dice.hits(3) {
            made.insert("unknown".into(), Value::Null);
        }
        Value::Object(made)
    }

    /// Checks a value against its schema.
    pub(crate) fn conforms(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let schema = self.resolved(schema);
        for key in ["anyOf", "oneOf"] {
            if let Some(choices) = schema[key].as_array() {
                let fits = |choice: &Value| self.conforms(choice, value).is_ok();
                if !choices.iter().any(fits) {
                    return Err(format!("{value} is none of {schema}"));
                }
            }
        }
        if let Some(constant) = schema.get("const")
            && constant != value
        {
            return Err(format!("{value} is not {constant}"));
        }
        if let Some(values) = schema["enum"].as_array()
            && !values.contains(value)
        {
            return Err(format!("{value} is none of {values:?}"));
        }
        let kinds: Vec<&str> = match &schema["type"] {
            Value::String(kind) => vec![kind],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let is = |kind: &str| match kind {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => false,
        };
        if !kinds.is_empty() && !kinds.iter().any(|kind| is(kind)) {
            return Err(format!("{value} is no {kinds:?}"));
        }
        if let Some(number) = value.as_f64() {
            let at_least = schema["minimum"].as_f64().is_none_or(|min| number >= min);
            let at_most = schema["maximum"].as_f64().is_none_or(|max| number <= max);
            if !at_least || !at_most {
                return Err(format!("{value} is out of bounds"));
            }
        }
        match value {
            Value::Array(items) => items
                .iter()
                .try_for_each(|item| self.conforms(&schema["items"], item)),
            Value::Object(fields) => self.fields(schema, fields),
            _ => Ok(()),
        }
    }

    fn fields(&self, schema: &Value, fields: &Map<String, Value>) -> Result<(), String> {
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap();
            if !fields.contains_key(name) {
                return Err(format!("{name} is missing"));
            }
        }
        for (name, value) in fields {
            let known = schema["properties"].get(name);
            match (known, &schema["additionalProperties"]) {
                (Some(property), _) => self
                    .conforms(property, value)
                    .map_err(|why| format!("{name}: {why}"))?,
                (None, Value::Bool(false)) => return Err(format!("{name} is not described")),
                (None, more @ Value::Object(_)) => self.conforms(more, value)?,
                (None, _) if schema["properties"].is_object() => {
                    return Err(format!("{name} is not described"));
                }
                (None, _) => {}
            }
        }
        Ok(())
    }
}

impl Operation {
    /// A request. Every few are all junk.
    pub(crate) fn request(&self, document: &Document, dice: &mut Dice, round: usize) -> Made {
        let is_wild = round % 5 == 4;
        let mut path = self.path.clone();
        let mut query = Vec::new();
        let mut headers = Vec::new();
        for parameter in &self.parameters {
            let name = parameter["name"].as_str().unwrap();
            let schema = &parameter["schema"];
            let value = if is_wild || dice.hits(15) {
                (*dice.of(&JUNK)).to_owned()
            } else {
                match document.make(schema, dice, 0) {
                    Value::String(text) => text,
                    other => other.to_string(),
                }
            };
            match parameter["in"].as_str().unwrap() {
                "path" => {
                    let value = if dice.hits(40) {
                        "b1".to_owned()
                    } else {
                        value
                    };
                    path = path.replace(&format!("{{{name}}}"), &encoded(&value));
                }
                "query" if dice.hits(30) => query.push(format!("{name}={}", encoded(&value))),
                "header" if dice.hits(30) => {
                    let fits = value.bytes().all(|byte| (0x20..0x7f).contains(&byte));
                    if fits {
                        headers.push((name.to_owned(), value));
                    }
                }
                _ => {}
            }
        }
        // Those of the path need not be listed as parameters.
        while let (Some(from), Some(to)) = (path.find('{'), path.find('}')) {
            let junk: &&str = dice.of(&JUNK[1..]);
            let value = encoded(junk);
            path.replace_range(from..=to, &value);
        }
        let target = match query.is_empty() {
            true => path,
            false => format!("{path}?{}", query.join("&")),
        };
        let body = self.body.as_ref().map(|schema| match is_wild {
            true => (*dice.of(&JUNK)).to_owned(),
            false => document.make(schema, dice, 0).to_string(),
        });
        Made {
            target,
            headers,
            body,
        }
    }

    /// Returns the description of a response with this status.
    pub(crate) fn answer<'a>(&'a self, document: &'a Document, status: u16) -> Option<&'a Value> {
        let described = self.responses.get(status.to_string())?;
        Some(document.resolved(described))
    }
}

/// Percent-encoded, so that it stays one segment.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
