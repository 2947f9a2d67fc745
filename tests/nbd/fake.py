# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A small NBD server for what no real server does on request: it ends a connection at a chosen request, forgets writes, or
offers other features to the next client. Names and numbers are those of the NBD protocol.
"""
import contextlib
import socket
import struct
import threading

READ, WRITE, DISC, FLUSH, TRIM, WRITE_ZEROES = 0, 1, 2, 3, 4, 6
FUA = 1
SIMPLE_REPLY, STRUCTURED_REPLY = 0x67446698, 0x668e33ef
HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, MULTI_CONN = 1, 2, 4, 8, 32, 64, 256
EXPORT_NAME, INFO, GO = 1, 6, 7
SIZE = 64 << 20
END, HOLD = 'end', 'hold'


class Server:
    """
    Serves each connection, counted from 1, on a thread of its own. `flags(connection)` returns what it offers.
    `answer(connection, kind, index)` says what happens to its request number `index`, counted from 1: an errno, 0 for
    success, END of the connection without an answer, HOLD for no answer, or a function that gets the socket, the cookie and
    the size, and answers itself. Without `answer`, each connection ends after the handshake. If
    `early(connection)` returns an errno, or 0 for success, each write is answered before its data is received. `max_bytes`,
    the largest size of a request, can be a function of the connection, and so can `size` of the export and `min_block`. If `hello(connection)` returns a function, this
    function gets the socket instead of the handshake, and then the connection ends.
    """

    def __init__(self, address, flags, answer=lambda *_: 0, max_bytes=32 << 20, early=lambda _: None, hello=lambda _: None,
                 size=SIZE, min_block=512):
        self.flags, self.answer, self.early, self.hello = flags, answer, early, hello
        self.max_bytes, self.size, self.min_block = (value if callable(value) else lambda _, value=value: value
                                                     for value in (max_bytes, size, min_block))
        self.requests = []  # tuples (connection, kind, flags)
        self.goodbyes = []  # connections that the client has ended with DISC
        self.number = 0
        self.open = {}
        self.lock = threading.Lock()
        self.listener = socket.socket(socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX)
        self.listener.bind(address if isinstance(address, tuple) else str(address))
        self.listener.listen(64)
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.threads[0].join()
        self.listener.close()
        for number in list(self.open):
            self.end(number)
        for thread in self.threads[1:]:
            thread.join()

    def kinds(self, connection):
        return [kind for number, kind, _ in list(self.requests) if number == connection]

    def end(self, connection):
        """Ends a connection, from any thread."""
        with self.lock:
            if connection in self.open:
                with contextlib.suppress(OSError):
                    self.open[connection].shutdown(socket.SHUT_RDWR)

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.number += 1
                self.open[self.number] = client
                thread = threading.Thread(target=self.serve, args=(client, self.number))
                self.threads.append(thread)
            thread.start()

    def serve(self, client, number):
        with contextlib.suppress(EOFError, OSError):
            hello = self.hello(number)
            if hello:
                hello(client)
            else:
                greet(client, HAS_FLAGS | self.flags(number), self.max_bytes(number), self.size(number), self.min_block(number))
            if self.answer and not hello:
                self.execute(client, number)
        with self.lock:
            del self.open[number]
            client.close()

    def execute(self, client, number):
        index = 0
        while True:
            _, flags, kind, cookie, _, size = struct.unpack('>IHHQQI', take(client, 28))
            if kind == DISC:
                self.goodbyes.append(number)
                return
            early = self.early(number) if kind == WRITE else None
            if early is not None:
                client.sendall(simple(cookie, early))
            if kind == WRITE:
                take(client, size)
            index += 1
            self.requests.append((number, kind, flags))
            result = self.answer(number, kind, index)
            if result == END:
                return
            if callable(result):
                result(client, cookie, size)
            elif result != HOLD and early is None:
                client.sendall(simple(cookie, result, bytes(size) if kind == READ and not result else b''))


def simple(cookie, error=0, data=b'', magic=SIMPLE_REPLY):
    return struct.pack('>IIQ', magic, error, cookie) + data


def take(client, size):
    data = bytearray()
    while len(data) < size:
        more = client.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return bytes(data)


def begin(client):
    client.sendall(struct.pack('>8s8sH', b'NBDMAGIC', b'IHAVEOPT', 3))
    take(client, 4)


def greet(client, flags, max_bytes, size=SIZE, min_block=512):
    """The handshake, until the client has the export."""
    begin(client)
    while True:
        option = take_option(client)
        if option == EXPORT_NAME:
            client.sendall(struct.pack('>QH', size, flags))
            return
        if option in (INFO, GO):
            reply(client, option, 3, struct.pack('>HQH', 0, size, flags))
            reply(client, option, 3, struct.pack('>HIII', 3, min_block, 4096, max_bytes))
            reply(client, option, 1)
        else:
            reply(client, option, 0x80000001)
        if option == GO:
            return


def take_option(client):
    _, option, size = struct.unpack('>QII', take(client, 16))
    take(client, size)
    return option


def option_reply(option, kind, data=b''):
    return struct.pack('>QIII', 0x3e889045565a9, option, kind, len(data)) + data


def reply(client, option, kind, data=b''):
    client.sendall(option_reply(option, kind, data))
