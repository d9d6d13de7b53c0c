"""Spans on their way to a real collector: whole, in both encodings, and when it is dead, slow or says no."""

import logging
import socket
import time
from collections.abc import Iterator

import pytest

from agent.observe import otlp, spans
from agent.observe.exporter import FULL, REFUSED, STOPPED, UNREACHABLE
from agent.observe.json_log import Documents, Lines
from agent.observe.otlp_settings import OtlpSettings, settings
from agent.observe.tracer import Tracer
from tests.collector import Collector, Told, tree

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def to(url: str, **environment: str) -> OtlpSettings:
    quick = {"OTEL_BSP_SCHEDULE_DELAY": "10", "OTEL_EXPORTER_OTLP_ENDPOINT": url}
    found = settings({**quick, **environment})
    assert found is not None
    return found


@pytest.fixture
def traced() -> Iterator[None]:
    yield
    spans.stop()


def began(found: OtlpSettings) -> Tracer:
    spans.start(found)
    tracer = spans.tracer()
    assert tracer is not None
    return tracer


def one_trace(name: str = "web", *, headers: tuple[tuple[str, str], ...] = ()) -> None:
    with spans.reading(headers):
        trace = spans.begin("enrol", name)
        if trace is not None:
            trace.attributes |= {
                "k8s.pod.name": name,
                "weir.rules": 34,
                "on": True,
                "part": 0.5,
                "v": ("4", "6"),
                "n": -1,
            }
        with spans.child("outer", {"a": "\ud800é"}), spans.child("inner"):
            spans.event("step", {"why": "x"})
        spans.end(name, error="no proxy")


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_trace_arrives_whole(protocol: str, compression: str, traced: None) -> None:
    with Collector() as collector:
        began(
            to(
                collector.url,
                OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
                OTEL_EXPORTER_OTLP_COMPRESSION=compression,
                OTEL_EXPORTER_OTLP_HEADERS="x-key=a%20b, other=c",
                OTEL_RESOURCE_ATTRIBUTES="team=net,service.name=old",
                OTEL_SERVICE_NAME="edge",
            )
        )
        one_trace(headers=(("traceparent", PARENT), ("tracestate", "a=1")))
        found = collector.until(lambda told: len(told) == 3, "three spans")
        assert tree(found) == {"remote 00f067aa0ba902b7": ["enrol"], "enrol": ["outer"], "outer": ["inner"]}
        assert {each.trace for each in found} == {"4bf92f3577b34da6a3ce929d0e0e4736"}
        assert {each.state for each in found} == {"a=1"}
        root = next(each for each in found if each.name == "enrol")
        expected = {"k8s.pod.name": "web", "weir.rules": 34, "on": True, "part": 0.5, "v": ("4", "6"), "n": -1}
        assert root.attributes == expected
        assert (root.kind, root.events, root.error) == (2, ("step",), "no proxy")
        assert next(each for each in found if each.name == "outer").attributes == {"a": "\\ud800é"}
        assert all(root.start <= each.start <= each.end <= root.end for each in found)
        request = collector.requests[0]
        assert (request.headers["x-key"], request.headers["other"]) == ("a b", "c")
        assert request.resource["service.name"] == "edge"
        assert request.resource["team"] == "net"


def test_off_nothing_is_begun_and_nothing_is_kept() -> None:
    for environment in (
        {},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
    ):
        assert settings(environment) is None
    assert spans.begin("enrol", "web") is None
    assert spans.child("a") is spans.child("b") is spans.within("web") is spans.reading([("traceparent", PARENT)])
    assert (spans.here(), spans.exemplar(), spans.headers(), spans.apart()) == (None, None, {}, None)

    def call() -> None:
        """Do nothing."""

    assert spans.carried(call) is call


def test_the_environment_is_read_as_specified_and_what_is_wrong_is_passed_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = settings({"OTEL_TRACES_EXPORTER": "otlp"})
    assert found is not None
    assert (found.url, found.protocol, found.ratio, found.by_parent) == (
        "http://localhost:4318/v1/traces",
        "http/protobuf",
        1.0,
        True,
    )
    assert (found.most_waiting, found.most_at_once, found.delay, found.patience) == (2048, 512, 5.0, 10.0)
    assert not caplog.records
    found = settings(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/base/",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "soon",
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=very secret,nonsense",
            "OTEL_TRACES_SAMPLER": "traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "2",
            "OTEL_BSP_MAX_QUEUE_SIZE": "0",
            "OTEL_PROPAGATORS": "b3,jaeger",
        }
    )
    assert found is not None
    assert (found.url, found.protocol, found.patience) == ("http://c:4318/base/v1/traces", "http/protobuf", 10.0)
    assert (found.ratio, found.by_parent, found.most_waiting, found.forms) == (1.0, False, 2048, ("b3",))
    said = [each.getMessage().partition(" = ")[0] for each in caplog.records]
    assert sorted(said) == [
        "OTEL_BSP_MAX_QUEUE_SIZE",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
        "OTEL_PROPAGATORS",
        "OTEL_TRACES_SAMPLER_ARG",
    ]
    assert "secret" not in caplog.text
    found = settings({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/own", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://d"})
    assert found is not None
    assert found.url == "http://c/own"


@pytest.mark.parametrize(
    ("sampler", "headers", "recorded"),
    [
        ("parentbased_always_on", (), True),
        ("parentbased_always_on", (("traceparent", PARENT[:-1] + "0"),), False),
        ("parentbased_always_off", (("b3", "1"),), True),
        ("always_off", (("traceparent", PARENT),), False),
        ("always_on", (("b3", "0"),), True),
        ("parentbased_always_off", (), False),
    ],
)
def test_who_decides_what_is_recorded(
    sampler: str, headers: tuple[tuple[str, str], ...], recorded: bool, traced: None
) -> None:
    with Collector() as collector:
        began(to(collector.url, OTEL_TRACES_SAMPLER=sampler))
        with spans.reading(headers):
            spans.begin("enrol", "web")
            assert (spans.exemplar() is not None) is recorded
            assert spans.headers()["traceparent"].endswith(f"-0{recorded:d}")
        spans.end("web")
        spans.stop()
        assert [each.name for each in collector.spans] == ["enrol"] * recorded


def test_a_ratio_takes_about_its_part() -> None:
    tracer = Tracer(to("http://127.0.0.1:9", OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="0.25"))
    taken = 0
    for number in range(2000):
        trace = tracer.begin("enrol", key=str(number))
        assert trace is not None
        taken += trace.context.sampled
    assert 350 < taken < 650


def refusing_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_dead_collector_costs_nothing_but_a_count(traced: None, caplog: pytest.LogCaptureFixture) -> None:
    tracer = began(
        to(f"http://127.0.0.1:{refusing_port()}", OTEL_BSP_EXPORT_TIMEOUT="50", OTEL_BSP_MAX_QUEUE_SIZE="20")
    )
    for number in range(500):
        one_trace(f"web{number}")
    end = time.monotonic() + 30
    while sum(tracer.exporter.dropped.values()) < 1500 - 20 and time.monotonic() < end:
        time.sleep(0.02)
    spans.stop()
    assert sum(tracer.exporter.dropped.values()) == 1500
    assert tracer.exporter.dropped[FULL] > 0
    assert tracer.exporter.dropped[UNREACHABLE] > 0
    said = [each for each in caplog.records if "doesn't take them" in each.getMessage()]
    assert len(said) == 1


def test_a_collector_that_is_busy_gets_them_later(traced: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Collector(answers=[503, 429], retry_after="0.05") as collector:
        tracer = began(to(collector.url))
        one_trace()
        collector.until(lambda told: len(told) == 3, "all spans, at last")
        spans.stop()
        assert (tracer.exporter.exported, sum(tracer.exporter.dropped.values())) == (3, 0)
        assert "status 503" in caplog.text
        assert "takes them again" in caplog.text


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
def test_what_a_collector_refuses_is_counted(protocol: str, traced: None) -> None:
    with Collector(answers=[400]) as collector:
        tracer = began(to(collector.url, OTEL_EXPORTER_OTLP_PROTOCOL=protocol))
        one_trace()
        end = time.monotonic() + 30
        while tracer.exporter.dropped[REFUSED] < 3 and time.monotonic() < end:
            time.sleep(0.02)
        collector.rejected = 2
        one_trace()
        collector.until(lambda told: len(told) == 3, "the second trace")
        spans.stop()
        assert (tracer.exporter.exported, tracer.exporter.dropped[REFUSED]) == (1, 3 + 2)


def test_a_slow_collector_delays_neither_work_nor_the_end(traced: None) -> None:
    with Collector(delay=60.0) as collector:
        tracer = began(to(collector.url))
        one_trace()
        while tracer.exporter._waiting:
            time.sleep(0.01)
        one_trace("later")
        tracer.exporter.close(0.1)
        assert tracer.exporter.exported == 0
        assert tracer.exporter.dropped[STOPPED] == 3
        one_trace("too late")
        assert tracer.exporter.dropped[STOPPED] == 6


def test_a_certificate_of_nobody_known_is_refused(traced: None, caplog: pytest.LogCaptureFixture) -> None:
    with Collector() as collector:
        tracer = began(to(collector.url.replace("http:", "https:"), OTEL_BSP_EXPORT_TIMEOUT="50"))
        one_trace()
        end = time.monotonic() + 30
        while not tracer.exporter.dropped[UNREACHABLE] and time.monotonic() < end:
            time.sleep(0.02)
        assert "no answer" in caplog.text


def test_lines_of_the_log_have_the_trace_that_they_belong_to(traced: None) -> None:
    import json

    record = logging.LogRecord("weir", logging.INFO, __file__, 1, "%s: captured", ("web",), None)
    assert Lines().format(record) == "INFO web: captured"
    began(to("http://127.0.0.1:9"))
    with spans.reading((("traceparent", PARENT),)):
        spans.begin("enrol", "web")
        here = spans.here()
        assert here is not None
        assert Lines().format(record).endswith(f" trace_id={PARENT[3:35]} span_id={here.span_id}")
        document = json.loads(Documents().format(record))
        assert (document["trace_id"], document["trace_flags"], document["msg"]) == (PARENT[3:35], "01", "web: captured")
        call = spans.carried(lambda: Lines().format(record))
    assert Lines().format(record) == "INFO web: captured"  # out of it again
    import threading

    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.append(call()))
    thread.start()
    thread.join()
    assert PARENT[3:35] in seen[0]


def test_nothing_that_a_collector_answers_is_taken_for_a_number() -> None:
    for answer in (b"", b"\xff", b"\x0a\x7f", b"\x0a\x02\x08", b"\x08\x01", b"\x0a\x02\x0d\x00", b"{", b"[]", b"null"):
        assert otlp.rejected(answer, written_as_json=False)[0] == 0
        assert otlp.rejected(answer, written_as_json=True)[0] == 0


def test_open_traces_are_bounded_and_told_at_the_end(traced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.observe.tracer.MOST_OPEN", 3)
    with Collector() as collector:
        tracer = began(to(collector.url))
        for number in range(5):
            spans.begin("enrol", str(number))
        assert (len(tracer.open), tracer.left_out) == (3, 2)
        spans.stop()
        found: list[Told] = collector.spans
        assert [each.error for each in found] == ["the agent stops"] * 3
