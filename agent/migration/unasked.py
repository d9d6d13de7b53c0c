"""Migrations that a daemon makes by itself, where its file says ``migrate = true``."""

import logging
from dataclasses import replace

from agent.errors import WeirError
from agent.kernel.handle import Handle
from agent.migration.journal import Journal, Step
from agent.migration.parts import LOCK_AT_ONCE
from agent.migration.run import Wanted, migrate
from agent.state import Records
from agent.targets import Captured, Outcome, State, Target

log = logging.getLogger("weir")
_FINISH = "stop the daemon and run `weir migrate` once more (or with --back), or write migrate = true into its file"
_BY_HAND = "`weir migrate --dry-run` shows more; where that is meant, stop the daemon and use --accept-differences"


def migrated(target: Target, handle: Handle, records: Records) -> Outcome | None:
    """Migrate a target that is to be; return why it wasn't, None where nothing keeps a pass from being made.

    A pass goes on, and says how the target stands, when nothing of another agent's is there (any more). What a killed
    command began is taken up, in the direction of the wish; where the daemon isn't to migrate, it is left as it is:
    Weir's whole table beside the old rules would lose the proxy's DNS. Never raises a `WeirError`.
    """
    if not isinstance(target.wish, Captured):
        return None
    known = Journal(records.directory).read(handle.netns.identity, handle.cookie)
    if not target.migrate and known is not None and not known.done:
        said = f"half-done, at the step {known.step}{' back' if known.back else ''}: connections are captured meanwhile"
        return Outcome(target=target, state=State.FAILED, reason=f"a migration is {said}", hint=_FINISH)
    if not target.migrate or (known is not None and known.step is Step.MIGRATED):
        return None
    try:
        # A worker is needed by other targets: a lock that isn't free is tried again with the next pass.
        wanted = Wanted(patience=LOCK_AT_ONCE)
        came = migrate(target, handle, records, wanted, lambda said: log.info("target %s: %s", target.name, said))
    except WeirError as error:
        return Outcome(target=target, state=State.FAILED, reason=f"not migrated: {error}", hint=error.hint)
    if came.refused:
        outcome = Outcome(target=target, state=State.FAILED, reason=f"not migrated: {came.refused}", hint=_BY_HAND)
        return replace(outcome, plan=came.plan)
    if came.changed:
        log.info("target %s: %s", target.name, came.reason)
    return None
