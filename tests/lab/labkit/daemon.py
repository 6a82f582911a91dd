# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that outlive the `lab` command that starts them, known by pid and start time."""

import contextlib
import os
import select
import signal
import subprocess
from pathlib import Path


def _start_time(pid):
    """Start of `pid` in clock ticks since boot; None when it is gone or dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def note_process(path, process):
    """Record a process, whoever started it."""
    path.write_text(f"{process} {_start_time(process)}\n")


def start(argv, record, log, pass_fds=()):
    """Start `argv` in a session of its own; `record` names it before it runs."""
    def note():
        note_process(record, os.getpid())
        # An error of the new program may follow; the caller reads it from the log.

    with open(log, "ab") as out:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                pass_fds=pass_fds, start_new_session=True, preexec_fn=note,
                                cwd="/")


def _open(record):
    """A pidfd of the recorded process, None when that very process no longer lives."""
    try:
        pid, started = map(int, record.read_text().split())
        fd = os.pidfd_open(pid)
    except (OSError, ValueError):
        return None
    # The pidfd pins whoever has the pid now; the start time tells whether that is ours.
    if _start_time(pid) == started:
        return fd
    os.close(fd)
    return None


def pid(record):
    """The recorded pid while that process lives, else None."""
    fd = _open(record)
    if fd is None:
        return None
    os.close(fd)
    return int(record.read_text().split()[0])


def end(record, wait_seconds=5):
    """End the recorded process and wait until it has gone."""
    fd = _open(record)
    if fd is None:
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, number)
            if select.select([fd], [], [], wait_seconds)[0]:
                break
    finally:
        os.close(fd)
