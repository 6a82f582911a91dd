# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of subjects: what is started in guest A, and what it needs."""

from dataclasses import dataclass

HOME = "/subjects"  # where they are in the guests


@dataclass(frozen=True)
class Subject:
    name: str
    argv: tuple  # WORKDIR stands for the work directory
    prepare: bool = False  # makes files in both guests first
    memory_mib: int = 512  # a guest needs at least so much
    slow: bool = False  # not unless asked for by name, or in a long soak
    modules: tuple = ()  # of the kernel, to be loaded in both guests
    refused: str = ""  # the kind of refusal that it must meet with, unharmed
    options: tuple = ()  # of `vmgraft capture` and `migrate`
    one_way: bool = False  # whom it has left where it comes from is in its way back

    def command(self, workdir, *more):
        return [workdir if word == "WORKDIR" else word for word in self.argv] + list(more)


def _own(name, *arguments, program=None, **more):
    return Subject(name, (f"{HOME}/{program or name}", "WORKDIR", *arguments), **more)


def _allow(*kinds):
    return tuple(f"--allow={kind}" for kind in kinds)


SUBJECTS = {subject.name: subject for subject in (
    _own("counter"),
    _own("counter-static"),
    _own("gprs"),
    _own("gprs-blocked", "blocked", program="gprs"),
    _own("threads4"),
    _own("threads4-static"),
    _own("sleeps"),
    _own("ready"),
    _own("vdso"),
    _own("pipes"),
    _own("pipes-static"),
    _own("memory", "64"),
    _own("memory512", "512", program="memory", memory_mib=1536, slow=True),
    _own("mapped", prepare=True),
    _own("files", prepare=True),
    _own("unlinked", prepare=True),
    _own("programs"),
    _own("programs-memfd", "memfd", program="programs"),
    _own("programs-carried", "carried", program="programs", options=("--carry-files",)),
    _own("holes"),
    _own("cow"),
    _own("cow-huge", "huge", program="cow", prepare=True),
    _own("forks", "1"),
    _own("memfds"),
    _own("memfds-huge", "huge", program="memfds", prepare=True),
    _own("memfds-pkeys", "pkeys", program="memfds"),
    _own("mappings", prepare=True),
    *(_own(f"mappings-{one}", one, program="mappings")
      for one in ("mdwe", "merge", "guard", "mlockall")),
    _own("mappings-swap", "swap", program="mappings", modules=("brd",),
         refused="swap"),
    _own("mappings-uffd", "uffd", program="mappings", refused="userfaultfd"),
    _own("locks", prepare=True),
    _own("listing", prepare=True),
    _own("watches", prepare=True),
    _own("pidfds"),
    _own("signals"),
    _own("signals-cpu-timer", "cpu-timer", program="signals"),
    _own("timers"),
    _own("seccomp"),
    _own("seccomp-strict", "strict", program="seccomp"),
    _own("identity"),
    _own("selfproc"),
    _own("selfproc-title", "title", program="selfproc"),
    _own("selfproc-memfd", "memfd", program="selfproc"),
    _own("tree", prepare=True),
    _own("tree-zombie", "zombie", program="tree", prepare=True),
    _own("jobs-ends", "ends", program="jobs"),
    _own("jobs-stops", "stops", program="jobs"),
    _own("reapers"),
    _own("pshared"),
    _own("kin-sessions", "sessions", program="kin"),
    _own("kin-sharing", "sharing", program="kin"),
    _own("kin-leader", "leader", program="kin"),
    _own("vforks"),
    _own("busy"),
    _own("tids"),
    _own("syscalls"),
    _own("syscalls-static"),
    _own("sysv"),
    _own("mqueue"),
    _own("posix", prepare=True),
    _own("spin2"),
    _own("transfers", prepare=True),
    _own("futexes"),
    _own("calls", slow=True),
    _own("calls-signals", "signals", program="calls", slow=True),
    _own("calls-stops", "stops", program="calls", slow=True),
    _own("calls-ia32", slow=True),
    _own("calls-signals-ia32", "signals", program="calls-ia32", slow=True),
    _own("futexes-ia32", slow=True),
    _own("transfers-ia32", prepare=True, slow=True),
    _own("counter-ia32"),
    _own("pipes-ia32"),
    _own("signals-ia32"),
    _own("sleeps-ia32"),
    _own("threads4-ia32"),
    _own("tids-ia32"),
    _own("unix-stream", "stream", program="unix"),
    _own("unix-dgram", "dgram", program="unix"),
    _own("unix-queue", "queue", program="unix"),
    _own("unix-seqpacket", "seqpacket", program="unix"),
    _own("unix-listen", "listen", program="unix"),
    _own("unix-listen-seqpacket", "listen-seqpacket", program="unix"),
    _own("ways"),
    _own("roots", prepare=True),
    _own("roots-own", "own", program="roots", prepare=True),
    _own("netlink"),
    _own("eventfd"),
    _own("timerfd"),
    _own("signalfd"),
    _own("epoll"),
    _own("parent-death", "parent-death", program="carried", options=("--carry-files",)),
    _own("refusals", refused="io_uring"),
    _own("carried", options=("--carry-files",)),
    _own("losses", options=_allow("bpf", "debug-registers", "device", "external-memory", "external-pipe",
                          "external-socket", "fanotify", "kernel-file", "kernel-object",
                          "namespace", "perf", "perf-event", "socket"), one_way=True),
    _own("tty"),
    _own("tty-job", program="ttyjob"),
    _own("ttywaits"),
    _own("attributes", prepare=True),
    _own("cgroups", prepare=True),
    Subject("python", ("/usr/bin/python3", f"{HOME}/primes.py", "WORKDIR")),
    Subject("shell", ("/usr/bin/dash", f"{HOME}/shell.sh", "WORKDIR")),
    Subject("shell-busybox", ("/bin/busybox", "sh", f"{HOME}/shell.sh", "WORKDIR")),
)}

# Brought along with their libraries.
HOST_PROGRAMS = ("/usr/bin/python3", "/usr/bin/dash")
SCRIPTS = ("primes.py", "shell.sh")
# Clears up behind them.
HELPERS = ("sweep",)


def guest_programs(build, tree):
    """The words that `lab up` needs to have all subjects in a guest."""
    own = {subject.argv[0].rsplit("/", 1)[1] for subject in SUBJECTS.values()
           if subject.argv[0].startswith(HOME)}
    words = [f"--program={build}/tests/vm/subjects/{name}={HOME}/{name}"
             for name in (*sorted(own), *HELPERS)]
    words += [f"--program={tree}/tests/vm/subjects/{name}={HOME}/{name}" for name in SCRIPTS]
    return words + [f"--program={path}" for path in HOST_PROGRAMS]
