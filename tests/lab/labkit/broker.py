# SPDX-License-Identifier: GPL-2.0-or-later
"""The broker of one guest: shares its single virtio-serial port between many clients.

A client is one connection and at most one command; the broker gives it a channel id of its own.
Only whole frames are passed on, so a client that dies in the middle of one harms nobody. The
credits that labd and the clients exchange bound what can pile up here.
"""

import itertools
import selectors
import socket

from . import proto


class Peer:
    """One non-blocking stream with an outgoing queue."""

    def __init__(self, broker, connection):
        self.broker = broker
        self.connection = connection
        self.parser = proto.Parser()
        self.queue = bytearray()
        self.channel = 0
        self.busy = False  # a command was asked for and has not ended
        connection.setblocking(False)
        broker.selector.register(connection, selectors.EVENT_READ, self)

    def send(self, data):
        self.queue += data
        self.flush()

    def flush(self):
        try:
            while self.queue:
                del self.queue[:self.connection.send(self.queue)]
        except BlockingIOError:
            pass
        except OSError:
            self.queue.clear()  # reading will find the end, too
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.queue else 0)
        self.broker.selector.modify(self.connection, wanted, self)

    def read(self):
        """The frames at hand; None at the end of the stream."""
        try:
            data = self.connection.recv(1 << 18)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return list(self.parser.feed(data)) if data else None

    def close(self):
        self.broker.selector.unregister(self.connection)
        self.connection.close()


class Broker:
    """Runs until the guest's end of the port closes."""

    def __init__(self, listener, port):
        self.selector = selectors.DefaultSelector()
        self.clients = {}
        self.ids = itertools.count(1)
        self.ready = False
        self.listener = listener
        listener.setblocking(False)
        self.selector.register(listener, selectors.EVENT_READ, None)
        self.guest = Peer(self, port)

    def run(self):
        while True:
            for key, events in self.selector.select():
                peer = key.data
                if peer is None:
                    self.accept()
                elif peer is not self.guest and peer.channel not in self.clients:
                    continue  # dropped earlier in this round
                else:
                    if events & selectors.EVENT_WRITE:
                        peer.flush()
                    if events & selectors.EVENT_READ and not self.serve(peer):
                        return

    def accept(self):
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return
        client = Peer(self, connection)
        client.channel = next(self.ids)
        self.clients[client.channel] = client
        if self.ready:
            client.send(proto.frame(proto.READY))

    def serve(self, peer):
        """False when the guest has gone."""
        try:
            frames = peer.read()
        except proto.ProtocolError:
            frames = None
        if peer is self.guest:
            for item in frames or []:
                self.from_guest(*item)
            return frames is not None
        if frames is None:
            self.drop(peer)
        for kind, _, payload in frames or []:
            peer.busy |= kind == proto.EXEC
            self.guest.send(proto.frame(kind, peer.channel, payload))
        return True

    def from_guest(self, kind, channel, payload):
        if kind == proto.HELLO:
            # A new labd knows no commands of the old one.
            for client in [client for client in self.clients.values() if client.busy]:
                client.busy = False
                self.drop(client)
            self.guest.queue.clear()
            self.guest.send(proto.frame(proto.WELCOME, 0, payload))
            self.ready = True
            for client in list(self.clients.values()):
                client.send(proto.frame(proto.READY))
        elif channel in self.clients:
            if kind in (proto.EXIT, proto.FAILED):
                self.clients[channel].busy = False
            self.clients[channel].send(proto.frame(kind, channel, payload))

    def drop(self, client):
        del self.clients[client.channel]
        client.close()
        if client.busy:
            self.guest.send(proto.frame(proto.HANGUP, client.channel))


def main(listener_fd, port_listener_fd):
    """Entry of the broker process: both sockets listen already; QEMU connects to the second."""
    with socket.socket(fileno=port_listener_fd) as waiting:
        port, _ = waiting.accept()
    Broker(socket.socket(fileno=listener_fd), port).run()
