//! What a person is told when a command cannot do its work: one sentence with its causes, never a backtrace.

use std::{error::Error, fmt};

/// Why a command could not be carried out. That the answer is "no" (a run failed, a check found damage) is not this:
/// it is an exit code.
pub enum Failure {
    Said(String),
    /// Nobody reads our output any more (`… | head`): nothing is wrong, and nothing more can be said.
    OutputClosed,
}

/// The exit code of a command that could not be carried out; clap uses it for wrong usage too.
pub const EXIT_FAILURE: u8 = 2;

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self::Said(message.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(message) => f.write_str(message),
            Self::OutputClosed => f.write_str("the output was closed"),
        }
    }
}

/// Says what was being done when something went wrong.
pub trait Context<T> {
    fn context(self, doing: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: Error + 'static> Context<T> for Result<T, E> {
    fn context(self, doing: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::Said(format!("{doing}: {}", chain(&error))))
    }
}

/// An error and its causes in one line. Causes that only repeat what was said are left out.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

macro_rules! from {
    ($($error:ty),*) => { $(impl From<$error> for Failure {
        fn from(error: $error) -> Self { Self::Said(chain(&error)) }
    })* };
}

from!(
    steadfast::store::Error,
    steadfast::queue::Error,
    steadfast::agents::AgentsError,
    steadfast_evals::EvalError,
    steadfast_gateway::BadJwtConfig,
    steadfast_workers::model::BadProvider
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once_and_in_order() {
        #[derive(Debug)]
        struct Outer(std::io::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("cannot connect")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let error = Outer(std::io::Error::other("refused"));
        assert_eq!(chain(&error), "cannot connect: refused");
        let said = Err::<(), _>(error)
            .context("reading x")
            .err()
            .map(|failure| failure.to_string());
        assert_eq!(said.as_deref(), Some("reading x: cannot connect: refused"));
    }
}
