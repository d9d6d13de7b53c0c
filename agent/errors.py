"""Everything that can go wrong and has a name.

WeirError                   what a user is told; `hint` says what to do about it
├── ConfigError             the file or a command line value: file, line, setting and value in the text
├── TargetError             a target that can't be acted on
│   ├── NamespaceMissing    its namespace isn't there, or went away
│   ├── NotANamespace       its path holds something else
│   └── NodeNamespace       it is the node's own, and the target isn't called host
├── KernelError             the kernel or its library said no: `statement` and what it `said`
│   ├── FeatureMissing      the kernel lacks a feature: `feature` and its build `option`
│   ├── PermissionMissing   this process may not
│   ├── TableHeld           another process owns the table
│   ├── GenerationMoved     somebody changed the namespace's rules since they were read
│   ├── AnswerLost          it may have been carried out or not: read again
│   ├── RouteTableTaken     the route table holds routes of somebody else
│   ├── NotAsWritten        what was read back is not what was written
│   └── LockHeld            another program holds iptables' lock
├── LibraryMissing          libnftables or its Python binding isn't there
├── ProgramMissing          a program of iptables isn't there
├── Busy                    another Weir holds the namespace
├── ApiError                the Kubernetes API said no, or nothing: `status` of HTTP
└── DaemonError             what the running daemon answered
"""


class WeirError(Exception):
    """What a user is told. The text names the target, the setting or the statement; `hint` what to do."""

    def __init__(self, text: str, *, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


class ConfigError(WeirError):
    """A target file or a command line that can't be used. Nothing was changed."""


class TargetError(WeirError):
    """A target that can't be acted on."""


class NamespaceMissing(TargetError):
    """The target's network namespace isn't there, or went away half-way."""


class NotANamespace(TargetError):
    """The target's path holds something other than a network namespace."""


class NodeNamespace(TargetError):
    """The target is not called host and turns out to be the node's own namespace."""


class KernelError(WeirError):
    """The kernel refused: `statement` is what was asked of it, ready to paste where it can be, `said` its answer."""

    def __init__(self, *, statement: str, said: str, hint: str = "") -> None:
        super().__init__(f"{said}\n  while carrying out: {statement}" if statement else said, hint=hint)
        self.statement = statement
        self.said = said


class FeatureMissing(KernelError):
    """The kernel lacks a feature: `feature` in words, `option` its build option (CONFIG_...)."""

    def __init__(self, *, feature: str, option: str, statement: str, said: str, hint: str = "") -> None:
        super().__init__(statement=statement, said=f"{feature} is missing ({option}): {said}", hint=hint)
        self.feature = feature
        self.option = option


class PermissionMissing(KernelError):
    """This process may not do that."""


class TableHeld(KernelError):
    """Another process owns the table, so the kernel lets nobody else change it."""

    def __init__(self, *, statement: str, said: str) -> None:
        hint = "stop that process (another Weir, or `nft` with an open owner table), then try again"
        super().__init__(statement=statement, said=said, hint=hint)


class GenerationMoved(KernelError):
    """The namespace's rules are no longer those that were read, so nothing was changed."""


class AnswerLost(KernelError):
    """The kernel's answer was lost for want of memory: what was asked for may have been carried out or not."""


class RouteTableTaken(KernelError):
    """The route table that Weir is to use holds routes that aren't Weir's."""


class NotAsWritten(KernelError):
    """What the kernel lists is not what was written: somebody else wrote at the same time, or a codec is wrong."""


class LockHeld(KernelError):
    """Another program held the lock of iptables' legacy programs for longer than was to be waited; nothing changed."""


class ProgramMissing(WeirError):
    """A program of iptables is needed, and isn't installed or can't be started."""


class LibraryMissing(WeirError):
    """libnftables or its Python binding can't be loaded."""


class Busy(WeirError):
    """Another Weir holds the namespace at the moment."""


class ApiError(WeirError):
    """The Kubernetes API refused, or nobody answered: `status` is that of HTTP, 0 where there was no answer."""

    def __init__(self, text: str, *, status: int = 0, hint: str = "") -> None:
        super().__init__(text, hint=hint)
        self.status = status


class DaemonError(WeirError):
    """What the running daemon answered instead of an outcome."""
