# SPDX-License-Identifier: GPL-2.0-or-later
"""One round: a subject starts in A, is taken at a random moment, goes on in B and is asked there."""

import json
import shlex
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from .guests import CALL_TIMEOUT_S, Failure, GuestDied
from .subjects import HOME

READY_S = 300
VERDICT_S = 300
MAX_DELAY_S = 0.5
REFUSED = 3  # exit code of vmgraft
# Some subjects are hardly ever outside of the kernel, and the host may be busy: so busy that a guest
# gets no time for a while.
DEADLINE = ("--deadline", "60")
AGENT_TIMEOUT = ("--agent-timeout", "60")

# Exit codes of the scripts below.
ENDED, LATE = 8, 9


def _await(path, pid, seconds):
    """A shell loop until `path` is there, the process is gone or time is up."""
    return (f"i=0; until [ -e {path} ]; do "
            f"[ -d /proc/{pid} ] || {{ sleep 0.2; [ -e {path} ] && break; exit {ENDED}; }}; "
            f"i=$((i + 1)); [ $i -lt {seconds * 20} ] || exit {LATE}; sleep 0.05; done; ")


class Round:
    def __init__(self, pair, vmgraft, subject, workdir, folder, log):
        self.pair, self.vmgraft, self.subject = pair, vmgraft, subject
        self.workdir, self.folder, self.log = workdir, folder, log
        self.guests, self.pids = [], {}  # that have the work directory; the process in each

    def _make_workdir(self, guest):
        self.guests.append(guest)
        prepare = shlex.join(self.subject.command(self.workdir, "--prepare"))
        guest.shell(f"mkdir -p {self.workdir} && chmod 777 {self.workdir}" +
                    (f" && {prepare}" if self.subject.prepare else ""))

    def _wait(self, guest, path, seconds, what):
        """The contents of `path` in the work directory."""
        pid = self.pids[guest]
        text = guest.shell(_await(f"{self.workdir}/{path}", pid, seconds) +
                           f"cat {self.workdir}/{path}; exit 0", (0, ENDED, LATE))
        if not text and path == "verdict":
            state = guest.shell(f"cat /proc/{pid}/status /proc/{pid}/wchan /proc/{pid}/stack "
                                f"2>&1; ls {self.workdir}; dmesg | tail -n 20")
            self.log.write(state)
            raise Failure(f"{what}: no verdict, process {pid} " +
                          ("is still there" if "Name:" in state else "is gone"))
        return text.strip()

    def _start(self, *more):
        self.pids[self.pair.a] = self.pair.a.start(self.subject.command(self.workdir, *more))
        self._wait(self.pair.a, "ready", READY_S, "original")
        if "verdict" in self.pair.a.shell(f"ls {self.workdir}"):
            raise Failure(self.pair.a.shell(f"cat {self.workdir}/verdict").strip() +
                          " before it was moved")

    def _ask(self, guest, what):
        guest.shell(f": >{self.workdir}/ask")
        verdict = self._wait(guest, "verdict", VERDICT_S, what)
        if verdict != "PASS":
            raise Failure(f"{what}: {verdict}")

    def _vmgraft(self, *words):
        """The facts that the command prints, None where it refused what it must refuse."""
        words = [str(self.vmgraft), *words, "--json"]
        begin = time.monotonic()
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  timeout=CALL_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as late:
            raise Failure(f"vmgraft {words[1]} does not end") from late
        self.log.write(f"$ {shlex.join(words)}\n{done.stdout}{done.stderr}"
                       f"[{done.returncode}, {time.monotonic() - begin:.2f} s]\n")
        if self.subject.refused and words[1] != "restore":
            if done.returncode == REFUSED and f"{self.subject.refused}: " in done.stderr:
                return None
            raise Failure(f"not refused for {self.subject.refused}: exit code {done.returncode}: "
                          f"{done.stderr.strip()}")
        if done.returncode:
            for guest in (self.pair.a, self.pair.b):
                if not guest.alive():
                    raise GuestDied(f"guest {guest.name} died\n{guest.console_tail()}")
            raise Failure(f"vmgraft {words[1]}: exit code {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def _move(self, mode, begin, end):
        """Moves the process; returns the facts of the part that paused the guest where it began."""
        source, target, pid = begin.target, end.target, str(self.pids[begin])
        if not self.subject.refused:
            self.pids[end] = int(pid)
        if mode == "capture":
            image = str(self.folder / "image.vmg")
            facts = self._vmgraft("capture", *DEADLINE, *self.subject.options, source, pid, "-o", image)
            if facts:
                self._vmgraft("restore", *AGENT_TIMEOUT, image, target)
            return facts
        return self._vmgraft("migrate", *DEADLINE, *AGENT_TIMEOUT,
                             *(["--copy"] if mode == "copy" else []), *self.subject.options,
                             source, pid, target)

    def _hop(self, random, begin, end):
        """Moves the process, and then it is nowhere else."""
        self._pause(random)
        try:
            facts = self._move("migrate", begin, end)
        except Failure as failure:
            verdict = begin.shell(f"cat {self.workdir}/verdict; exit 0").strip()
            raise Failure(f"{verdict} (then: {failure})") if verdict else failure
        left = facts and begin.shell(f"cat /proc/{self.pids[begin]}/cmdline 2>/dev/null; exit 0")
        if left:
            raise Failure(f"after the move the original still lives: {left!r}")
        return facts

    def _pause(self, random):
        delay = random.uniform(0, MAX_DELAY_S)
        self.log.write(f"delay {delay:.3f} s\n")
        time.sleep(delay)

    def run(self, mode, hops, random):
        """Returns the pause of the guest that it left last, in milliseconds."""
        a, b = self.pair.a, self.pair.b
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self._make_workdir, (a, b)))
        self._start()
        if mode == "migrate":
            for number in range(hops):
                begin, end = (b, a) if number % 2 else (a, b)
                facts = self._hop(random, begin, end)
                if not facts:
                    break
            asked = [(end, "moved")]
        else:
            self._pause(random)
            facts = self._move(mode, a, b)
            asked = [(a, "original"), (b, "copy")]
        if not facts:
            asked = [(a, "original")]
        with ThreadPoolExecutor(2) as pool:
            asks = [pool.submit(self._ask, *one) for one in asked]
        for one in asks:
            one.result()
        return facts["pause_ms"] if facts else 0

    def sabotage(self):
        """Not moved, but damaged: it must say FAIL, or its PASS would mean nothing."""
        self._make_workdir(self.pair.a)
        self.pids[self.pair.a] = self.pair.a.start(self.subject.command(self.workdir, "--sabotage"))
        self.pair.a.shell(f": >{self.workdir}/ask")
        verdict = self._wait(self.pair.a, "verdict", VERDICT_S, "sabotaged")
        if not verdict.startswith("FAIL "):
            raise Failure(f"sabotaged, and still {verdict}")

    def clean(self):
        """Leaves nothing to the next round."""
        sweep = shlex.join([f"{HOME}/sweep", self.workdir])
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda guest: guest.shell(sweep), self.guests))
