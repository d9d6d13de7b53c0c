"""Scene 9: a pod under another agent's iptables rules is compared, migrated while it downloads, and compared again."""

from netns_tests.demo.stage import FAMILIES, WEB, Stage
from netns_tests.old_agents import enrolled_by, saved
from netns_tests.world import Host

__all__ = ["migrate"]

TARGETS = """\
[[target]]
name = "pod1"
netns = "{pod1}"
"""
FILE = "leaving.toml"
LINES_OF_RULES = 4


def migrate(stage: Stage) -> str:
    """Leave legacy iptables without a reboot, and without a connection that ends."""
    screen, pod = stage.screen, stage.pod1
    (stage.weir.directory / FILE).write_text(TARGETS.format(pod1=pod.name))
    flavour = _flavour(pod)
    enrolled_by(pod, f"istio-{flavour}")
    screen.say(f"Another agent has enrolled pod1: Istio's, with its rules for iptables-{flavour}, IPv4 and IPv6.")
    stage.shell(pod, "sh", "-c", f"iptables-{flavour}-save | grep ^-A.ISTIO | head -{LINES_OF_RULES}")
    requests = [stage.request(pod, (stage.outside.address(number), WEB)) for number in FAMILIES.values()]
    screen.claim(all(each.captured for each in requests), "its rules bring pod1's requests to the proxy", requests)
    download = stage.download("model.bin", pod, stage.outside, "IPv4")
    screen.claim(download.captured, "a download begins, and they capture it")

    code, said = stage.run("compare", "pod1", "--with", flavour, "--file", FILE)
    wanted = code == 1 and "forwarded-traffic" in said
    screen.claim(wanted, "`weir compare` looks at all packets and names those that Weir would treat otherwise", said)
    code, said = stage.run("migrate", "pod1", "--file", FILE)
    screen.claim(
        code == 0 and "step: remove" in said, "`weir migrate` puts Weir's rules in, then takes those out", said
    )
    with screen.claiming(f"the download {download.name} goes on, still by the proxy"):
        download.goes_on()
    requests = [stage.request(pod, (stage.outside.address(number), WEB)) for number in FAMILIES.values()]
    screen.claim(all(each.captured for each in requests), "new requests are captured too, in both families", requests)
    left = [
        line for text in saved(pod).values() for line in text.splitlines() if line.startswith("-A") or "ISTIO" in line
    ]
    screen.claim(not left, "not a rule or chain is left in iptables, of either flavour and family", left)
    code, said = stage.run("compare", "pod1", "--with", "nft", "--file", FILE)
    screen.claim(code == 0, "compared again, all packets fare as is wanted (exit code 0)", said)
    with screen.claiming(f"the download {download.name} has come to its own end"):
        download.finish()

    code, said = stage.run("remove", "pod1", "--file", FILE)
    screen.claim(code == 0, "and Weir leaves as well", said)
    changed = {name: text for name, text in stage.snapshot().items() if text != stage.before[name]}
    screen.claim(not changed, "pod1 is what it was at the start, byte for byte", changed)
    return "a pod leaves legacy iptables while it downloads, proved equal but for what is named"


def _flavour(pod: Host) -> str:
    """Return legacy where this kernel has it still."""
    try:
        pod.command("iptables-legacy", "-t", "nat", "-S")
    except RuntimeError:
        return "nft"
    return "legacy"
