# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a command in a guest through its broker."""

import errno
import os
import select
import socket

from . import proto
from .common import LabError


class Connection:
    """One connection to the broker of a guest."""

    def __init__(self, path, name):
        self.name = name
        self.parser = proto.Parser()
        self.frames = []
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.connect(str(path))
        except OSError as error:
            raise LabError(f"guest {name} is not running ({error.strerror})") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, kind, payload=b""):
        try:
            self.socket.sendall(proto.frame(kind, 0, payload))
        except OSError as error:
            raise LabError(f"guest {self.name} has gone") from error

    def read(self):
        """Wait for data and return the frames it completes."""
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionError:
            data = b""
        if not data:
            raise LabError(f"guest {self.name} has gone")
        return [(kind, payload) for kind, _, payload in self.parser.feed(data)]

    def next(self):
        while not self.frames:
            self.frames = self.read()
        return self.frames.pop(0)

    def start(self, argv, user=None, output=None, detach=False):
        """Start a command and return its pid in the guest."""
        kind, _ = self.next()
        if kind != proto.READY:
            raise LabError(f"the broker of guest {self.name} sent frame {kind}, READY expected")
        options = [("detach", "1" if detach else None), ("user", user), ("output", output)]
        words = [f"{key}={value}" for key, value in options if value is not None] + ["", *argv]
        payload = b"".join(os.fsencode(word) + b"\0" for word in words)
        if len(payload) > proto.MAX_PAYLOAD:
            raise LabError("the command line is longer than 32 KiB")
        self.send(proto.EXEC, payload)
        kind, payload = self.next()
        if kind == proto.FAILED:
            missing = proto.NUMBER.unpack_from(payload)[0] == errno.ENOENT
            raise LabError(f"guest {self.name} cannot run {payload[4:].decode(errors='replace')}",
                           127 if missing else 126)  # as a shell says it
        return proto.NUMBER.unpack(payload)[0]

    def finish(self, stdin=None, stdout=None, stderr=None):
        """Feed from the file `stdin` (None: empty) and hand output to the callables; exit code.

        The connection's end is the command's: leaving early, by an exception, kills it.
        """
        credit = proto.WINDOW
        if stdin is None:
            self.send(proto.STDIN)
        while True:
            wait = [self.socket]
            if stdin is not None and credit:
                wait.append(stdin)
            ready = [self.socket] if self.frames else select.select(wait, [], [])[0]
            if stdin in ready:
                data = os.read(stdin.fileno(), min(credit, proto.MAX_PAYLOAD))
                self.send(proto.STDIN, data)
                credit -= len(data)
                if not data:
                    stdin = None
            if self.socket not in ready:
                continue
            frames, self.frames = self.frames or self.read(), []
            used = 0
            for kind, payload in frames:
                if kind == proto.STDOUT or kind == proto.STDERR:
                    take = stdout if kind == proto.STDOUT else stderr
                    if take:
                        take(payload)
                    used += len(payload)
                elif kind == proto.CREDIT:
                    credit += proto.NUMBER.unpack(payload)[0]
                elif kind == proto.EXIT:
                    return proto.NUMBER.unpack(payload)[0]
            if used:
                self.send(proto.CREDIT, proto.NUMBER.pack(used))
