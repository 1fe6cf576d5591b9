//! `calculator`: arithmetic, so that no model does it in its head. Parsed by exmex over [`Number`], which keeps whole
//! numbers exact for as long as they fit.

mod number;

#[cfg(test)]
mod tests;

use async_trait::async_trait;
use exmex::{BinOp, Express, FlatEx, MakeOperators, MatchLiteral, Operator, literal_matcher_from_pattern, ops_factory};
use serde_json::{Value, json};
use steadfast::run::ToolSpec;

use super::{Tool, ToolContext, required};
use number::Number;

const EXPRESSION_CHARS_MAX: usize = 1_000;
const NESTING_MAX: usize = 64;

const UNDERSTOOD: &str = "It understands + - * / % (remainder) ^ (power), brackets, numbers such as 2, 0.5 and 1e6, the \
                          constants pi and e, and sqrt cbrt abs round floor ceil trunc exp ln log2 log10 sin cos tan \
                          asin acos atan of one number in brackets (angles in radians).";
const CONVENTION: &str = "As in a spreadsheet, -2^2 is 4 and 2^3^2 is 64: use brackets where you mean otherwise.";

literal_matcher_from_pattern!(Literal, r"^([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?");

fn binary(apply: fn(Number, Number) -> Number, prio: i64) -> BinOp<Number> {
    BinOp {
        apply,
        prio,
        is_commutative: false,
    }
}

ops_factory!(
    Operators,
    Number,
    Operator::make_bin_unary("+", binary(Number::add, 0), |a| a),
    Operator::make_bin_unary("-", binary(Number::sub, 0), Number::neg),
    Operator::make_bin("*", binary(Number::mul, 1)),
    Operator::make_bin("/", binary(Number::div, 1)),
    Operator::make_bin("%", binary(Number::rem, 1)),
    Operator::make_bin("^", binary(Number::pow, 2)),
    Operator::make_unary("sqrt", |a| a.map(f64::sqrt)),
    Operator::make_unary("cbrt", |a| a.map(f64::cbrt)),
    Operator::make_unary("abs", Number::abs),
    Operator::make_unary("round", |a| a.to_whole(f64::round)),
    Operator::make_unary("floor", |a| a.to_whole(f64::floor)),
    Operator::make_unary("ceil", |a| a.to_whole(f64::ceil)),
    Operator::make_unary("trunc", |a| a.to_whole(f64::trunc)),
    Operator::make_unary("exp", |a| a.map(f64::exp)),
    Operator::make_unary("ln", |a| a.map(f64::ln)),
    Operator::make_unary("log2", |a| a.map(f64::log2)),
    Operator::make_unary("log10", |a| a.map(f64::log10)),
    Operator::make_unary("sin", |a| a.map(f64::sin)),
    Operator::make_unary("cos", |a| a.map(f64::cos)),
    Operator::make_unary("tan", |a| a.map(f64::tan)),
    Operator::make_unary("asin", |a| a.map(f64::asin)),
    Operator::make_unary("acos", |a| a.map(f64::acos)),
    Operator::make_unary("atan", |a| a.map(f64::atan)),
    Operator::make_constant("pi", Number::Real(std::f64::consts::PI)),
    Operator::make_constant("e", Number::Real(std::f64::consts::E))
);

pub struct Calculator;

#[async_trait]
impl Tool for Calculator {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "calculator".into(),
            description: format!("Computes an arithmetic expression. {UNDERSTOOD} {CONVENTION}"),
            parameters: json!({
                "type": "object",
                "properties": {
                    "expression": {
                        "type": "string",
                        "maxLength": EXPRESSION_CHARS_MAX,
                        "description": "Such as (3 + 4) * 2.5"
                    }
                },
                "required": ["expression"]
            }),
        }
    }

    fn retry_safe(&self) -> bool {
        true
    }

    fn immediate(&self) -> bool {
        true
    }

    async fn call(&self, arguments: &Value, _context: &ToolContext) -> Result<String, String> {
        compute(required(arguments, "expression")?)
    }
}

pub fn compute(expression: &str) -> Result<String, String> {
    let expression = normal(expression)?;
    let parsed = FlatEx::<Number, Operators, Literal>::parse(&expression);
    let refuse = |why: &str| format!("{expression:?} cannot be computed{why}. {UNDERSTOOD}");
    let value = parsed.and_then(|parsed| parsed.eval(&[])).map_err(|_| refuse(""))?;
    value.shown().map_err(|why| refuse(&format!(": {why}")))
}

/// The expression in the signs exmex reads, or why it is not one. exmex gives a meaning to more (variables, commas,
/// braces), and trusts its input more than a model's words deserve: only what is known passes.
fn normal(expression: &str) -> Result<String, String> {
    let length = expression.chars().count();
    if length > EXPRESSION_CHARS_MAX {
        return Err(format!(
            "the expression has {length} characters; at most {EXPRESSION_CHARS_MAX}"
        ));
    }
    let expression = expression
        .trim()
        .replace("**", "^")
        .replace(['×', '·', '⋅'], "*")
        .replace('÷', "/");
    let expression = expression
        .replace(['−', '–'], "-")
        .replace('π', "pi")
        .replace(['\n', '\t'], " ");
    let refuse = |why: String| Err(format!("{why}. {UNDERSTOOD}"));
    let known = |c: char| c.is_ascii_alphanumeric() || " .+-*/%^()".contains(c);
    if expression.is_empty() {
        return refuse("the expression is empty".into());
    }
    if let Some(odd) = expression.chars().find(|c| !known(*c)) {
        return refuse(format!("{odd:?} in {expression:?} means nothing to the calculator"));
    }
    let (mut open, mut deepest) = (0usize, 0usize);
    for c in expression.chars() {
        match c {
            '(' => open += 1,
            ')' if open == 0 => return refuse(format!("{expression:?} closes a bracket that is not open")),
            ')' => open -= 1,
            _ => {}
        }
        deepest = deepest.max(open);
    }
    if open > 0 {
        return refuse(format!("{expression:?} leaves {open} brackets open"));
    }
    if deepest > NESTING_MAX {
        return Err(format!(
            "the expression has brackets {deepest} deep; at most {NESTING_MAX}"
        ));
    }
    Ok(expression)
}
