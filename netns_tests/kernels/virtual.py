"""A kernel at work under qemu, without hardware's help: /dev/kvm may be there and hang, software is the same anywhere.

Nothing is left behind, however this process ends: the archive and the console live in memory, and the kernel kills
qemu together with the process that started it.
"""

import os
import shlex
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from netns_tests.kernels.debian import Unpacked
from netns_tests.kernels.initramfs import TAG, initramfs

__all__ = ["Run", "job"]

STARTED, ENDED = "kernels: the job starts", "kernels: the job ended with"
MEMORY = 2048  # MiB, what is written to the root included
CPUS = 1  # a second one costs in software half as much again, and the machines of several kernels run side by side
SECONDS_TO_BOOT, SECONDS_TO_END = 180.0, 1800.0
# Mitigations guard against what runs beside; here nothing does, and in software they cost most.
PARAMETERS = "console=ttyS0 quiet panic=-1 mitigations=off"


def job(folder: Path, command: str, settings: dict[str, str]) -> str:
    """Return the script that runs a shell command in a folder, with its output on the second serial line."""
    exports = "".join(f"export {name}={value}\n" for name, value in settings.items())
    return (
        "exec </dev/null >/dev/ttyS1 2>&1\n"
        f"export PATH={os.defpath}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin HOME=/root LANG=C.UTF-8\n"
        "ip link set lo up\n"
        # Settings come with it: tests compare them, before and after.
        "modprobe nf_conntrack\n"
        f"{exports}cd {shlex.quote(str(folder))}\n"
        f"echo '{STARTED}'\n"
        f"{command}\n"
        f'echo "{ENDED} $?"\n'
    )


@dataclass
class Run:
    """One boot. Iterating over it boots and yields the lines that the job prints; then it can be asked how it went."""

    kernel: Unpacked
    script: str
    started: bool = False
    code: int | None = None
    timed_out: bool = False
    console: str = ""

    def __iter__(self) -> Iterator[str]:
        """Boot it, and yield each line of the job's as it comes. Ends when the machine is off, or is killed in time."""
        with _Memory("initramfs") as archive, _Memory("console") as console:
            os.write(archive, initramfs(self.kernel, self.script))
            process = subprocess.Popen(
                # The signal comes when the thread that started it is gone: the one that reads here.
                ["setpriv", "--pdeathsig", "KILL", *self._qemu(archive, console)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(archive, console),
                encoding="utf-8",
                errors="replace",
            )
            try:
                yield from self._lines(process)
            finally:
                process.kill()
                process.communicate()
                self.console = os.pread(console, os.fstat(console).st_size, 0).decode(errors="replace")

    def _lines(self, process: "subprocess.Popen[str]") -> Iterator[str]:
        assert process.stdout is not None
        timer = self._timer(SECONDS_TO_BOOT, process)
        try:
            for line in process.stdout:
                text = line.rstrip("\r\n")
                if text == STARTED:
                    self.started = True
                    timer.cancel()
                    timer = self._timer(SECONDS_TO_END, process)
                elif text.startswith(ENDED):
                    self.code = int(text.removeprefix(ENDED))
                else:
                    yield text
        finally:
            timer.cancel()

    def _timer(self, seconds: float, process: "subprocess.Popen[str]") -> threading.Timer:
        def give_up() -> None:
            self.timed_out = True
            process.kill()

        timer = threading.Timer(seconds, give_up)
        timer.daemon = True
        timer.start()
        return timer

    def _qemu(self, archive: int, console: int) -> list[str]:
        share = "local,id=machine,path=/,security_model=none,readonly=on,multidevs=remap"
        return [
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"),
            *("-smp", str(CPUS), "-m", str(MEMORY), "-nic", "none", "-no-reboot"),
            *("-display", "none", "-monitor", "none"),
            *("-chardev", f"file,id=console,path=/dev/fd/{console}", "-serial", "chardev:console"),
            *("-chardev", "stdio,id=job,signal=off", "-serial", "chardev:job"),
            *("-kernel", str(self.kernel.image), "-initrd", f"/dev/fd/{archive}", "-append", PARAMETERS),
            *("-fsdev", share, "-device", f"virtio-9p-pci,fsdev=machine,mount_tag={TAG}"),
        ]


class _Memory:
    """A file that is nowhere but in memory."""

    def __init__(self, name: str) -> None:
        self._descriptor = os.memfd_create(name)

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)
