//! The list of cases, and what makes tests of it.

/// Makes a module of tests that run the [suite](mod@crate::conformance) against a store: `conformance!(name, opener)`, or
/// `conformance!(name, volatile, opener)` for a store that does not outlive its closing, whose tests of that are then
/// ignored.
///
/// `opener` is an expression, evaluated anew for each test, that gives an
/// [`Opener`](crate::conformance::Opener). The tests run on tokio, so the crate needs it with the features `macros`
/// and `rt-multi-thread`.
#[macro_export]
macro_rules! conformance {
    ($name:ident, volatile, $opener:expr) => {
        $crate::__conformance!($name, [#[ignore = "the store does not outlive its closing"]], $opener);
    };
    ($name:ident, $opener:expr) => {
        $crate::__conformance!($name, [], $opener);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance {
    ($name:ident, $lasting:tt, $opener:expr) => {
        #[cfg(test)]
        mod $name {
            #[allow(unused_imports, reason = "the opener may need none of them")]
            use super::*;

            $crate::__conformance_theme! { commit, [], $opener;
                written_runs_are_there_as_written,
                a_batch_writes_all_of_its_runs,
                every_valid_id_names_a_run,
                an_empty_batch_is_fine,
                outcomes_come_in_the_order_of_the_writes,
                a_new_run_must_not_exist,
                a_write_to_an_unknown_run_leaves_no_trace,
                unknown_runs_have_nothing,
                the_store_says_what_it_is,
            }
            $crate::__conformance_theme! { epochs, [], $opener;
                a_stale_write_is_refused_alone,
                a_fenced_write_leaves_no_trace,
                a_write_from_the_future_is_refused,
                refused_writes_do_not_hold_up_messages,
            }
            $crate::__conformance_theme! { journal, [], $opener;
                entries_come_in_order,
                entries_of_all_sizes_come_back,
                pages_hold_what_fits,
                a_page_has_at_least_one_entry,
                several_runs_are_read_at_once,
                reading_starts_where_asked,
                truncation_removes_the_old_entries,
                truncation_may_remove_everything,
                journals_do_not_mix,
            }
            $crate::__conformance_theme! { values, [], $opener;
                values_of_all_sizes_come_back,
                values_are_replaced_whole,
                values_are_removed,
                keys_do_not_mix,
                runs_do_not_mix,
            }
            $crate::__conformance_theme! { list, [], $opener;
                runs_come_in_the_order_of_creation,
                ties_are_ordered_by_id,
                newest_first_is_the_reverse,
                pages_have_every_run_once,
                the_last_page_says_so,
                every_status_is_found,
                a_changed_status_is_found_once,
                creation_times_bound_a_listing,
                an_id_prefix_bounds_a_listing,
                owners_are_told_apart,
                filters_combine,
                cursors_survive_changes_between_pages,
                children_are_listed_by_their_parent,
            }
            $crate::__conformance_theme! { claims, [], $opener;
                a_claim_takes_the_run,
                a_claim_changes_nothing_else,
                an_unknown_run_is_not_claimed,
                the_same_node_may_claim_again,
                claims_from_nodes_that_died_are_counted,
                a_released_run_has_no_owner,
                a_release_fences_what_is_under_way,
                a_released_run_is_claimed_by_another,
                a_stale_release_is_ignored,
                leases_are_renewed,
            }
            $crate::__conformance_theme! { timers, [], $opener;
                due_runs_come_earliest_first,
                due_is_up_to_and_with_the_time,
                due_is_bounded,
                due_goes_on_after_a_run,
                only_active_runs_are_due,
                a_changed_time_replaces_the_old,
                a_removed_time_is_gone,
                owners_do_not_matter,
            }
            $crate::__conformance_theme! { inbox, [], $opener;
                messages_come_in_order_of_arrival,
                messages_keep_their_times,
                messages_of_all_sizes_come_back,
                pages_go_on_after_a_number,
                a_key_arrives_once,
                a_key_arrives_once_also_after_consumption,
                long_keys_are_told_apart,
                keys_belong_to_a_run,
                unknown_and_ended_runs_take_no_messages,
                messages_meet_the_runs_as_written,
                consumption_is_part_of_the_write,
                numbers_are_never_used_again,
                many_messages_stay_in_order,
            }
            $crate::__conformance_theme! { kinds, [], $opener;
                kinds_and_parents_come_back,
                listings_keep_kinds_apart,
                records_are_listed_by_id,
                runs_with_messages_are_found,
                what_goes_together_is_taken_together,
            }
            $crate::__conformance_theme! { blobs, [], $opener;
                blobs_of_all_sizes_come_back,
                a_blob_is_addressed_by_its_content,
                a_missing_blob_is_an_error,
                a_blob_stays_while_a_run_refers_to_it,
                a_blob_goes_with_its_last_run,
                a_blob_may_come_back,
                a_fresh_blob_survives_maintenance,
                a_stream_becomes_a_blob,
                a_stream_that_breaks_becomes_nothing,
                a_pinned_blob_stays_until_it_is_unpinned,
                an_abandoned_put_is_swept,
                nothing_names_a_missing_blob,
                a_message_makes_its_run_name_blobs,
            }
            $crate::__conformance_theme! { delete, [], $opener;
                everything_of_a_run_goes,
                only_the_owner_deletes,
                an_unknown_run_is_not_deleted,
                families_go_together,
                many_runs_go_in_one_commit,
                other_runs_stay,
                the_id_is_free_again,
            }
            $crate::__conformance_theme! { maintain, [], $opener;
                maintenance_keeps_what_is_there,
                maintenance_keeps_what_is_written_meanwhile,
                maintenance_of_an_empty_store_is_fine,
            }
            $crate::__conformance_theme! { concurrency, [], $opener;
                many_tasks_write_to_many_runs,
                one_of_many_creators_wins,
                claims_of_one_run_have_different_epochs,
                messages_of_many_senders_all_arrive,
                one_of_many_equal_messages_arrives,
                readers_see_whole_batches,
                readers_find_the_entries_that_records_promise,
            }
            $crate::__conformance_theme! { tasks, [], $opener;
                tasks_are_taken_once_as_they_were_offered,
                tasks_come_by_priority_then_by_age,
                workers_take_only_what_is_theirs,
                a_task_that_is_offered_again_is_found,
                a_result_of_one_who_lost_the_task_is_refused,
                removed_tasks_are_gone,
                a_pool_is_unserved_while_tasks_wait_and_none_is_held,
                a_pool_is_limited,
                each_key_of_a_pool_is_limited,
                many_takers_share_the_tasks,
            }
            $crate::__conformance_theme! { reopen, [], $opener;
                a_closed_store_refuses_calls,
                closing_twice_is_fine,
            }
            $crate::__conformance_theme! { reopen, $lasting, $opener;
                everything_is_there_after_closing,
                everything_is_there_after_dropping,
                indexes_are_there_after_reopening,
                keys_of_consumed_messages_are_remembered,
                message_numbers_go_on,
                a_deleted_run_stays_deleted,
                a_maintained_store_opens,
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_theme {
    ($theme:ident, $attributes:tt, $opener:expr; $($case:ident,)*) => {
        $($crate::__conformance_case!($theme, $attributes, $opener, $case);)*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_case {
    ($theme:ident, [$($attribute:tt)*], $opener:expr, $case:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        $($attribute)*
        async fn $case() {
            let opener = $opener;
            $crate::conformance::run($crate::conformance::$theme::$case(&opener)).await;
        }
    };
}
