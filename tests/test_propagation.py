"""Contexts of traces in headers: what is written is read back, and what nobody should write does no harm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.observe.propagation import B3, B3_MULTI, FORMS, MOST_STATE, W3C, Context, Incoming, incoming, outgoing

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
OTHER = "a" * 32
CONTEXT = Context(TRACE, SPAN, True)

digits = st.sampled_from("0123456789abcdef")
ids = st.builds(
    Context,
    st.text(digits, min_size=32, max_size=32).filter(lambda each: each.strip("0")),
    st.text(digits, min_size=16, max_size=16).filter(lambda each: each.strip("0")),
    st.booleans(),
)
headers = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "traceparent",
                "TraceParent",
                "tracestate",
                "b3",
                "X-B3-TraceId",
                "x-b3-spanid",
                "x-b3-sampled",
                "x-b3-flags",
            ]
        ),
        st.one_of(
            st.text(max_size=80),
            st.from_regex(r"\A[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.{0,3})?\Z"),
            st.from_regex(r"\A[0-9a-fA-F]{16,32}-[0-9a-f]{16}(-[01d])?\Z"),
            st.sampled_from(["0", "1", "d", "true", TRACE, SPAN, PARENT, "x" * 9000]),
        ),
    ),
    max_size=6,
)


@given(ids, st.sets(st.sampled_from(FORMS), min_size=1))
def test_what_is_written_is_read_back(context: Context, forms: set[str]) -> None:
    assert incoming(outgoing(context, forms).items()) == Incoming(context, context.sampled)


@given(ids, st.sampled_from(["a=1", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "0t@v=x y", "k=!~"]))
def test_a_state_goes_with_its_context(context: Context, state: str) -> None:
    with_state = Context(context.trace_id, context.span_id, context.sampled, state)
    assert incoming(outgoing(with_state).items()).context == with_state


@given(headers)
def test_nothing_that_is_read_raises_or_is_half_read(given_headers: list[tuple[str, str]]) -> None:
    found = incoming(given_headers)
    if found.context is not None:
        assert incoming(outgoing(found.context).items()).context == found.context
        assert len(found.context.state) <= MOST_STATE


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("", "is no VERSION"),
        (f"00-{TRACE}-{SPAN}", "is no VERSION"),
        (f"00-{TRACE.upper()}-{SPAN}-01", "is no VERSION"),
        (f"00-{TRACE}-{SPAN}-01-more", "version 00 is not written so"),
        (f"ff-{TRACE}-{SPAN}-01", "version ff is not written so"),
        (f"00-{'0' * 32}-{SPAN}-01", "zeros is none"),
        (f"00-{TRACE}-{'0' * 16}-01", "zeros is none"),
        (f"00-{TRACE}-{SPAN}-01\n", "is no VERSION"),
        (f"00-{'٣' * 32}-{SPAN}-01", "is no VERSION"),
        (PARENT + "x" * 9000, "has 9055 characters"),
    ],
)
def test_a_malformed_traceparent_is_none_and_said(value: str, fault: str) -> None:
    found = incoming([("traceparent", value), ("tracestate", "a=1")])
    assert found.context is None
    assert [fault in each for each in found.faults] == [True]


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert incoming([("traceparent", f"01-{TRACE}-{SPAN}-ff-what-follows")]).context == CONTEXT


@pytest.mark.parametrize(
    ("given_headers", "expected"),
    [
        ([("b3", f"{TRACE}-{SPAN}-1-{SPAN}")], CONTEXT),
        ([("B3", f"{TRACE.upper()}-{SPAN}-d")], CONTEXT),
        ([("b3", f"{TRACE}-{SPAN}")], CONTEXT),  # the decision is left to us
        ([("b3", f"{TRACE}-{SPAN}-0")], Context(TRACE, SPAN, False)),
        ([("b3", f"{TRACE[16:]}-{SPAN}-1")], Context("0" * 16 + TRACE[16:], SPAN, True)),
        ([("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN), ("X-B3-Sampled", "true")], CONTEXT),
        ([("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "0"), ("x-b3-flags", "1")], CONTEXT),
    ],
)
def test_both_forms_of_b3(given_headers: list[tuple[str, str]], expected: Context) -> None:
    assert incoming(given_headers) == Incoming(expected, expected.sampled)


@pytest.mark.parametrize(("value", "sampled"), [("0", False), ("1", True), ("d", True)])
def test_a_decision_of_b3_alone(value: str, sampled: bool) -> None:
    assert incoming([("b3", value)]) == Incoming(None, sampled)


@pytest.mark.parametrize(
    "given_headers",
    [
        [("b3", f"{TRACE}-{SPAN}-2")],
        [("b3", f"{TRACE}-{SPAN}-1-{SPAN}-1")],
        [("b3", f"{TRACE[1:]}-{SPAN}-1")],
        [("b3", f"{TRACE}-{SPAN}"), ("b3", f"{TRACE}-{SPAN}")],
        [("x-b3-traceid", TRACE)],
        [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "maybe")],
        [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-flags", "debug")],
        [("traceparent", PARENT), ("traceparent", PARENT)],
    ],
)
def test_what_cannot_be_read_is_a_fault(given_headers: list[tuple[str, str]]) -> None:
    found = incoming(given_headers)
    assert (found.context, len(found.faults)) == (None, 1)


def test_w3c_counts_before_b3_and_a_difference_is_told() -> None:
    multi = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")]
    found = incoming([("b3", f"{OTHER}-{SPAN}-1"), *multi, ("traceparent", PARENT)])
    assert found == Incoming(CONTEXT, True, (), (f"{B3} differs from {W3C}, which counts",))
    found = incoming([("b3", f"{OTHER}-{SPAN}-1"), *multi, ("traceparent", "00-nonsense")])
    assert found.context == Context(OTHER, SPAN, True)
    assert found.conflicts == (f"{B3_MULTI} differs from {B3}, which counts",)
    found = incoming([("b3", "0"), *multi])
    assert (found.context, found.conflicts) == (CONTEXT, (f"{B3} differs from {B3_MULTI}, which counts",))


def test_a_state_that_is_too_long_loses_its_longest_members() -> None:
    long, short = "long=" + "x" * 200, ",".join(f"k{n}={'y' * 60}" for n in range(7))
    found = incoming([("traceparent", PARENT), ("tracestate", f"{long},{short}")])
    assert found.context == Context(TRACE, SPAN, True, short)
    many = ",".join(f"k{n}=1" for n in range(33))
    for bad in (many, "a=1,a=2", "A=1", "a=1,=", "a=\x07", "x" * 9000):
        found = incoming([("traceparent", PARENT), ("tracestate", bad)])
        assert (found.context, len(found.faults)) == (CONTEXT, 1)
