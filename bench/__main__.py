"""Run benches. Exit code: 0 they say something, 1 the run is void, 2 it can't run here."""

import argparse
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, ModuleType

from bench import (
    apply,
    chart,
    cni,
    drift,
    encode,
    events,
    machine,
    memory,
    noop,
    reapply,
    sampled,
    scale,
    scrape,
    startup,
)
from bench.report import Report

BENCHES: dict[str, ModuleType] = {
    "apply": apply,
    "reapply": reapply,
    "scale": scale,
    "noop": noop,
    "memory": memory,
    "encode": encode,
    "startup": startup,
    "cni": cni,
    "drift": drift,
    "sampling": sampled,
    "scrape": scrape,
    "events": events,
}
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(arguments: Sequence[str]) -> int:
    """Run the benches named on the command line, or all."""
    asked = _parser().parse_args(arguments)
    names = asked.bench or list(BENCHES)
    if os.geteuid() != 0 and set(names) - {"encode", "startup"}:
        print("bench: makes network namespaces and loads nftables rules: run it as root", file=sys.stderr)
        return 2
    for number in _ENDING:
        signal.signal(number, _leave)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a thousand open namespaces, as the daemon has them
    measured_on = machine.describe()
    as_text = asked.output == "text"
    if as_text:
        print(measured_on.text, flush=True)
    reports = []
    for name in names:
        report = _run(name, asked.rounds)
        reports.append(report)
        if as_text:
            print(f"\n{report.text()}", flush=True)
    document = json.dumps(
        {"machine": measured_on.document(), "void": any(each.void for each in reports)}
        | {"reports": [each.document() for each in reports]},
        indent=2,
    )
    if not as_text:
        print(document)
    if asked.json:
        asked.json.write_text(f"{document}\n", encoding="utf-8")
    if asked.plot:
        asked.plot.write_text(chart.drawn(reports, measured_on), encoding="utf-8")
    return _verdict(reports)


def _run(name: str, rounds: int | None) -> Report:
    module = BENCHES[name]
    report: Report = module.run(rounds or module.ROUNDS)
    return report


def _verdict(reports: Sequence[Report]) -> int:
    void = [each.bench for each in reports if each.void]
    if void:
        print(f"bench: VOID, the machine was not quiet: {', '.join(void)}", file=sys.stderr)
    return 1 if void else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./dev bench",
        description="Measure Weir against its peers, in one run. Ratios carry over to other machines; times don't.",
    )
    which = f"{', '.join(BENCHES)}; all by default"
    parser.add_argument("bench", nargs="*", choices=[[], *BENCHES], metavar="BENCH", help=which)
    parser.add_argument("--rounds", type=_number, metavar="N", help="samples of each variant; each bench has its own")
    parser.add_argument("--output", choices=("text", "json"), default="text", help="what to print")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there as well, as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the result there as an SVG picture")
    return parser


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _leave(number: int, frame: FrameType | None) -> None:
    """End in order: what was made goes."""
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
