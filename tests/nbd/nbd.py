#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The engine nbd of `vublk serve`, with nbdkit and qemu-nbd as servers, and with fake.py for what they never do.

    nbd.py VUBLK MODULE [-l] [-k] [WORD...]
"""
import json
import os
import pathlib
import signal
import sys

from rig import ENV, MIB, VUBLK, bench, disk, fails, image, info, nbdkit, qemu_nbd, serve, tls_uri, write, zeroes  # must be first, because it finds the harness
import fake
import peer
from peer import check

KILLS = 5


def verified(case, *arguments):
    """Serves the export, runs a verified load, and ends the server. Returns the log."""
    child = serve(case, *arguments)
    case.run(bench(case, '--number_ios', '1000'))
    check(case.stop(child) == 0, case.output(child))
    return case.output(child)


def with_nbdkit(case):
    nbdkit(case, 'file', image(case))
    verified(case)


def with_qemu_nbd(case):
    qemu_nbd(case, '--shared', '8', image(case))
    verified(case)


def serials(case):
    """Each export has a serial of its own, which stays the same."""
    told = []
    for name in 'one', 'two', 'one':
        server = qemu_nbd(case, '--export-name', name, image(case))
        child = serve(case, uri=f'nbd+unix:///{name}?socket={case.path("nbd.sock")}')
        told.append(json.loads(case.run([VUBLK, 'info', case.path('disk'), '--json']))['serial'])
        check(case.stop(child) == 0, case.output(child))
        case.stop(server)
    check(told[0] == told[2] != told[1], f'the serials are {told}')


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
    uri = tls_uri(case)
    nbdkit(case, '--tls=require', f'--tls-psk={case.path("keys")}', 'file', image(case))
    child = serve(case, uri=uri)
    case.run(bench(case, '--iodepth', '32', '--number_ios', '500'))
    case.run(bench(case, '--bs', '4M', '--iodepth', '16', '--number_ios', '100'))
    check(case.stop(child) == 0, case.output(child))


def killed(case, start, uri=None):
    """The server is killed under a verified load and started again. No request is lost."""
    server = start()
    child = serve(case, '-o', 'unflushed=trust', uri=uri)
    load = case.start(bench(case, '--runtime', '600'))
    for _ in range(KILLS):
        server.kill()
        server.wait()
        check(load.poll() is None, case.output(load))
        server = start()
        peer.wait_until(lambda: count_connected(case) >= 1, 'the engine has not connected again')
    load.send_signal(signal.SIGINT)
    load.wait(peer.LIMIT_S)
    check(', all correct' in case.output(load), case.output(load))
    check(case.stop(child) == 0, case.output(child))
    check('; requests wait until the engine has connected again' in case.output(child), case.output(child))
    check(' failed: ' not in case.output(child), case.output(child))


def count_connected(case):
    """The number of connections to the server's socket that the kernel lists as established."""
    lines = (line.split(maxsplit=7) for line in pathlib.Path('/proc/net/unix').read_text().splitlines()[1:])
    return sum(line[7:] == [str(case.path('nbd.sock'))] and int(line[5], 16) == 3 for line in lines)


def nbdkit_killed(case):
    killed(case, lambda: nbdkit(case, 'file', image(case)))


def qemu_nbd_killed(case):
    killed(case, lambda: qemu_nbd(case, '--shared', '8', image(case)))


def shared_killed(case):
    """All queues share a connection."""
    killed(case, lambda: qemu_nbd(case, image(case)))


def tls_killed(case):
    uri = tls_uri(case)
    killed(case, lambda: nbdkit(case, '--tls=require', f'--tls-psk={case.path("keys")}', 'file', image(case)), uri)


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
                                   (2, 'unflushed must be fail or trust', ('-o', 'unflushed=x', '-o', 'uri=nbd:///')),
                                   (2, 'does not use a file', ('--blk-file', '/dev/null', '-o', 'uri=nbd:///'))):
        result = case.call([VUBLK, 'serve', '--socket-path', case.path('disk'), '--engine', 'nbd', *arguments], env=ENV)
        check(result.code == code and words in result.err and len(result.err.splitlines()) == 1, f'expected "{words}": {result}')


def fua_is_repeated(case):
    """A server without FUA ends between a write and its flush: the next one gets the data again, then the flush."""
    with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH,
                     lambda n, kind, _: fake.END if n == 1 and kind == fake.FLUSH else 0, 65536) as server:
        child, client = disk(case, '-o', 'write-cache=off')
        with client:
            write(client, 3 * 65536)
        check(server.kinds(1) == [fake.WRITE] * 3 + [fake.FLUSH], str(server.requests))
        check(server.kinds(2)[:4] == [fake.WRITE] * 3 + [fake.FLUSH], str(server.requests))
        check(case.stop(child) == 0, case.output(child))


def write_is_repeated(case):
    """A server ends in the middle of a write of several pieces: the next one gets all of them."""
    with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH,
                     lambda n, _, index: fake.END if n == 1 and index == 3 else 0, 65536) as server:
        child, client = disk(case)
        with client:
            write(client, 4 * 65536)
        check(server.kinds(2)[:4] == [fake.WRITE] * 4, str(server.requests))
        check(case.stop(child) == 0, case.output(child))


def overlap(case):
    """
    A write waits for an older one to the same place, on every queue. Otherwise the older one could be repeated after a
    loss, and replace the newer one.
    """
    held = fake.HOLD
    with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH | fake.MULTI_CONN,
                     lambda _n, kind, _: held if kind == fake.WRITE else 0) as server:
        child, client = disk(case, '-o', 'unflushed=trust')
        with client:
            buffer, other = client.alloc(8192), client.alloc(8192)
            for number, offset in enumerate((0, 4096, MIB)):
                client.queue(number).write(offset, buffer)
                client.queue(number).submit()
            peer.wait_until(lambda: len(server.requests) == 2, lambda: f'{server.requests}')
            client.queue(1).read(2 * MIB, other)  # comes after the second write
            client.queue(1).submit()
            peer.wait_until(lambda: len(server.requests) == 3, lambda: f'{server.requests}')
            check(sorted(request[1] for request in server.requests) == [fake.READ, fake.WRITE, fake.WRITE],
                  f'a write has overtaken an older one: {server.requests}')
            held = 0
            for connection in range(server.number):
                server.end(connection + 1)
            for number, count in enumerate((1, 2, 1)):
                done = client.queue(number).wait(count, peer.LIMIT_S)
                check([result.error for result in done] == [None] * count, f'{done}: {case.output(child)}')
        check(case.stop(child) == 0, case.output(child))


def lose_written(case, *arguments, flush=False):
    """Loses a server that has completed a write. Returns the results of the next two flushes."""
    with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH,
                     lambda n, kind, _: fake.END if n == 1 and kind == fake.READ else 0) as server:
        child, client = disk(case, *arguments)
        with client:
            client.pwrite(0, b'\1' * 4096)
            if flush:
                client.flush()
            client.pread(8192, 4096)
            results = [fails(client.flush), fails(client.flush)]
        check(server.number == 2, str(server.requests))
        check(case.stop(child) == 0, case.output(child))
        check(results[0] == ('so the next flush fails' in case.output(child)), case.output(child))
    return results


def unflushed(case):
    check(lose_written(case) == [True, False], 'the flush after the loss did not fail, or not once')


def unflushed_trusted(case):
    check(lose_written(case, '-o', 'unflushed=trust') == [False, False], 'a flush failed')


def flushed(case):
    check(lose_written(case, flush=True) == [False, False], 'a flush failed')


def loss_of_one(case):
    """If one of several connections is lost, all are made again, and a flush waits for that."""
    with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH | fake.MULTI_CONN) as server:
        child, client = disk(case)
        with client:
            count = server.number
            check(count > 1, f'{count} connections')
            client.pwrite(0, b'\1' * 4096)
            writer = server.requests[-1][0]
            server.end(next(number for number in range(1, count + 1) if number != writer))
            peer.wait_until(lambda: server.number >= 2 * count, 'not all connections were made again')
            check(fails(client.flush) and not fails(client.flush), 'the flush after the loss did not fail, or not once')
        check(not [number for number, kind, _ in server.requests if kind == fake.FLUSH and number <= count], str(server.requests))
        lost = next(number for number in range(1, count + 1) if number != writer)
        check(sorted(server.goodbyes) == [number for number in range(1, count + 1) if number != lost],
              f'connection {lost} was lost, and these were ended in good order: {server.goodbyes}')
        check(case.stop(child) == 0, case.output(child))


def together(case):
    """After a loss no connection is used until all are open: a flush on one could otherwise miss a write on another."""
    seen, count = [], 4
    with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH | fake.MULTI_CONN,
                     lambda n, *_: seen.append((n, server.number)) or (fake.HOLD if n <= 3 * count else 0)) as server:
        child, client = disk(case, '-o', f'threads={count}', num_queues=count)
        queues, buffers = [client.queue(number) for number in range(count)], [client.alloc(4096) for _ in range(count)]
        for queue, buffer in zip(queues, buffers):
            queue.read(0, buffer)
            queue.submit()
        for last in count, 2 * count, 3 * count:
            peer.wait_until(lambda: len(seen) == last, lambda: str(seen))
            for number in range(last - count + 1, last + 1):
                server.end(number)
        done = [queue.wait(1, peer.LIMIT_S)[0].error for queue in queues]
        check(done == [None] * count, f'{done}: {case.output(child)}')
        early = [(n, number) for n, number in seen if number < -(-n // count) * count]
        check(not early, f'requests on a connection of {count} before the last was made: {early}')
        client.close()
        check(case.stop(child) == 0, case.output(child))


def order(case):
    """A write waits for an older one that it overlaps, also if their queues have different connections."""
    hold = [True]
    with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH | fake.MULTI_CONN,
                     lambda _, kind, __: fake.HOLD if kind == fake.WRITE and hold[0] else 0) as server:
        child, client = disk(case, '-o', 'threads=4', num_queues=2)
        first, second = client.queue(0), client.queue(1)
        large, small, other = client.alloc(MIB), client.alloc(4096), client.alloc(4096)
        first.write(65536, large)
        first.submit()
        peer.wait_until(lambda: server.requests, 'no write')
        second.write(65536 + MIB - 4096, small)  # in the last block of the first write
        second.read(65536, other)  # does not wait
        second.write(4 * MIB, small)
        second.submit()
        peer.wait_until(lambda: len(server.requests) == 3, lambda: str(server.requests))
        check([kind for _, kind, _ in server.requests].count(fake.READ) == 1, str(server.requests))
        check(len({number for number, *_ in server.requests}) == 2, f'one connection: {server.requests}')
        hold[0] = False
        for number in {number for number, *_ in server.requests}:
            server.end(number)
        done = first.wait(1, peer.LIMIT_S) + second.wait(3, peer.LIMIT_S)
        check([one.error for one in done] == [None] * 4, f'{done}: {case.output(child)}')
        check(len(server.requests) == 6, str(server.requests))
        client.close()
        check(case.stop(child) == 0, case.output(child))


def chain(case):
    """Each of several writes to one block, small and large, waits for the one before, also after a loss."""
    sizes, expected = [], [4096, 8192, MIB, 12288, MIB - 4096, 16384]

    def answer(client, cookie, size):
        sizes.append(size)
        if server.number > 1:
            client.sendall(fake.simple(cookie))

    with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FLUSH, lambda *_: answer) as server:
        child, client = disk(case)
        queue = client.queue(0)
        for size in expected:
            queue.write(0, client.alloc(size))
        queue.submit()
        peer.wait_until(lambda: sizes, 'no write')
        server.end(1)
        done = queue.wait(len(expected), peer.LIMIT_S)
        check([one.error for one in done] == [None] * len(expected), f'{done}: {case.output(child)}')
        check(sizes == [4096, *expected], str(sizes))
        client.close()
        check(case.stop(child) == 0, case.output(child))


def no_flushes(case):
    """A server with FUA only: each write and each zero has the flag."""
    with fake.Server(case.path('nbd.sock'), lambda _: fake.SEND_FUA | fake.SEND_WRITE_ZEROES) as server:
        child, client = disk(case)
        with client:
            client.pwrite(0, b'\1' * 4096)
            client.write_zeroes(0, 4096)
            client.flush()
        check([request[1:] for request in server.requests] == [(fake.WRITE, fake.FUA), (fake.WRITE_ZEROES, server.requests[1][2] | fake.FUA)],
              str(server.requests))
        check(case.stop(child) == 0, case.output(child))
        check('neither flushes nor FUA' not in case.output(child), case.output(child))


def not_durable(case):
    with fake.Server(case.path('nbd.sock'), lambda _: 0):
        child = serve(case)
        check(case.stop(child) == 0, case.output(child))
        check(case.output(child).count('neither flushes nor FUA') == 1, case.output(child))


def memory(case):
    """Zeroes that need memory at the next server do not block the writes that hold all of it."""
    with fake.Server(case.path('nbd.sock'), lambda n: fake.SEND_FLUSH | (fake.SEND_WRITE_ZEROES if n == 1 else 0),
                     lambda n, *_: fake.HOLD if n == 1 else 0) as server:
        child, client = disk(case)
        queue, buffer = client.queue(0), client.alloc(MIB)
        queue.write_zeroes(0, MIB)
        for number in range(1, 34):
            queue.write(number * MIB, buffer)
        queue.submit()
        peer.wait_until(lambda: len(server.requests) >= 33, lambda: f'{len(server.requests)} requests')
        server.end(1)
        results = []
        while len(results) < 34:
            more = queue.wait(34 - len(results), peer.LIMIT_S)
            check(more, f'{len(results)} of 34 requests are complete: {case.output(child)}')
            results += more
        check(not any(result.error for result in results), str(results))
        client.close()
        check(case.stop(child) == 0, case.output(child))


def keepalive(case):
    """A connection over TCP is watched by the kernel: its timer is the one of keepalive (2)."""
    with fake.Server(('127.0.0.1', 0), lambda _: fake.SEND_FLUSH) as server:
        port = server.listener.getsockname()[1]
        child = serve(case, uri=f'nbd://127.0.0.1:{port}')
        lines = [line.split() for line in pathlib.Path('/proc/net/tcp').read_text().splitlines()[1:]]
        timers = [line[5][:2] for line in lines if line[2].endswith(f':{port:04X}') and line[3] == '01']
        check(timers == ['02'], f'timers {timers}')
        check(case.stop(child) == 0, case.output(child))


CASES = [with_nbdkit, with_qemu_nbd, serials, one_connection, poor_server, data_arrives, block_sizes, tls, nbdkit_killed,
         qemu_nbd_killed, shared_killed, tls_killed, resized, fua_is_repeated, write_is_repeated, overlap, unflushed,
         unflushed_trusted, flushed, loss_of_one, together, order, chain, no_flushes, not_durable, memory, keepalive,
         refusals]

if __name__ == '__main__':
    sys.exit(peer.main(CASES, sys.argv[3:]))
