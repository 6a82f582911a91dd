# SPDX-License-Identifier: GPL-2.0-or-later
"""The labd binary: meson's when it is up to date, else compiled here and kept by its hash."""

import hashlib
import os
import shutil
import subprocess
import tempfile

from .common import LAB, LabError, home

FLAGS = ["-std=gnu11", "-O2", "-Wall", "-static"]


def binary():
    source = LAB / "labd.c"
    digest = hashlib.sha256(" ".join(FLAGS).encode() + source.read_bytes()).hexdigest()[:16]
    folder = home() / "labd"
    final = folder / digest
    if final.exists():
        return final
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise LabError("a C compiler is needed to build labd: install gcc and libc6-dev")
    folder.mkdir(exist_ok=True)
    fd, temporary = tempfile.mkstemp(prefix=".labd-", dir=folder)
    os.close(fd)
    try:
        done = subprocess.run([compiler, *FLAGS, "-o", temporary, source], text=True,
                              capture_output=True)
        if done.returncode:
            raise LabError(f"labd does not compile:\n{done.stderr.strip()}")
        os.rename(temporary, final)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    return final
