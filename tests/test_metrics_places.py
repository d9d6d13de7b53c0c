"""Where metrics are served: for this machine with its health, and for others alone."""

import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter

from agent.errors import ConfigError
from agent.observe.endpoints import Listen, parse_metrics, serve
from netns_tests.daemon import unix_request


def test_others_read_metrics_and_nothing_else(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    Counter("weir_seen", "Seen.", registry=registry).inc()
    path = tmp_path / "metrics.sock"

    async def asked() -> list[int]:
        runner = await serve(Listen(path=path), registry, None)
        assert runner is not None
        try:
            answers = [
                await asyncio.to_thread(unix_request, path, "GET", each) for each in ("/metrics", "/healthz", "/readyz")
            ]
        finally:
            await runner.cleanup()
        assert "weir_seen_total 1.0" in answers[0][1]
        return [status for status, _ in answers]

    assert asyncio.run(asked()) == [200, 404, 404]


def test_the_address_is_the_nodes_and_the_port_a_port() -> None:
    assert parse_metrics("", "") == Listen()
    assert parse_metrics("192.0.2.7", "15014") == Listen(host="192.0.2.7", port=15014)
    assert parse_metrics("2001:db8::7", "15014") == Listen(host="2001:db8::7", port=15014)
    assert parse_metrics("", "15014") == Listen(host="127.0.0.1", port=15014)


@pytest.mark.parametrize(("address", "port"), [("node", "15014"), ("192.0.2.7", "0"), ("", "70000"), ("", "٣٣")])
def test_what_is_no_place_is_refused_by_name(address: str, port: str) -> None:
    with pytest.raises(ConfigError, match=r"METRICS_(ADDRESS|PORT)"):
        parse_metrics(address, port)
