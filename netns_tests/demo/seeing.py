"""Scene 10: who changed what, why a pod is captured, which rules a packet meets, and the numbers of it all."""

from netns_tests.demo.stage import WEB, Stage
from netns_tests.world import eventually

__all__ = ["explain"]

REQUESTS = 5
SECONDS = 15.0
ROUTING_RULE = "rule del priority 32764".split()
SHOWN = ("weir_target_captured{", "weir_drift_total{", "weir_conntrack_entries{", 'rule="outbound-redirect"')


def explain(stage: Stage) -> str:
    """Keep both pods once more, have somebody tamper, and ask Weir what happened."""
    screen, pod = stage.screen, stage.pod1
    file = stage.weir.file.name
    typed, stage.daemon = stage.weir.daemon()
    screen.typed(typed.replace(f"{stage.weir.directory}/", "./"), None, " ")
    code, said = stage.run("apply", "--file", file)
    screen.claim(code == 0, "both pods are captured once more", said)
    for _ in range(REQUESTS):
        requests = stage.requests()
        screen.check(all(each.captured for each in requests), "a request was not captured", requests)
    screen.say("\nSomebody deletes the policy rule that brings answers of pod1's proxy back to it.")
    stage.shell(pod, "ip", *ROUTING_RULE)
    with screen.claiming("the daemon has put it back, and knows who it was: `ip`"):
        eventually(lambda: _drift(stage, "policy-rule", "ip"), "the drift is counted with its culprit", SECONDS)

    code, said = stage.run("explain", "pod1", "--file", file)
    first = said.splitlines()[0]
    screen.claim(code == 0 and "pod1 is captured" in first, "`weir explain` answers in its first line", said)
    screen.claim("(ip)" in said or " ip " in said, "and names the last change with who made it", said)
    packet = f"out tcp {stage.outside.v4}:{WEB}"
    code, said = stage.run("explain", "pod1", "--packet", packet, "--file", file)
    screen.claim(code == 0 and "15001" in said, "a packet that nobody sent is walked through the live rules", said)
    code, said = stage.run("verify", "pod1", "--probe", "--file", file)
    screen.claim(code == 0, "`weir verify --probe` proves it by real connections", said)

    tracing = stage.weir.start("trace", "pod1", "--for", "20", "--count", "1", "--file", file, "out", f":{WEB}")
    with screen.claiming("`weir trace` shows a real connection with the rules that it meets"):
        eventually(
            lambda: stage.request(pod, (stage.outside.v4, WEB)).captured and tracing.poll() is not None, "seen", SECONDS
        )
    done = stage.weir.finish(tracing)
    screen.typed(done.typed, done.code, done.output)
    screen.claim(done.code == 0 and "outbound-redirect" in done.output, "by their slugs, with what became of it", done)

    code, said = stage.run("top", "--once")
    screen.claim(code == 0 and all(name in said for name in stage.names), "`weir top` has both pods at a glance", said)
    lines = [line for line in stage.daemon.get("/metrics")[1].splitlines() if _shown(line)]
    screen.typed(
        f"curl --unix-socket ./endpoints.sock localhost/metrics | grep -E {'|'.join(SHOWN)!r}", None, "\n".join(lines)
    )
    screen.claim(len(lines) >= len(SHOWN), "and Prometheus gets the same", lines)

    code, said = stage.run("remove", "--file", file, "pod1", "pod2")
    screen.claim(code == 0 and stage.daemon.stop() == 0, "pods and daemon are let go", said)
    changed = {name: text for name, text in stage.snapshot().items() if text != stage.before[name]}
    screen.claim(not changed, "all is what it was at the start, byte for byte", changed)
    return "who changed what is known by name, and each answer is one command"


def _drift(stage: Stage, kind: str, culprit: str) -> bool:
    return any(
        line.startswith("weir_drift_total{") and f'kind="{kind}"' in line and f'culprit="{culprit}"' in line
        for line in stage.daemon.get("/metrics")[1].splitlines()
    )


def _shown(line: str) -> bool:
    return any(each in line for each in SHOWN) and not line.endswith(" 0.0")
