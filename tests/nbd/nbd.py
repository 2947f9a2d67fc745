#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The engine nbd of `vublk serve`, with nbdkit and qemu-nbd as servers.

    nbd.py VUBLK MODULE [-l] [-k] [WORD...]
"""
import json
import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import peer  # noqa: E402
from peer import check  # noqa: E402

VUBLK, MODULE = sys.argv[1:3] if len(sys.argv) > 2 else ('vublk', 'libvublk-engine-nbd.so')
ENV = {**os.environ, 'VUBLK_ENGINE_PATH': os.path.dirname(os.path.abspath(MODULE))}
MIB = 1 << 20
KILLS = 5


def image(case, mib=64):
    path = case.path('image')
    with open(path, 'ab') as file:
        file.truncate(mib * MIB)
    return path


def nbdkit(case, *arguments):
    peer.need('nbdkit')
    path = case.path('nbd.sock')
    path.unlink(missing_ok=True)
    child = case.start(['nbdkit', '--foreground', '--exit-with-parent', '--unix', path, *arguments])
    peer.wait_for_socket(case, child, path)
    return child


def qemu_nbd(case, path, *arguments):
    peer.need('qemu-nbd')
    case.path('nbd.sock').unlink(missing_ok=True)
    child = case.start(['qemu-nbd', '--persistent', '--format', 'raw', '--socket', case.path('nbd.sock'), *arguments, path])
    peer.wait_for_socket(case, child, case.path('nbd.sock'))
    return child


def serve(case, *arguments, uri=None):
    uri = uri or f'nbd+unix:///?socket={case.path("nbd.sock")}'
    child = case.start([VUBLK, 'serve', '--socket-path', case.path('disk'), '--engine', 'nbd', '-o', f'uri={uri}',
                        '--control', case.path('control'), '--num-queues', '4', '-v', *arguments], env=ENV)
    peer.wait_for_socket(case, child, case.path('disk'))
    return child


def bench(case, *arguments):
    return [VUBLK, 'bench', case.path('disk'), '--rw', 'randrw', '--numjobs', '4', '--verify', *arguments]


def verified(case, *arguments):
    """Serves the export, runs a verified load, and ends the server. Returns the log."""
    child = serve(case, *arguments)
    case.run(bench(case, '--number_ios', '1000'))
    check(case.stop(child) == 0, case.output(child))
    return case.output(child)


def info(case):
    return json.loads(case.run([VUBLK, 'info', case.path('disk'), '--json']))


def with_nbdkit(case):
    nbdkit(case, 'file', image(case))
    verified(case)


def with_qemu_nbd(case):
    qemu_nbd(case, image(case), '--shared', '8')
    verified(case)


def one_connection(case):
    """qemu-nbd that serves one client only: all queues share a connection."""
    qemu_nbd(case, image(case))
    verified(case)


def poor_server(case):
    """A server without write zeroes: the engine writes zeroes itself."""
    nbdkit(case, '--filter=nozero', 'file', image(case), 'zeromode=none')
    child = serve(case)
    check(info(case)['capacity_bytes'] == 64 * MIB, 'the disk has another size')
    source = case.path('source')
    source.write_bytes(b'\1' * 64 * MIB)
    case.run([VUBLK, 'copy', source, case.path('disk')])
    source.write_bytes(bytes(64 * MIB))
    case.run([VUBLK, 'copy', source, case.path('disk')])
    check(not any(case.path('image').read_bytes()), 'the zeroes did not arrive')
    check(case.stop(child) == 0, case.output(child))


def data_arrives(case):
    """A copy to the disk arrives in the file of the server, and a copy from the disk equals the file."""
    path, source = image(case, 8), case.path('source')
    source.write_bytes(os.urandom(8 * MIB))
    nbdkit(case, 'file', path)
    child = serve(case)
    case.run([VUBLK, 'copy', source, case.path('disk')])
    check(path.read_bytes() == source.read_bytes(), 'the file of the server differs')
    case.run([VUBLK, 'copy', case.path('disk'), case.path('back')])
    check(case.path('back').read_bytes() == source.read_bytes(), 'the disk was read differently')
    check(case.stop(child) == 0, case.output(child))


def block_sizes(case):
    nbdkit(case, '--filter=blocksize-policy', 'file', image(case), 'blocksize-minimum=4096', 'blocksize-preferred=8192',
           'blocksize-maximum=64K', 'blocksize-error-policy=error')
    child = serve(case)
    told = info(case)
    check(told['block_size_bytes'] == 4096, str(told))
    case.run(bench(case, '--bs', '4k', '--number_ios', '500'))
    case.run(bench(case, '--bs', '256k', '--number_ios', '500'))
    check(case.stop(child) == 0, case.output(child))


def tls(case):
    keys = case.path('keys')
    keys.write_text('vublk:0123456789abcdef0123456789abcdef\n')
    nbdkit(case, '--tls=require', f'--tls-psk={keys}', 'file', image(case))
    child = serve(case, uri=f'nbds+unix://vublk@/?socket={case.path("nbd.sock")}&tls-psk-file={keys}')
    case.run(bench(case, '--number_ios', '500'))
    check(case.stop(child) == 0, case.output(child))


def killed(case, start):
    """The server is killed under a verified load and started again. No request is lost."""
    server = start()
    child = serve(case)
    load = case.start(bench(case, '--runtime', '600'))
    for _ in range(KILLS):
        server.kill()
        server.wait()
        check(load.poll() is None, case.output(load))
        server = start()
        peer.wait_until(lambda: count_connected(case) >= 1, 'the engine has not connected again')
    load.send_signal(signal.SIGINT)
    load.wait(peer.LIMIT_S)
    check('blocks, all correct' in case.output(load), case.output(load))
    check(case.stop(child) == 0, case.output(child))
    check('is lost; requests wait' in case.output(child), case.output(child))
    check(' failed: ' not in case.output(child), case.output(child))


def count_connected(case):
    """The number of connections to the server's socket that the kernel lists as established."""
    lines = (line.split(maxsplit=7) for line in pathlib.Path('/proc/net/unix').read_text().splitlines()[1:])
    return sum(line[7:] == [str(case.path('nbd.sock'))] and int(line[5], 16) == 3 for line in lines)


def nbdkit_killed(case):
    killed(case, lambda: nbdkit(case, 'file', image(case)))


def qemu_nbd_killed(case):
    killed(case, lambda: qemu_nbd(case, image(case), '--shared', '8'))


def resized(case):
    """A server that returns with a larger export: the disk grows."""
    server = nbdkit(case, 'file', image(case))
    child = serve(case)
    check(info(case)['capacity_bytes'] == 64 * MIB, str(info(case)))
    server.kill()
    server.wait()
    nbdkit(case, 'file', image(case, 96))
    peer.wait_until(lambda: 'to 100663296 bytes' in case.output(child), f'no new size: {case.output(child)}')
    check(info(case)['capacity_bytes'] == 96 * MIB, str(info(case)))
    check(case.stop(child) == 0, case.output(child))


def refusals(case):
    for code, words, arguments in ((2, 'needs a server', ()), (1, 'cannot connect to the NBD server', ('-o', 'uri=nbd+unix:///?socket=/none')),
                                   (2, 'cannot connect to the NBD server', ('-o', 'uri=steam')),
                                   (2, 'from 1 to 16', ('-o', 'connections=17', '-o', 'uri=nbd+unix:///?socket=/none')),
                                   (2, 'does not use a file', ('--blk-file', '/dev/null', '-o', 'uri=nbd:///'))):
        result = case.call([VUBLK, 'serve', '--socket-path', case.path('disk'), '--engine', 'nbd', *arguments], env=ENV)
        check(result.code == code and words in result.err and len(result.err.splitlines()) == 1, f'expected "{words}": {result}')


CASES = [with_nbdkit, with_qemu_nbd, one_connection, poor_server, data_arrives, block_sizes, tls, nbdkit_killed,
         qemu_nbd_killed, resized, refusals]

if __name__ == '__main__':
    sys.exit(peer.main(CASES, sys.argv[3:]))
