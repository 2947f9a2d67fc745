#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The engine nbd of `vublk serve` with servers that do not answer, break the protocol, or change while they are away.

    rude.py VUBLK MODULE [-l] [-k] [WORD...]
"""
import contextlib
import os
import pathlib
import signal
import socket
import struct
import sys
import threading

from rig import ENV, MIB, bench, disk, fails, image, nbdkit, raw, serve, serve_command, tls_uri, write, zeroes  # must be first, because it finds the harness
import fake
import peer
from peer import check


def goodbye(case):
    """Each connection ends with the protocol's DISC: nbdkit says so in its log."""
    keys = tls_uri(case)
    for arguments, uri in ((), None), (('--tls=require', f'--tls-psk={case.path("keys")}'), keys):
        server = nbdkit(case, '--verbose', *arguments, 'file', image(case))
        child = serve(case, uri=uri)
        case.run(bench(case, '--number_ios', '10'))
        check(case.stop(child) == 0, case.output(child))
        case.stop(server)
        log = case.output(server)
        connections = log.count('handshake complete, processing requests')
        check(connections > 1 and log.count('client sent NBD_CMD_DISC') == connections, f'{connections} connections: {log}')


def no_goodbye(case):
    """A connection to a server that has broken the protocol ends without DISC."""
    with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH, lambda n, *_: raw(zeroes, zeroes) if n == 1 else 0) as server:
        child, client = disk(case)
        with client:
            client.pread(0, 4096)
            client.pread(0, 4096)
        check(case.stop(child) == 0, case.output(child))
        peer.wait_until(lambda: not server.open, 'a connection stays open')
        check(server.goodbyes == [2], str(server.goodbyes))


def hang(client):
    """A handshake that never begins."""
    client.recv(1)


flooded = set()  # the sockets of clients that are reading a flood


def flood(client):
    """A handshake that never ends: information about the export, faster than the client reads it."""
    fake.begin(client)
    many = fake.option_reply(fake.take_option(client), 3, struct.pack('>H', 1) + b'name') * 10000
    while True:
        client.sendall(many)
        flooded.add(client)


def end_start(case, command, condition):
    """Starts the disk, whose server does not answer, and ends it when `condition(process)` is true."""
    child = case.start(command, env=ENV)
    peer.wait_until(lambda: condition(child), lambda: f'it does not connect: {case.output(child)}')
    check(case.stop(child) == 1 and 'interrupted while connecting' in case.output(child), case.output(child))
    check(len(case.output(child).splitlines()) == 1, case.output(child))
    check(not case.path('disk').exists(), 'the socket is still there')


def is_busy(server, number, hello):
    return number in server.open and (hello == hang or server.open[number] in flooded)


def start_ends(case):
    """SIGTERM ends a start whose server does not answer, at the first connection and at a further one."""
    for hello in hang, flood:
        for first in 1, 2:
            case.path('nbd.sock').unlink(missing_ok=True)
            with fake.Server(case.path('nbd.sock'), lambda _: fake.MULTI_CONN | fake.SEND_FLUSH,
                             hello=lambda n: hello if n >= first else None) as server:
                end_start(case, serve_command(case), lambda _: is_busy(server, first, hello))


def start_ends_without_connection(case):
    """The same for an address that drops packets: a socket whose queue of connections is full."""
    with socket.socket() as listener, contextlib.ExitStack() as others:
        listener.bind(('127.0.0.1', 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(('127.0.0.1', port))
        remote = f'0100007F:{port:04X}'
        syn_sent = '02'

        def is_connecting(child):
            sockets = {os.readlink(path) for path in pathlib.Path(f'/proc/{child.pid}/fd').iterdir()}
            lines = (line.split() for line in pathlib.Path('/proc/net/tcp').read_text().splitlines()[1:])
            return any(line[2:4] == [remote, syn_sent] and f'socket:[{line[9]}]' in sockets for line in lines)

        end_start(case, serve_command(case, uri=f'nbd://127.0.0.1:{port}'), is_connecting)


# Runs a command in a network of its own, whose only name server never answers.
SILENT_DNS = """
import os, socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('127.0.0.1', 53))
server.set_inheritable(True)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def start_ends_without_name(case):
    """The same for a host whose name is not resolved, a wait in which libnbd cannot be interrupted."""
    peer.need('unshare', 'ip')
    case.path('resolv.conf').write_text('nameserver 127.0.0.1\noptions timeout:30 attempts:5\n')
    case.path('nsswitch.conf').write_text('hosts: dns\n')
    mounts = ' && '.join(f'mount --bind {case.path(name)} /etc/{name}' for name in ('resolv.conf', 'nsswitch.conf'))
    apart = ['unshare', '--user', '--map-root-user', '--net', '--mount', 'sh', '-c', f'ip link set lo up && {mounts} && exec "$@"', 'sh']
    result = case.call([*apart, 'true'])
    if result.code:
        raise peer.Skip(f'no namespaces here: {result.err}')
    command = [*apart, sys.executable, '-c', SILENT_DNS, *serve_command(case, uri='nbd://server.test')]

    def is_asking(child):
        lines = (line.split() for line in pathlib.Path(f'/proc/{child.pid}/net/udp').read_text().splitlines()[1:])
        return any(line[1] == '0100007F:0035' and line[4].split(':')[1] != '00000000' for line in lines)

    end_start(case, command, is_asking)


def end_while_connecting(case):
    """The same for a server that does not answer after a loss."""
    for hello in hang, flood:
        case.path('nbd.sock').unlink(missing_ok=True)
        with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH, hello=lambda n: hello if n > 1 else None) as server:
            child = serve(case)
            server.end(1)
            peer.wait_until(lambda: is_busy(server, 2, hello), lambda: f'it does not connect: {case.output(child)}')
            check(case.stop(child) == 0, case.output(child))


def spoiled(case):
    """
    Returns what a server may have lost when it returns, with the words of the disk's refusal (None: the disk still uses
    the server).
    """
    path = image(case)
    policy = ['--filter=blocksize-policy', 'file', path, 'blocksize-error-policy=error']
    return ((None, [*policy, 'blocksize-maximum=64K']),
            ('its minimum block size is larger now', [*policy, 'blocksize-minimum=4096']),
            ('the export is read-only now', ['--readonly', 'file', path]),
            ('the export is smaller now', ['--filter=truncate', 'file', path, 'truncate=32M']),
            ('the export is empty now', ['null']),
            (None, ['--filter=multi-conn', 'file', path, 'multi-conn-mode=disable']),
            ('it does not support flushes now', ['eval', f'get_size=echo {64 * MIB}', 'pread=exit 1', 'pwrite=exit 1', 'can_multi_conn=exit 0']))


def restart(case, server, *arguments):
    server.kill()
    server.wait()
    return nbdkit(case, *arguments)


def wait_for_write(case, child):
    before = case.path('image').stat().st_mtime_ns
    peer.wait_until(lambda: case.path('image').stat().st_mtime_ns != before, lambda: f'no writes: {case.output(child)}')


def wait_for_connection(case, child, number):
    """Waits until the disk has connected `number` times again, and has written since."""
    peer.wait_until(lambda: case.output(child).count('connected to') == number, lambda: f'no connection: {case.output(child)}')
    wait_for_write(case, child)


def other_properties(case):
    """A server that is back with other properties is used or refused, and requests wait for the next one that fits."""
    for words, arguments in spoiled(case):
        server = nbdkit(case, 'file', image(case))
        child = serve(case, '-o', 'unflushed=trust')
        load = case.start(bench(case, '--bs', '256k', '--runtime', '600'))
        wait_for_write(case, child)
        server = restart(case, server, *arguments)
        if words:
            peer.wait_until(lambda: f'because {words}' in case.output(child), lambda: f'"{words}" is missing: {case.output(child)}')
        else:
            wait_for_connection(case, child, 1)
        server = restart(case, server, 'file', image(case))
        wait_for_connection(case, child, 1 if words else 2)
        load.send_signal(signal.SIGINT)
        load.wait(peer.LIMIT_S)
        check(', all correct' in case.output(load), case.output(load))
        check(case.stop(child) == 0, case.output(child))
        check(' failed: ' not in case.output(child), case.output(child))
        case.stop(server)


def one_connection_now(case):
    """
    A server that permits only one connection after a loss gets the requests of all queues, and the next server that permits
    several gets several connections again.
    """
    single, count = 5, 4  # connections 1 to 4, then number 5, then 6 to 9
    with fake.Server(case.path('nbd.sock'), lambda n: fake.SEND_FLUSH | (fake.MULTI_CONN if n != single else 0),
                     lambda n, *_: fake.HOLD if n <= single else 0) as server:
        child, client = disk(case, '-o', 'threads=4', '-o', 'unflushed=trust', num_queues=count)
        queues, buffers = [client.queue(number) for number in range(count)], [client.alloc(8192) for _ in range(count)]
        for queue, buffer in zip(queues, buffers):
            queue.write(0, buffer)  # all wait for the first one
            queue.read(MIB, buffer)
            queue.submit()
        peer.wait_until(lambda: len({n for n, kind, _ in server.requests if kind == fake.READ}) == count, lambda: str(server.requests))
        for number in range(1, count + 1):
            server.end(number)
        peer.wait_until(lambda: server.kinds(single).count(fake.READ) == count, lambda: f'{server.requests}: {case.output(child)}')
        check(server.kinds(single).count(fake.WRITE) == 1 and server.number == single, str(server.requests))
        server.end(single)
        for queue in queues:
            done = [one.error for one in queue.wait(2, peer.LIMIT_S)]
            check(done == [None] * 2, f'{done}: {case.output(child)}')
        check(server.number == single + count, f'{server.number} connections')
        for queue, buffer in zip(queues, buffers):
            queue.read(MIB, buffer)
            check([one.error for one in queue.wait(1, peer.LIMIT_S)] == [None], 'a later read has failed')
        check({n for n, *_ in server.requests if n > single} == set(range(single + 1, single + count + 1)), str(server.requests))
        client.close()
        check(case.stop(child) == 0, case.output(child))
        check('permits only one connection now' in case.output(child), case.output(child))


def other_blocks(case):
    """
    A server that is back with smaller blocks, or with a part of a block more, gives the disk no other size: the next server
    may be like the first one again.
    """
    for options, size, min_block in (((), fake.SIZE + 512, lambda n: 512 if n == 2 else 4096),
                                     (('-o', 'logical-block-size=4096'), lambda n: fake.SIZE + (512 if n == 2 else 0), 512)):
        case.path('nbd.sock').unlink(missing_ok=True)
        with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH, size=size, min_block=min_block) as server:
            child, client = disk(case, *options)
            with client:
                for number in 1, 2:
                    server.end(number)
                    peer.wait_until(lambda: case.output(child).count('connected to') == number, lambda: f'no connection: {case.output(child)}')
                    client.pread(0, 4096)
            check(case.stop(child) == 0, case.output(child))
            check('cannot' not in case.output(child), case.output(child))


def flush_before_loss(case):
    """
    A flush that was submitted before completed writes were lost fails, also if a later flush of its queue has reported the
    loss before, on another connection.
    """
    single, count, go = 5, 4, threading.Event()  # connections 1 to 4, then number 5, then 6 to 9
    begun = []

    def early(number):
        if number == single + 1:
            begun.append(number)
            go.wait(peer.LIMIT_S)

    def answer(number, kind, index):
        if number > single or (number == single and index == 2):  # the small write
            return 0
        return fake.HOLD

    with fake.Server(case.path('nbd.sock'), lambda n: fake.SEND_FLUSH | (fake.MULTI_CONN if n != single else 0), answer, early=early) as server:
        child, client = disk(case, '-o', 'threads=4', num_queues=count)
        large, other, buffer, small = client.queue(0), client.queue(1), client.alloc(MIB), client.alloc(4096)
        large.write(MIB, buffer)
        large.submit()
        peer.wait_until(lambda: server.requests, 'no write')
        for number in range(1, count + 1):
            server.end(number)
        peer.wait_until(lambda: server.kinds(single), 'the write was not repeated')
        other.write(0, small)
        done = other.wait(1, peer.LIMIT_S)
        check([one.error for one in done] == [None], f'the small write: {done}: {server.requests}: {case.output(child)}')
        other.flush()
        other.submit()
        peer.wait_until(lambda: fake.FLUSH in server.kinds(single), 'no flush')
        server.end(single)
        peer.wait_until(lambda: begun, 'the write was not repeated again')
        other.flush()  # its connection is not the one that has the first flush
        done = other.wait(1, peer.LIMIT_S)
        check(len(done) == 1 and done[0].error, f'the second flush: {done}: {case.output(child)}')
        go.set()
        done = other.wait(1, peer.LIMIT_S)
        check(len(done) == 1 and done[0].error, f'the first flush: {done}: {case.output(child)}')
        check([one.error for one in large.wait(1, peer.LIMIT_S)] == [None], 'the large write has failed')
        other.flush()
        check([one.error for one in other.wait(1, peer.LIMIT_S)] == [None], 'the loss was reported twice')
        client.close()
        check(case.stop(child) == 0, case.output(child))


def smaller_requests(case):
    """A write that was begun before the next server permits smaller requests only: it is sent again, in smaller pieces."""
    sizes, flags = [], fake.SEND_FLUSH | fake.SEND_FUA

    def answer(connection, kind, index):
        if connection == 1 and index > 1:
            return fake.END
        return lambda client, cookie, size: sizes.append(size) or client.sendall(fake.simple(cookie))

    for options, expected in ((), [65536] + [32768] * 6), (('-o', 'write-cache=off'), [65536] + [32768] * 4):
        case.path('nbd.sock').unlink(missing_ok=True)
        sizes.clear()
        with fake.Server(case.path('nbd.sock'), lambda _: flags, answer, lambda n: 65536 if n == 1 else 32768) as server:
            child, client = disk(case, *options)
            with client:
                write(client, 3 * 65536)
            check(sizes[:len(expected)] == expected and server.number == 2, f'{options}: {sizes}')
            check(case.stop(child) == 0, case.output(child))


HANDSHAKES = {
    'no NBD': lambda client: client.sendall(os.urandom(65536)),
    'half a greeting': lambda client: client.sendall(b'NBDMAGIC'),
    'no size': lambda client: fake.greet(client, fake.HAS_FLAGS | fake.SEND_FLUSH, 65536, 0),
    'a size without a sign': lambda client: fake.greet(client, fake.HAS_FLAGS | fake.SEND_FLUSH, 65536, 1 << 63),
    'a huge reply': lambda client: option(client, lambda name: struct.pack('>QIII', 0x3e889045565a9, name, 3, 0xffffffff)),
    'half information': lambda client: option(client, lambda name: fake.option_reply(name, 3, b'\0\0\0')),
    'another option': lambda client: option(client, lambda name: fake.option_reply(name + 1, 1)),
    'no export': lambda client: option(client, lambda name: fake.option_reply(name, 1)),
    'a refusal with huge words': lambda client: option(client, lambda name: fake.option_reply(name, 0x80000006, b'x' * 65536)),
    'a refusal with lines': lambda client: option(client, lambda name: fake.option_reply(name, 0x80000006, b'one\ntwo\r\33[2J')),
}


def option(client, answer):
    """Answers the first option, and then ends the connection."""
    fake.begin(client)
    client.sendall(answer(fake.take_option(client)))


def hostile_handshake(case):
    """A handshake that no client can use ends the start with words; after a loss, the disk waits for the next connection."""
    for name, hello in HANDSHAKES.items():
        case.path('nbd.sock').unlink(missing_ok=True)
        with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH, hello=lambda n: hello if n in (1, 3) else None) as server:
            result = case.call(serve_command(case), env=ENV)
            check(result.code == 1 and len(result.err.splitlines()) == 1 and result.err.strip().isprintable(), f'{name}: {result}')
            child, client = disk(case)
            with client:
                server.end(2)
                check(client.pread(0, 4096) == bytes(4096), f'{name}: other data')
            check(server.number == 4, f'{name}: {server.number} connections: {case.output(child)}')
            check(case.stop(child) == 0, case.output(child))
            check(case.output(child).count('; requests wait, and the engine tries again') == 1, f'{name}: {case.output(child)}')


def storm(case):
    """A server that ends each connection at its first request: the delays grow, and the request waits."""
    with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH, lambda n, *_: fake.END if n <= 4 else 0) as server:
        child, client = disk(case)
        with client:
            client.pread(0, 4096)
        check(server.number == 5, str(server.requests))
        check(case.stop(child) == 0, case.output(child))
        for delay_ms in (100, 200, 400, 800):
            check(case.output(child).count(f'again in {delay_ms} ms') == 1, case.output(child))


def storm_ends(case):
    """The program ends while it waits for the time of the next connection."""
    with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH, None):
        child = serve(case)
        peer.wait_until(lambda: 'again in 1600 ms' in case.output(child), lambda: f'no delay: {case.output(child)}')
        check(case.stop(child) == 0, case.output(child))


def chunk(cookie, kind, payload):
    return struct.pack('>IHHQI', fake.STRUCTURED_REPLY, 0, kind, cookie, len(payload)) + payload


SLOT = 0xffff << 48  # the bits of a cookie that the engine uses for the number of a slot, on a little-endian host
BROKEN, ENDED = 'has broken the protocol', 'the server has closed the connection'
HOSTILE = {
    'magic': (BROKEN, raw(lambda cookie, size: fake.simple(cookie, magic=1))),
    'structured': (BROKEN, raw(lambda cookie, size: struct.pack('>IHHQI', fake.STRUCTURED_REPLY, 1, 1, cookie, 8 + size) + bytes(8 + size))),
    'chunk out of bounds': (BROKEN, raw(lambda cookie, size: chunk(cookie, 1, struct.pack('>Q', 1 << 63) + bytes(size)))),
    'overlapping chunks': (BROKEN, raw(lambda cookie, size: chunk(cookie, 1, bytes(8 + size)) * 2)),
    'error chunk with huge text': (BROKEN, raw(lambda cookie, size: chunk(cookie, 0x8001, struct.pack('>IH', 5, 65535) + bytes(65535)))),
    'never-ending chunks': (BROKEN, raw(*[lambda cookie, size: chunk(cookie, 1, bytes(8)) * 10000] * 100)),
    'slot': (BROKEN, raw(lambda cookie, size: fake.simple(cookie | SLOT))),
    'unused slot': (BROKEN, raw(lambda cookie, size: fake.simple(cookie ^ 1 << 48))),
    'old cookie': (BROKEN, raw(lambda cookie, size: fake.simple(cookie ^ 1 << 40))),
    'random': (BROKEN, raw(lambda cookie, size: os.urandom(MIB), end=True)),
    'half a header': (ENDED, raw(lambda cookie, size: fake.simple(cookie)[:9], end=True)),
    'half of the data': (ENDED, raw(lambda cookie, size: zeroes(cookie, size // 2), end=True)),
    'shutdown': ('is shutting down', raw(lambda cookie, size: fake.simple(cookie, 108))),
}


def hostile(case):
    """Each answer that ends a connection is named in the log, and the next connection gets the request again."""
    for number, (name, (words, answer)) in enumerate(HOSTILE.items()):
        case.path('nbd.sock').unlink(missing_ok=True)
        with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH, lambda n, *_: answer if n == 1 else 0) as server:
            child, client = disk(case)
            with client:
                check(client.pread(0, 65536) == bytes(65536), f'{name}: other data')
            check(server.number == 2, f'{name}: {server.requests}')
            check(case.stop(child) == 0, case.output(child))
            check(f'is lost: the server {words.removeprefix("the server ")}' in case.output(child), f'{name}: {case.output(child)}')


def repeated_reply(case):
    """The second answer to a completed request ends the connection, also if the slot has a new request."""
    with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH,
                     lambda n, *_: raw(zeroes, zeroes) if n == 1 else 0) as server:
        child, client = disk(case)
        with client:
            for _ in range(3):
                client.pread(0, 4096)
        check(server.number == 2 and BROKEN in case.output(child), f'{server.requests}: {case.output(child)}')
        check(case.stop(child) == 0, case.output(child))


def write_with_data(case):
    """Data after the answer to a write is no answer."""
    with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH,
                     lambda n, *_: raw(zeroes) if n == 1 else 0) as server:
        child, client = disk(case, '-o', 'unflushed=trust')
        with client:
            client.pwrite(0, bytes(4096))
            client.flush()
        check(server.number == 2 and BROKEN in case.output(child), f'{server.requests}: {case.output(child)}')
        check(case.stop(child) == 0, case.output(child))


def trickle(case):
    """Answers arrive byte by byte, with the data of the request, and an unknown error is an error."""
    data = bytes(range(256)) * 2

    def bytewise(client, cookie, size):
        for one in fake.simple(cookie, 0, data):
            client.sendall(bytes([one]))

    with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH,
                     lambda _, __, index: bytewise if index == 1 else raw(lambda cookie, size: fake.simple(cookie, 0xffffffff))) as server:
        child, client = disk(case)
        with client:
            check(client.pread(0, 512) == data, 'other data')
            check(fails(lambda: client.pread(0, 512)), 'an error is no error')
        check(server.number == 1, case.output(child))
        check(case.stop(child) == 0, case.output(child))


def early_refusal(case):
    """A server refuses a large write before it has the data: the write fails, and the connection stays usable."""
    with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH, early=lambda _: 28) as server:
        child, client = disk(case)
        with client:
            for _ in range(3):
                check(fails(lambda: client.pwrite(0, bytes(MIB))), 'the write has not failed')
            client.pread(0, 4096)
        check(server.number == 1, case.output(child))
        check(case.stop(child) == 0, case.output(child))


def early_confirmation(case):
    """A server confirms a write before it has the data: the next server gets the write again."""
    with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH, early=lambda n: 0 if n == 1 else None) as server:
        child, client = disk(case)
        with client:
            client.pwrite(0, bytes(MIB))
        check(set(server.kinds(2)) == {fake.WRITE}, str(server.requests))
        check(case.stop(child) == 0, case.output(child))
        check('has confirmed a write before it had all of the data' in case.output(child), case.output(child))


def short_connections(case):
    """A server that executes one request and ends: the engine does not connect again without a pause."""
    with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH, lambda n, _, index: fake.END if n < 4 and index > 1 else 0) as server:
        child, client = disk(case)
        with client:
            for _ in range(8):
                client.pread(0, 4096)
        check(server.number == 4, str(server.requests))
        check(case.stop(child) == 0, case.output(child))
        check('because the last connection was short' in case.output(child), case.output(child))


def words(case):
    """A lasting reason why the disk cannot connect again is a warning once, not with each attempt."""
    with fake.Server(case.path('nbd.sock'), lambda n: fake.SEND_FLUSH | (fake.READ_ONLY if 1 < n < 20 else 0)) as server:
        child = serve(case)
        server.end(1)
        peer.wait_until(lambda: 'connected to' in case.output(child), lambda: f'no connection: {case.output(child)}')
        check(case.stop(child) == 0, case.output(child))
        lines = [line for line in case.output(child).splitlines() if 'because the export is read-only now' in line]
        check(len(lines) == 18, case.output(child))
        check(['warning' in line.lower() for line in lines] == [True] + [False] * 17, case.output(child))


def misfit(case):
    """A further connection that the disk cannot use is closed, and no more are made."""
    with fake.Server(case.path('nbd.sock'), lambda n: fake.MULTI_CONN | fake.SEND_FLUSH | (fake.READ_ONLY if n > 1 else 0)) as server:
        child = serve(case)
        check(server.number == 2, f'{server.number} connections')
        check('because the export is read-only now; the disk continues with 1 connection' in case.output(child), case.output(child))
        peer.wait_until(lambda: list(server.open) == [1], 'the connection stays open')
        check(case.stop(child) == 0, case.output(child))


CASES = [goodbye, no_goodbye, storm, storm_ends, short_connections, hostile, repeated_reply, write_with_data, trickle,
         early_refusal, early_confirmation, words, misfit, start_ends, start_ends_without_connection,
         start_ends_without_name, end_while_connecting, other_properties, one_connection_now, other_blocks,
         flush_before_loss, smaller_requests, hostile_handshake]

if __name__ == '__main__':
    sys.exit(peer.main(CASES, sys.argv[3:]))
