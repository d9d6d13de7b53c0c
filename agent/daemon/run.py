"""Start-up, signals and shutdown of the daemon. Stopping it leaves traffic as it is."""

import asyncio
import logging
import os
import signal
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from agent import local_api, report
from agent.daemon.drifting import Drifting, documents
from agent.daemon.ears import Ears
from agent.daemon.figures import Figures
from agent.daemon.flows import series
from agent.daemon.forever import forever
from agent.daemon.keeper import Keeper
from agent.daemon.process import alone, raise_file_limit
from agent.daemon.said import Said, log_outcome
from agent.daemon.saved import warn_of_saved_tables
from agent.daemon.settings import Settings, read_file
from agent.daemon.threads import Threads
from agent.errors import DaemonError, WeirError
from agent.kernel import features, memory
from agent.observe import endpoints
from agent.observe.metrics import Metrics
from agent.observe.notify import monotonic_microseconds, notify, watchdog_interval
from agent.report import Report
from agent.sources import file as target_file
from agent.sources.cgroups import watch_cgroups
from agent.sources.namespaces import watch_file, watch_names
from agent.state import Records
from agent.targets import Outcome, State, Target
from rulesets.netlink import OWNED

if TYPE_CHECKING:  # what a node of Kubernetes takes is nothing that a plain host should have in memory
    from agent.daemon.cluster import Cluster

log = logging.getLogger("weir")
# How often it is checked, in seconds, that each open namespace is still the one that its name means: one stat each.
IDENTITY_INTERVAL = 1.0
FILE_REST = 0.05  # seconds until a file that was touched is read


def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises `WeirError` when it can't start; then nothing was changed."""
    memory.spare()
    read_file(settings)
    lacking = _lacking_features()
    flags = OWNED if settings.own and features.PERSISTENT_TABLES not in lacking else None
    if flags is not None:
        warn_of_saved_tables()
    raise_file_limit()
    records = Records(by_daemon=True)
    with (
        alone(records.directory / "daemon.lock"),
        ThreadPoolExecutor(settings.workers, "kernel") as workers,
        ThreadPoolExecutor(1, "afterwards") as afterwards,
    ):
        asyncio.run(_until_stopped(settings, records, Threads(workers=workers, afterwards=afterwards), flags))


def _lacking_features() -> frozenset[str]:
    """Prove that the kernel has what is needed; say, and return, what it lacks besides. Raises `FeatureMissing`."""
    findings = features.probe()
    for each in features.missing_needed(findings):
        raise each.error()
    for each in features.missing(findings):
        log.warning("%s", each)
    return frozenset(each.feature.name for each in findings if not each.present)


async def _until_stopped(settings: Settings, records: Records, threads: Threads, flags: tuple[str, ...] | None) -> None:
    await _Run(settings, records, threads, flags).until_stopped()


class _Run:
    """One life of the daemon."""

    def __init__(self, settings: Settings, records: Records, threads: Threads, flags: tuple[str, ...] | None) -> None:
        self._settings = settings
        self._flags = flags
        self._threads = threads
        self._records = records
        self._file_error = ""
        self._text: str | None = None  # of the file, when it was last read
        self._defaults: Mapping[str, object] = {}
        self._check: asyncio.TimerHandle | None = None
        self._ready = False
        self._said = Said()
        self._stop = asyncio.Event()
        self._failed = ""  # why it stops by itself
        self._cluster: Cluster | None = None
        most = series(kubernetes=settings.kubernetes is not None)
        self._metrics = Metrics(lambda: self._keeper.counted, most=most)
        self._drifting = Drifting(self._metrics.registry)
        self._keeper = Keeper(
            threads=threads,
            flags=flags,
            records=records,
            rhythm=settings.rhythm,
            drain=settings.drain,
            observe=self._observe,
            observe_read_back=self._observe_read_back,
            ended=self._said.forget,
            told=self._drifting,
        )
        self.figures = Figures(self._keeper, threads, self._said).read
        self._ears = Ears(self._keeper, threads, records, self._metrics.registry, most=most)

    async def until_stopped(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        targets = self._load()
        if self._settings.kubernetes is not None:
            self._keeper.take(targets)  # none; later it would release the pods that are kept by then
            await self._start_cluster()
        registry, count = self._metrics.registry, self._ears.count
        http = await endpoints.serve(self._settings.listen, registry, self._why_not_ready, count)
        others = await endpoints.serve(self._settings.metrics or endpoints.Listen(), registry, None, count)
        api = await local_api.serve(self, self._records.directory / local_api.SOCKET_NAME)
        loop.add_signal_handler(signal.SIGHUP, self._reload_and_log)
        background = [
            asyncio.create_task(forever(self._watch_names), name="namespaces"),
            asyncio.create_task(forever(self._watch_file), name="file"),
            asyncio.create_task(forever(self._watch_identities), name="identities"),
            asyncio.create_task(forever(self._watch_cgroups), name="cgroups"),
            *self._ears.tasks(),
            asyncio.create_task(self._say_ready_and_alive(), name="service manager"),
        ]
        self._records.clear_away()
        if self._cluster is None:
            self._keeper.take(targets)
            self._keeper.resume()
            log.info("keeping %d targets from %s", len(targets), self._settings.file)
        await self._stop.wait()
        notify(STOPPING="1")
        log.info("stopping; traffic stays as it is")
        if self._cluster is not None:
            await self._cluster.end(departing=not self._failed)
        for task in background:
            task.cancel()
        self._ears.close()
        await self._keeper.close()
        for runner in (api, http, others):
            if runner is not None:
                await runner.cleanup()
        if self._failed:
            raise DaemonError(self._failed)

    async def _start_cluster(self) -> None:
        from agent.daemon.on_node import cluster_of

        self._cluster = await cluster_of(
            self._settings,
            self._keeper,
            self._threads,
            self._flags,
            self._records,
            self._defaults,
            self._fail,
            self._metrics.registry,
        )
        self._drifting.event, self._cluster.probes.drifted = self._cluster.pods.drifted, self._drifting.on_node
        await self._cluster.start()

    def _fail(self, why: str) -> None:
        """Stop: this node is not for Weir as it is."""
        self._failed = why
        self._stop.set()

    # What the local socket serves.

    def status(self) -> dict[str, object]:
        return {
            "targets": documents(self._keeper.drifted),
            "file": str(self._settings.file),
            "file_error": self._file_error,
            "pid": os.getpid(),
            **(self._cluster.status() if self._cluster is not None else {}),
        }

    def holder(self, identity: str) -> str:
        return self._keeper.name_of(identity)

    async def apply(self, names: tuple[str, ...]) -> tuple[Report, ...]:
        elsewhere = self._keeper.refused(names)
        refused = (*elsewhere, *self._keeper.apply(_without(names, elsewhere)))
        outcomes = await self._keeper.until(_without(names, refused), lambda _: True)
        return tuple(map(report.of_outcome, (*refused, *outcomes)))

    async def remove(self, names: tuple[str, ...], drain: float) -> tuple[Report, ...]:
        refused = self._keeper.refused(names)
        others = _without(names, refused)
        self._keeper.remove(others, drain)
        outcomes = await self._keeper.until(others, lambda outcome: outcome.state is not State.DRAINING)
        return tuple(map(report.of_outcome, (*refused, *outcomes)))

    def reload(self) -> None:
        if self._ready:
            notify(RELOADING="1", MONOTONIC_USEC=monotonic_microseconds())
        try:
            targets = self._load()
            if self._cluster is not None:
                self._cluster.change_defaults(self._defaults)
            else:
                self._keeper.take(targets)
        finally:
            if self._ready:
                notify(READY="1", STATUS=self._summary())
        self._said.keep_only(each.name for each in targets)
        log.info("keeping %d targets from %s", len(targets), self._settings.file)

    def _load(self) -> tuple[Target, ...]:
        self._text = None
        try:
            self._text, found = read_file(self._settings)
            self._defaults = found.defaults
        except WeirError as error:
            self._file_error = str(error)
            self._metrics.file_good(False)
            raise
        self._file_error = ""
        self._metrics.file_good(True)
        return found.targets

    # What goes on in the background.

    def _reload_and_log(self) -> None:
        try:
            self.reload()
        except WeirError as error:
            log.error("the targets stay as they were: %s", error)

    def _file_touched(self) -> None:
        """Read the file in a moment: what replaces a file takes two or three steps."""
        if self._check is None or self._check.when() <= asyncio.get_running_loop().time():
            self._check = asyncio.get_running_loop().call_later(FILE_REST, self._reload_if_changed)

    def _reload_if_changed(self) -> None:
        try:
            if target_file.read(self._settings.file) == self._text:
                return
        except WeirError as error:
            if str(error) == self._file_error:
                return
        self._reload_and_log()

    def _observe(self, outcome: Outcome) -> None:
        self._metrics.count(outcome)
        self._said.tell(outcome)
        if self._cluster is not None:
            self._cluster.passed(outcome)

    def _observe_read_back(self, outcome: Outcome) -> None:
        self._metrics.count_read_back(outcome)
        if outcome.read_back is False:
            log_outcome(outcome)
        if self._cluster is not None:
            self._cluster.passed(outcome)

    def _why_not_ready(self) -> str:
        if self._cluster is not None and (why := self._cluster.why_not_ready()):
            return why
        return "" if self._keeper.settled else "not every target has been looked at yet"

    async def _watch_names(self) -> None:
        await watch_names(self._keeper.wake)

    async def _watch_file(self) -> None:
        await watch_file(self._settings.file, self._file_touched)

    async def _watch_cgroups(self) -> None:
        await watch_cgroups(self._keeper.wake, lambda: (each.target for each in self._keeper.outcomes))

    async def _watch_identities(self) -> None:
        while True:
            await asyncio.sleep(IDENTITY_INTERVAL)
            self._keeper.check_identities()

    async def _say_ready_and_alive(self) -> None:
        """Say that the daemon is ready once each target was looked at, and from then on that loop and workers move."""
        await self._keeper.until_settled()
        self._ready = True
        notify(READY="1", STATUS=self._summary())
        interval = watchdog_interval()
        while interval is not None:
            await self._threads.work(os.getpid)
            notify(WATCHDOG="1")
            await asyncio.sleep(interval)

    def _summary(self) -> str:
        bad = f"; the file is bad: {self._file_error}" if self._file_error else ""
        return f"keeping {len(self._keeper.outcomes)} targets{bad}".replace("\n", " ")


def _without(names: Iterable[str], outcomes: Iterable[Outcome]) -> tuple[str, ...]:
    told = {each.target.name for each in outcomes}
    return tuple(each for each in names if each not in told)
