# SPDX-License-Identifier: GPL-2.0-or-later
"""The `lab` command line."""

import argparse
import json
import os
import signal
import sys

from . import broker, files, guest, kernels, net
from .common import LabError, UsageError, say

EPILOG = """\
State and cached kernels live in $VMGRAFT_LAB (default: ~/.cache/vmgraft-lab); labs with different
directories know nothing of each other. Exit codes: 0 done, 1 failed, 2 wrong usage; exec gives
the command's own (128 + signal when it was killed).

  lab up a --program /usr/bin/python3
  lab exec a -- python3 -c 'print(6 * 7)'
  lab down a
"""


def cmd_up(options):
    guest.up(options.name, options)
    return 0


def cmd_exec(options):
    if options.output and not options.detach:
        raise UsageError("--output belongs to --detach")
    with guest.Guest(options.name).connect() as connection:
        pid = connection.start(options.command, options.user, options.output, options.detach)
        if options.detach:
            print(pid)
            return 0
        return connection.finish(sys.stdin.buffer if options.stdin else None,
                                 *files.exec_streams())


def cmd_push(options):
    files.push(guest.Guest(options.name), options.host, options.guest)
    return 0


def cmd_pull(options):
    files.pull(guest.Guest(options.name), options.guest, options.host)
    return 0


def cmd_target(options):
    one = guest.Guest(options.name)
    one.require()
    print(one.target())
    return 0


def cmd_list(options):
    found = [one.describe() for one in guest.every()]
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    for one in found:
        print(f"{one['name']:<16} {one['state']:<8} {one.get('kernel') or '-':<32} "
              f"{one.get('address') or '-':<18} {one['target']}")
    return 0


def cmd_down(options):
    if bool(options.name) == options.all:
        raise UsageError("down needs a guest's name or --all")
    for name in [one.name for one in guest.every()] if options.all else [options.name]:
        guest.down(name)
    return 0


def cmd_console(options):
    one = guest.Guest(options.name)
    if not one.console.exists():
        one.require()
    sys.stdout.buffer.write(one.console.read_bytes())
    return 0


def cmd_kernels(_):
    for kernel in kernels.cached():
        print(f"{kernel.root.name:<12} {kernel.release:<36} {kernel.root}")
    return 0


def cmd_fetch(options):
    for suite in options.suite:
        print(kernels.fetch(suite).root)
    return 0


def _positive(text):
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def parser():
    top = argparse.ArgumentParser(
        prog="lab", description="Boot small real guests for vmgraft's tests and demos.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command_name", metavar="COMMAND", required=True)

    def command(name, run, summary, example):
        sub = commands.add_parser(name, help=summary,
                                  description=summary[0].upper() + summary[1:] + ".",
                                  epilog=f"example: {example}",
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
        sub.set_defaults(run=run)
        return sub

    sub = command("up", cmd_up, "boot a guest and return when it answers",
                  "lab up a --kernel trixie --memory 1024 --program /usr/bin/python3")
    sub.add_argument("name")
    sub.add_argument("--kernel", default="bookworm", metavar="SUITE-OR-DIR",
                     help="a Debian suite whose cloud kernel is fetched and cached, or a directory "
                          "(write it with a slash) that holds vmlinuz and lib/modules")
    sub.add_argument("--memory", type=_positive, default=512, metavar="MiB", help="default 512")
    sub.add_argument("--cpus", type=_positive, default=1, metavar="N", help="default 1")
    sub.add_argument("--cpu", metavar="MODEL",
                     help="QEMU's CPU model, such as max,-avx2 (default: max; under TCG "
                          "max,-cx16, as QEMU 7.2 spoils EFLAGS in cmpxchg16b)")
    sub.add_argument("--overlay", action="append", default=[], metavar="DIR",
                     help="copy this directory tree over the guest's /")
    sub.add_argument("--program", action="append", default=[], metavar="HOSTPATH[=GUESTPATH]",
                     help="bring a program of this machine with its shared libraries; "
                          "python3 brings its standard library, a script its interpreter")
    sub.add_argument("--module", action="append", default=[], metavar="NAME",
                     help="load one more kernel module, with what it depends on")
    sub.add_argument("--disk", action="append", default=[], metavar="IMAGE",
                     help="give it this disk (qcow2 where it is called so, else raw), which it "
                          "writes to; for a file system add --module")
    sub.add_argument("--append", action="append", default=[], metavar="WORD",
                     help="one more word for the kernel's command line, such as pti=on")
    sub.add_argument("--share-ram", choices=["on", "off"], default="off",
                     help="guest RAM in a shared memfd, or (default) private to QEMU")
    sub.add_argument("--net", metavar="SEGMENT", help="join this network of guests")
    sub.add_argument("--address", metavar="CIDR", help="such as 10.0.0.1/24, with --net")
    sub.add_argument("--libvirt", metavar="URI",
                     help="make it a domain of this libvirt (such as qemu:///system)")
    sub.add_argument("--agent", metavar="PATH|none",
                     help="the vmgraft agent to run; default: $VMGRAFT_AGENT, else the one in "
                          "build/guestagent of this tree when it has been built")
    sub.add_argument("--timeout", type=_positive, default=600, metavar="SECONDS",
                     help="give up when the guest does not answer by then (default 600)")

    sub = command("exec", cmd_exec, "run a command in a guest",
                  "lab exec a --user 1000 -- sh -c 'id; exit 3'\n"
                  "         pid=$(lab exec a --detach -- sleep 1000)")
    sub.add_argument("name")
    sub.add_argument("--detach", action="store_true",
                     help="leave it running in a session of its own; print its pid")
    sub.add_argument("--output", metavar="GUESTFILE", help="where a detached command writes")
    sub.add_argument("--user", metavar="UID", help="number or name; default root")
    sub.add_argument("--stdin", action="store_true", help="pass our stdin on (else it is empty)")
    sub.add_argument("command", nargs="*", metavar="-- CMD...")

    sub = command("push", cmd_push, "copy a file or directory into a guest",
                  "lab push a ./subject /usr/bin/subject")
    sub.add_argument("name")
    sub.add_argument("host")
    sub.add_argument("guest")

    sub = command("pull", cmd_pull, "copy a file or directory out of a guest",
                  "lab pull a /var/result .")
    sub.add_argument("name")
    sub.add_argument("guest")
    sub.add_argument("host")

    sub = command("target", cmd_target, "print what vmgraft takes as TARGET",
                  "vmgraft ps $(lab target a)")
    sub.add_argument("name")

    sub = command("list", cmd_list, "list the guests", "lab list --json")
    sub.add_argument("--json", action="store_true")

    sub = command("down", cmd_down, "end a guest and delete what it left", "lab down --all")
    sub.add_argument("name", nargs="?")
    sub.add_argument("--all", action="store_true")

    sub = command("console", cmd_console, "print a guest's console", "lab console a | tail")
    sub.add_argument("name")

    command("kernels", cmd_kernels, "list the cached kernels", "lab kernels")

    sub = command("fetch", cmd_fetch, "download kernels, so that later runs need no network",
                  "lab fetch bookworm trixie")
    sub.add_argument("suite", nargs="+")
    return top


# Processes that `lab up` leaves behind; not for people.
INTERNAL = {"run-broker": broker.main, "run-hub": net.hub}


def _terminate(_number, _frame):
    raise KeyboardInterrupt


def main(argv):
    if argv and argv[0] in INTERNAL:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        INTERNAL[argv[0]](*map(int, argv[1:]))
        return 0
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGHUP, _terminate)
    # argparse would take the command's own options for ours.
    cut = argv.index("--") if argv[:1] == ["exec"] and "--" in argv else len(argv)
    top = parser()
    options = top.parse_args(argv[:cut])
    if options.command_name == "exec":
        options.command += argv[cut + 1:]
        if not options.command:
            top.error("exec needs a command behind --")
    try:
        return options.run(options)
    except LabError as error:
        say(error)
        return error.code
    except OSError as error:
        say(f"{error.filename or options.command_name}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
