"""What can go wrong while a handle writes: answers lost, files used up, things in use."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.errors import AnswerLost, GenerationMoved, KernelError
from agent.kernel import batches
from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from agent.kernel.rawnetlink import RawNetlink
from agent.targets import State
from netns_tests.daemon import rules
from netns_tests.enrolling import Weir, capture, kernel_state
from netns_tests.kernel_tables import GETGEN
from netns_tests.namespace import Namespace
from netns_tests.nft_context import Nft
from rulesets import pod
from rulesets.capture import Capture
from rulesets.diff import diff
from rulesets.netlink import OWNED
from rulesets.pod import POD_TABLE

RULES = pod.build(Capture())
OTHER = pod.build(Capture.parse({"dns": False, "outbound_port": 16001}))
WISH = {"when_proxy_absent": "capture"}
NETWORKS = 10_000


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace.create("faults") as made:
        yield made


@pytest.fixture(params=[None, OWNED], ids=["unowned", "owned"])
def handle(request: pytest.FixtureRequest, namespace: Namespace) -> Iterator[Handle]:
    made = Handle(Netns(namespace.name), flags=request.param)
    yield made
    made.close()


# Answers that are lost


@dataclass
class Deaf:
    """Has the kernel's answers to batches find no room: unread answers to others fill the buffer before each."""

    deaf: bool = False
    lost: int = 0


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> Deaf:
    made, send = Deaf(), batches.send

    def without_room(netlink: RawNetlink, *arguments: Any, **named: Any) -> None:
        if made.deaf:
            netlink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            question = GETGEN.to_bytes(2, sys.byteorder)
            for _ in range(20):
                netlink._socket.send((20).to_bytes(4, sys.byteorder) + question + b"\x01\0" + bytes(12))
        try:
            send(netlink, *arguments, **named)
        except AnswerLost:
            made.lost += 1
            raise
        finally:
            netlink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)

    monkeypatch.setattr(batches, "send", without_room)
    return made


def test_a_write_whose_answer_was_lost_is_known_by_what_is_there(handle: Handle, deaf: Deaf) -> None:
    assert handle.look(POD_TABLE) is None
    for number, (old, new) in enumerate(((None, RULES), (RULES, OTHER), (OTHER, RULES), (RULES, None)), 1):
        deaf.deaf = True
        handle.apply(diff(old, new))
        deaf.deaf = False
        assert deaf.lost == number
        assert handle.look(POD_TABLE) == new
        assert handle.read(POD_TABLE) == new
    handle.apply(diff(None, OTHER))
    assert handle.look(POD_TABLE) == OTHER


def test_a_refused_write_whose_answer_was_lost_changes_nothing(handle: Handle, deaf: Deaf) -> None:
    deaf.deaf = True
    with pytest.raises((AnswerLost, GenerationMoved)):
        handle.apply(diff(RULES, OTHER))  # there is nothing to flush
    deaf.deaf = False
    assert handle.look(POD_TABLE) is None
    handle.apply(diff(None, RULES))
    assert handle.read(POD_TABLE) == RULES


def test_a_pass_ends_right_although_answers_are_lost(namespace: Namespace, tmp_path: Path, deaf: Deaf) -> None:
    with Weir(namespace, tmp_path) as weir:
        assert weir.capture(**WISH).state is State.DEGRADED
        clean = kernel_state(namespace)
        weir.remove()
        deaf.deaf = True
        assert weir.capture(**WISH).state is State.DEGRADED
        assert kernel_state(namespace) == clean
        assert weir.remove().state is State.REMOVED
        assert deaf.lost >= 2


# Files that are used up

_FEW_FILES = """
import json, os, resource, sys
from pathlib import Path
from agent.errors import WeirError
from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from agent.reconcile import read_back, reconcile
from agent.state import Records
from agent.targets import Captured, Target
from rulesets.capture import Capture

netns, directory, owned = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "owned"
from rulesets.netlink import OWNED
wish = Captured(capture=Capture.parse({"when_proxy_absent": "capture"}))
target = Target(name="few", netns=netns, wish=wish)
records = Records(directory)

def attempt(kept):
    handle = kept
    try:
        handle = kept or Handle(Netns(netns), flags=OWNED if owned else None)
        outcome = read_back(reconcile(target, handle, records), handle)
        return [str(outcome.state), outcome.reason]
    except WeirError as error:
        return ["error", f"{error} {error.hint}"]
    except Exception as error:
        import traceback
        return ["not a WeirError", traceback.format_exc()[-900:]]
    finally:
        if handle is not None and kept is None:
            handle.close()

first = Handle(Netns(netns))  # imports, and what is opened once and for all
first.read("weir-pod"); first.close()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
for opened in (False, True):
    for left in range(13):
        used = max(map(int, os.listdir("/proc/self/fd"))) + 1
        kept = Handle(Netns(netns), flags=OWNED if owned else None) if opened else None
        used = len(os.listdir("/proc/self/fd")) - 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + left, hard))
        came = attempt(kept)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if kept is not None:
            kept.close()
        print(json.dumps([opened, left, *came]), flush=True)
        sys.stdin.readline()
"""


@pytest.mark.parametrize("owned", ["owned", "unowned"])
def test_files_that_are_used_up_are_named_and_nothing_is_half_done(
    namespace: Namespace, tmp_path: Path, owned: str
) -> None:
    with Weir(namespace, tmp_path / "first") as weir:
        nothing = rules(namespace)
        assert weir.capture(**WISH).state is State.DEGRADED
        captured = rules(namespace)
        weir.remove()
    argv = [sys.executable, "-c", _FEW_FILES, namespace.name, str(tmp_path / "run"), owned]
    failed, troubles = 0, []
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            opened, left, state, said = json.loads(line)
            found = rules(namespace)
            if state == "degraded":
                if found != captured:
                    troubles.append((opened, left, state, "is not captured"))
            else:
                failed += 1
                if "Too many open files" not in said or state == "not a WeirError":
                    troubles.append((opened, left, state, said))
                if found != captured and found != nothing:
                    troubles.append((opened, left, "half done", said))
            with Weir(namespace, tmp_path / "run") as weir:
                weir.pod.command("nft", "flush", "ruleset")
                assert weir.remove().state in (State.REMOVED, State.UNCHANGED)
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
    assert process.returncode == 0
    assert failed > 4
    assert not troubles, "\n".join(map(str, troubles))


# Much, and things in use


def test_ten_thousand_networks_are_one_write(handle: Handle, namespace: Namespace) -> None:
    def many(second: int) -> list[str]:
        return [f"{second}.{number >> 8}.{number & 255}.0/25" for number in range(NETWORKS)]

    one, two = (pod.build(Capture.parse({"exclude_outbound_networks": many(second)})) for second in (10, 11))
    for old, new in ((None, one), (one, two), (two, RULES)):
        generation = handle.generation()
        handle.apply(diff(old, new))
        assert handle.generation() == generation + 1
        assert handle.read(POD_TABLE) == new


def test_what_is_in_use_by_something_foreign_is_named_and_nothing_is_written(
    namespace: Namespace, tmp_path: Path
) -> None:
    nft = Nft(namespace)
    with Weir(namespace, tmp_path) as weir:
        assert weir.capture(**WISH).state is State.DEGRADED
        before, handle = weir.call(weir.handle.read, POD_TABLE), weir.handle
        assert before is not None
        after = pod.build(capture(**WISH, dns=False))
        gone = next(each.name for each in before.counters if each.name not in {one.name for one in after.counters})
        nft.load(f"""add map inet weir-pod theirs {{ type inet_service : counter; }}
            add element inet weir-pod theirs {{ 80 : "{gone}" }}""")
        # As if their map had come after the look: what is read has it, and is made anew.
        handle._known.clear()
        shown = kernel_state(namespace)
        with pytest.raises(KernelError, match="EBUSY") as refused:
            handle.apply(diff(before, after))
        assert refused.value.statement == f"delete counter inet weir-pod {gone}"
        assert kernel_state(namespace) == shown
        assert weir.capture(**WISH, dns=False).state is State.DEGRADED
        assert weir.call(weir.handle.read, POD_TABLE) == after
