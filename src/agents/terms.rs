//! The tables of an agent file about crashes and money: `[policies]`, `[budget]`, `[price]`.

use serde::de::{DeserializeOwned, IntoDeserializer, value::Error as ValueError};
use toml::Spanned;

use super::fields::{At, Checker, remedy};
use crate::run::{
    Amounts, Budget,
    agent::{Policies, Price},
    budget::{BudgetLimit, microusd},
};

const PRICE_USD_PER_MILLION_MAX: f64 = 1_000_000.0;
const PRICE_KEYS: &[&str] = &["input_usd_per_million", "output_usd_per_million"];
const POLICY_KEYS: &[&str] = &["orphaned_call", "cut_off_tool"];
const BUDGET_KEYS: &[&str] = &["steps", "tokens", "usd", "seconds", "on_breach"];

/// What one run may be given at the most.
pub const BUDGET_MAX: Amounts = Amounts {
    steps: Some(1_000_000),
    tokens: Some(1_000_000_000_000),
    usd: Some(1_000_000_000_000),
    seconds: Some(10 * 365 * 86_400),
};

/// One of a few words; what it means is what serde makes of it.
fn word<T: DeserializeOwned + Default>(check: &mut Checker<'_>, at: At<'_, '_>, key: &str, words: &[&str]) -> T {
    let Some(given) = check.string(at, key) else {
        return T::default();
    };
    let text = given.get_ref().as_str();
    if words.contains(&text) {
        let read: Result<T, ValueError> = T::deserialize(text.into_deserializer());
        if let Ok(read) = read {
            return read;
        }
    }
    let message = format!(
        "{text:?} is not one of its words; {}",
        remedy(text, words.iter().copied())
    );
    check.report(given.span(), at.field(key), message);
    T::default()
}

pub(super) fn policies(check: &mut Checker<'_>, at: At<'_, '_>) -> Policies {
    check.unknown_keys(at, POLICY_KEYS);
    Policies {
        orphaned_call: word(check, at, "orphaned_call", &["retry", "fail", "ask"]),
        cut_off_tool: word(check, at, "cut_off_tool", &["report", "ask"]),
    }
}

pub(super) fn budget(check: &mut Checker<'_>, at: At<'_, '_>, priced: bool) -> Budget {
    check.unknown_keys(at, BUDGET_KEYS);
    let mut amounts = Amounts::default();
    for limit in BudgetLimit::ALL {
        let (key, max) = (limit.as_str(), BUDGET_MAX.get(limit).unwrap_or_default());
        let given = match limit {
            BudgetLimit::Usd => check.number(at, key, 0.0..=max as f64 / 1e6).map(microusd),
            _ => check.integer(at, key, 1..=max),
        };
        if let Some(given) = given {
            amounts.set(limit, given);
        }
    }
    if let Some(usd) = at.table.get("usd").filter(|_| !priced) {
        let message = "needs a [price]: without one money is not counted";
        check.report(usd.span(), at.field("usd"), message);
    }
    let on_breach = word(check, at, "on_breach", &["ask", "fail"]);
    Budget { amounts, on_breach }
}

pub(super) fn price(check: &mut Checker<'_>, at: At<'_, '_>) -> Option<Price> {
    check.unknown_keys(at, PRICE_KEYS);
    let mut dollars = |key: &'static str| {
        if !at.table.contains_key(key) {
            let message = "is missing; a price names both what input and what output tokens cost";
            let span = at.table.keys().next().map_or(0..0, Spanned::span);
            check.report(span, at.field(key), message);
        }
        check.number(at, key, 0.0..=PRICE_USD_PER_MILLION_MAX)
    };
    let (input, output) = (dollars("input_usd_per_million"), dollars("output_usd_per_million"));
    Some(Price {
        input_usd_per_million: input?,
        output_usd_per_million: output?,
    })
}
