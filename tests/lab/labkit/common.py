# SPDX-License-Identifier: GPL-2.0-or-later
"""What every part of the lab shares: its error, its directories, its locks."""

import contextlib
import fcntl
import os
import re
import sys
from pathlib import Path

LAB = Path(__file__).resolve().parent.parent
TREE = LAB.parent.parent


class LabError(Exception):
    """Something went wrong; the text is one sentence for the user, `code` our exit code."""

    def __init__(self, text, code=1):
        super().__init__(text)
        self.code = code


class UsageError(LabError):
    """The command line asks for something that makes no sense."""

    def __init__(self, text):
        super().__init__(text, 2)


def say(text):
    print(f"lab: {text}", file=sys.stderr, flush=True)


def home():
    """The one directory that holds all state of this lab."""
    named = os.environ.get("VMGRAFT_LAB")
    if named:
        path = Path(named)
    else:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vmgraft-lab"
    path = Path(os.path.abspath(path))
    path.mkdir(parents=True, exist_ok=True)
    return path


def check_name(name, what):
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}", name):
        raise LabError(f"'{name}' cannot name a {what}: "
                       "use at most 32 letters, digits, '-', '_' and '.', a letter or digit first")
    return name


@contextlib.contextmanager
def locked(path):
    """Hold an exclusive lock on `path`; the kernel drops it when we die."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def image_format(path):
    """Of a disk: by its name, never by what a guest may have written to it."""
    return "qcow2" if str(path).endswith(".qcow2") else "raw"
