#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The tool against real back-ends: qemu-storage-daemon with raw and qcow2 images, and
`vublk serve`, each with 1 and 4 queues. Other programs compare the written data.

    peers.py VUBLK DISK-SUM DISK-EPOLL [-l] [-k] [WORD...]
"""
import filecmp
import functools
import json
import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import peer  # noqa: E402
from peer import check  # noqa: E402

MIB = 1 << 20
DISK_BYTES = 48 * MIB
VOLATILE_BYTES = 96 * MIB  # enough for two kills during the copy


class Peer:
    """A kind of back-end, the format of its images, and a number of queues."""

    def __init__(self, vublk, backend, form, queues):
        self.vublk, self.backend, self.form, self.queues = vublk, backend, form, queues
        self.name = f'{backend.name}, {form}, {queues} queues'

    def image(self, case, name='disk', size=DISK_BYTES):
        path = case.path(name)
        if self.form == 'raw':
            with open(path, 'wb') as file:
                file.truncate(size)
        else:
            peer.need('qemu-img')
            case.run(['qemu-img', 'create', '-q', '-f', self.form, path, size])
        return path

    def start(self, case, image, **options):
        return self.backend.start(case, image, self.queues, form=self.form, **options)

    def stop(self, case, child):
        self.backend.stop(case, child)

    def check_content(self, case, image, wanted):
        """Checks with qemu-img that the image has the content of the raw file `wanted`."""
        peer.need('qemu-img')
        result = case.call(['qemu-img', 'compare', '-f', self.form, '-F', 'raw', image, wanted])
        check(result.code == 0, str(result))


def random_file(path, size, seed=1):
    """Makes a file with data, a hole, written zeroes, and aligned and unaligned data. Returns its path."""
    generator = __import__('random').Random(seed)
    with open(path, 'wb') as file:
        file.write(generator.randbytes(min(size, 3 * MIB + 4097)))
        if size > 24 * MIB:
            file.seek(16 * MIB)
            file.write(bytes(2 * MIB))
            file.write(generator.randbytes(3 * MIB + 11))
            file.seek(size - 16 * MIB)
            file.write(generator.randbytes(8 * MIB))
            file.seek(size - 1000)
            file.write(generator.randbytes(1000))
        file.truncate(size)
    return path


def bench(case, vublk, socket, *arguments):
    text = case.run([vublk, 'bench', socket, '--output-format', 'json', *arguments])
    return json.loads(text)


# --- info -------------------------------------------------------------------------------

def info_tells_the_disk(case, p):
    image = p.image(case)
    child, socket = p.start(case, image)
    told = json.loads(case.run([p.vublk, 'info', socket, '--json']))
    text = case.run([p.vublk, 'info', socket])
    p.stop(case, child)
    check(told['capacity_bytes'] == DISK_BYTES, f'the capacity is told as {told["capacity_bytes"]}')
    check(told['max_queues'] == p.queues, f'max_queues is {told["max_queues"]}')
    check(not told['read_only'], 'the disk is told to be read-only')
    check(told['config']['capacity'] == DISK_BYTES // 512, f'config: {told["config"]}')
    in_use = {feature['name'] for feature in told['features'] if feature['in_use']}
    check(any('FLUSH' in name.upper() for name in in_use), f'in use are {sorted(in_use)}')
    check(str(DISK_BYTES) in text, f'the text does not name the capacity:\n{text}')


def info_tells_read_only(case, p):
    child, socket = p.start(case, p.image(case), read_only=True)
    told = json.loads(case.run([p.vublk, 'info', socket, '--json']))
    p.stop(case, child)
    check(told['read_only'], 'the disk is told to be writable')


def info_tells_policy(case, p):
    """With properties, info shows the back-end's own features, and the disk as the properties change it."""
    child, socket = p.start(case, p.image(case))
    command = [p.vublk, 'info', socket, '-o', 'read-only=on', '-o', 'features-off=blk_size', '-o', 'serial=mine']
    plain = json.loads(case.run([p.vublk, 'info', socket, '--json']))
    told = json.loads(case.run([*command, '--json']))
    text = case.run(command)
    plain_text = case.run([p.vublk, 'info', socket])
    p.stop(case, child)
    check(told['read_only'] and told['serial'] == 'mine' and told['is_answering'], f'{told}')
    check(told['backend_config'] == plain['backend_config'], 'the back-end has another config')
    changes = {change['name']: (change['backend'], change['device']) for change in told['changes']}
    for name, wanted in {'VIRTIO_BLK_F_RO': (False, True), 'VIRTIO_BLK_F_BLK_SIZE': (True, False),
                         'VIRTIO_BLK_F_WRITE_ZEROES': (True, False),
                         'blk_size': (plain['config']['blk_size'], 0)}.items():
        check(changes.get(name) == wanted, f'{name} is {changes.get(name)} in {changes}')
    before = {change['name'] for change in plain['changes']}
    check(before <= {'min_io_size', 'opt_io_size'}, f'without properties, {before} are changed')
    check('changed by the device\n' in text and f'blk_size{" " * 24}0, the back-end says' in text, text)
    check(bool(before) == ('changed by the device' in plain_text), plain_text)


# --- bench -------------------------------------------------------------------------------

LOADS = [
    ['--rw', 'randrw', '--bs', '4k', '--iodepth', '32'],
    ['--rw', 'randwrite', '--bs', '512', '--iodepth', '8'],
    ['--rw', 'write', '--bs', '1M', '--iodepth', '4'],
    ['--rw', 'rw', '--bs', '20k', '--iodepth', '128', '--rwmixread', '30'],
]


def bench_verifies(case, p, load):
    child, socket = p.start(case, p.image(case))
    report = bench(case, p.vublk, socket, *load, '--numjobs', p.queues, '--runtime', '1', '--verify')
    p.stop(case, child)
    ios = sum(job[way]['total_ios'] for job in report['jobs'] for way in ('read', 'write'))
    check(ios > 0, 'not one request was made')


def bench_reads_read_only(case, p):
    child, socket = p.start(case, p.image(case), read_only=True)
    report = bench(case, p.vublk, socket, '--rw', 'randread', '--bs', '4k', '--iodepth', '16',
                   '--runtime', '1')
    p.stop(case, child)
    read = report['jobs'][0]['read']
    check(read['iops'] > 0 and read['clat_ns']['percentile'], f'the report holds {read}')


# --- copy --------------------------------------------------------------------------------

def copy_in_and_out(case, p):
    """Copies a file to the disk and back. vublk and qemu-img find the same content."""
    source = random_file(case.path('source'), DISK_BYTES)
    image, back = p.image(case), case.path('back')
    child, socket = p.start(case, image)
    case.run([p.vublk, 'copy', source, socket])
    case.run([p.vublk, 'copy', socket, back])
    p.stop(case, child)
    check(filecmp.cmp(source, back, shallow=False), 'what came back is not what went in')
    p.check_content(case, image, source)


def copy_odd_sizes(case, p):
    """If a file ends in the middle of a sector, its copy fills the rest of the sector with zeroes."""
    image, back = p.image(case), case.path('back')
    child, socket = p.start(case, image)
    for size in (1, 511, 512, 513, 4095, 65537, MIB + 1, 31 * MIB + 7):
        source = random_file(case.path('source'), size, seed=size)
        case.run([p.vublk, 'copy', source, socket])
        case.run([p.vublk, 'copy', socket, back])
        with open(source, 'rb') as one, open(back, 'rb') as other:
            check(one.read() == other.read(size), f'{size} bytes came back changed')
            check(not any(other.read(-size % 512)), f'after {size} bytes the sector is not zero')
        check(back.stat().st_size == DISK_BYTES, 'the copy is not as large as the disk')
    p.stop(case, child)


def copy_keeps_holes(case, p):
    """A hole of the source overwrites old data with zeroes. A copy of a file without data takes no space."""
    image, back = p.image(case), case.path('back')
    full, empty = random_file(case.path('full'), DISK_BYTES), case.path('empty')
    with open(empty, 'wb') as file:
        file.truncate(DISK_BYTES)
    child, socket = p.start(case, image)
    case.run([p.vublk, 'copy', full, socket])
    case.run([p.vublk, 'copy', empty, socket])
    case.run([p.vublk, 'copy', socket, back])
    p.stop(case, child)
    check(filecmp.cmp(empty, back, shallow=False), 'a hole did not overwrite what was there')
    p.check_content(case, image, empty)
    check(back.stat().st_blocks * 512 < MIB, f'a copy of nothing takes {back.stat().st_blocks} blocks')


def copy_from_read_only(case, p):
    source = random_file(case.path('source'), DISK_BYTES)
    image = p.image(case)
    if p.form == 'raw':
        case.run(['cp', source, image])
    else:
        case.run(['qemu-img', 'convert', '-f', 'raw', '-O', p.form, source, image])
    child, socket = p.start(case, image, read_only=True)
    case.run([p.vublk, 'copy', socket, case.path('back')])
    p.stop(case, child)
    check(filecmp.cmp(source, case.path('back'), shallow=False), 'the copy is not what the image holds')


def copy_disk_to_disk(case, p):
    """Copies a file to this back-end, and from there to a back-end of the other kind."""
    other = peer.StorageDaemon() if isinstance(p.backend, peer.VublkServe) else peer.VublkServe(p.vublk)
    source = random_file(case.path('source'), DISK_BYTES)
    first, middle = p.image(case), case.path('middle')
    with open(middle, 'wb') as file:
        file.truncate(DISK_BYTES)
    child, socket = p.start(case, first)
    other_child, other_socket = other.start(case, middle, 2)
    case.run([p.vublk, 'copy', source, socket])
    case.run([p.vublk, 'copy', socket, other_socket])
    other.stop(case, other_child)
    p.stop(case, child)
    check(filecmp.cmp(source, middle, shallow=False), 'the copy between two disks is another')


def copy_tells_progress(case, p):
    """--progress=FD writes numbers that never decrease, up to 100."""
    source = random_file(case.path('source'), DISK_BYTES)
    child, socket = p.start(case, p.image(case))
    read_end, write_end = os.pipe()
    case.run([p.vublk, 'copy', source, socket, f'--progress={write_end}'], pass_fds=[write_end])
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        told = pipe.read()
    p.stop(case, child)
    steps = [float(line.split('/')[0]) for line in told.split()]
    check(steps and steps == sorted(steps) and steps[-1] == 100, f'the progress was told as {told!r}')


def part_of_a_block(case, p):
    """A capacity that ends within a block: everything is copied, and other commands work."""
    size = MIB + 512
    source, back, image = case.path('source'), case.path('back'), p.image(case, size=size)
    source.write_bytes(__import__('random').Random(1).randbytes(size))
    child, socket = p.start(case, image, block_bytes=4096)
    told = json.loads(case.run([p.vublk, 'info', socket, '--json']))
    check(told['capacity_bytes'] == size and told['block_size_bytes'] == 4096, f'info tells {told}')
    check('512 bytes, less than a block' in case.run([p.vublk, 'info', socket]), 'info does not tell the last block')
    bench(case, p.vublk, socket, '--rw', 'randrw', '--bs', '4k', '--number_ios', '300', '--verify')
    case.run([p.vublk, 'copy', source, socket])
    case.run([p.vublk, 'copy', socket, back])
    p.stop(case, child)
    check(filecmp.cmp(source, back, shallow=False), 'what came back is not what went in')
    p.check_content(case, image, source)


def copy_outlives_lost_writes(case, p):
    """A back-end with a volatile cache is killed twice during a copy, and the copy is correct."""
    source, image = case.path('source'), p.image(case, size=VOLATILE_BYTES)
    source.write_bytes(__import__('random').Random(1).randbytes(VOLATILE_BYTES))
    child, socket = p.start(case, image)
    read_end, write_end = os.pipe()
    copy = case.start([p.vublk, 'copy', source, socket, '-o', 'reconnect-ms=50', f'--progress={write_end}',
                       '--requests', '1', '--request-size', '4k'], pass_fds=[write_end])  # so the copy is slow
    os.close(write_end)
    kills = [10, 40]
    with os.fdopen(read_end) as pipe:
        for line in pipe:
            if kills and int(line.split('/')[0]) >= kills[0]:
                kills.pop(0)
                case.stop(child, signal.SIGKILL)
                socket.unlink()
                child, _ = p.start(case, image, path=socket)
    code = case.stop(copy, 0)
    p.stop(case, child)
    check(code == 0 and not kills, f'copy ended with {code}, {kills} to come: {case.output(copy)}')
    check('copying at least' in case.output(copy), case.output(copy))
    p.check_content(case, image, source)


# --- the API ---------------------------------------------------------------------------

def example_sums_the_disk(case, p, program):
    """examples/disk-sum.c, to which the README points, and disk-epoll.c compute the right sum of the disk."""
    image = p.image(case)
    child, socket = p.start(case, image)
    source = random_file(case.path('source'), DISK_BYTES)
    case.run([p.vublk, 'copy', source, socket])
    told = case.run([program, socket])
    p.stop(case, child)
    wanted = sum(source.read_bytes())
    check(str(wanted) in told.split(), f'the sum is {wanted}, the example said {told}')


def cases(vublk, *examples):
    daemon, ours = peer.StorageDaemon(), peer.VublkServe(vublk)
    kinds = [(daemon, 'raw'), (daemon, 'qcow2'), (ours, 'raw')]
    for backend, form in kinds:
        for queues in (1, 4):
            p = Peer(vublk, backend, form, queues)
            functions = [info_tells_the_disk, info_tells_read_only, info_tells_policy, bench_reads_read_only,
                         copy_in_and_out, copy_from_read_only]
            functions += [functools.partial(bench_verifies, load=load) for load in LOADS]
            if queues == 1:
                functions += [copy_odd_sizes, copy_keeps_holes, copy_disk_to_disk, copy_tells_progress,
                              *(functools.partial(example_sums_the_disk, program=path) for path in examples)]
            if isinstance(backend, peer.StorageDaemon) and form == 'raw' and queues == 1:
                functions += [part_of_a_block]
            if form == 'qcow2':
                functions += [copy_outlives_lost_writes]
            for function in functions:
                plain = getattr(function, 'func', function)
                keywords = getattr(function, 'keywords', {})
                load = ' '.join(keywords.get('load', []) or [os.path.basename(keywords.get('program', ''))]).strip()
                name = f'{plain.__name__} ({p.name}){" " + load if load else ""}'
                bound = functools.partial(function, p=p)
                bound.__name__ = plain.__name__
                yield name, bound


if __name__ == '__main__':
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(peer.main(list(cases(*sys.argv[1:4])), sys.argv[4:]))
