//! Reading JSON bodies: bounded in bytes and time, and refused with the place and the remedy.

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::{Deserialize, Deserializer, de};
use serde_path_to_error::{Path, Segment};
use steadfast::metrics;

use crate::{limits::BODY_READ_MAX, problem::Problem};

/// Levels of JSON, as `serde_json` counts them.
const NESTING_MAX: usize = 128;

/// Reads a body of at most `bytes_max`. A longer one is refused before it is read, where it says how long it is.
pub async fn read(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    if headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|coding| coding != "identity")
    {
        let detail = "compressed bodies are not read; send the body as it is, without Content-Encoding";
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_encoding",
            detail,
        ));
    }
    match tokio::time::timeout(BODY_READ_MAX, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(bytes_max)),
        Ok(Err(_)) => Err(Problem::malformed(
            "body_incomplete",
            "the body broke off before its end; send it again",
        )),
        Err(_) => {
            let detail = format!(
                "the body did not arrive within {} s; send it faster",
                BODY_READ_MAX.as_secs()
            );
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail))
        }
    }
}

fn too_large(bytes_max: usize) -> Problem {
    metrics::http().rejected.with_label_values(&["body_size"]).inc();
    let detail = format!("the body is larger than {bytes_max} bytes (gateway.body_bytes_max); send less");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}

/// A JSON object as a `T`. Without it serde reads an array as a struct, field by field in order.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map))
            }
        }
        deserializer
            .deserialize_map(Visitor(std::marker::PhantomData))
            .map(Object)
    }
}

/// Reads the JSON object a client sent.
pub fn parse<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Problem> {
    match serde_json::from_slice::<Object<T>>(bytes) {
        Ok(Object(value)) => Ok(value),
        Err(error) => Err(explain::<T>(bytes, &error)),
    }
}

/// The slow path: where exactly is it wrong, and what would be right?
fn explain<'de, T: Deserialize<'de>>(bytes: &'de [u8], error: &serde_json::Error) -> Problem {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Problem::malformed("malformed_json", "the body is empty; send a JSON object");
    }
    if let Err(error) = std::str::from_utf8(bytes) {
        let detail = format!(
            "the body is not valid UTF-8 at byte {}; send JSON in UTF-8",
            error.valid_up_to()
        );
        return Problem::malformed("invalid_utf8", detail);
    }
    // What serde_json calls it; the limit is its own.
    if error.to_string().starts_with("recursion limit exceeded") {
        let detail = format!("the body is nested deeper than {NESTING_MAX} levels; flatten it");
        return Problem::malformed("nested_too_deeply", detail);
    }
    if !error.is_data() {
        // The message ends with the line and the column.
        return Problem::malformed(
            "malformed_json",
            format!("the body is not JSON this server reads: {error}"),
        );
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let Err(error) = serde_path_to_error::deserialize::<_, Object<T>>(&mut deserializer) else {
        return Problem::malformed("invalid_request", format!("the body does not read: {error}"));
    };
    let message = error.inner().to_string();
    let message = message
        .rsplit_once(" at line ")
        .map_or(message.as_str(), |(message, _)| message);
    let (pointer, detail) = match unknown_field(message) {
        Some((field, detail)) => (pointer(error.path(), Some(field)), detail),
        None => (pointer(error.path(), None), message.to_owned()),
    };
    let place = if pointer.is_empty() {
        "the body"
    } else {
        pointer.as_str()
    };
    Problem::malformed("invalid_request", format!("{place}: {detail}")).at(pointer.clone(), detail)
}

/// Serde names the unknown field and the known ones, each between backticks.
fn unknown_field(message: &str) -> Option<(&str, String)> {
    let words: Vec<&str> = message
        .strip_prefix("unknown field ")?
        .split('`')
        .skip(1)
        .step_by(2)
        .collect();
    let (field, known) = words.split_first()?;
    let detail = match closest(field, known) {
        Some(close) => format!("there is no field {field:?}; did you mean {close:?}?"),
        None if known.is_empty() => format!("there is no field {field:?}; no field is known here"),
        None => format!("there is no field {field:?}; the fields are: {}", known.join(", ")),
    };
    Some((field, detail))
}

/// The known word a client most likely meant.
pub fn closest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = |candidate: &&&str| strsim::damerau_levenshtein(word, candidate) <= 1 + candidate.len() / 4;
    known
        .iter()
        .filter(near)
        .min_by_key(|candidate| strsim::damerau_levenshtein(word, candidate))
        .copied()
}

fn pointer(path: &Path, last: Option<&str>) -> String {
    let mut pointer = String::new();
    let mut push = |segment: &str| {
        pointer.push('/');
        pointer.push_str(&segment.replace('~', "~0").replace('/', "~1"));
    };
    let mut end = None;
    for segment in path.iter() {
        match segment {
            Segment::Seq { index } => push(&index.to_string()),
            Segment::Map { key } => {
                push(key);
                end = Some(key.as_str());
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    if let Some(last) = last.filter(|last| end != Some(last)) {
        push(last);
    }
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only reading it is tested")]
        name: String,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[serde(default)]
        #[expect(dead_code, reason = "only reading it is tested")]
        tools: Vec<Object<Inner>>,
        #[serde(default)]
        #[expect(dead_code, reason = "only reading it is tested")]
        agent: Option<String>,
        #[serde(default)]
        #[expect(dead_code, reason = "only reading it is tested")]
        metadata: Option<serde_json::Value>,
    }

    fn refused(body: &[u8]) -> (String, String) {
        let problem = parse::<Outer>(body).expect_err("the body was read");
        assert_eq!(problem.status(), StatusCode::BAD_REQUEST);
        let pointer = problem
            .errors()
            .first()
            .map(|error| error.pointer.clone())
            .unwrap_or_default();
        (pointer, format!("{problem:?}"))
    }

    #[test]
    fn a_wrong_type_is_named_by_its_pointer() {
        let (pointer, text) = refused(br#"{"tools":[{"name":"a"},{"name":7}]}"#);
        assert_eq!(pointer, "/tools/1/name", "{text}");
        assert_eq!(refused(br#"{"tools":[["a"]]}"#).0, "/tools/0");
        assert_eq!(refused(br#"["a"]"#).0, "");
    }

    #[test]
    fn an_unknown_field_is_named_with_the_one_that_was_meant() {
        let (pointer, text) = refused(br#"{"agnet":"a"}"#);
        assert_eq!(pointer, "/agnet");
        assert!(
            text.contains("did you mean \\\"agent\\\"") || text.contains("did you mean \"agent\""),
            "{text}"
        );
        let (pointer, text) = refused(br#"{"tools":[{"name":"a","q/x":1}]}"#);
        assert_eq!(pointer, "/tools/0/q~1x", "{text}");
    }

    #[test]
    fn malformed_json_is_named_by_line_and_column() {
        assert!(refused(b"{\n  \"agent\": \"a\",\n  oops}").1.contains("line 3 column"));
        assert!(refused(b"").1.contains("empty"));
        assert!(refused(b"{\"agent\":\"\xff\"}").1.contains("UTF-8 at byte 10"));
        let deep = format!("{{\"metadata\":{}", "[".repeat(100_000));
        assert!(refused(deep.as_bytes()).1.contains("deeper than 128 levels"));
        assert!(refused(br#"{"agent":"a","agent":"b"}"#).1.contains("duplicate field"));
    }
}
