"""A pipe that keeps a process alive: when its other end closes, however that comes about, the process is killed.

PR_SET_PDEATHSIG would not do: it fires when the *thread* that started the child ends, and it spares grandchildren.
Standard library only, so that a child can hold on to its lifeline before it imports anything.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys

_F_SETSIG = 10  # linux/fcntl.h; not in Python's fcntl


def hold(fd: int) -> None:
    """Have the kernel SIGKILL this process group when the writing end of the pipe ``fd`` closes.

    Nothing may be written to that pipe any more: a byte kills as well.
    """
    fcntl.fcntl(fd, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(fd, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if poll.poll(0):  # it closed before we were armed
        os.killpg(0, signal.SIGKILL)


def read_line(fd: int, gone: str) -> bytes:
    """One line, not a byte more: the pipe stays open as the lifeline. Exits with the words ``gone`` if it closes."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            sys.exit(gone)
        line += byte
    return bytes(line)
