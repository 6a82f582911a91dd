# SPDX-License-Identifier: GPL-2.0-or-later
"""The frames spoken with labd; labd_port.h says what they mean."""

import struct

HELLO, WELCOME, EXEC, STARTED, FAILED, STDIN, STDOUT, STDERR, EXIT, CREDIT, HANGUP = range(1, 12)
READY = 100  # broker -> client only: the guest answers

HEAD = struct.Struct("<BBHII")
NUMBER = struct.Struct("<I")
MAGIC = ord("V")
MAX_PAYLOAD = 32 * 1024
WINDOW = 256 * 1024


class ProtocolError(Exception):
    """The other side sent something that is no frame."""


def frame(kind, channel=0, payload=b""):
    return HEAD.pack(MAGIC, kind, 0, channel, len(payload)) + payload


class Parser:
    """Cuts a stream into frames; zeros between frames are filler."""

    def __init__(self):
        self._held = bytearray()

    def feed(self, data):
        """Yield (kind, channel, payload) of every frame that `data` completes."""
        held = self._held
        held += data
        at = 0
        try:
            while True:
                while at < len(held) and held[at] == 0:
                    at = len(held) if not any(held[at:]) else at + 1
                if len(held) - at < HEAD.size:
                    return
                magic, kind, _, channel, length = HEAD.unpack_from(held, at)
                if magic != MAGIC or length > MAX_PAYLOAD:
                    raise ProtocolError(f"bad frame header {bytes(held[at:at + HEAD.size]).hex()}")
                if len(held) - at < HEAD.size + length:
                    return
                payload = bytes(held[at + HEAD.size:at + HEAD.size + length])
                at += HEAD.size + length
                yield kind, channel, payload
        finally:
            del held[:at]
