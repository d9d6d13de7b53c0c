"""A pod under another agent's rules, with streams through its proxy and rules of others beside them, to be migrated."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest

from agent.kernel.iptables import Flavour
from netns_tests.command import Done
from netns_tests.foreign_rules import put_foreign_rules
from netns_tests.migrating import Agent, Migration, Rules, lock_file, rules
from netns_tests.migration_load import Round
from netns_tests.migration_streams import LONG, Streams
from netns_tests.proxy_process import ProxyProcess
from netns_tests.world import World

__all__ = ["Scene"]


class Scene:
    """The first pod of a world. Use it in a `with` block."""

    def __init__(
        self,
        world: World,
        agent: Agent,
        directory: Path,
        *,
        streams: bool = True,
        few: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Take the agent whose rules the pod has, and settings of the wish that differ from them.

        `few`: of others' rules there are only some.
        """
        self.world, self.pod, self.agent = world, world.pods[0], agent
        self.migration = Migration(self.pod, agent, directory, settings)
        # Docker and kube-proxy share the agent's flavour; beside tables of nft's own they have the legacy one.
        self.flavour = agent.flavour or Flavour.LEGACY
        self.proxy: ProxyProcess
        self.before: Rules
        self._few = few
        self._lock = lock_file(directory)
        self._stack = ExitStack()
        # Others' rules start connection tracking, so that an agent's leave those alone that were open before.
        self._streams = [Streams(world, self.pod, captured=each) for each in (False, True)] if streams else []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # A lock of the test's own: the usual one is shared by all of the machine's namespaces.
            stack.enter_context(pytest.MonkeyPatch.context()).setenv("XTABLES_LOCKFILE", str(self._lock))
            put_foreign_rules(self.pod, self.flavour, few=self._few)
            # Queries that the proxy passes on are under way for longer, to and fro through two zones.
            forward = (self.world.outside.v4, 53) if LONG else None
            self.proxy = ProxyProcess(self.pod, forward_dns=forward)
            stack.enter_context(self.proxy)
            for each in self._streams[:1]:
                stack.enter_context(each)
            self.agent.put(self.pod)
            self.before = rules(self.pod)
            # The proxy dials from ports of the pod, as its clients do, and should not meet those of a moment ago.
            self.pod.sysctl("net/netfilter/nf_conntrack_tcp_timeout_time_wait", 1)
            for each in self._streams[1:]:
                stack.enter_context(each)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @contextmanager
    def load(self) -> Iterator[Round]:
        """Load the pod; at the end of the block all must be well: every connection, query and stream."""
        with Round(self.world, self.pod, self.proxy, queries=self.agent.dns, forwarded=LONG) as running:
            running.more()
            yield running
            running.more()
            verdict = running.verdict()
        assert not verdict.faults, verdict
        wrong = {ends: fared for each in self._streams for ends, fared in each.fare().items()}
        assert not wrong, wrong

    def finish(self, *seconds: float) -> None:
        """End all streams in order: every byte has arrived."""
        for each in self._streams:
            each.finish(*seconds)

    def migrate(self, *arguments: str, said: Callable[[str], object] = str) -> Done:
        """Migrate; then Weir's rules are there, the agent's are not, and everybody else's are as they were."""
        done = self.migration(*arguments, said=said)
        assert done.code == 0, done.err + done.out
        now = rules(self.pod)
        assert str(now.without(self.agent).still()) == str(self.before.without(self.agent).still())
        assert not [line for line in str(now).splitlines() if self.agent.mine in line]
        for family in ("-4", "-6"):
            (shared,) = [line for line in now.texts[f"ip {family} rule"].splitlines() if "0x111" in line]
            assert "proto 119" in shared
        verified = self.migration.verify()
        assert verified.code == 0, verified.out
        return done

    def back(self, *, said: Callable[[str], object] = str) -> Done:
        """Go back; then everything is as it was before."""
        done = self.migration("--back", said=said)
        assert done.code == 0, done.err + done.out
        self.is_as_before()
        return done

    def is_as_before(self) -> None:
        """Fail unless all rules and routes are as they were, with what those of others have counted."""
        now = rules(self.pod)
        assert str(now.uncounted()) == str(self.before.uncounted())
        assert str(now.without(self.agent).still()) == str(self.before.without(self.agent).still())
