//! From what the judge said to a score.

use serde_json::Value;

use super::{JudgeRecord, Sample};
use crate::{
    score::Score,
    text::{one_line, quote},
};

/// Thoughts included; more is a judge that rambles.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// The verdict in a judge's answer. Tolerant of what models put around it (fences, thoughts, greetings), not of a
/// missing score, a score off the scale, or two verdicts that disagree.
pub fn parse(content: &str) -> Result<(String, u8), String> {
    if content.len() > ANSWER_BYTES_MAX {
        return Err(format!("the judge's answer is larger than {ANSWER_BYTES_MAX} bytes"));
    }
    let mut verdicts: Vec<Value> = objects(content)
        .into_iter()
        .filter(|object| object.get("score").is_some())
        .collect();
    let Some(last) = verdicts.pop() else {
        return Err(format!(
            "the judge gave no JSON object with a score: {}",
            quote(content)
        ));
    };
    let score = scale(&last["score"])
        .ok_or_else(|| format!("the judge's score must be an integer from 1 to 5: {}", quote(content)))?;
    if verdicts.iter().any(|other| scale(&other["score"]) != Some(score)) {
        return Err(format!("the judge gave more than one verdict: {}", quote(content)));
    }
    let reason = last.get("reason").and_then(Value::as_str).unwrap_or_default();
    Ok((reason.into(), score))
}

/// Every JSON object in a text, outermost ones only.
fn objects(text: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        rest = &rest[start..];
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let read = match stream.next() {
            Some(Ok(object)) => {
                found.push(object);
                stream.byte_offset()
            }
            _ => 1,
        };
        rest = &rest[read..];
    }
    found
}

fn scale(score: &Value) -> Option<u8> {
    let number = match score {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    [1u8, 2, 3, 4, 5].into_iter().find(|step| f64::from(*step) == number)
}

/// The score of a majority of all samples.
pub fn settle(record: JudgeRecord) -> Score {
    let asked = record.samples.len();
    let mut scores: Vec<u8> = Vec::new();
    let mut errors: Vec<&str> = Vec::new();
    for sample in &record.samples {
        match sample {
            Sample::Verdict { score, .. } => scores.push(*score),
            Sample::Failed { error } => errors.push(error),
        }
    }
    let passes = scores.iter().filter(|score| **score >= record.pass_score).count();
    let fails = scores.len() - passes;
    let (pass, decided) = (2 * passes > asked, 2 * passes > asked || 2 * fails > asked);
    let listed: Vec<String> = scores.iter().map(u8::to_string).collect();
    let tally = format!(
        "{passes} of {asked} gave at least {} (scores: {})",
        record.pass_score,
        listed.join(", ")
    );
    let failure = errors
        .first()
        .map(|error| format!("{} of {asked} failed: {error}", errors.len()));
    let (explanation, error) = match (decided, failure) {
        (true, failure) => {
            let reason = (record.samples.iter())
                .find_map(|sample| match sample {
                    Sample::Verdict { reason, score } if (*score >= record.pass_score) == pass => {
                        Some(one_line(reason))
                    }
                    _ => None,
                })
                .unwrap_or_default();
            let failure = failure.map(|failure| format!("; {failure}")).unwrap_or_default();
            (format!("{tally}{failure}: {reason}"), None)
        }
        (false, failure) => {
            let failure = failure.unwrap_or_else(|| "the judge was not asked".into());
            (format!("no majority: {tally}"), Some(failure))
        }
    };
    scores.sort_unstable();
    let value = if decided {
        scores.get(scores.len() / 2).copied().unwrap_or(0)
    } else {
        0
    };
    Score {
        name: "judge".into(),
        value: value.into(),
        pass,
        explanation,
        error,
        judge: Some(record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_found_in_whatever_surrounds_it() {
        for (content, score) in [
            (r#"{"reason": "good", "score": 5}"#, 5),
            ("```json\n{\"reason\": \"good\", \"score\": 4}\n```", 4),
            (
                r#"<think>maybe {"x": 1}?</think> Here: {"reason":"good","score":3.0} done"#,
                3,
            ),
            (r#"{"score":"2","reason":"good"}"#, 2),
            (r#"set {1, 2} {"reason":"good","score":1}"#, 1),
            (r#"{"reason":"good","score":2} {"reason":"good","score":2}"#, 2),
        ] {
            assert_eq!(parse(content), Ok(("good".into(), score)), "{content}");
        }
        assert_eq!(parse(r#"{"score":3}"#), Ok((String::new(), 3)));
    }

    #[test]
    fn what_is_not_a_verdict_is_an_error() {
        for content in [
            "",
            "5",
            "great!",
            "{",
            r#"{"reason":"good"}"#,
            r#"{"score":0}"#,
            r#"{"score":6}"#,
            r#"{"score":4.5}"#,
            r#"{"score":null}"#,
            r#"{"score":[5]}"#,
            r#"{"score":5"#,
            r#"{"score":1} {"score":5}"#,
            r#"{"verdict":{"score":5}}"#,
        ] {
            assert!(parse(content).is_err(), "{content}");
        }
        assert!(parse(&"{".repeat(5_000)).is_err());
    }

    fn settled(samples: &[Option<u8>]) -> Score {
        let samples = (samples.iter())
            .map(|score| match score {
                Some(score) => Sample::Verdict {
                    reason: format!("said {score}"),
                    score: *score,
                },
                None => Sample::Failed { error: "away".into() },
            })
            .collect();
        settle(JudgeRecord {
            model: "m".into(),
            prompt_sha256: "00".into(),
            pass_score: 4,
            samples,
        })
    }

    #[test]
    fn a_majority_of_all_samples_decides() {
        let score = settled(&[Some(5), Some(2), Some(4)]);
        assert_eq!((score.pass, score.value, score.error), (true, 4.0, None));
        assert_eq!(score.explanation, "2 of 3 gave at least 4 (scores: 5, 2, 4): said 5");
        let score = settled(&[Some(3), Some(5), Some(1)]);
        assert_eq!((score.pass, score.value, score.error), (false, 3.0, None));
    }

    #[test]
    fn failed_samples_never_pass_anything() {
        let score = settled(&[Some(5), None, Some(5)]);
        assert!(
            score.pass && score.explanation.contains("1 of 3 failed: away"),
            "{score:?}"
        );
        for samples in [
            &[None][..],
            &[None, None, None],
            &[Some(5), None, None],
            &[Some(5), None, Some(1)],
            &[],
        ] {
            let score = settled(samples);
            assert!(!score.pass && score.error.is_some() && score.value == 0.0, "{score:?}");
        }
    }
}
