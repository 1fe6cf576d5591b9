//! The queries.

use steadfast::{
    read::{Page, ReadModels, RunFilter},
    run::{Message, Status, TenantId},
};
use steadfast_projections::reads::message_cursor;

use crate::bed::Bed;

fn page(limit: u32) -> Page {
    Page {
        limit,
        ..Page::default()
    }
}

#[tokio::test]
async fn runs_are_listed_newest_first_and_paged_without_a_gap_or_a_double() {
    let bed = Bed::new().await;
    let mut runs = bed.furnish().await;
    bed.project().await;
    runs.pop();
    runs.reverse();
    let (reads, tenant, all) = (bed.reads(), TenantId::default(), RunFilter::default());
    let mut seen = Vec::new();
    let mut from = page(3);
    loop {
        let list = reads.runs(&tenant, &all, &from).await.expect("a page");
        seen.extend(list.data.iter().map(|row| row.id));
        from.after = seen.last().map(ToString::to_string);
        if !list.has_more {
            break;
        }
    }
    assert_eq!(seen, runs);
    let back = Page {
        limit: 2,
        before: Some(runs[4].to_string()),
        after: None,
    };
    let list = reads.runs(&tenant, &all, &back).await.expect("a page");
    assert_eq!(list.data.iter().map(|row| row.id).collect::<Vec<_>>(), runs[2..4]);
    assert!(list.has_more);
    let bad = Page {
        limit: 2,
        after: Some("run_7".into()),
        before: None,
    };
    let error = reads.runs(&tenant, &all, &bad).await.expect_err("no such id");
    assert!(error.to_string().contains("after"), "{error}");
}

#[tokio::test]
async fn rows_say_what_became_of_each_run_and_filters_choose_among_them() {
    let bed = Bed::new().await;
    bed.furnish().await;
    bed.project().await;
    let (reads, tenant) = (bed.reads(), TenantId::default());
    let of = |status| RunFilter {
        status: Some(status),
        ..RunFilter::default()
    };
    let mut counts = Vec::new();
    for status in Status::ALL {
        counts.push(
            reads
                .runs(&tenant, &of(status), &page(50))
                .await
                .expect("a page")
                .data
                .len(),
        );
    }
    assert_eq!(counts, [1, 0, 2, 3, 1, 1]);
    let done = reads
        .runs(&tenant, &of(Status::Completed), &page(50))
        .await
        .expect("a page")
        .data;
    assert!(
        done.iter()
            .all(|row| row.output.as_deref() == Some("It is noon.") && row.ended_at.is_some())
    );
    assert!(
        done.iter()
            .all(|row| (row.input_tokens, row.output_tokens, row.cost_microusd) == (20, 10, 14))
    );
    assert_eq!(done[0].input, "and its second turn\u{FFFD}", "Postgres keeps no NUL");
    let failed = reads
        .runs(&tenant, &of(Status::Failed), &page(50))
        .await
        .expect("a page")
        .data;
    assert_eq!(failed[0].error_code.as_deref(), Some("model_unavailable"));
    let session = RunFilter {
        session_id: Some(done[0].session_id),
        ..RunFilter::default()
    };
    assert_eq!(
        reads
            .runs(&tenant, &session, &page(50))
            .await
            .expect("a page")
            .data
            .len(),
        2
    );
    let agent = RunFilter {
        agent: Some("nobody".into()),
        ..RunFilter::default()
    };
    assert!(
        reads
            .runs(&tenant, &agent, &page(50))
            .await
            .expect("a page")
            .data
            .is_empty()
    );
}

#[tokio::test]
async fn a_conversation_reads_in_order_and_every_message_names_its_event() {
    let bed = Bed::new().await;
    let runs = bed.furnish().await;
    bed.project().await;
    let (reads, tenant) = (bed.reads(), TenantId::default());
    let session = bed
        .store
        .reader
        .head(runs[2])
        .await
        .expect("a head")
        .expect("the run")
        .session_id;
    let all = reads.messages(&tenant, session, &page(50)).await.expect("messages");
    let told: Vec<_> = all.data.iter().map(|row| (row.run_id, row.message.role())).collect();
    let turn = ["system", "user", "assistant", "tool", "tool", "assistant"];
    assert_eq!(
        told,
        [runs[2], runs[3]]
            .iter()
            .flat_map(|run| turn.map(|role| (*run, role)))
            .collect::<Vec<_>>()
    );
    assert_eq!(
        all.data[4].message,
        Message::Tool {
            tool_call_id: "c2".into(),
            content: "error: no money".into()
        }
    );
    assert_eq!(
        all.data[7].message.content(),
        "and its second turn\0",
        "the conversation itself is kept exactly"
    );
    // A page boundary inside an event's messages.
    let first = &all.data[0];
    let after = Some(message_cursor(first.run_id, first.version, first.index));
    let rest = reads
        .messages(
            &tenant,
            session,
            &Page {
                limit: 50,
                after,
                before: None,
            },
        )
        .await
        .expect("messages");
    assert_eq!(rest.data, all.data[1..]);
    // The run's own fold tells the same.
    let loaded = bed
        .store
        .reader
        .load(runs[2])
        .await
        .expect("the run loads")
        .expect("the run");
    let rows: Vec<_> = all
        .data
        .iter()
        .filter(|row| row.run_id == runs[2])
        .map(|row| row.message.clone())
        .collect();
    assert!(
        rows.iter().eq(loaded.run.messages.iter().map(|message| &**message)),
        "{rows:?}"
    );
}

#[tokio::test]
async fn tenants_never_meet() {
    let bed = Bed::new().await;
    let runs = bed.furnish().await;
    bed.project().await;
    let reads = bed.reads();
    let (ours, acme): (_, TenantId) = (TenantId::default(), "acme".parse().expect("a tenant"));
    let session = bed
        .store
        .reader
        .head(runs[8])
        .await
        .expect("a head")
        .expect("the run")
        .session_id;
    assert!(
        reads
            .messages(&ours, session, &page(50))
            .await
            .expect("messages")
            .data
            .is_empty()
    );
    assert_eq!(
        reads
            .messages(&acme, session, &page(50))
            .await
            .expect("messages")
            .data
            .len(),
        6
    );
    let theirs = reads
        .runs(&acme, &RunFilter::default(), &page(50))
        .await
        .expect("runs")
        .data;
    assert_eq!(theirs.iter().map(|row| row.id).collect::<Vec<_>>(), [runs[8]]);
    assert!(
        theirs[0].input.chars().count() < 5000,
        "lists show the beginning of a large input"
    );
    assert_eq!(reads.sessions(&acme, &page(50)).await.expect("sessions").data.len(), 1);
}

#[tokio::test]
async fn sessions_count_what_was_said_and_appear_before_their_first_run() {
    let bed = Bed::new().await;
    let runs = bed.furnish().await;
    bed.project().await;
    let (reads, tenant) = (bed.reads(), TenantId::default());
    let session = bed
        .store
        .reader
        .head(runs[2])
        .await
        .expect("a head")
        .expect("the run")
        .session_id;
    let list = reads.sessions(&tenant, &page(50)).await.expect("sessions").data;
    let row = list
        .iter()
        .find(|row| row.id == session)
        .expect("the session is listed");
    assert_eq!((row.runs, row.messages), (2, 12));
    assert!(row.updated_at > row.created_at);
    assert!(list.windows(2).all(|pair| pair[0].id > pair[1].id));
    let id = bed.session();
    let empty = steadfast::store::Session {
        session_id: id,
        tenant: tenant.clone(),
        runs: 0,
        metadata: "{}".into(),
        created_at: bed.now(),
    };
    bed.store.reader.create_session(&empty, None).await.expect("a session");
    let list = reads.sessions(&tenant, &page(1)).await.expect("sessions");
    assert_eq!((list.data[0].id, list.data[0].runs, list.has_more), (id, 0, true));
}

#[tokio::test]
async fn usage_adds_up_to_what_the_runs_say_they_used() {
    let bed = Bed::new().await;
    let runs = bed.furnish().await;
    bed.project().await;
    let reads = bed.reads();
    let mut heads = (0, 0, 0);
    for run_id in &runs[..8] {
        let usage = bed
            .store
            .reader
            .head(*run_id)
            .await
            .expect("a head")
            .expect("the run")
            .usage;
        heads = (
            heads.0 + usage.input_tokens,
            heads.1 + usage.output_tokens,
            heads.2 + usage.cost_microusd,
        );
    }
    let rows = reads.usage(&TenantId::default(), u32::MAX).await.expect("usage");
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!((row.input_tokens, row.output_tokens, row.cost_microusd), heads);
    assert_eq!((row.model_calls, row.orphaned_calls), (10, 1));
    assert_eq!(
        (row.day.as_str(), row.agent.as_str(), row.model.as_str()),
        ("2026-11-22", "assistant", "small")
    );
}
