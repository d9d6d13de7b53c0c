"""Scene 8: both pods are released under captured downloads, and nothing is left."""

import time

from netns_tests.demo.stage import Stage
from netns_tests.world import eventually

__all__ = ["remove"]

DRAIN = "30"
SECONDS_TO_RELEASE = 15.0


def remove(stage: Stage) -> str:
    """Release both pods: new connections at once, captured downloads when they have ended."""
    screen = stage.screen
    file = stage.weir.file.name
    outwards = stage.download("image.iso", stage.pod1, stage.outside, "IPv6")
    inwards = stage.download("report.pdf", stage.outside, stage.pod2, "IPv4")
    downloads = (outwards, inwards)
    screen.say("Two more downloads begin, again one in each direction, and this time the proxies carry them.")
    screen.claim(all(each.captured for each in downloads), "both downloads are captured")

    arguments = ("remove", "--file", file, "pod1", "pod2", "--drain", DRAIN)
    screen.typed(f"weir {' '.join(arguments)} &", None, " ")
    begun = time.monotonic()
    removing = stage.weir.start(*arguments)
    with screen.claiming("new requests go directly again, in both families and directions"):
        eventually(lambda: all(each.direct for each in stage.requests()), "all direct", SECONDS_TO_RELEASE)
    screen.say(f"     {time.monotonic() - begun:.1f} s after the command was typed, its start included")
    requests = stage.requests()
    stage.show(requests)
    screen.claim(all(each.direct for each in requests), "no proxy sees any of them", requests)
    for each in downloads:
        with screen.claiming(f"the captured download {each.name} goes on meanwhile"):
            each.goes_on()
    code, said = stage.run("status", "--file", file)
    listed = "draining" in said and all(each.listed(said) for each in downloads)
    screen.claim(code == 0 and listed, "`weir status` lists what is waited for", said)
    screen.claim(removing.poll() is None, "`weir remove` waits for them")
    for each in downloads:
        with screen.claiming(f"the captured download {each.name} has come to its own end"):
            amount = each.finish()
        screen.say(f"     {amount / 1e6:.1f} MB, the same at both ends: SHA-256 {each.checksum[:16]}...")
    done = stage.weir.finish(removing)
    screen.typed(done.typed, done.code, done.output)
    screen.claim(done.code == 0, "`weir remove` has finished", done)
    screen.claim(time.monotonic() - begun < float(DRAIN), f"well before the {DRAIN} seconds were over")
    screen.claim(stage.daemon.stop() == 0, "the daemon stops when told to (exit code 0)", stage.daemon.log)

    for name, pod in stage.names.items():
        rules = stage.shell(pod, "nft", "list", "ruleset")
        screen.claim(rules == "", f"nothing is left in {name}", rules)
    after = stage.snapshot()
    changed = {name: text for name, text in after.items() if text != stage.before[name]}
    sentence = "rules, policy rules and routes of pods, node and outside are what they were at the start, byte for byte"
    screen.claim(not changed, sentence, changed)
    return "removal drains: captured downloads end by themselves, then not a byte of Weir is left"
