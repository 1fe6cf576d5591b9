//! Identifiers: a prefix that says what it names, and a UUIDv7, so ids sort by the time they were made.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct BadId {
    pub text: String,
    pub expected: &'static str,
}

impl BadId {
    fn new(text: &str, expected: &'static str) -> Self {
        Self {
            text: text.chars().take(80).collect(),
            expected,
        }
    }
}

fn parse_uuid(text: &str, prefix: &str, expected: &'static str) -> Result<Uuid, BadId> {
    let bad = || BadId::new(text, expected);
    let digits = text.strip_prefix(prefix).ok_or_else(bad)?;
    // One spelling only: an id is compared and indexed as text by clients.
    if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(bad());
    }
    Uuid::parse_str(digits).map_err(|_| bad())
}

fn serialize_display<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn deserialize_str<'de, D: Deserializer<'de>, T: FromStr<Err = BadId>>(deserializer: D) -> Result<T, D::Error> {
    let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

macro_rules! uuid_id {
    ($name:ident, $prefix:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0.simple())
            }
        }
        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                parse_uuid(
                    text,
                    $prefix,
                    concat!("an id of the form ", $prefix, "<32 lower-case hex digits>"),
                )
                .map(Self)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serialize_display(self, serializer)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserialize_str(deserializer)
            }
        }
    };
}

uuid_id!(RunId, "run_", "Names a run.");
uuid_id!(SessionId, "ses_", "Names a session (a conversation).");

/// Names an approval within its run: the version of the event that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApprovalId(pub u64);

impl fmt::Display for ApprovalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "apr_{}", self.0)
    }
}

impl FromStr for ApprovalId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let digits = text.strip_prefix("apr_");
        let plain = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0'));
        let number = plain.and_then(|digits| digits.parse().ok());
        number
            .map(Self)
            .ok_or_else(|| BadId::new(text, "an approval of this run, such as apr_7"))
    }
}

impl Serialize for ApprovalId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_display(self, serializer)
    }
}

impl<'de> Deserialize<'de> for ApprovalId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_str(deserializer)
    }
}

/// Names a tenant: 1 to 63 of `a-z 0-9 _ -`, so it can stand in a queue subject and in a metric label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(String);

impl TenantId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TenantId {
    /// The tenant of an installation without identity (`steadfast dev` on loopback).
    fn default() -> Self {
        Self("default".into())
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TenantId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let fits = (1..=63).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(BadId::new(text, "a tenant id: 1 to 63 of a-z 0-9 _ -"))
        }
    }
}

impl Serialize for TenantId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_display(self, serializer)
    }
}

impl<'de> Deserialize<'de> for TenantId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_str(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_written_and_nothing_else_is_read() {
        let id = RunId(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001));
        assert_eq!(id.to_string().parse(), Ok(id));
        let hex = id.0.simple().to_string();
        for bad in [
            "",
            "run_",
            &hex,
            &format!("ses_{hex}"),
            &format!("run_{}", hex.to_uppercase().replace('0', "A")),
            "run_{x}",
        ] {
            assert!(bad.parse::<RunId>().is_err(), "{bad:?} was read as a run id");
        }
        assert_eq!("apr_17".parse(), Ok(ApprovalId(17)));
        for bad in ["apr_", "apr_017", "apr_+7", "17", "apr_99999999999999999999"] {
            assert!(
                bad.parse::<ApprovalId>().is_err(),
                "{bad:?} was read as an approval's id"
            );
        }
        assert!("Acme".parse::<TenantId>().is_err() && "a.b".parse::<TenantId>().is_err());
    }
}
