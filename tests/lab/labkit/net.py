# SPDX-License-Identifier: GPL-2.0-or-later
"""Network segments: one small hub process each, to which QEMUs connect by a unix socket.

No packet touches a network interface of the host, so nothing can leave the machine and no
privilege is needed. A guest that takes no packets (it is paused) loses them; others do not wait.
"""

import contextlib
import selectors
import shutil
import socket
import sys

from . import daemon
from .common import LAB, home, locked

QUEUE_MAX_BYTES = 4 << 20


class Segment:
    """A segment by name."""

    def __init__(self, name):
        self.dir = home() / "nets" / name
        self.lock = home() / "nets" / f".{name}.lock"
        self.socket = self.dir / "hub.sock"
        self.record = self.dir / "hub.pid"

    def join(self):
        """The socket to connect to; starts the hub when it does not run."""
        with locked(self.lock):
            if not daemon.pid(self.record):
                shutil.rmtree(self.dir, ignore_errors=True)
                self.dir.mkdir(parents=True)
                with socket.socket(socket.AF_UNIX) as listener:
                    listener.bind(str(self.socket))
                    listener.listen(64)
                    daemon.start([sys.executable, LAB / "lab", "run-hub", str(listener.fileno())],
                                 self.record, self.dir / "hub.log", (listener.fileno(),))
        return self.socket

    def leave(self, still_used):
        """End the hub unless `still_used()`: asked under the lock that join takes, too."""
        with locked(self.lock):
            if not still_used():
                daemon.end(self.record)
                shutil.rmtree(self.dir, ignore_errors=True)


class _Port:
    """One QEMU: packets in QEMU's stream format, a 32-bit big-endian length before each."""

    def __init__(self, connection):
        self.connection = connection
        self.incoming = bytearray()
        self.queue = bytearray()

    def packets(self):
        """Whole packets with their lengths; None at the end of the stream."""
        try:
            data = self.connection.recv(1 << 18)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        self.incoming += data
        found, at = [], 0
        while len(self.incoming) - at >= 4:
            end = at + 4 + int.from_bytes(self.incoming[at:at + 4], "big")
            if end > len(self.incoming):
                break
            found.append(bytes(self.incoming[at:end]))
            at = end
        del self.incoming[:at]
        return found

    def flush(self):
        with contextlib.suppress(OSError):
            while self.queue:
                del self.queue[:self.connection.send(self.queue)]


def hub(listener_fd):
    """Entry of the hub process: pass every packet to all other ports, until ended."""
    listener = socket.socket(fileno=listener_fd)
    listener.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ, None)
    ports = set()

    def watch(port):
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if port.queue else 0)
        selector.modify(port.connection, events, port)

    while True:
        for key, events in selector.select():
            port = key.data
            if port is None:
                with contextlib.suppress(OSError):
                    connection, _ = listener.accept()
                    connection.setblocking(False)
                    ports.add(port := _Port(connection))
                    selector.register(connection, selectors.EVENT_READ, port)
                continue
            if events & selectors.EVENT_WRITE:
                port.flush()
                watch(port)
            packets = port.packets() if events & selectors.EVENT_READ else []
            if packets is None:
                ports.discard(port)
                selector.unregister(port.connection)
                port.connection.close()
                continue
            for other in ports - {port}:
                for packet in packets:
                    if len(other.queue) + len(packet) <= QUEUE_MAX_BYTES:
                        other.queue += packet
                if packets:
                    other.flush()
                    watch(other)
