# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A small NBD client, for requests that no program makes: flags of one's choice, ranges that do not begin with a
block, and the order of requests on several connections. Names and numbers are those of the NBD protocol.
"""
import errno
import socket
import struct

from peer import check

READ, WRITE, DISC, FLUSH, TRIM, WRITE_ZEROES = 0, 1, 2, 3, 4, 6
FUA, NO_HOLE, FAST_ZERO = 1, 2, 16
SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, READ_ONLY, MULTI_CONN, SEND_FAST_ZERO = 4, 8, 32, 64, 2, 256, 2048
EPERM, EIO, ENOSPC, ENOTSUP, ESHUTDOWN = errno.EPERM, errno.EIO, errno.ENOSPC, errno.ENOTSUP, errno.ESHUTDOWN


class Client:
    """A connection. Its calls return the error number in the reply; 0 means success."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        magic, flags = struct.unpack('>16sH', self.take(18))
        check(magic == b'NBDMAGICIHAVEOPT' and flags & 3 == 3, f'the greeting is {magic} {flags:x}')
        # NBD_OPT_EXPORT_NAME with the empty name, without zeroes after the answer
        self.socket.sendall(struct.pack('>I8sII', 3, b'IHAVEOPT', 1, 0))
        self.size, self.flags = struct.unpack('>QH', self.take(10))
        self.number = 0

    def take(self, size):
        data = b''
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            check(more, 'nbdkit closed the connection')
            data += more
        return data

    def send(self, kind, offset=0, size=0, flags=0, data=b''):
        self.number += 1
        self.socket.sendall(struct.pack('>IHHQQI', 0x25609513, flags, kind, self.number, offset, size) + data)

    def answer(self, size=0):
        """Takes the next reply; returns its error and, if that is 0, `size` bytes."""
        magic, error, _ = struct.unpack('>IIQ', self.take(16))
        check(magic == 0x67446698, f'a reply begins with {magic:x}')
        return error, self.take(size) if not error else b''

    def call(self, *arguments, **more):
        self.send(*arguments, **more)
        return self.answer()[0]

    def read(self, offset, size):
        self.send(READ, offset, size)
        return self.answer(size)

    def write(self, offset, data, flags=0):
        return self.call(WRITE, offset, len(data), flags, data)

    def flush(self):
        return self.call(FLUSH)

    def close(self):
        self.socket.close()
