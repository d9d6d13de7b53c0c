"""What the benches compute, and how they say it. That they run is shown on the kernel, by netns_tests/test_bench.py."""

import json
import struct
import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

from bench import chart, machine, memory, recorded
from bench.encode import forget, rulesets
from bench.floor import PARTS, parsed, whole
from bench.machine import Machine
from bench.peers import restored
from bench.report import Goal, Report, Unit, again, noise, ratio
from bench.sampling import Result, cold, interleaved
from rulesets.diff import diff
from rulesets.netlink import encode

HERE = Machine(cpu="A & B", cores=2, kernel="6.18.0", python="3.11.2", nft="1.0.6", iptables="1.8.9", load=0.25)


def result(name: str, *samples: float) -> Result:
    return Result(name=name, samples=samples)


def report(*, apart: float = 0.01) -> Report:
    return Report(
        bench="apply",
        about="rules <into> a namespace",
        subject="Weir",
        results=(
            result("Weir", 0.001, 0.002, 0.003),
            result("Weir: opening", 0.001),
            result(again("Weir"), 0.002 * (1 + apart)),
            result("one fork", 0.02),
        ),
        goals=(Goal(what="Weir against one fork", found=0.1, wanted=1 / 8),),
        twins=(("Weir", again("Weir")),),
        parts=frozenset({"Weir: opening"}),
        notes=("measured with fewer",),
    )


def test_p50_and_p95() -> None:
    many = result("x", *(float(number) for number in range(100, 0, -1)))
    assert (many.p50, many.p95) == (50.5, 95.0)
    assert (result("x", 7.0).p50, result("x", 7.0).p95) == (7.0, 7.0)


def test_each_round_takes_every_variant_in_an_order_of_its_own() -> None:
    taken: list[str] = []

    def variant(name: str) -> Callable[[], dict[str, float]]:
        def sample() -> dict[str, float]:
            taken.append(name)
            return {name: float(len(taken)), f"{name}: part": 0.0}

        return sample

    found = interleaved([variant("a"), variant("b"), variant("c")], 20)
    assert list(found) == ["a", "a: part", "b", "b: part", "c", "c: part"]
    assert {len(each.samples) for each in found.values()} == {20}
    rounds = ["".join(taken[at : at + 3]) for at in range(0, len(taken), 3)]
    assert len(rounds) == 22, "two rounds to warm up, which don't count"
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert len(set(rounds)) > 2


def test_the_first_of_a_turn_stands_apart() -> None:
    numbers = iter(range(100))
    found = interleaved([lambda: {"a": float(next(numbers))}], 2, turn=3, warm_up=0)
    assert found["a"].samples == (1.0, 2.0, 4.0, 5.0)
    assert found[cold("a")].samples == (0.0, 3.0)


@pytest.mark.parametrize(
    ("value", "said"),
    [(1.234, "1.23"), (0.7, "0.70"), (1 / 1.8, "1/1.8"), (1 / 8, "1/8"), (1 / 54.4, "1/54"), (0, "0")],
)
def test_a_ratio_is_said(value: float, said: str) -> None:
    assert ratio(value) == said


def test_a_goal_is_met_or_missed() -> None:
    assert Goal(what="x", found=1 / 54, wanted=1 / 40).words == "1/54, wanted <= 1/40: met"
    assert Goal(what="x", found=1.31, wanted=1.3).words == "1.31, wanted <= 1.30: missed"
    assert Goal(what="x", found=1.6, wanted=1.7, at_least=True).words == "1.60, wanted >= 1.70: missed"
    assert Goal(what="x", found=6.04, wanted=10, unit="ms").words == "6.04 ms, wanted <= 10 ms: met"


def test_equal_variants_that_differ_make_a_run_void() -> None:
    assert report(apart=0.04).void == ()
    assert report(apart=-0.04).void == ()
    for apart in (0.06, -0.06):
        (reason,) = report(apart=apart).void
        assert "'Weir' and 'Weir (again)' are equal and differ by 6" in reason
        assert "VOID" in report(apart=apart).text()
    assert noise(result("a", 0.0), result("b", 0.0)) == 0
    assert noise(result("a", 0.0), result("b", 1.0)) == 1


def test_ratios_are_to_whole_variants_and_bars_are_of_them() -> None:
    assert report().ratios == {again("Weir"): pytest.approx(1 / 1.01), "one fork": pytest.approx(0.1)}
    assert [each.name for each in report().bars] == ["Weir", "one fork"]


def test_text_names_what_was_found() -> None:
    lines = [" ".join(each.split()) for each in report().text().splitlines()]
    assert "Weir 2.000 3.000 3 itself" in lines
    assert "Weir: opening 1.000 1.000 1" in lines
    assert "one fork 20.000 20.000 1 1/10" in lines
    assert "Weir against one fork: 1/10, wanted <= 1/8: met" in lines
    assert "measured with fewer" in lines


def test_json_has_what_the_text_has() -> None:
    document = json.loads(json.dumps(report().document()))
    assert (document["bench"], document["unit"], document["void"]) == ("apply", "ms", [])
    assert document["results"][0] == {"name": "Weir", "samples": 3, "p50": 2.0, "p95": 3.0, "weir_to_this": None}
    assert document["results"][3]["weir_to_this"] == pytest.approx(0.1)
    (goal,) = document["goals"]
    assert (goal["met"], goal["wanted"], goal["at_least"]) == (True, 0.125, False)


def test_the_plot_is_well_formed_and_names_the_machine() -> None:
    root = ET.fromstring(chart.drawn([report(), report()], HERE))  # noqa: S314 - our own
    space = "{http://www.w3.org/2000/svg}"
    words = [each.text or "" for each in root.iter(f"{space}text")]
    assert len(list(root.iter(f"{space}rect"))) == 4
    assert any("A & B, 2 cores, Linux 6.18.0" in each for each in words)
    assert words.count("rules <into> a namespace") == 2
    assert any("Weir takes 1/10 of it" in each for each in words)
    right = max(float(each.attrib["x"]) + float(each.attrib["width"]) for each in root.iter(f"{space}rect"))
    assert right < float(root.attrib["width"])


@pytest.mark.parametrize(
    ("values", "expected"), [((), (0, 1)), ((0.4, 20), (-1, 2)), ((10, 10), (1, 2)), ((0, 3), (0, 1))]
)
def test_the_scale_holds_all_values(values: tuple[float, ...], expected: tuple[int, int]) -> None:
    assert chart.decades(values) == expected


def contrast(one: str, other: str) -> float:
    """WCAG 2.1, relative luminance and contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#0d1117"])
def test_the_plot_can_be_read_on_light_and_on_dark_pages(page: str) -> None:
    assert all(contrast(each, page) >= 3 for each in chart.COLOURS)


def test_what_the_floor_says_is_read() -> None:
    found = parsed("1000 2000 300000 4000 0\n")
    assert list(found) == list(PARTS)
    assert whole(found) == pytest.approx(307e-6)
    with pytest.raises(RuntimeError, match="ended"):
        parsed("")


def test_what_a_trace_shows_is_put_together() -> None:
    data = message(16, b"abcd", sequence=0) + message(2560, bytes(range(24)), sequence=1)
    rows = [data[at : at + 16] for at in range(0, len(data), 16)]
    dump = "\n".join(
        f" | {at * 16:05x}  {row[:8].hex(' ')}  {row[8:].hex(' '):<24}  ........ |" for at, row in enumerate(rows)
    )
    trace = (
        f"sendmsg(3, {{x}}, 0) = 64\n * 64 bytes in buffer 0\n{dump}\nsendmsg(3, {{y}}, 0) = 0\n+++ exited with 0 +++\n"
    )
    assert recorded.sends(trace) == [data, b""]


def message(kind: int, body: bytes, *, sequence: int, flags: int = 1) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def test_one_message_of_a_recorded_batch_is_acknowledged() -> None:
    def flags(data: bytes) -> list[int]:
        return [struct.unpack_from("=IHH", data, at)[2] for at in (0, 20, 40)]

    whole_batch = message(16, bytes(4), sequence=0) + message(2560, bytes(4), sequence=1, flags=5)
    whole_batch += message(17, bytes(4), sequence=2)
    assert flags(recorded.acknowledged(whole_batch, end=True)) == [1, 1, 5]
    assert flags(recorded.acknowledged(whole_batch, end=False)) == [1, 5, 1]
    with pytest.raises(ValueError, match="no whole batch"):
        recorded.acknowledged(whole_batch[:-20], end=True)


def test_memory_is_read_and_shared_out() -> None:
    found = memory.resident(
        "5581-7ffd ---p 00000000 00:00 0 [rollup]\nRss:    2048 kB\nPss:  1024 kB\nPss_Anon: 1 kB\n"
    )
    assert found == {"RSS": 2048 * 1024, "PSS": 1024 * 1024}
    more = {name: value + 500 * 1024 for name, value in found.items()}
    assert memory.grown("d", 50, found, more)["d: each more"] == 10 * 1024
    assert Unit.KILOBYTES.scale * 10 * 1024 == 10


def test_the_machine_is_described() -> None:
    assert machine.model("processor\t: 0\nmodel name\t: AMD EPYC\nflags: x\nmodel name\t: other\n") == "AMD EPYC"
    assert machine.model("CPU implementer\t: 0x41\n") == ""
    assert machine.version("python3", "--version").startswith("3.")
    assert machine.version("no-such-program-anywhere") == machine.UNKNOWN
    assert HERE.text.endswith("load before: 0.25")


def test_rulesets_to_encode_are_all_different_and_forgotten() -> None:
    made = rulesets()
    one, other = next(made), next(made)
    assert one != other
    plan = diff(None, one)
    first = encode(plan)
    assert encode(plan) is first
    forget()
    assert encode(plan) is not first
    assert encode(plan) == first


def test_iptables_rules_name_their_family() -> None:
    text = restored("192.0.2.1/32", "127.0.0.1/32")
    assert text.count("COMMIT") == text.count("*") == 3
    assert "-s 192.0.2.1/32" in text
