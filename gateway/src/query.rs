//! Query parameters and path ids, refused by name.

use std::{borrow::Cow, str::FromStr};

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use steadfast::{
    read::Page,
    run::{RunId, SessionId},
};

use crate::{
    body::closest,
    limits::{PAGE_DEFAULT, PAGE_MAX},
    problem::Problem,
};

/// The parameters of a query, each known and given once.
#[derive(Debug)]
pub struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    pub fn read(query: Option<&'a str>, known: &[&str]) -> Result<Self, Problem> {
        let mut pairs: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !known.contains(&name.as_ref()) {
                let name: String = name.chars().take(60).collect();
                let detail = match closest(&name, known) {
                    Some(close) => format!("there is no parameter {name:?}; did you mean {close:?}?"),
                    None if known.is_empty() => format!("there is no parameter {name:?}; this endpoint takes none"),
                    None => format!(
                        "there is no parameter {name:?}; the parameters are: {}",
                        known.join(", ")
                    ),
                };
                return Err(Problem::malformed("invalid_request", detail.clone()).at(name, detail));
            }
            if pairs.iter().any(|(earlier, _)| *earlier == name) {
                return Err(bad(&name, "is given twice; give it once"));
            }
            if value.contains('\0') {
                return Err(bad(&name, "holds a null character (%00); leave it out"));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_ref())
    }

    /// A value read by its type, whose error says what it should be.
    pub fn parse<T>(&self, name: &str) -> Result<Option<T>, Problem>
    where
        T: FromStr<Err: std::fmt::Display>,
    {
        self.get(name)
            .map(|text| {
                text.parse()
                    .map_err(|error| bad(name, &format!("cannot be read: {error}")))
            })
            .transpose()
    }

    /// A whole number within bounds.
    pub fn number(&self, name: &str, min: u64, max: u64, default: u64) -> Result<u64, Problem> {
        let Some(text) = self.get(name) else { return Ok(default) };
        match text.parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            _ => Err(bad(name, &format!("must be a whole number from {min} to {max}"))),
        }
    }

    /// `limit`, `after` and `before`.
    pub fn page(&self) -> Result<Page, Problem> {
        let limit = self.number("limit", 1, PAGE_MAX.into(), PAGE_DEFAULT.into())?;
        let text = |name| self.get(name).map(str::to_owned);
        Ok(Page {
            limit: limit.try_into().unwrap_or(PAGE_MAX),
            after: text("after"),
            before: text("before"),
        })
    }
}

pub fn bad(name: &str, what: &str) -> Problem {
    Problem::malformed("invalid_request", format!("the parameter {name} {what}")).at(name, what)
}

/// The id in a path. What is no id names nothing, so it is not found.
pub struct PathId<T>(pub T);

impl<S: Sync + Send> FromRequestParts<S> for PathId<RunId> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        id(parts, state, Problem::no_such_run).await
    }
}

impl<S: Sync + Send> FromRequestParts<S> for PathId<SessionId> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        id(parts, state, Problem::no_such_session).await
    }
}

async fn id<T: FromStr, S: Sync + Send>(
    parts: &mut Parts,
    state: &S,
    missing: fn(&str) -> Problem,
) -> Result<PathId<T>, Problem> {
    let Ok(Path(text)) = Path::<String>::from_request_parts(parts, state).await else {
        return Err(missing("?"));
    };
    text.parse().map(PathId).map_err(|_| missing(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_or_doubled_parameter_is_named() {
        let refused = |query| {
            format!(
                "{:?}",
                Query::read(Some(query), &["after", "limit"]).expect_err("it was read")
            )
        };
        assert!(refused("limt=3").contains("did you mean"));
        assert!(refused("limit=3&limit=4").contains("twice"));
        assert!(refused("colour=red").contains("after, limit"));
    }

    #[test]
    fn numbers_are_bounded() {
        let limit = |query| Query::read(Some(query), &["limit"]).and_then(|query| query.number("limit", 1, 100, 20));
        assert_eq!(limit("limit=100").ok(), Some(100));
        assert_eq!(limit("").ok(), Some(20));
        for bad in [
            "limit=0",
            "limit=101",
            "limit=-1",
            "limit=x",
            "limit=",
            "limit=99999999999999999999",
        ] {
            assert!(limit(bad).is_err(), "{bad} was taken");
        }
    }
}
