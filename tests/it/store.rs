//! The store's promises: one suite for every adapter, and what only a server can be put through.

use crate::bed::Bed;

mod blobs;
mod checkpoints;
mod claims;
mod due;
mod idempotency;
mod keys;
mod lines;
mod loading;
mod log;
mod modelled;
mod newer;
mod providers;
mod restored;
mod seam;
mod sessions;
mod unknown_commit;
mod writing;

macro_rules! conformance {
    (
        on_every_adapter { $($module:ident::$name:ident,)* }
        where_there_is_sql { $($sql_module:ident::$sql_name:ident,)* }
    ) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$module::$name(&super::Bed::sqlite().await).await })*
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $sql_name() { super::$sql_module::$sql_name(&super::Bed::sqlite().await).await })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$module::$name(&super::Bed::postgres().await).await })*
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $sql_name() { super::$sql_module::$sql_name(&super::Bed::postgres().await).await })*
        }
        mod simulated {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$module::$name(&super::Bed::simulated().await).await })*
        }
    };
}

conformance! {
    on_every_adapter {
        writing::what_is_appended_reads_back_byte_for_byte,
        writing::a_stale_version_is_a_conflict_and_changes_nothing,
        writing::an_old_epoch_never_writes,
        writing::a_stale_neighbour_loses_alone,
        writing::one_of_a_hundred_racing_writers_wins,
        writing::one_of_many_racing_gateways_creates_a_run,
        writing::a_run_that_ended_refuses_a_stale_writer,
        claims::a_run_is_claimed_by_one_worker_until_its_lease_ends,
        claims::one_of_many_claims_wins,
        claims::keep_and_release_move_the_heads_columns,
        claims::letting_go_needs_no_fact,
        claims::a_lease_is_renewed_by_its_owner_alone,
        claims::a_lease_is_renewed_after_its_end_until_someone_takes_over,
        claims::renewing_many_while_they_are_written_to_disturbs_nobody,
        sessions::a_session_has_one_open_run_at_a_time,
        sessions::runs_of_a_session_keep_their_order_under_fifty_gateways,
        sessions::gateways_that_post_to_the_same_sessions_at_once_disturb_nobody,
        sessions::an_unknown_session_and_another_tenants_are_refused_alike,
        sessions::a_cancelled_run_frees_its_session_before_its_turn,
        sessions::turns_and_exchanges_are_the_ended_runs_before,
        sessions::a_session_is_seen_by_its_tenant_only,
        idempotency::the_same_key_gets_the_stored_answer,
        idempotency::fifty_requests_with_one_key_make_one_run,
        idempotency::a_key_belongs_to_its_tenant,
        idempotency::a_key_on_an_append_is_taken_with_it_or_not_at_all,
        idempotency::a_key_creates_a_session_once,
        due::a_run_let_go_of_without_a_fact_is_dispatched_under_a_new_number,
        due::a_wiped_queue_makes_every_queued_run_due,
        due::the_leases_of_a_dead_process_end_at_once,
        lines::a_line_gives_its_oldest_runs_once_and_only_its_own,
        lines::the_tenants_with_a_line_are_read_page_by_page,
        lines::only_a_run_that_nobody_has_claimed_can_be_put_into_its_line,
        lines::a_claim_or_an_end_takes_a_run_out_of_its_line,
        loading::a_loaded_run_catches_up_with_other_writers,
        loading::an_unknown_run_is_none,
        log::a_reader_sees_every_event_once_and_in_order_while_sixteen_write,
        keys::an_api_key_is_found_by_its_hash_until_it_is_revoked,
        seam::a_run_lives_through_the_seam,
        modelled::random_operations_are_answered_as_by_a_model_of_maps,
    }
    // These move a clock, spoil a row or look into a table with SQL.
    where_there_is_sql {
        blobs::a_large_payload_comes_back_whole_and_the_chain_covers_its_reference,
        blobs::a_missing_blob_is_named,
        due::overdue_runs_are_taken_oldest_first_and_no_more_than_asked,
        due::a_run_dispatched_in_vain_is_looked_at_less_and_less_often,
        due::held_runs_and_runs_that_wait_for_people_are_left_alone,
        due::two_redrivers_never_take_one_run_twice,
        lines::a_held_run_is_not_due_before_it_is_taken_and_is_found_if_its_taker_dies,
        lines::what_each_tenant_asks_of_the_workers_is_counted,
        loading::a_long_run_loads_from_its_snapshot_and_equals_the_full_fold,
        loading::a_snapshot_that_does_not_fit_is_ignored,
        loading::a_hole_in_the_log_is_corruption_wherever_it_is,
        loading::a_claim_that_the_head_does_not_show_yet_is_seen_in_the_events,
        newer::an_event_from_the_future_is_refused_by_name_and_read_as_it_was_stored,
        newer::a_run_from_the_future_stays_due_and_is_offered_again,
        newer::a_schema_a_newer_build_has_added_to_is_migrated_without_complaint,
        newer::a_snapshot_of_a_build_that_knows_more_events_is_ignored,
        log::pages_of_one_event_are_as_good_as_one_page,
        providers::what_a_worker_says_of_its_providers_is_replaced_and_grows_old,
    }
}
