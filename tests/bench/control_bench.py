# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The control path: how long a device takes to start (control-rate.c), with few and with many queues and
memory regions; the resources that a hundred devices in one process need; and the length of the outage of
a disk in use when its back-end is restarted. Each time is given as the median and the maximum.
"""
import contextlib
import json
import statistics

import backend_bench
import peer
import systems

STARTS = 50  # for each back-end, number of queues and number of regions
DEVICES = 100
REGIONS = 509  # the most that a device accepts
BACKENDS = ['vublk', 'qsd newer', 'qsd']


def entry(name, queues):
    return systems.Entry(name, None, systems.Load('null', 'randread', 'poll', 1, 'all', queues))


def run(case, tools, paths, **options):
    """Returns the lines of all starts, and the line of the last round; on failure None, and the error's text."""
    words = [f'--{name}={value}' for name, value in options.items()]
    result = case.call([tools.folder / 'control-rate', *words, *paths])
    if result.code:
        return None, result.err.strip()
    lines = [json.loads(line) for line in result.out.splitlines()]
    return [line for line in lines if 'started_us' in line], lines[-1]


def milliseconds(starts, name):
    values = [start[name] / 1000 for start in starts]
    return f'{statistics.median(values):8.2f} ms (worst {max(values):.2f})'


def show(title, starts):
    """Prints a table row. All starts should need the same number of round trips, so the maximum is shown."""
    trips = [max(start[name] for start in starts) for name in ('handshake_trips', 'start_trips')]
    print(f'    {title:36}realized{milliseconds(starts, "realized_us"):27}  ready{milliseconds(starts, "started_us"):27}'
          f'  round trips {trips[0]} + {trips[1]}', flush=True)


def start_of(tools, name, queues, regions):
    """Starts a device STARTS times, one start after the other, and prints the times."""
    with systems.processes(tools.temporary) as case:
        _, path = systems.start_backend(case, tools, entry(name, queues), None)
        starts, last = run(case, tools, [path], queues=queues, regions=regions, rounds=STARTS)
    title = f'{name}, {queues} queue{"s" * (queues > 1)}, {regions} region{"s" * (regions > 1)}'
    if starts:
        show(title, starts)
    else:
        print(f'    {title:36}{last}', flush=True)
    return {'backend': name, 'queues': queues, 'regions': regions, 'starts': starts}


def starts(tools):
    print(f'  from realize to ready, {STARTS} times:')
    return [start_of(tools, name, queues, regions) for queues, regions in ((1, 1), (4, 1), (4, REGIONS))
            for name in BACKENDS if not systems.why_not(entry(name, queues))]


def many(tools, queues):
    """Starts DEVICES devices, each with a back-end of its own, and prints the resources that they use."""
    with contextlib.ExitStack() as stack:
        cases = [stack.enter_context(systems.processes(tools.temporary)) for _ in range(DEVICES)]
        paths = [systems.start_backend(case, tools, entry('vublk', queues), None)[1] for case in cases]
        starts_, memory = run(cases[0], tools, paths, queues=queues)
    peer.check(starts_, memory)
    show(f'vublk, {queues} queue{"s" * (queues > 1)}', starts_)
    return {'queues': queues, 'starts': starts_, **memory}


def devices(tools):
    print(f'  {DEVICES} devices in one process, one after the other:')
    found = [many(tools, queues) for queues in (1, 4)]
    for name, unit, divisor in ('heap_bytes', 'KiB of the heap', 1024), ('resident_kib', 'KiB resident', 1):
        one, four = (sample[name] / DEVICES / divisor for sample in found)
        print(f'    a device of one queue: {one:.1f} {unit}; each further queue: {(four - one) / 3:.1f}', flush=True)
    return found


def reconnections(case, options):
    """Measures reconnections with an image that no other measurement uses."""
    image = case.path('disk')
    systems.fill(image, 16 << 20)
    print(f'  {"":26}{"vublk serve":46}   qemu-storage-daemon')
    backend_bench.reconnect(case, options, image)


def measure_all(case, options):
    tools = systems.Tools(options, case.folder)
    found = {'starts': starts(tools), 'devices': devices(tools)}
    reconnections(case, options)
    return found
