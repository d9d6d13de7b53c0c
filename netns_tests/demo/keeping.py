"""Scenes 6 and 7: what others break or can't break, and every rule counts."""

import time
from typing import Any

from netns_tests.demo.stage import FAMILIES, WEB, Stage
from netns_tests.world import eventually

__all__ = ["count", "repair"]

ESCAPE = "insert rule inet weir-pod nat-out tcp dport 80 accept".split()
ROUTING_RULE = "-6 rule del priority 32764".split()
TABLE = "nft -s list table inet weir-pod".split()
REQUESTS = 10  # of each family and direction
SECONDS_TO_REPAIR = 10.0


def repair(stage: Stage) -> str:
    """Tamper with the pods: under a running daemon, and after it was killed, which the next one finds and repairs."""
    screen = stage.screen
    _start_daemon(stage)
    taken = stage.daemon.log.count("unchanged") == 2
    screen.claim(taken, "the daemon has taken over both pods as they are: it changed nothing", stage.daemon.log)
    screen.say("\nSomebody throws away all rules of pod1.")
    table = stage.pod1.command(*TABLE)
    begun = time.monotonic()
    stage.shell(stage.pod1, "nft", "flush", "ruleset")
    if "owner" in table.partition("\tc")[0]:
        screen.claim(
            stage.pod1.command(*TABLE) == table,
            "the table is untouched: while the daemon lives, nobody else can",
            table,
        )
        said = stage.shell(stage.pod1, "sh", "-c", f"nft {' '.join(ESCAPE)} 2>&1 || true")
        screen.claim("not permitted" in said, "and nobody can put a rule into it", said)
    else:  # before Linux 6.9
        seconds, direct = _until_captured(stage, begun)
        screen.claim(True, f"the daemon has put them back: {_ms(seconds)}; {_escaped(direct)}")
    with screen.claiming("requests are captured in both families and directions"):
        eventually(lambda: all(each.captured for each in stage.requests()), "all captured", SECONDS_TO_REPAIR)

    screen.say("\nThe daemon is killed, with SIGKILL. Now somebody tampers with both pods.")
    stage.daemon.kill()
    request = stage.request(stage.pod1, (stage.outside.v4, WEB))
    screen.claim(request.captured, "without a daemon the rules go on: a request of pod1 is captured", request)
    stage.shell(stage.pod1, "nft", *ESCAPE)
    stage.shell(stage.pod2, "ip", *ROUTING_RULE)
    escaped = stage.request(stage.pod1, (stage.outside.v4, WEB))
    screen.claim(escaped.direct, "a request of pod1 now gets past the proxy", escaped)
    file = stage.weir.file.name
    code, said = stage.run("diff", "--file", file)
    found = "- tcp dport 80" in said and "+ ip -6 rule: " in said
    screen.claim(code == 1 and found, "`weir diff` finds both", said)
    begun = time.monotonic()
    _start_daemon(stage)
    seconds, direct = _until_captured(stage, begun)
    screen.claim(True, f"{_ms(seconds)} after it was started anew, pod1 is captured again; {_escaped(direct)}")
    with screen.claiming("the damage is gone from both pods: `weir diff` says so (exit code 0)"):
        eventually(lambda: stage.weir("diff", "--file", file).code == 0, "the same as wanted", SECONDS_TO_REPAIR)
    for each in stage.downloads:
        with screen.claiming(f"the download {each.name} from before ran through all this"):
            each.goes_on()
            amount = each.finish()
        screen.say(f"     {amount / 1e6:.1f} MB, the same at both ends: SHA-256 {each.checksum[:16]}...")
    return "nobody can touch the rules of a running daemon; what was done without one, the next finds and repairs"


def _start_daemon(stage: Stage) -> None:
    typed, stage.daemon = stage.weir.daemon()
    here = f"{stage.weir.directory}/"
    stage.screen.typed(typed.replace(here, "./"), None, stage.daemon.log.replace(here, ""))


def count(stage: Stage) -> str:
    """Make a known number of requests and find them in the counters."""
    screen = stage.screen
    file = stage.weir.file.name
    before = _counters(stage)
    for _ in range(REQUESTS):
        requests = stage.requests()
        screen.check(all(each.captured for each in requests), "a request was not captured", requests)
    after = _counters(stage)
    number = REQUESTS * len(FAMILIES)
    screen.say(
        f"Every rule has a counter of its own. {number} more requests out of pod1 and {number} into pod2, counted by"
        f" `weir verify --file {file} --output json`:"
    )
    rules = sorted({rule for counters in after.values() for rule in counters})
    grown = {
        name: {rule: counters.get(rule, 0) - before[name].get(rule, 0) for rule in rules}
        for name, counters in after.items()
    }
    screen.table(
        ("rule", "pod1: packets", "new", "pod2: packets", "new"),
        (
            (rule, *(cell for name in after for cell in (after[name].get(rule, 0), f"+{grown[name][rule]}")))
            for rule in rules
        ),
        right=("pod1: packets", "pod2: packets", "new"),
    )
    for name, rule in (("pod1", "outbound-redirect"), ("pod2", "inbound-redirect")):
        found = grown[name][rule]
        screen.claim(found == number, f"{name}'s rule {rule} has counted each of them once: {found}", grown)

    def metrics_agree() -> bool:
        return all(
            {rule: packets for rule, packets in stage.daemon.rule_packets(name).items() if packets} == after[name]
            for name in after
        )

    code, said = stage.run("apply", "--file", file)
    screen.claim(code == 0 and said.count("unchanged") == 2, "applying again changes nothing", said)
    with screen.claiming("the daemon's /metrics show the same numbers (weir_rule_packets_total)"):
        eventually(metrics_agree, "the same numbers in /metrics", SECONDS_TO_REPAIR)
    return "each rule counts what it does, for the command and for Prometheus"


def _until_captured(stage: Stage, begun: float) -> tuple[float, int]:
    """Ask out of pod 1 until a request is captured; return the seconds since, and how many were not."""
    direct = 0
    while not stage.request(stage.pod1, (stage.outside.v4, WEB)).captured:
        direct += 1
        waited = time.monotonic() - begun
        stage.screen.check(waited < SECONDS_TO_REPAIR, "the daemon repairs pod1", f"nothing after {waited:.0f} s")
    return time.monotonic() - begun, direct


def _counters(stage: Stage) -> dict[str, dict[str, int]]:
    targets: list[dict[str, Any]] = stage.weir("verify", "--file", stage.weir.file.name, "--output", "json").targets
    return {each["target"]: {one["rule"]: one["packets"] for one in each["counters"]} for each in targets}


def _escaped(number: int) -> str:
    return f"requests that got past the proxy meanwhile: {number}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
