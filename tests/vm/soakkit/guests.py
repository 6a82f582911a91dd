# SPDX-License-Identifier: GPL-2.0-or-later
"""The two guests: booted, spoken to, and looked at when one of them dies."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

from .subjects import guest_programs

# The pids of A's processes must be free in B.
FIRST_PID = {"a": 1000000, "b": 1000}
CALL_TIMEOUT_S = 300


class Failure(Exception):
    """A round failed; the text is one sentence."""


class GuestDied(Failure):
    pass


class Guest:
    def __init__(self, lab, name, log):
        self.lab, self.name, self.log = lab, name, log
        self.target = None

    def _run(self, *words):
        done = subprocess.run([self.lab, *words], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=CALL_TIMEOUT_S, check=False)
        self.log.write(f"$ lab {' '.join(words)}\n{done.stdout}{done.stderr}")
        return done

    def up(self, words):
        done = self._run("up", self.name, *words)
        if done.returncode:
            raise GuestDied(done.stderr.strip())
        self.target = self._run("target", self.name).stdout.strip()
        self.shell("echo 4000000 >/proc/sys/kernel/pid_max;"
                   f"echo {FIRST_PID[self.name[-1]]} >/proc/sys/kernel/ns_last_pid")

    def down(self):
        self._run("down", self.name)

    def alive(self):
        return self._run("target", self.name).returncode == 0

    def console_tail(self, lines=30):
        return "\n".join(self._run("console", self.name).stdout.splitlines()[-lines:])

    def shell(self, script, codes=(0,)):
        """Output of a script; its exit code must be one of `codes`."""
        done = self._run("exec", self.name, "--", "sh", "-c", script)
        if done.returncode not in codes:
            if not self.alive():
                raise GuestDied(f"guest {self.name} died\n{self.console_tail()}")
            raise Failure(f"{script!r} in {self.name}: exit code {done.returncode}: "
                          f"{done.stderr.strip()[-500:]}")
        return done.stdout

    def start(self, command):
        done = self._run("exec", self.name, "--detach", "--", *command)
        if done.returncode:
            raise Failure(f"{command[0]} does not start: {done.stderr.strip()}")
        return int(done.stdout)


class Pair:
    """Guests A and B of one configuration. A context manager: both are down at the end."""

    def __init__(self, config, build, tree, log):
        self.config, self.log = config, log
        lab = tree / "tests/lab/lab"
        self.a, self.b = (Guest(lab, f"soak-{os.getpid()}-{side}", log) for side in "ab")
        self.words = ["--memory", str(config.memory_mib), "--cpus", str(config.cpus), "--share-ram",
                      config.share_ram, "--agent", str(build / "guestagent/vmgraft-agent"),
                      *(f"--module={name}" for name in config.modules),
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
