"""What is run on each kernel: tests that exist already, and those of this folder that are about kernels."""

__all__ = ["NODES"]

NODES = (
    "netns_tests/kernels/test_older.py",
    # What is proved at start.
    "netns_tests/test_features.py::test_a_rule_that_is_accepted_and_not_carried_out_counts_as_missing",
    "netns_tests/test_features.py::test_the_rights_of_the_unit_are_enough",
    # Apply and replace; every golden, as nft sees it.
    "netns_tests/test_handle.py",
    "netns_tests/test_netlink_batches.py::test_nft_lists_what_it_lists_after_it_loaded_the_text",
    "netns_tests/test_netlink_refusals.py::test_the_end_of_a_batch_is_acknowledged_or_the_last_message_before_it",
    # Streams that are open when a namespace is enrolled.
    "netns_tests/test_live_enrol.py::test_open_streams_live_on_and_new_ones_are_captured",
    "netns_tests/test_live_enrol.py::test_kept_streams_end_with_an_error_at_their_deadline[untracked]",
    "netns_tests/test_live_enrol.py::test_a_captured_stream_without_its_entry_goes_on_and_nothing_of_it_is_seen",
    "netns_tests/test_live_enrol.py::test_a_syn_match_that_stays_would_have_leaked",
    "netns_tests/test_live_enrol.py::test_reset_ends_open_streams_at_both_ends",
    # And when it is released.
    "netns_tests/test_live_drain.py::test_captured_streams_go_on_to_their_end[default]",
    "netns_tests/test_live_drain.py::test_captured_streams_go_on_to_their_end[by user]",
    "netns_tests/test_live_drain.py::test_both_ends_see_an_error[at once]",
    "netns_tests/test_live_drain.py::test_a_drain_goes_on_after_a_kill_and_keeps_its_deadline",
    "netns_tests/test_live_removal.py::test_whichever_stage_a_killed_weir_has_left[transition]",
    # Families, connections of the kernel's own tables, sockets.
    "netns_tests/test_live_families.py::test_what_cannot_be_captured_is_refused_and_never_leaves",
    "netns_tests/test_live_dns.py::test_queries_are_captured_from_the_first_on",
    "netns_tests/test_conntrack.py::test_an_entry_is_made_once_for_both_directions",
    "netns_tests/test_sockets_ending.py::test_destroy_gives_the_user_an_error_and_the_peer_a_reset",
    "netns_tests/test_routing.py::test_what_is_added_is_read_and_taken_away_without_a_trace",
    # A command that undoes itself.
    "netns_tests/test_cli_confirm.py::test_it_is_undone_when_nobody_confirms",
)
