use super::{EXPRESSION_CHARS_MAX, compute};

fn check(cases: &[(&str, &str)]) {
    for (expression, expected) in cases {
        assert_eq!(compute(expression).as_deref(), Ok(*expected), "{expression}");
    }
}

#[test]
fn whole_numbers_stay_whole_and_exact() {
    check(&[
        ("6 * 7", "42"),
        ("10 / 4", "2.5"),
        ("10 / 5", "2"),
        ("123456789 * 987654321", "121932631112635269"),
        ("9007199254740993 + 1", "9007199254740994"),
        ("2^100", "1267650600228229401496703205376"),
        ("7 % 3", "1"),
        ("sqrt(16)", "4"),
        ("(1 + 2) * (3 - -4)", "21"),
        ("-3", "-3"),
        ("0 - 0", "0"),
    ]);
}

#[test]
fn fractions_are_shown_as_people_write_them() {
    check(&[
        ("0.1 + 0.2", "0.3"),
        ("1 / 3", "0.333333333333333"),
        ("2^0.5", "1.4142135623731"),
        ("2^-1", "0.5"),
        ("round(2.5)", "3"),
        ("floor(-0.5)", "-1"),
        (".5 + 1.", "1.5"),
        ("1e3 + 1.5e-1", "1000.15"),
        ("2^200", "about 1.60693804425899e60"),
        ("1 / 3000000000", "about 3.33333333333333e-10"),
        ("sin(pi / 2)", "1"),
        ("ln(e)", "1"),
        ("cbrt(27) + log10(1000) + log2(8) + exp(0) + abs(-1)", "11"),
    ]);
}

#[test]
fn signs_of_other_alphabets_are_read() {
    check(&[
        ("6 × 7 ÷ 2 − 1", "20"),
        ("2**3", "8"),
        ("2 * π", "6.28318530717959"),
        ("1\n+ 1", "2"),
    ]);
}

#[test]
fn precedence_is_that_of_a_spreadsheet() {
    check(&[
        ("-2^2", "4"),
        ("2^3^2", "64"),
        ("1 + 2 * 3 ^ 2", "19"),
        ("8 / 2 / 2", "2"),
        ("2 - 3 - 4", "-5"),
    ]);
}

#[test]
fn what_cannot_be_computed_is_said_together_with_what_can() {
    let cases = [
        "",
        "   ",
        "x + 1",
        "2 +",
        "* 3",
        "2 3",
        "()",
        "(1",
        "1)",
        "max(1, 2)",
        "{x}",
        "1; 2",
        "sqrt",
        "sqrt 4 5",
        "1 / 0",
        "5 / (1 / 0)",
        "0 / 0",
        "sqrt(-1)",
        "ln(0)",
        "5 % 0",
        "1..2",
        "1e999",
        "pi pi",
        "2(3)",
        "(2)3",
        "+",
        "-",
        "2 + * 3",
        "rm -rf /",
        "é",
        "\u{202e}1",
        "9e",
        "e e",
        "sin",
        "sin()",
        "sin(sin)",
        "2^",
        "^2",
        ")(",
        "- - -",
        "1 - ()",
    ];
    for expression in cases {
        let said = compute(expression).expect_err(expression);
        assert!(said.contains("It understands + - * /"), "{expression:?}: {said}");
    }
}

#[test]
fn huge_and_deep_expressions_are_refused_or_computed_but_never_break_it() {
    let many = "9".repeat(EXPRESSION_CHARS_MAX);
    assert!(
        compute(&many).is_err(),
        "a number of a thousand digits is infinite here"
    );
    assert!(
        compute(&format!("{many}1"))
            .expect_err("too long")
            .contains("at most 1000")
    );
    let deep = format!("{}1{}", "(".repeat(400), ")".repeat(400));
    assert!(compute(&deep).expect_err("too deep").contains("at most 64"));
    let nested = format!("{}1{}", "(".repeat(64), ")".repeat(64));
    assert_eq!(compute(&nested).as_deref(), Ok("1"));
    let functions = format!("{}1{}", "abs(".repeat(64), ")".repeat(64));
    assert_eq!(compute(&functions).as_deref(), Ok("1"));
    assert_eq!(compute(&format!("{}1", "-".repeat(999))).as_deref(), Ok("-1"));
    assert_eq!(compute(&format!("{}1", "1+".repeat(499))).as_deref(), Ok("500"));
    assert!(compute(&format!("{}9", "9^".repeat(499))).is_err(), "infinite");
    assert!(compute("99999999 ^ 99999999").is_err());
}

/// Everything a confused model might write, from a fixed seed: an answer or an error, never a panic.
#[test]
fn no_sequence_of_known_signs_makes_it_panic() {
    const SIGNS: [&str; 22] = [
        "1", "2.5", ".", "+", "-", "*", "/", "%", "^", "(", ")", " ", "sqrt", "sin(", "e", "pi", "E", "abs", "1e", "x",
        "log", "0",
    ];
    let mut state: u64 = 0x5eed;
    for _ in 0..20_000 {
        let mut expression = String::new();
        for _ in 0..12 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            expression.push_str(SIGNS[(state >> 33) as usize % SIGNS.len()]);
        }
        let computed = std::panic::catch_unwind(|| compute(&expression));
        assert!(computed.is_ok(), "{expression:?} made the calculator panic");
    }
}

proptest::proptest! {
    #[test]
    fn whatever_a_model_asks_for_is_computed_or_refused(
        any in ".{0,80}",
        likely in "[0-9.eE+*/%^() -]{0,80}|((abs|sqrt|round|min|max|log|pow)?[(]?-?[0-9.]{1,8}[)]?[-+*/%^, ]{1,2}){1,12}",
        depth in 0..EXPRESSION_CHARS_MAX,
    ) {
        for expression in [any, likely, "(".repeat(depth), "-".repeat(depth), "2^".repeat(depth / 2)] {
            // Answers, whatever it is: a panic or an overflow of the stack would take the worker with it.
            let _ = compute(&expression);
        }
    }
}
