#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The plugin for nbdkit with clients that others wrote (nbdinfo, nbdcopy, qemu-img, fio), and with a small client for
what they do not ask for. Back-ends are `vublk serve` and qemu-storage-daemon.

    plugin.py VUBLK PLUGIN [-l] [-k] [WORD...]
"""
import functools
import json
import os
import pathlib
import random
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import nbd  # noqa: E402
import peer  # noqa: E402
from peer import check  # noqa: E402

VUBLK, PLUGIN = (os.path.abspath(path) for path in (sys.argv[1:3] or ['vublk', 'nbdkit-vublk-plugin.so']))
MIB = 1 << 20
DISK_BYTES = 48 * MIB
KILLS = 5


def image_file(case, size=DISK_BYTES, name='disk'):
    path = case.path(name)
    with open(path, 'wb') as file:
        file.truncate(size)
    return path


def random_file(path, size=DISK_BYTES):
    """A file with data and holes."""
    generator = random.Random(3)
    with open(path, 'wb') as file:
        for offset in range(0, size, 8 * MIB):
            file.seek(offset)
            file.write(generator.randbytes(3 * MIB + 4096))
        file.truncate(size)
    return path


def same_files(a, b):
    return pathlib.Path(a).read_bytes() == pathlib.Path(b).read_bytes()


class Export:
    """A back-end, and nbdkit with the plugin in front of it."""

    def __init__(self, case, backend, *parameters, options=(), size=DISK_BYTES, verbose=False, **more):
        peer.need('nbdkit')
        self.case, self.backend, self.more = case, backend, more
        self.image = image_file(case, size)
        self.child, self.path = backend.start(case, self.image, **more)
        self.socket = case.path('nbd')
        self.server = case.start(['nbdkit', '-f', '-U', self.socket, *(['-v'] if verbose else []), *options, PLUGIN,
                                  f'socket={self.path}', 'reconnect-ms=50', *parameters])
        peer.wait_for_socket(case, self.server, self.socket)
        self.uri = f'nbd+unix:///?socket={self.socket}'

    def client(self):
        return nbd.Client(self.socket)

    def log(self):
        return self.case.output(self.server)

    def kill(self):
        self.case.stop(self.child, signal.SIGKILL)

    def start_again(self):
        self.child, _ = self.backend.start(self.case, self.image, path=self.path, **self.more)

    def end(self):
        """nbdkit and the back-end must end well."""
        code = self.case.stop(self.server)
        check(code == 0, f'nbdkit ended with {code}: {self.log()}')
        self.backend.stop(self.case, self.child)


def ticks(child):
    """The processor time of a process, which grows while it works for a client."""
    fields = pathlib.Path(f'/proc/{child.pid}/stat').read_text().rpartition(')')[2].split()
    return int(fields[11]) + int(fields[12])


# --- parameters ------------------------------------------------------------------------------

def refusals(case):
    """A wrong parameter or a missing back-end gives one sentence, before nbdkit goes to the background."""
    peer.need('nbdkit')
    serve = peer.VublkServe(VUBLK)
    child, path = serve.start(case, image_file(case))
    for arguments, words in (([], 'no back-end: give its socket'),
                             (['socket='], "the parameter 'socket' is empty"),
                             (['colour=red'], "there is no parameter 'colour'"),
                             ([f'socket={path}', 'fd=3'], "there is no parameter 'fd'"),
                             ([f'socket={path}', 'chardev=x'], "there is no parameter 'chardev'"),
                             ([path, f'socket={path}'], "the parameter 'socket' is given twice"),
                             ([path, 'num-queues=1', 'num-queues=1'], "the parameter 'num-queues' is given twice"),
                             ([path, 'num-queues=0'], 'num-queues must be'),
                             ([path, 'num-queues=9'], 'num-queues'),
                             ([path, 'event_idx=maybe'], 'event_idx must be on or off'),
                             ([path, 'unflushed=x'], 'unflushed'),
                             ([case.path('nothing')], 'does not exist'),
                             ([case.path('disk')], 'is not a socket')):
        result = case.call(['nbdkit', '-U', case.path('nbd'), PLUGIN, *arguments])
        lines = result.err.splitlines()
        check(result.code == 1 and len(lines) == 1 and words in lines[0], f'{words}: {result}')
        check(not result.out, str(result))
    serve.stop(case, child)


def properties_are_listed(case):
    peer.need('nbdkit')
    told = case.run(['nbdkit', PLUGIN, '--dump-plugin'])
    names = [line.split('=')[0] for line in told.splitlines() if line.startswith('vublk_property_')]
    properties = case.run([VUBLK, 'info', '--list-properties'])
    wanted = {f'vublk_property_{line.split()[0]}' for line in properties.splitlines()} - {'vublk_property_fd'}
    check(set(names) == wanted and len(names) == len(wanted), f'missing or too many: {set(names) ^ wanted}')
    check('thread_model=parallel' in told, told)


def in_the_background(case):
    """nbdkit changes its folder and its process; relative paths still lead to the same files."""
    peer.need('nbdkit', 'nbdinfo')
    serve = peer.VublkServe(VUBLK)
    child, path = serve.start(case, image_file(case))
    pid_file, socket = case.path('pid'), case.path('nbd')
    case.run(['nbdkit', '-P', pid_file, '-U', socket, PLUGIN, path.name, 'chardev-2=elsewhere'], cwd=case.folder)
    pid = int(pid_file.read_text())
    told = case.run(['nbdinfo', '--size', f'nbd+unix:///?socket={socket}'])
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    peer.wait_until(lambda: not pathlib.Path(f'/proc/{pid}').exists(), 'nbdkit does not end')
    os.close(pidfd)
    check(int(told) == DISK_BYTES, f'the size is {told}')
    serve.stop(case, child)


# --- what a client is told ------------------------------------------------------------------

def info(case, export):
    peer.need('nbdinfo')
    return json.loads(case.run(['nbdinfo', '--json', export.uri]))['exports'][0]


def export_info(case, backend):
    export = Export(case, backend)
    told = info(case, export)
    for name, wanted in {'export-size': DISK_BYTES, 'is_read_only': False, 'can_flush': True, 'can_fua': True,
                         'can_multi_conn': True, 'can_trim': True, 'can_zero': True, 'can_fast_zero': True,
                         'can_cache': False, 'block_size_minimum': 512, 'block_size_maximum': 64 * MIB}.items():
        check(told[name] == wanted, f'{name} is {told[name]}')
    check(told['block_size_preferred'] >= 4096, f'{told}')
    extents = json.loads(case.run(['nbdinfo', '--json', '--map', export.uri]))
    check([extent['type'] for extent in extents] == [0], f'the extents are {extents}')
    export.end()


def export_info_read_only(case, backend, how):
    options = {'back-end': {'read_only': True}, '-r': {'options': ['-r']}, 'property': {}}[how]
    export = Export(case, backend, *(['read-only=on'] if how == 'property' else []), **options)
    told = info(case, export)
    check(told['is_read_only'], f'{told}')
    client = export.client()
    check(client.read(0, 512) == (0, bytes(512)), 'cannot read')
    check(client.write(0, bytes(512)) == nbd.EPERM, 'a write was not refused')
    client.close()
    export.end()


def export_info_without_features(case, backend):
    export = Export(case, backend, 'discard=off', 'write-zeroes=off')
    told = info(case, export)
    # nbdkit writes zeroes itself.
    check(not told['can_trim'] and told['can_zero'], f'{told}')
    client = export.client()
    check(client.write(4096, b'x' * 8192) == 0, 'write')
    check(client.call(nbd.WRITE_ZEROES, 4096, 4096, nbd.FAST_ZERO) == nbd.ENOTSUP, 'not refused')
    check(client.read(4096, 8192) == (0, b'x' * 8192), 'a refused request changed the disk')
    check(client.call(nbd.WRITE_ZEROES, 4096, 4096) == 0, 'zero')
    check(client.read(4096, 8192) == (0, bytes(4096) + b'x' * 4096), 'other data')
    client.close()
    export.end()


def export_info_large_blocks(case):
    """With large blocks the minimum is told, unless the disk's size is not a multiple of it."""
    for size, minimum in ((DISK_BYTES, 4096), (DISK_BYTES + 512, 512)):
        export = Export(case, peer.StorageDaemon(), size=size, block_bytes=4096)
        told = info(case, export)
        check((told['export-size'], told['block_size_minimum']) == (size, minimum), f'{told}')
        export.end()
        export.socket.unlink()


# --- copies ------------------------------------------------------------------------------------

def nbdcopy(case, backend, queues):
    peer.need('nbdcopy')
    source = random_file(case.path('source'))
    export = Export(case, backend, queues=queues)
    for connections in (1, 4):
        case.run(['nbdcopy', '--flush', f'--connections={connections}', source, export.uri])
        case.run(['nbdcopy', f'--connections={connections}', export.uri, case.path('copy')])
        check(same_files(source, case.path('copy')), 'the copy differs')
        case.path('copy').unlink()
        # without holes: zeroes are written to the disk
        case.run(['nbdcopy', '--allocated', '--flush', image_file(case, name='empty'), export.uri])
        case.run(['nbdcopy', export.uri, case.path('copy')])
        check(same_files(case.path('empty'), case.path('copy')), 'the zeroes differ')
    export.end()


def qemu_img(case, backend):
    peer.need('qemu-img')
    source = random_file(case.path('source'))
    export = Export(case, backend, queues=4)
    case.run(['qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', '-m', '8', '-W', source, export.uri])
    case.run(['qemu-img', 'compare', '-f', 'raw', '-F', 'raw', source, export.uri])
    case.run(['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', export.uri, case.path('copy.qcow2')])
    case.run(['qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', source, case.path('copy.qcow2')])
    export.end()
    check(same_files(source, export.image), 'the image differs')


# --- requests ------------------------------------------------------------------------------------

def fio_command(export, *arguments):
    peer.need('fio')
    return ['fio', '--name=load', '--ioengine=nbd', f'--uri={export.uri}', '--verify=crc32c', '--verify_fatal=1',
            '--verify_state_save=0', *arguments]


def fio_verifies(case, backend, queues):
    export = Export(case, backend, queues=queues)
    for load in (['--rw=randwrite', '--bs=4k', '--iodepth=32', '--size=16M'],
                 ['--rw=randtrimwrite', '--bs=64k', '--iodepth=4', '--size=16M', '--serialize_overlap=1'],
                 ['--rw=write', '--bs=3M', '--iodepth=4', f'--size={DISK_BYTES}'],
                 ['--rw=randwrite', '--bs=512', '--iodepth=16', '--size=2M', '--numjobs=4',
                  '--offset_increment=12M', '--fsync=32']):
        case.run(fio_command(export, *load), cwd=case.folder)
    export.end()


def killed_backends(case, backend, parameters):
    """Back-ends are killed while fio writes and verifies. Every request succeeds, and all data is there."""
    export = Export(case, backend, *parameters, queues=2)
    kills = 0
    for _ in range(10 * KILLS):
        load = case.start(fio_command(export, '--rw=randwrite', '--bs=4k', '--iodepth=16', '--size=8M', '--loops=3',
                                      '--numjobs=2', '--offset_increment=8M', '--verify_backlog=256'), cwd=case.folder)
        while load.poll() is None and kills < KILLS:
            before = ticks(export.child)
            peer.wait_until(lambda: ticks(export.child) >= before + 3 or load.poll() is not None,
                            'the back-end does nothing')
            export.kill()
            # A load that ended just before the kill does not count.
            kills += load.poll() is None
            export.start_again()
        code = case.stop(load, 0)
        check(code == 0, f'fio ended with {code} after {kills} kills: {case.output(load)}{export.log()}')
        if kills == KILLS:
            break
    check(kills == KILLS, f'only {kills} back-ends were killed under load')
    export.end()


def fua_and_flush(case):
    """Each write, trim and zero with FUA is followed by a flush at the back-end; a write without is not."""
    control = case.path('control')
    export = Export(case, peer.VublkServe(VUBLK), arguments=['--control', control], queues=4)
    case.run([VUBLK, 'ctl', control, 'stats', 'enable=true'])

    def flushes():
        stats = json.loads(case.run([VUBLK, 'ctl', control, 'stats']))
        return sum(queue['requests'].get('flush', {}).get('count', 0) for queue in stats['queues'])

    clients = [export.client() for _ in range(4)]
    wanted = flushes()
    for client in clients:
        check(client.flags & nbd.MULTI_CONN, f'the flags are {client.flags:x}')
        for kind in (nbd.WRITE, nbd.TRIM, nbd.WRITE_ZEROES):
            data = b'f' * 4096 if kind == nbd.WRITE else b''
            check(client.call(kind, 8192, 4096, nbd.FUA, data) == 0, f'request {kind}')
            wanted += 1
            check(flushes() == wanted, f'after request {kind} there were {flushes()} flushes, not {wanted}')
            check(client.call(kind, 8192, 4096, 0, data) == 0, f'request {kind}')
            check(flushes() == wanted, f'request {kind} without FUA was followed by a flush')
        check(client.flush() == 0, 'flush')
        wanted += 1
        check(flushes() == wanted, 'a flush did not reach the back-end')
        client.close()
    export.end()


def lost_writes_are_reported(case):
    """After a loss of writes, one flush fails on each connection, and FUA fails for no later write."""
    daemon = peer.StorageDaemon()
    export = Export(case, daemon, 'unflushed=fail', queues=4)
    clients = [export.client() for _ in range(6)]
    for client in clients:
        check(client.write(0, b'w' * 4096) == 0 and client.flush() == 0, 'cannot write and flush')
    check(clients[0].write(0, b'l' * 4096) == 0, 'write')
    export.kill()
    export.start_again()
    for number, client in enumerate(clients):
        check(client.flush() == nbd.EIO, f'the flush of connection {number} succeeded')
    late = export.client()
    for client in [*clients, late]:
        check(client.flush() == 0, 'a second flush failed, although nothing was lost since')
        check(client.write(0, b'n' * 4096, nbd.FUA) == 0, 'a write with FUA failed')
        client.close()
    late.close()
    export.end()


def blocks_of(path):
    return os.stat(path).st_blocks


def zeroes(case):
    """Zeroes keep blocks or free them, as the client asks; a fast request is refused if it has to keep them."""
    export = Export(case, peer.VublkServe(VUBLK), size=8 * MIB)
    client = export.client()

    def fill():
        check(client.write(0, b'z' * (4 * MIB)) == 0 and client.flush() == 0, 'write')
        return blocks_of(export.image)

    full = fill()
    check(full >= 4 * MIB // 512, f'the image has {full} blocks')
    check(client.call(nbd.WRITE_ZEROES, 0, 4 * MIB, nbd.FAST_ZERO | nbd.NO_HOLE) == nbd.ENOTSUP, 'not refused')
    check(client.read(MIB, 512) == (0, b'z' * 512), 'a refused request changed the disk')
    check(client.call(nbd.WRITE_ZEROES, 0, 4 * MIB, nbd.NO_HOLE | nbd.FUA) == 0, 'zero')
    check(blocks_of(export.image) == full, 'blocks were freed against the will of the client')
    check(client.read(MIB, 2 * MIB) == (0, bytes(2 * MIB)), 'not zeroes')
    for flags in (0, nbd.FAST_ZERO):
        fill()
        check(client.call(nbd.WRITE_ZEROES, 0, 4 * MIB, flags | nbd.FUA) == 0, f'zero with {flags}')
        check(blocks_of(export.image) < full // 4, 'the blocks were not freed')
        check(client.read(MIB, 2 * MIB) == (0, bytes(2 * MIB)), 'not zeroes')
    fill()
    check(client.call(nbd.TRIM, 0, 4 * MIB, nbd.FUA) == 0, 'trim')
    check(blocks_of(export.image) < full // 4, 'the blocks were not freed')
    client.close()
    export.end()


def any_range(case, size):
    """Ranges that do not begin or end with a block of 4096 bytes, compared with a model of the disk."""
    export = Export(case, peer.StorageDaemon(), size=size, block_bytes=4096)
    model, generator = bytearray(size), random.Random(5)
    client = export.client()
    for number in range(400):
        length = generator.choice((1, 511, 512, 4096, 5000, 70000, 3 * MIB + 1))
        offset = generator.choice((generator.randrange(size - length), size - length))
        kind = generator.choice((nbd.WRITE, nbd.WRITE, nbd.WRITE_ZEROES, nbd.READ))
        if kind == nbd.READ:
            check(client.read(offset, length) == (0, bytes(model[offset:offset + length])), f'read {number} differs')
            continue
        data = generator.randbytes(length) if kind == nbd.WRITE else bytes(length)
        check(client.call(kind, offset, length, generator.choice((0, nbd.FUA)),
                          data if kind == nbd.WRITE else b'') == 0, f'request {number}: {offset} {length}')
        model[offset:offset + length] = data
    # A trim frees whole blocks only. What it frees is undefined, so only the bytes around are compared.
    edge = bytes(model[100:4096])
    check(client.call(nbd.TRIM, 100, 8192) == 0 and client.read(100, 3996) == (0, edge), 'a trim changed its edge')
    client.close()
    export.end()
    content = export.image.read_bytes()
    check(content[12288:] == model[12288:], 'the image differs')


def neighbours_in_a_block(case):
    """Writes of parts of the same block, on several connections at the same time: none undoes another."""
    export = Export(case, peer.StorageDaemon(), size=MIB, block_bytes=4096, queues=4)
    clients = [export.client() for _ in range(8)]
    for turn in range(1, 41):
        for number, client in enumerate(clients):
            for part in range(4):
                offset = (number * 4 + part) * 128
                client.send(nbd.WRITE, offset, 128, 0, bytes([turn * 6 % 251 + part]) * 128)
        for client in clients:
            for _ in range(4):
                check(client.answer()[0] == 0, 'a write failed')
        wanted = b''.join(bytes([turn * 6 % 251 + part]) * 128 for _ in clients for part in range(4))
        check(clients[0].read(0, 4096) == (0, wanted), f'in turn {turn} a write was undone')
    for client in clients:
        client.close()
    export.end()


def small_queue(case):
    """More requests than a small queue has room for, without indirect descriptors."""
    export = Export(case, peer.VublkServe(VUBLK), 'queue-size=4', 'indirect_desc=off', 'num-queues=1')
    data = random.Random(9).randbytes(2 * MIB + 512)
    clients = [export.client() for _ in range(4)]
    for turn in range(5):
        for number, client in enumerate(clients):
            client.send(nbd.WRITE, number * 4 * MIB, len(data), 0, data)
        for client in clients:
            check(client.answer()[0] == 0, 'write')
            check(client.flush() == 0, 'flush')
    for number, client in enumerate(clients):
        check(client.read(number * 4 * MIB, len(data)) == (0, data), 'other data')
        client.close()
    export.end()


def sizes(case):
    """A connection keeps its size. The next one has the new size. Requests past the end fail."""
    control = case.path('control')
    export = Export(case, peer.VublkServe(VUBLK), arguments=['--control', control])
    old = export.client()
    for size in (DISK_BYTES * 2, DISK_BYTES // 2):
        os.truncate(export.image, size)
        case.run([VUBLK, 'ctl', control, 'resize'])

        def new_size():
            client = export.client()
            client.close()
            return client.size
        peer.wait_until(lambda: new_size() == size, f'no connection gets the size {size}')
        check(old.size == DISK_BYTES and old.write(0, b's' * 512) == 0, 'the old connection')
    check(old.write(DISK_BYTES - 512, bytes(512)) == nbd.ENOSPC, 'a write past the end succeeded')
    check(old.read(DISK_BYTES - 512, 512)[0] != 0, 'a read past the end succeeded')
    check(old.write(DISK_BYTES // 2 - 512, bytes(512)) == 0, 'a write at the new end failed')
    old.close()
    export.end()


# --- outages -----------------------------------------------------------------------------------------

def wait_for_request(export, kind, number=1):
    peer.wait_until(lambda: export.log().count(f'vublk: {kind} count=') >= number, f'nbdkit gets no {kind}')


def ends_in_an_outage(case):
    """
    When nbdkit has to end, it answers requests of every kind that wait for a back-end with an error. (nbdkit itself
    then waits until its clients have disconnected.)
    """
    export = Export(case, peer.VublkServe(VUBLK), verbose=True)
    clients = [export.client() for _ in range(3)]
    check(clients[0].write(0, b'a' * 512) == 0, 'write')
    export.kill()
    for client in clients:
        client.send(nbd.WRITE, 0, 512, 0, b'b' * 512)
        client.send(nbd.READ, 0, 512)
        client.send(nbd.FLUSH)
        client.send(nbd.WRITE_ZEROES, 4096, 512)
    wait_for_request(export, 'zero', 3)
    export.server.send_signal(signal.SIGTERM)
    for client in clients:
        for _ in range(4):
            error, _ = client.answer()
            check(error == nbd.ESHUTDOWN, f'a request ended with {error}')
        client.close()
    code = case.stop(export.server, 0)
    check(code == 0, f'nbdkit ended with {code}: {export.log()}')


def clients_leave_in_an_outage(case):
    """
    The requests of clients that left are executed before later ones that overlap, even on another queue, and their
    memory is used again. The clients have more requests than a queue has pieces. The later requests are smaller and
    on the first queue, so that the next back-end would execute them first.
    """
    export = Export(case, peer.VublkServe(VUBLK), verbose=True, queues=4)
    first = export.client()  # has the first queue
    check(first.write(0, bytes(4096)) == 0, 'write')
    export.kill()
    older = b'o' * (256 << 10)
    for number in range(1, 5):
        client = export.client()
        for i in range(16):
            client.send(nbd.WRITE, (number * 16 + i) * len(older), len(older), 0, older)
        wait_for_request(export, 'pwrite', 1 + 16 * number)
        client.close()
        peer.wait_until(lambda: export.log().count('vublk: close') >= number, 'a connection does not end')
    first.close()
    peer.wait_until(lambda: export.log().count('vublk: close') == 5, 'the first connection does not end')
    late = export.client()
    # The first two clients had as many requests as the queue has pieces. The other two waited for pieces.
    blocks = range(16, 48)
    for block in blocks:
        late.send(nbd.WRITE, block * len(older), 4096, 0, b'n' * 4096)
    wait_for_request(export, 'pwrite', 66)
    export.start_again()
    for _ in blocks:
        check(late.answer()[0] == 0, 'a write after the outage')
    data = random.Random(1).randbytes(16 * MIB)
    for client in [late, *(export.client() for _ in range(3))]:
        for block in blocks:
            check(client.read(block * len(older), 8192) == (0, b'n' * 4096 + b'o' * 4096), 'an older write came later')
        check(client.write(24 * MIB, data) == 0 and client.flush() == 0, 'a large write')
        check(client.read(24 * MIB, len(data)) == (0, data), 'other data')
        client.close()
    export.end()


def errors_are_few(case):
    """A client that gets an error for each of many requests cannot fill the log."""
    export = Export(case, peer.VublkServe(VUBLK), 'fail-after-ms=1')
    client = export.client()
    check(client.read(0, 512)[0] == 0, 'read')
    export.kill()
    for _ in range(300):
        check(client.read(0, 512)[0] == nbd.EIO, 'a read succeeded without a back-end')
    lines = export.log().splitlines()
    check(0 < len(lines) < 20, f'{len(lines)} lines: {export.log()}')
    export.start_again()
    peer.wait_until(lambda: client.read(0, 512)[0] == 0, 'the disk does not return')
    client.close()
    export.end()


def cases():
    backends = [peer.VublkServe(VUBLK), peer.StorageDaemon()]

    def each(function, **arguments):
        words = ''.join(f', {value}' for value in arguments.values() if isinstance(value, (str, int)))
        for backend in backends:
            yield (f'{function.__name__} ({backend.name}{words})',
                   functools.partial(function, backend=backend, **arguments))

    yield from [refusals, properties_are_listed, in_the_background]
    yield from each(export_info)
    for how in ('back-end', '-r', 'property'):
        yield from each(export_info_read_only, how=how)
    yield from each(export_info_without_features)
    yield export_info_large_blocks
    for queues in (1, 4):
        yield from each(nbdcopy, queues=queues)
        yield from each(fio_verifies, queues=queues)
    yield from each(qemu_img)
    yield ('killed_backends (vublk serve)', functools.partial(killed_backends, backend=backends[0], parameters=[]))
    # This back-end has no in-flight area. Its raw image is in the kernel's cache, which survives it.
    yield ('killed_backends (qemu-storage-daemon)',
           functools.partial(killed_backends, backend=backends[1], parameters=['unflushed=trust']))
    yield ('killed_backends (qemu-storage-daemon, replay)',
           functools.partial(killed_backends, backend=backends[1], parameters=['unflushed=replay']))
    yield from [fua_and_flush, lost_writes_are_reported, zeroes]
    for size in (8 * MIB, 8 * MIB + 512):
        yield f'any_range ({size} bytes)', functools.partial(any_range, size=size)
    yield from [neighbours_in_a_block, small_queue, sizes, ends_in_an_outage, clients_leave_in_an_outage, errors_are_few]


if __name__ == '__main__':
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(peer.main(list(cases()), sys.argv[3:]))
