//! Scorers of the answer's text.

use super::Score;
use crate::{dataset::Expected, text::quote};

/// One score for each kind of expectation given.
pub fn scores(expected: &Expected, output: &str) -> Vec<Score> {
    let mut scores = Vec::new();
    if !expected.exact.is_empty() {
        scores.push(Score::of("exact", exact(expected, output)));
    }
    if !expected.contains.is_empty() {
        scores.push(Score::of("contains", contains(expected, output)));
    }
    if !expected.contains_any.is_empty() {
        scores.push(Score::of("contains_any", contains_any(expected, output)));
    }
    scores
}

fn exact(expected: &Expected, output: &str) -> Result<String, String> {
    let answer = normalise(expected, output);
    match expected.exact.iter().find(|text| normalise(expected, text) == answer) {
        Some(text) => Ok(format!("the answer is {}", quote(text))),
        None => Err(format!(
            "the answer is {}, not {}",
            quote(output),
            alternatives(&expected.exact)
        )),
    }
}

fn contains(expected: &Expected, output: &str) -> Result<String, String> {
    let answer = normalise(expected, output);
    let missing: Vec<String> = (expected.contains.iter())
        .filter(|text| !answer.contains(&normalise(expected, text)))
        .map(|text| quote(text))
        .collect();
    if missing.is_empty() {
        return Ok("the answer contains all that is expected".into());
    }
    Err(format!(
        "the answer lacks {}; it is {}",
        missing.join(" and "),
        quote(output)
    ))
}

fn contains_any(expected: &Expected, output: &str) -> Result<String, String> {
    let answer = normalise(expected, output);
    match expected
        .contains_any
        .iter()
        .find(|text| answer.contains(&normalise(expected, text)))
    {
        Some(text) => Ok(format!("the answer contains {}", quote(text))),
        None => Err(format!(
            "the answer lacks {}; it is {}",
            alternatives(&expected.contains_any),
            quote(output)
        )),
    }
}

fn normalise(expected: &Expected, text: &str) -> String {
    let text = if expected.trim { text.trim() } else { text };
    if expected.ignore_case {
        text.to_lowercase()
    } else {
        text.into()
    }
}

fn alternatives(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| quote(text)).collect();
    quoted.join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Expected {
        Expected {
            exact: vec![],
            contains: vec![],
            contains_any: vec![],
            trim: true,
            ignore_case: false,
        }
    }

    fn passes(expected: &Expected, output: &str) -> bool {
        scores(expected, output).iter().all(|score| score.pass)
    }

    #[test]
    fn exact_text_is_compared_as_the_options_say() {
        let plain = Expected {
            exact: vec!["Paris".into(), "Paris, France".into()],
            ..expected()
        };
        assert!(passes(&plain, " Paris\n") && passes(&plain, "Paris, France"));
        assert!(!passes(&plain, "paris") && !passes(&plain, "Paris.") && !passes(&plain, ""));
        let untrimmed = Expected {
            trim: false,
            ..plain.clone()
        };
        assert!(passes(&untrimmed, "Paris") && !passes(&untrimmed, "Paris\n"));
        let any_case = Expected {
            ignore_case: true,
            exact: vec!["STRASSE Ä".into()],
            ..expected()
        };
        assert!(passes(&any_case, "strasse ä"));
    }

    #[test]
    fn contains_wants_all_and_contains_any_wants_one() {
        let all = Expected {
            contains: vec!["42".into(), "6".into()],
            ..expected()
        };
        assert!(passes(&all, "6 * 7 = 42") && !passes(&all, "42"));
        let any = Expected {
            contains_any: vec!["42".into(), "forty-two".into()],
            ignore_case: true,
            ..expected()
        };
        assert!(passes(&any, "It is Forty-Two.") && !passes(&any, "It is 41."));
    }

    #[test]
    fn each_kind_of_expectation_gives_one_score_that_says_why() {
        let both = Expected {
            exact: vec!["42".into()],
            contains: vec!["4".into(), "9".into()],
            ..expected()
        };
        let scores = scores(&both, "42");
        let [exact, contains] = &scores[..] else {
            panic!("{scores:?}")
        };
        assert_eq!((exact.name.as_str(), exact.value, exact.pass), ("exact", 1.0, true));
        assert_eq!(
            (contains.name.as_str(), contains.value, contains.pass),
            ("contains", 0.0, false)
        );
        assert_eq!(contains.explanation, "the answer lacks \"9\"; it is \"42\"");
    }
}
