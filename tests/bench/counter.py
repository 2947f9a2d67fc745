# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A socket between two programs. It forwards all messages with their descriptors, and counts the messages.
It adds latency, so no times are measured through it.
"""
import collections
import os
import socket
import struct
import threading

MAX_DESCRIPTORS = 32  # per message: vhost-user permits 8, vfio-user 16

# The header of each protocol, and the length of the whole message according to the header's fields.
Protocol = collections.namedtuple('Protocol', 'header message_bytes')
VHOST_USER = Protocol(struct.Struct('=III'), lambda request, flags, payload: 12 + payload)
VFIO_USER = Protocol(struct.Struct('=HHIII'), lambda number, command, size, flags, error: size)


class Direction:
    """One direction of a connection. It forwards whole messages, so that descriptors stay with their message."""

    def __init__(self, protocol, source, sink):
        self.protocol, self.source, self.sink = protocol, source, sink
        self.messages = 0

    def receive(self, bytes_, descriptors):
        """Returns `bytes_` bytes, or None at the end of the connection. Adds their descriptors to `descriptors`."""
        pieces = b''
        while len(pieces) < bytes_:
            piece, more, _, _ = socket.recv_fds(self.source, bytes_ - len(pieces), MAX_DESCRIPTORS)
            descriptors += more
            if not piece:
                return None
            pieces += piece
        return pieces

    def receive_message(self, descriptors):
        header = self.receive(self.protocol.header.size, descriptors)
        if header is None:
            return None
        whole = self.protocol.message_bytes(*self.protocol.header.unpack(header))
        payload = self.receive(whole - len(header), descriptors)
        return None if payload is None else header + payload

    def hand_on_message(self):
        descriptors = []
        try:
            message = self.receive_message(descriptors)
            if message:
                self.messages += 1
                sent = socket.send_fds(self.sink, [message], descriptors)
                self.sink.sendall(message[sent:])
            return message
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def run(self):
        """Forwards until one end closes its connection, and then closes the connection to the other end."""
        try:
            while self.hand_on_message():
                pass
        except OSError:
            pass
        hang_up(self.source)
        hang_up(self.sink)


def hang_up(end):
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the connection has been shut down already


class Counter:
    """Listens at `path`, and connects each client to the socket `target`."""

    def __init__(self, path, target, protocol):
        self.target, self.protocol = target, protocol
        self.directions, self.sockets = [], []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        threading.Thread(target=self.accept, daemon=True).start()

    def messages(self):
        """Returns the number of messages in both directions of all connections so far."""
        return sum(direction.messages for direction in self.directions)

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return  # the listener was closed
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self.target))
            self.sockets += [client, server]
            for ends in (client, server), (server, client):
                self.directions.append(Direction(self.protocol, *ends))
                threading.Thread(target=self.directions[-1].run, daemon=True).start()

    def close(self):
        for end in self.listener, *self.sockets:
            hang_up(end)
            end.close()
