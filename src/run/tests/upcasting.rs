//! Events of other builds: older ones are lifted, newer ones are refused by name.

use serde_json::{Value, json};

use super::*;
use crate::run::{
    Corrupt,
    upcast::{STEPS, Step, lift},
};

/// Two releases back, `reason` was called `why`, and one release back it had no `by`.
const HISTORY: &[Step] = &[
    Step {
        event: "run.paused",
        from: 1,
        lift: |mut data| {
            data["reason"] = data["why"].take();
            let fields = data.as_object_mut().ok_or("it is no object")?;
            fields.remove("why");
            Ok(data)
        },
    },
    Step {
        event: "run.paused",
        from: 2,
        lift: |mut data| {
            data.as_object_mut()
                .ok_or("it is no object")?
                .insert("by".into(), "nobody".into());
            Ok(data)
        },
    },
];

fn to_the_top(schema: u16, payload: &str) -> Result<(u16, Value), Corrupt> {
    let (mut schema, mut payload) = (schema, payload.to_owned());
    while let Some(lifted) = lift(HISTORY, "run.paused", schema, &payload)? {
        (schema, payload) = lifted;
    }
    Ok((schema, serde_json::from_str(&payload).expect("JSON")))
}

#[test]
fn an_old_event_is_lifted_step_by_step_and_one_of_today_is_left_alone() {
    let today = json!({"reason": "lunch", "by": "nobody"});
    assert_eq!(to_the_top(1, r#"{"why":"lunch"}"#).expect("lifted"), (3, today.clone()));
    assert_eq!(
        to_the_top(2, r#"{"reason":"lunch"}"#).expect("lifted"),
        (3, today.clone())
    );
    assert_eq!(to_the_top(3, &today.to_string()).expect("as it is"), (3, today));
    assert!(lift(HISTORY, "run.resumed", 1, "{}").expect("nothing to do").is_none());
}

#[test]
fn an_old_event_that_does_not_read_is_damage_and_says_so() {
    for payload in ["{", "7", "[]"] {
        let refused = to_the_top(2, payload).expect_err("not an object").to_string();
        assert!(
            refused.contains("run.paused") && refused.contains("schema 2"),
            "{refused}"
        );
    }
}

#[test]
fn every_schema_that_is_no_longer_written_has_a_way_up_and_no_other_has() {
    let mut missing = vec![];
    for (name, today) in Event::SCHEMAS {
        for old in 1..*today {
            if !STEPS.iter().any(|step| (step.event, step.from) == (*name, old)) {
                missing.push(format!("{name} from schema {old}"));
            }
        }
    }
    assert!(missing.is_empty(), "no upcaster for {missing:?}");
    for step in STEPS {
        let known = Event::SCHEMAS.iter().find(|(name, _)| *name == step.event);
        assert!(
            known.is_some_and(|(_, today)| step.from < *today),
            "{} from {}",
            step.event,
            step.from
        );
    }
}

#[test]
fn what_a_newer_build_recorded_is_refused_by_name_and_never_guessed() {
    let payload = r#"{"output":"done"}"#;
    assert!(Event::from_stored("run.completed", 1, payload).is_ok());
    for (name, schema) in [("run.completed", 2), ("run.completed", 0), ("run.paused", 1)] {
        match Event::from_stored(name, schema, payload) {
            Err(Corrupt::UnknownEvent { name: said, schema: at }) => assert_eq!((said.as_str(), at), (name, schema)),
            other => panic!("{name}, schema {schema}: {other:?}"),
        }
    }
}
