# SPDX-License-Identifier: LGPL-2.1-or-later
"""What nbd.py and rude.py share: a disk with the engine nbd, and its servers. Both get the tool and the module as arguments."""
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import fake  # noqa: E402
import nbd_server  # noqa: E402
import peer  # noqa: E402

VUBLK, MODULE = sys.argv[1:3] if len(sys.argv) > 2 else ('vublk', 'libvublk-engine-nbd.so')
ENV = {**os.environ, 'VUBLK_ENGINE_PATH': os.path.dirname(os.path.abspath(MODULE))}
MIB = 1 << 20


def image(case, mib=64):
    path = case.path('image')
    with open(path, 'ab') as file:
        file.truncate(mib * MIB)
    return path


def nbdkit(case, *arguments):
    return nbd_server.nbdkit(case, case.path('nbd.sock'), *arguments)


def qemu_nbd(case, *arguments):
    return nbd_server.qemu_nbd(case, case.path('nbd.sock'), *arguments)


def serve_command(case, *arguments, uri=None):
    uri = uri or f'nbd+unix:///?socket={case.path("nbd.sock")}'
    return [VUBLK, 'serve', '--socket-path', case.path('disk'), '--engine', 'nbd', '-o', f'uri={uri}',
            '--control', case.path('control'), '--num-queues', '4', '-v', *arguments]


def serve(case, *arguments, uri=None):
    child = case.start(serve_command(case, *arguments, uri=uri), env=ENV)
    peer.wait_for_socket(case, child, case.path('disk'))
    return child


def bench(case, *arguments):
    return [VUBLK, 'bench', case.path('disk'), '--rw', 'randrw', '--numjobs', '4', '--verify', *arguments]


def info(case):
    return json.loads(case.run([VUBLK, 'info', case.path('disk'), '--json']))


def tls_uri(case):
    """Writes a file with a key, and returns the URI with which a client uses it."""
    keys = case.path('keys')
    keys.write_text('vublk:0123456789abcdef0123456789abcdef\n')
    return f'nbds+unix://vublk@/?socket={case.path("nbd.sock")}&tls-psk-file={keys}'


def disk(case, *arguments, uri=None, **options):
    """Serves the export of a fake server. Returns the process and an open disk."""
    try:
        import vublk
    except ImportError:
        raise peer.Skip('this build has no Python package') from None
    child = serve(case, *arguments, uri=uri)
    return child, vublk.open(case.path('disk'), **options)


def write(client, size):
    """Executes a single request."""
    queue = client.queue(0)
    queue.write(0, client.alloc(size))
    peer.check([done.error for done in queue.wait()] == [None], 'the write has failed')


def fails(function):
    try:
        function()
    except OSError:
        return True
    return False


def raw(*pieces, end=False):
    """An answer of the fake server: functions of the cookie and the size, whose results are sent one by one."""
    def answer(client, cookie, size):
        for piece in pieces:
            client.sendall(piece(cookie, size))
        if end:
            raise EOFError
    return answer


def zeroes(cookie, size):
    return fake.simple(cookie, 0, bytes(size))
