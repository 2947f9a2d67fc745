# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Compares `vublk serve` with qemu-storage-daemon, measured by `vublk bench`. Both serve the same file
(with O_DIRECT and io_uring), and then a disk without storage (null), which leaves only the cost of
the protocol and the rings. They take turns, round after round, and the table shows the median of the rounds.
reconnect() belongs to the part `control`: a back-end of a disk in use is killed and replaced.
"""
import json
import statistics

import peer
from systems import fill

LOADS = [
    ('read, 4 KiB, depth 1', ['--rw', 'randread', '--bs', '4k', '--iodepth', '1']),
    ('read, 4 KiB, depth 32', ['--rw', 'randread', '--bs', '4k', '--iodepth', '32']),
    ('write, 4 KiB, depth 32', ['--rw', 'randwrite', '--bs', '4k', '--iodepth', '32']),
    ('read, 1 MiB, depth 8', ['--rw', 'read', '--bs', '1M', '--iodepth', '8']),
    ('write, 1 MiB, depth 8', ['--rw', 'write', '--bs', '1M', '--iodepth', '8']),
]
RESTARTS = 100


def serve(options, path, store, image):
    what = ['--blk-file', image] if store == 'file' else ['--engine', 'null', '--size', f'{options.size}M']
    return [options.vublk, 'serve', '--socket-path', path, '--num-queues', '1', *what]


def daemon(options, path, store, image):
    node = (f'driver=file,node-name=disk,filename={image},cache.direct=on,aio=io_uring' if store == 'file' else
            f'driver=null-co,node-name=disk,size={options.size << 20},read-zeroes=off')
    return ['qemu-storage-daemon', '--blockdev', node, '--export',
            'type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,'
            f'addr.path={path},num-queues=1,writable=on']


def measure(case, vublk, path, load, runtime):
    report = json.loads(case.run([vublk, 'bench', path, *load, '--runtime', runtime, '--time_based',
                                  '--ramp_time', '500ms', '--output-format', 'json']))
    way = report['jobs'][0]['write' if 'write' in load[1] else 'read']
    return way['iops'], way['clat_ns']['percentile']['99.000000'] / 1000


def show(name, results):
    cells = []
    for values in results:
        rates = [rate for rate, _ in values]
        spread = (max(rates) - min(rates)) / statistics.median(rates) * 100
        cells.append(f'{statistics.median(rates):10,.0f}/s  p99 {statistics.median(p for _, p in values):8,.0f} us'
                     f'  (spread {spread:3.0f} %)')
    ours, theirs = (statistics.median(rate for rate, _ in values) for values in results)
    print(f'  {name:24}{cells[0]}   {cells[1]}   {ours / theirs:5.2f}', flush=True)


def measure_backend(case, options, command_of, store, image, load):
    """Measures one back-end. Only this one runs, because another would lock the file, and might poll."""
    path = case.path('socket')
    path.unlink(missing_ok=True)
    child = case.start(command_of(options, path, store, image))
    peer.wait_for_socket(case, child, path)
    result = measure(case, options.vublk, path, load, options.runtime)
    case.stop(child)
    return result


def compare(case, options, store, image):
    for name, load in LOADS:
        results = [[], []]
        for _ in range(options.rounds):
            for command_of, values in zip((serve, daemon), results):
                values.append(measure_backend(case, options, command_of, store, image, load))
        show(name, results)


def reconnect(case, options, image):
    """Prints the time from a new back-end's start to the first completed request, for a disk in use."""
    cells = []
    for command_of in (serve, daemon):
        path = case.path('socket')
        path.unlink(missing_ok=True)
        report = json.loads(case.run([options.vublk, 'chaos', path, '--kills', RESTARTS, '--interval', '20-60',
                                      '--json', '--', *command_of(options, path, 'file', image)]))
        median, worst = (report['reconnect_ns'][name] / 1e6 for name in ('median', 'max'))
        cells.append(f'median {median:6.2f} ms, worst {worst:6.2f} ms')
    print(f'  {f"reconnect, {RESTARTS} restarts":24}{cells[0]:46}   {cells[1]}', flush=True)


def compare_all(case, options):
    image = case.path('disk')
    print(f'  {"":24}{"vublk serve":46}   {"qemu-storage-daemon":46}   ratio')
    print(f'{options.size} MiB in {image}:', flush=True)
    fill(image, options.size << 20)
    compare(case, options, 'file', image)
    print('nothing (null):', flush=True)
    compare(case, options, 'null', image)
