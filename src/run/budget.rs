//! Budgets: what a run may spend. Reserved before a model call, settled after; a person may raise them.

use serde::{Deserialize, Serialize};
use serde_json::Number;

/// What happens when a reservation does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBreach {
    /// The run waits until the budget is raised, or for its end of time.
    #[default]
    Ask,
    Fail,
}

/// One of the things a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetLimit {
    /// Model calls that answered.
    Steps,
    /// Input and output together.
    Tokens,
    Usd,
    /// Since the request, waiting included.
    Seconds,
}

impl BudgetLimit {
    pub const ALL: [Self; 4] = [Self::Steps, Self::Tokens, Self::Usd, Self::Seconds];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Steps => "steps",
            Self::Tokens => "tokens",
            Self::Usd => "usd",
            Self::Seconds => "seconds",
        }
    }

    /// An amount as people write it: money is counted in millionths of a dollar, and shown in dollars.
    pub fn shown(self, amount: u64) -> String {
        match self {
            Self::Usd => format!("{} USD", dollars(amount)),
            other => format!("{amount} {}", other.as_str()),
        }
    }
}

/// An amount of each; none is no limit. Money is in millionths of a dollar here, and in dollars in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amounts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "in_dollars")]
    pub usd: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

impl Amounts {
    pub fn get(&self, limit: BudgetLimit) -> Option<u64> {
        match limit {
            BudgetLimit::Steps => self.steps,
            BudgetLimit::Tokens => self.tokens,
            BudgetLimit::Usd => self.usd,
            BudgetLimit::Seconds => self.seconds,
        }
    }

    pub fn set(&mut self, limit: BudgetLimit, amount: u64) {
        let place = match limit {
            BudgetLimit::Steps => &mut self.steps,
            BudgetLimit::Tokens => &mut self.tokens,
            BudgetLimit::Usd => &mut self.usd,
            BudgetLimit::Seconds => &mut self.seconds,
        };
        *place = Some(amount);
    }

    /// The amounts that are given, each with what it counts.
    pub fn given(&self) -> impl Iterator<Item = (BudgetLimit, u64)> {
        let amounts = *self;
        (BudgetLimit::ALL.into_iter()).filter_map(move |limit| Some((limit, amounts.get(limit)?)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Budget {
    #[serde(flatten)]
    pub amounts: Amounts,
    #[serde(default)]
    pub on_breach: OnBreach,
}

impl Budget {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The first amount that does not hold what is spent and what is to be reserved.
    pub fn shortage(&self, spent: &Amounts, reserve: &Amounts) -> Option<Shortage> {
        self.amounts.given().find_map(|(limit, budget)| {
            let (spent, needed) = (spent.get(limit)?, reserve.get(limit)?);
            (spent.saturating_add(needed) > budget).then_some(Shortage {
                limit,
                budget,
                spent,
                needed,
            })
        })
    }
}

/// What a budget lacks for the next model call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct Shortage {
    pub limit: BudgetLimit,
    pub budget: u64,
    pub spent: u64,
    /// What the next call reserves.
    pub needed: u64,
}

impl Shortage {
    pub fn is_covered_by(&self, amounts: &Amounts) -> bool {
        (amounts.get(self.limit)).is_none_or(|budget| self.spent.saturating_add(self.needed) <= budget)
    }
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |amount| self.limit.shown(amount);
        write!(
            f,
            "the run's budget of {} does not hold the next model call: {} spent, and it needs {} (budget.{})",
            shown(self.budget),
            shown(self.spent),
            shown(self.needed),
            self.limit.as_str()
        )
    }
}

/// A shortage in JSON: amounts of money in dollars.
#[derive(Serialize, Deserialize)]
struct Written {
    limit: BudgetLimit,
    budget: Number,
    spent: Number,
    needed: Number,
}

impl From<Shortage> for Written {
    fn from(shortage: Shortage) -> Self {
        let written = |amount: u64| match shortage.limit {
            BudgetLimit::Usd => Number::from_f64(dollars(amount)).unwrap_or_else(|| amount.into()),
            _ => amount.into(),
        };
        Self {
            limit: shortage.limit,
            budget: written(shortage.budget),
            spent: written(shortage.spent),
            needed: written(shortage.needed),
        }
    }
}

impl TryFrom<Written> for Shortage {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let read = |number: &Number| {
            let amount = match written.limit {
                BudgetLimit::Usd => number.as_f64().map(microusd),
                _ => number.as_u64(),
            };
            amount.ok_or_else(|| format!("{number} is not an amount of {}", written.limit.as_str()))
        };
        Ok(Self {
            limit: written.limit,
            budget: read(&written.budget)?,
            spent: read(&written.spent)?,
            needed: read(&written.needed)?,
        })
    }
}

pub fn dollars(microusd: u64) -> f64 {
    microusd as f64 / 1e6
}

/// Millionths of a dollar, rounded; what is less than nothing is nothing.
pub fn microusd(dollars: f64) -> u64 {
    (dollars * 1e6).round().max(0.0) as u64
}

mod in_dollars {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(amount: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        amount.map(super::dollars).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        Ok(Option::<f64>::deserialize(deserializer)?.map(super::microusd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_dollars_in_json_and_loses_nothing() {
        for usd in [0, 1, 999_999, 1_500_000, 123_456_789_012] {
            let amounts = Amounts {
                usd: Some(usd),
                ..Amounts::default()
            };
            let json = serde_json::to_string(&amounts).expect("plain numbers");
            assert_eq!(serde_json::from_str::<Amounts>(&json).expect(&json), amounts);
            let shortage = Shortage {
                limit: BudgetLimit::Usd,
                budget: usd,
                spent: usd,
                needed: 7,
            };
            let json = serde_json::to_string(&shortage).expect("plain numbers");
            assert_eq!(serde_json::from_str::<Shortage>(&json).expect(&json), shortage);
        }
        let json = r#"{"limit":"tokens","budget":5,"spent":4,"needed":2}"#;
        let shortage: Shortage = serde_json::from_str(json).expect("a shortage");
        assert_eq!(serde_json::to_string(&shortage).expect("plain numbers"), json);
        assert!(serde_json::from_str::<Shortage>(&json.replace('5', "-5")).is_err());
    }

    #[test]
    fn only_what_is_limited_can_be_short() {
        let spent = Amounts {
            steps: Some(2),
            tokens: Some(90),
            usd: Some(10),
            seconds: Some(5),
        };
        let reserve = Amounts {
            steps: Some(1),
            tokens: Some(11),
            usd: Some(1),
            seconds: Some(1),
        };
        let budget = |amounts| Budget {
            amounts,
            on_breach: OnBreach::Ask,
        };
        assert_eq!(budget(Amounts::default()).shortage(&spent, &reserve), None);
        let mut amounts = Amounts {
            steps: Some(3),
            tokens: Some(100),
            ..Amounts::default()
        };
        let shortage = budget(amounts).shortage(&spent, &reserve).expect("tokens are short");
        assert_eq!(
            shortage.to_string(),
            "the run's budget of 100 tokens does not hold the next model call: 90 tokens spent, and it needs 11 tokens \
             (budget.tokens)"
        );
        assert!(!shortage.is_covered_by(&amounts));
        amounts.set(BudgetLimit::Tokens, 101);
        assert!(shortage.is_covered_by(&amounts));
        assert_eq!(budget(amounts).shortage(&spent, &reserve), None);
    }
}
