# SPDX-License-Identifier: GPL-2.0-or-later
"""The two guests: booted, spoken to, and looked at when one of them dies."""

import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .subjects import guest_programs

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "lab"))
from labkit.common import LabError  # noqa: E402
from labkit.guest import Guest as LabGuest  # noqa: E402

# The pids of A's processes must be free in B.
FIRST_PID = {"a": 1000000, "b": 1000}
CALL_TIMEOUT_S = 900


class Failure(Exception):
    """A round failed; the text is one sentence."""


class GuestDied(Failure):
    pass


class Guest:
    def __init__(self, lab, name, log):
        self.lab, self.name, self.log = lab, name, log
        self.target = None

    def _run(self, *words):
        try:
            done = subprocess.run([self.lab, *words], stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=CALL_TIMEOUT_S,
                                  check=False)
        except subprocess.TimeoutExpired as late:
            raise Failure(f"lab {words[0]} {self.name} does not end") from late
        self.log.write(f"$ lab {' '.join(words)}\n{done.stdout}{done.stderr}")
        return done

    def _exec(self, *command, detach=False):
        """As `lab exec` does it: exit code (detached: pid), output, errors. Not by that program, as
        to start Python for each of so many commands would be most of a round."""
        out, err = [], []
        try:
            with LabGuest(self.name).connect() as connection:
                hang_up = threading.Timer(CALL_TIMEOUT_S, connection.socket.shutdown,
                                          [socket.SHUT_RDWR])
                hang_up.daemon = True
                hang_up.start()
                try:
                    code = connection.start(command, detach=detach)
                    if not detach:
                        code = connection.finish(None, out.append, err.append)
                finally:
                    hang_up.cancel()
        except LabError as error:
            if detach:
                raise Failure(f"{command[0]} does not start: {error}") from error
            code, err = error.code, [str(error).encode()]
        text = [b"".join(part).decode(errors="replace") for part in (out, err)]
        self.log.write(f"$ lab exec {self.name} -- {' '.join(command)}\n{text[0]}{text[1]}[{code}]\n")
        return code, *text

    def up(self, words):
        done = self._run("up", self.name, *words)
        if done.returncode:
            raise GuestDied(done.stderr.strip())
        self.target = self._run("target", self.name).stdout.strip()
        # khugepaged gives memory to whoever lives for long: subjects count theirs.
        self.shell("echo 4000000 >/proc/sys/kernel/pid_max;"
                   f"echo {FIRST_PID[self.name[-1]]} >/proc/sys/kernel/ns_last_pid;"
                   "cd /sys/kernel/mm/transparent_hugepage/khugepaged || exit 0;"
                   "echo 0 >max_ptes_none; echo 0 >max_ptes_shared")

    def down(self):
        self._run("down", self.name)

    def alive(self):
        return self._run("target", self.name).returncode == 0

    def console_tail(self, lines=30):
        return "\n".join(self._run("console", self.name).stdout.splitlines()[-lines:])

    def shell(self, script, codes=(0,)):
        """Output of a script; its exit code must be one of `codes`."""
        code, out, err = self._exec("sh", "-c", script)
        if code not in codes:
            if not self.alive():
                raise GuestDied(f"guest {self.name} died\n{self.console_tail()}")
            raise Failure(f"{script!r} in {self.name}: exit code {code}: {err.strip()[-500:]}")
        return out

    def start(self, command):
        return self._exec(*command, detach=True)[0]


class Pair:
    """Guests A and B of one configuration. A context manager: both are down at the end."""

    def __init__(self, config, build, tree, log):
        self.config, self.log = config, log
        lab = tree / "tests/lab/lab"
        self.a, self.b = (Guest(lab, f"soak-{os.getpid()}-{side}", log) for side in "ab")
        self.words = ["--memory", str(config.memory_mib), "--cpus", str(config.cpus), "--share-ram",
                      config.share_ram, "--agent", str(build / "guestagent/vmgraft-agent"),
                      *(f"--module={name}" for name in config.modules),
                      *([f"--cpu={config.cpu_model}"] if config.cpu_model else []),
                      *guest_programs(build, tree)]

    def up(self):
        with ThreadPoolExecutor(2) as pool:
            ups = [pool.submit(guest.up, [*self.words, "--kernel", kernel])
                   for guest, kernel in zip((self.a, self.b), self.config.kernels)]
        for one in ups:
            one.result()

    def down(self):
        for guest in (self.a, self.b):
            guest.down()

    def again(self):
        self.down()
        self.up()

    def __enter__(self):
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_):
        self.down()
