//! What a caller may do.

use std::fmt;

/// One permission, as it stands in a token or an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    RunsWrite,
    RunsRead,
    /// Deciding for a run: answering its approvals, raising its budget.
    ApprovalsWrite,
    SessionsWrite,
    SessionsRead,
    UsageRead,
    ProvidersRead,
}

impl Scope {
    pub const ALL: [Self; 7] = [
        Self::RunsWrite,
        Self::RunsRead,
        Self::ApprovalsWrite,
        Self::SessionsWrite,
        Self::SessionsRead,
        Self::UsageRead,
        Self::ProvidersRead,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::RunsWrite => "runs:write",
            Self::RunsRead => "runs:read",
            Self::ApprovalsWrite => "approvals:write",
            Self::SessionsWrite => "sessions:write",
            Self::SessionsRead => "sessions:read",
            Self::UsageRead => "usage:read",
            Self::ProvidersRead => "providers:read",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    pub fn all() -> Self {
        Self(u8::MAX)
    }

    /// Reads a space-separated list; `*` stands for all. A token may carry scopes of other services: they are left out.
    pub fn read(text: &str) -> Self {
        text.split_ascii_whitespace()
            .fold(Self::default(), |scopes, word| match word {
                "*" => Self::all(),
                word => Self(
                    scopes.0
                        | Scope::ALL
                            .into_iter()
                            .find(|scope| scope.as_str() == word)
                            .map_or(0, Scope::bit),
                ),
            })
    }

    pub fn allow(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }
}

/// The words of a list that are no scope: for whoever creates a key, so that a typing error is not a silent refusal.
pub fn unknown_scopes(text: &str) -> Vec<&str> {
    text.split_ascii_whitespace()
        .filter(|word| *word != "*" && !Scope::ALL.into_iter().any(|scope| scope.as_str() == *word))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_scopes_that_were_given_are_allowed() {
        let scopes = Scopes::read("runs:read  billing:write usage:read");
        let allowed: Vec<_> = Scope::ALL.into_iter().filter(|scope| scopes.allow(*scope)).collect();
        assert_eq!(allowed, [Scope::RunsRead, Scope::UsageRead]);
        assert!(Scope::ALL.into_iter().all(|scope| Scopes::read("*").allow(scope)));
        assert!(Scope::ALL.into_iter().all(|scope| !Scopes::read("").allow(scope)));
        assert_eq!(unknown_scopes("runs:read run:write *"), ["run:write"]);
    }
}
