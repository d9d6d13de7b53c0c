"""A pod under another agent's rules, beside those of others, and the `weir` that migrates it."""

import fcntl
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.kernel.iptables import Flavour
from netns_tests.command import Command, Done
from netns_tests.istio_rules import AGENT_ROUTES, cilium_save, istio_rules
from netns_tests.namespace import Namespace
from netns_tests.patience import slow
from netns_tests.world import eventually
from rulesets import iptables
from rulesets.capture import Capture
from rulesets.iptables import PROGRAMS
from rulesets.pod import build
from rulesets.vocabulary import Family
from tests.istio_saves import istio_save

__all__ = ["AGENTS", "Agent", "Migration", "Rules", "lock_file", "rules", "steps"]

SECONDS = slow(60.0)
PIPE = 4096  # bytes, a page: the least that a pipe has
STEP = re.compile(r"^step: ([a-z-]+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Agent:
    """Whose rules a pod has: in which flavour of iptables, or in tables of nft's own, and the wish that equals them."""

    name: str
    flavour: Flavour | None
    mine: str  # what stands in every line of its rules, and in no other's
    save: Callable[[Family], str] = istio_save
    wish: Mapping[str, str] = field(default_factory=dict)

    @property
    def dns(self) -> bool:
        """Say if DNS is captured."""
        return self.wish.get("dns") != "false"

    def put(self, pod: Namespace) -> None:
        """Write its routes and rules, in the agent's order."""
        for line in AGENT_ROUTES:
            pod.command("ip", *line.split())
        self.put_rules(pod)

    def put_rules(self, pod: Namespace) -> None:
        """Write its rules alone."""
        if self.flavour is None:
            pod.nft(istio_rules())
            return
        for family in Family:
            pod.command(f"{PROGRAMS[family]}-{self.flavour}-restore", "--noflush", stdin=self.save(family))

    def drop_rules(self, pod: Namespace) -> None:
        """Take its rules out again at once, with no thought for what is under way."""
        if self.flavour is None:
            pod.nft("\n".join(f"delete table inet istio-ambient-{each}" for each in ("nat", "mangle", "raw")))
            return
        for family in Family:
            text = "".join(f"{each}COMMIT\n" for each in self._undone(family))
            pod.command(f"{PROGRAMS[family]}-{self.flavour}-restore", "--noflush", stdin=text)

    def _undone(self, family: Family) -> list[str]:
        found = []
        for table in re.findall(r"^\*\w+\n(?:.*\n)*?(?=COMMIT)", self.save(family), re.MULTILINE):
            jumps = re.findall(rf"^-A (\w+ -j {self.mine}\S+)$", table, re.MULTILINE)
            chains = re.findall(rf"^:({self.mine}\S+) ", table, re.MULTILINE)
            lines = [table.partition("\n")[0], *(f"-D {each}" for each in jumps)]
            lines += [f"-{flag} {each}" for flag in "FX" for each in chains]
            found.append("".join(f"{line}\n" for line in lines))
        return found


def weir_save(family: Family) -> str:
    """Return Weir's own rules in iptables' form."""
    return iptables.render(iptables.translate(build(Capture()), family), family)


CILIUM = {"dns": "false", "probe_sources": "[]"}
AGENTS = {
    each.name: each
    for each in (
        Agent(name="istio-legacy", flavour=Flavour.LEGACY, mine="ISTIO_"),
        Agent(name="istio-nft", flavour=Flavour.NFT, mine="ISTIO_"),
        Agent(name="istio-native", flavour=None, mine="istio-"),
        Agent(name="weir-legacy", flavour=Flavour.LEGACY, mine="weir-pod-", save=weir_save),
        Agent(name="cilium-legacy", flavour=Flavour.LEGACY, mine="CILIUM_", save=cilium_save, wish=CILIUM),
        Agent(name="cilium-nft", flavour=Flavour.NFT, mine="CILIUM_", save=cilium_save, wish=CILIUM),
    )
}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """All rules and routes of a namespace, as the system's tools print them, by the tool."""

    texts: Mapping[str, str]

    def without(self, agent: Agent) -> "Rules":
        """Return what is not an agent's, byte by byte: of a table of its own nothing, of a save its lines."""
        return Rules(texts={name: _without(agent, text) for name, text in self.texts.items()})

    def uncounted(self) -> "Rules":
        """Return them without their packets and bytes."""
        counts = re.compile(r"^\[\d+:\d+\] |packets \d+ bytes \d+", re.MULTILINE)
        return Rules(texts={name: counts.sub("", text) for name, text in self.still().texts.items()})

    def still(self) -> "Rules":
        """Return them without the packets and bytes of policies, which live traffic counts under whatever rules."""
        policies = re.compile(r"^(:\S+ [A-Z]+) \[\d+:\d+\]$", re.MULTILINE)
        return Rules(texts={name: policies.sub(r"\1", text) for name, text in self.texts.items()})

    def __str__(self) -> str:
        return "\n".join(f"== {name}\n{text}" for name, text in self.texts.items())


def rules(pod: Namespace) -> Rules:
    """Return what is in force now.

    Tables of iptables' legacy flavour are looked at only where there are some, for a look would make them.
    """
    texts = {}
    for family, names in ((Family.IPV4, "ip_tables_names"), (Family.IPV6, "ip6_tables_names")):
        for flavour in Flavour:
            if flavour is Flavour.NFT or pod.command("cat", f"/proc/net/{names}"):
                program = f"{PROGRAMS[family]}-{flavour}-save"
                saved = pod.command(program, "-c")
                texts[program] = "".join(line for line in saved.splitlines(keepends=True) if not line.startswith("#"))
    listing = pod.command("nft", "list", "ruleset")
    # iptables' own are in the saves, which tell more of them.
    texts["nft"] = "".join(
        each for each in re.split(r"^(?=table )", listing, flags=re.MULTILINE) if each.startswith("table inet ")
    )
    for ip in (("-4",), ("-6",)):
        texts[f"ip {ip[0]} rule"] = pod.command("ip", "-d", *ip, "rule")
        texts[f"ip {ip[0]} route"] = pod.command("ip", "-d", *ip, "route", "show", "table", "all")
    return Rules(texts=texts)


def _without(agent: Agent, text: str) -> str:
    if agent.flavour is None:
        text = re.sub(r"^table inet istio-ambient-\w+ \{\n(?:.*\n)*?\}\n", "", text, flags=re.MULTILINE)
    else:
        text = "".join(line for line in text.splitlines(keepends=True) if agent.mine not in line)
    # Weir's own, and the rule and route that it shares with the agent.
    text = re.sub(r"^table inet weir-pod \{.*\n(?:.*\n)*?\}\n", "", text, flags=re.MULTILINE)
    shared = re.compile(r"fwmark 0x111/0xfff lookup 100|table 100 ")
    return "".join(line for line in text.splitlines(keepends=True) if not shared.search(line))


class Migration:
    """`weir migrate` for one pod, with a run directory, a target file and an xtables lock of its own."""

    def __init__(
        self, pod: Namespace, agent: Agent, directory: Path, settings: Mapping[str, str] | None = None
    ) -> None:
        """Write the file; `settings` are put over those that equal the agent's rules."""
        self.pod, self.agent = pod, agent
        self.directory = directory / "run"
        self.weir = Command(self.directory, environment={"XTABLES_LOCKFILE": str(lock_file(directory))})
        self.file = directory / "weir.toml"
        wish = {**agent.wish, **(settings or {})}
        lines = ["[[target]]", 'name = "pod"', f'netns = "{pod.name}"', *(f"{name} = {wish[name]}" for name in wish)]
        self.file.write_text("\n".join([*lines, ""]))

    def arguments(self, *more: str) -> tuple[str, ...]:
        """Return what stands behind `weir`."""
        return ("migrate", "pod", "--file", str(self.file), *more)

    def __call__(
        self,
        *more: str,
        kill_when: Callable[[str], bool] = lambda line: False,
        wait: float = 0.0,
        said: Callable[[str], object] = str,
    ) -> Done:
        """Run the command to its end, or kill it some seconds after it said a certain line.

        What it has started itself goes on then, as after any SIGKILL. `said` hears each line that the command writes
        beside its result, as soon as it does.
        """
        process = subprocess.Popen(
            self.weir.argv(*self.arguments(*more)),
            env=self.weir.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        lines = []
        try:
            for line in process.stderr:
                said(line.rstrip())
                lines.append(line)
                if kill_when(line.rstrip()):
                    time.sleep(wait)  # into what was said
                    process.kill()
                    break
            out, rest = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
            process.communicate()
        return Done(process.returncode, out, "".join([*lines, rest]))

    def killed_at(self, step: str, order: Sequence[str], *more: str, into: float = 0.0) -> None:
        """Run the command as far as a step and kill it there: before the step begins, or some seconds after.

        `order` are all steps. The command writes a line about each, and waits where nobody reads it: its pipe is made
        so full that it takes the lines of the steps before this one (or of this one too), and no more.
        """
        number = order.index(step)
        passed = "".join(f"step: {each}\n" for each in order[: number + bool(into)])
        there = order[number : number + 1 + bool(into)]  # the journal is written before the line
        before = self._journal()

        def has_come() -> bool:
            now = self._journal()
            return now != before and now[1] in there

        reading, writing = os.pipe()
        try:
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE)
            os.write(writing, bytes(PIPE - len(passed)))
            process = subprocess.Popen(
                self.weir.argv(*self.arguments(*more)),
                env=self.weir.environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=writing,
            )
            try:
                eventually(lambda: has_come() or process.poll() is not None, f"step {step}", SECONDS)
                time.sleep(into)
            finally:
                process.kill()
                process.wait()
        finally:
            os.close(reading)
            os.close(writing)
        assert process.returncode == -signal.SIGKILL, f"it ended before {step}: {process.returncode}"

    def _journal(self) -> tuple[int, str]:
        """Return when the journal was written, and the step at which it is."""
        for path in self.directory.glob("migrations/*.json"):
            with path.open() as journal:
                return os.fstat(journal.fileno()).st_mtime_ns, str(json.load(journal)["step"])
        return 0, ""

    def verify(self) -> Done:
        """Ask Weir whether the pod is as the file says."""
        return self.weir("verify", "pod", "--file", str(self.file))


def steps(done: Done) -> list[str]:
    """Return the steps that a command went through."""
    return STEP.findall(done.err)


def lock_file(directory: Path) -> Path:
    """Return the xtables lock of a test: the usual one belongs to the machine."""
    return directory / "xtables.lock"
