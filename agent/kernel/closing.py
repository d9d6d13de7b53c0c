"""What is closed at the end of a ``with`` block."""

from abc import abstractmethod
from types import TracebackType
from typing import Self


class Closing:
    """Something that holds a socket: in a ``with`` block it is closed at the end."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Let go of what is held; twice is once."""
