# SPDX-License-Identifier: GPL-2.0-or-later
"""The labd binary: compiled from the tree and kept by the hash of its sources."""

import hashlib
import os
import shutil
import subprocess
import tempfile

from .common import LAB, LabError, home

FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Wall", "-static"]


def binary():
    sources = sorted(LAB.glob("labd*.[ch]"))
    content = b"".join(path.read_bytes() for path in sources)
    digest = hashlib.sha256(" ".join(FLAGS).encode() + content).hexdigest()[:16]
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
        done = subprocess.run([compiler, *FLAGS, "-o", temporary,
                               *(path for path in sources if path.suffix == ".c")],
                              text=True, capture_output=True)
        if done.returncode:
            raise LabError(f"labd does not compile:\n{done.stderr.strip()}")
        os.chmod(temporary, 0o755)
        os.rename(temporary, final)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    return final
