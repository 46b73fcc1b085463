//! Reads JSON bodies more strictly than serde's derived readers do: an object is no array, and no field is there twice. A number
//! is what it says however it is written: `2.0` is a whole number. What is wrong is told with its JSON pointer.

use std::collections::HashSet;
use std::fmt;

use axum::http::StatusCode;
use serde::de::value::{MapAccessDeserializer, MapDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error as JsonError, Number};

use super::problem::Problem;
use crate::domain::error::Error;

/// Text that is no JSON is 400; JSON that is not of the right shape is 422.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let json: Json = serde_json::from_slice(body).map_err(|error| malformed(&error))?;
    serde_path_to_error::deserialize(json).map_err(|error| {
        let mut pointer = pointer(error.path());
        let fault = error.into_inner().to_string();
        if let Some(name) = fault.strip_prefix("missing field `").and_then(|s| s.strip_suffix('`'))
        {
            pointer = format!("{pointer}/{name}");
        }
        Error::field(pointer, in_words(fault)).into()
    })
}

/// What serde says in words of Rust, for those who do not write it.
fn in_words(fault: String) -> String {
    const WHOLE: [(&str, i128, i128); 6] = [
        ("u8", 0, u8::MAX as i128),
        ("u16", 0, u16::MAX as i128),
        ("u32", 0, u32::MAX as i128),
        ("u64", 0, u64::MAX as i128),
        ("i32", i32::MIN as i128, i32::MAX as i128),
        ("i64", i64::MIN as i128, i64::MAX as i128),
    ];
    if let Some(why) = fault.strip_prefix("UUID parsing failed: ") {
        return format!("must be an id, which is a UUID: {why}");
    }
    let Some((is, expected)) = fault.rsplit_once(", expected ") else { return fault };
    let Some((_, least, most)) = WHOLE.into_iter().find(|(name, ..)| *name == expected) else {
        return fault;
    };
    let value = is.strip_prefix("invalid value: integer `").and_then(|s| s.strip_suffix('`'));
    match value.and_then(|value| value.parse::<i128>().ok()) {
        Some(value) if value > most => format!("must be at most {most}, is {value}"),
        Some(value) if value < least => format!("must be at least {least}, is {value}"),
        Some(_) | None => format!("{is}, expected a whole number"),
    }
}

fn malformed(error: &JsonError) -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "malformed-json",
        "Malformed JSON",
        format!("the body is no JSON: {error}"),
    )
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => {
                pointer.push('/');
                pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
            }
            Segment::Enum { variant } => pointer.push_str(&format!("/{variant}")),
            Segment::Unknown => {}
        }
    }
    pointer
}

/// A JSON value as it was sent: with the fields in their order, and with those that are there twice.
enum Json {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    fn refuse<T>(self, wanted: &str) -> Result<T, JsonError> {
        let is = match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(_) => "a string".to_owned(),
            Self::Array(_) => "an array".to_owned(),
            Self::Object(_) => "an object".to_owned(),
        };
        Err(de::Error::custom(format!("must be {wanted}, is {is}")))
    }
}

impl<'de> Deserializer<'de> for Json {
    type Error = JsonError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self {
            Self::Null => visitor.visit_unit(),
            Self::Bool(value) => visitor.visit_bool(value),
            Self::Number(number) => whole(number).deserialize_any(visitor),
            Self::Text(text) => visitor.visit_string(text),
            Self::Array(items) => {
                let mut items = SeqDeserializer::new(items.into_iter());
                let value = visitor.visit_seq(&mut items)?;
                items.end().map(|()| value)
            }
            Self::Object(fields) => {
                let mut seen = HashSet::new();
                if let Some((twice, _)) = fields.iter().find(|(name, _)| !seen.insert(name)) {
                    return Err(de::Error::custom(format!("duplicate field `{twice}`")));
                }
                let mut fields = MapDeserializer::new(fields.into_iter());
                let value = visitor.visit_map(&mut fields)?;
                fields.end().map(|()| value)
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self {
            Self::Null => visitor.visit_none(),
            Self::Bool(_) | Self::Number(_) | Self::Text(_) | Self::Array(_) | Self::Object(_) => {
                visitor.visit_some(self)
            }
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        visitor.visit_newtype_struct(self)
    }

    // Derived readers take the fields of a struct from an array, too: in their order in our source.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        match self {
            Self::Object(_) => self.deserialize_any(visitor),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_) | Self::Array(_) => {
                self.refuse("an object")
            }
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        match self {
            Self::Text(word) => visitor.visit_enum(word.into_deserializer()),
            Self::Object(fields) => {
                let variant = MapDeserializer::new(fields.into_iter());
                visitor.visit_enum(MapAccessDeserializer::new(variant))
            }
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Array(_) => {
                self.refuse(&format!("one of {}", variants.join(", ")))
            }
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

impl IntoDeserializer<'_, JsonError> for Json {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The same number, written as a whole one where it is one: for serde `2.0` never is.
fn whole(number: Number) -> Number {
    // Beyond 2^53 not every whole number is a float.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let float = number.as_f64().filter(|n| number.is_f64() && n.fract() == 0.0 && n.abs() < EXACT);
    float.and_then(|n| format!("{n:.0}").parse::<i64>().ok()).map_or(number, Number::from)
}

impl<'de> de::Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        // JSON knows no others than finite ones.
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::Text(text))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(Json::Array(all))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut fields: A) -> Result<Json, A::Error> {
        let mut all = Vec::new();
        while let Some(field) = fields.next_entry()? {
            all.push(field);
        }
        Ok(Json::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Colour {
        Red,
        Green,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        colour: Colour,
        count: Option<u8>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        name: String,
        #[serde(default)]
        inner: Option<Inner>,
        #[serde(default)]
        all: Vec<Inner>,
        #[serde(default)]
        labels: BTreeMap<String, String>,
        #[serde(default)]
        ratio: f64,
    }

    fn fault(body: &str) -> String {
        let problem = parse::<Outer>(body.as_bytes()).expect_err(body);
        problem.detail.clone()
    }

    #[test]
    fn what_is_of_the_right_shape_is_taken() {
        let body = r#"{"name": "a", "inner": {"colour": "red", "count": 2.0}, "all": [{"colour": "green"}],
            "labels": {"x": "y"}, "ratio": 4}"#;
        let outer = parse::<Outer>(body.as_bytes()).expect("a body");
        assert_eq!(outer.inner, Some(Inner { colour: Colour::Red, count: Some(2) }));
        assert_eq!(outer.all, [Inner { colour: Colour::Green, count: None }]);
        assert_eq!((outer.labels["x"].as_str(), outer.ratio), ("y", 4.0));
        let outer = parse::<Outer>(br#"{"name": "a", "inner": null}"#).expect("a body");
        assert_eq!(outer.inner, None);
        assert_eq!(parse::<Option<Outer>>(b"null").expect("a body"), None);
    }

    #[test]
    fn an_array_is_no_object_however_deep() {
        assert_eq!(fault(r#"["a"]"#), "must be an object, is an array");
        assert_eq!(
            fault(r#"{"name": "a", "inner": ["red", 1]}"#),
            "/inner: must be an object, is an array"
        );
        assert_eq!(
            fault(r#"{"name": "a", "all": [["red", 1]]}"#),
            "/all/0: must be an object, is an array"
        );
        assert_eq!(
            fault(r#"{"name": "a", "inner": {"colour": 7}}"#),
            "/inner/colour: must be one of red, green, is 7"
        );
    }

    #[test]
    fn a_field_twice_and_what_does_not_fit_are_refused_by_name() {
        for (body, words) in [
            (r#"{"name": "a", "name": "b"}"#, "duplicate field `name`"),
            (r#"{"name": "a", "ratio": 1, "ratio": 1}"#, "duplicate field `ratio`"),
            (r#"{"name": "a", "labels": {"x": "1", "x": "2"}}"#, "/labels: duplicate field `x`"),
            (r#"{"ratio": 1}"#, "/name: missing field `name`"),
            (r#"{"name": "a", "inner": {}}"#, "/inner/colour: missing field `colour`"),
            (
                r#"{"name": "a", "inner": {"colour": "red", "count": 2.5}}"#,
                "/inner/count: invalid type: floating point `2.5`, expected a whole number",
            ),
            (
                r#"{"name": "a", "inner": {"colour": "red", "count": 256.0}}"#,
                "/inner/count: must be at most 255, is 256",
            ),
            (
                r#"{"name": "a", "inner": {"colour": "red", "count": -1}}"#,
                "/inner/count: must be at least 0, is -1",
            ),
            (r#"{"name": "a", "inner": {"colour": "blue"}}"#, "/inner/colour: unknown variant"),
            (r#"{"name": "a", "inner": {"colour": {"red": 1}}}"#, "/inner/colour"),
            (r#"{"name": "a", "inner": {"colour": {}}}"#, "/inner/colour"),
            (r#"{"name": "a", "labels": {"x": 1}}"#, "/labels/x: "),
            (r#"{"name": "a", "labels": [["x", "y"]]}"#, "/labels: "),
            (r#"{"name": 1e300}"#, "/name: "),
            (r#"{"name": "a""#, "the body is no JSON: "),
            (r#"{"name": "a"} x"#, "the body is no JSON: "),
            (r#"{"name": NaN}"#, "the body is no JSON: "),
            (&("[".repeat(100_000)), "the body is no JSON: recursion limit"),
        ] {
            let said = fault(body);
            assert!(said.contains(words), "{body:.100}: {said}");
        }
    }
}
