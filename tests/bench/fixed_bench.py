# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a back-end costs at a fixed rate, and how long its requests then take: the usual state of a disk, between
idle and as fast as possible. `vublk bench --rate_iops` makes the load and polls, on a processor of its own. Its
latencies count from when a request was due, so they include the time for which a back-end has stopped.
"""
import collections
import contextlib
import statistics

import report
import systems
from rates_rows import PEERS
from systems import Entry, Load

RATES = (1000, 10000, 50000)
STORES = {'null': 'null', 'disk': 'a raw file on disk, O_DIRECT'}
OURS = 'vublk'
SYSTEMS = [OURS, 'vublk poll-budget=100', 'vublk poll=off', *PEERS]
DEPTH = 64  # the most requests in flight; as many wait for a back-end that is late
HELD = 0.99  # the share of the rate that a back-end must reach

# One measurement: requests per second, the back-end's processor time in percent of a core (None: the client ended
# too early), latencies in microseconds.
Sample = collections.namedtuple('Sample', 'iops cpu_percent p50_us p99_us p999_us')


def cpu_percent(watched):
    if not watched or not watched[0]:
        return None
    (begin, began, _), (end, ended, _), _ = watched
    return (ended - began) / (end - begin) * 100


def measure(tools, entry, image, rate, options):
    with systems.processes(tools.temporary) as case:
        backend, path = systems.start_backend(case, tools, entry, image)
        words = [*systems.CLIENTS[entry.client](tools, path, entry.load), '--rate_iops', rate,
                 '--runtime', f'{options.runtime_ms}ms', '--ramp_time', f'{options.ramp_ms}ms']
        with open(case.path('report'), 'wb') as out:
            client = case.start(systems.pinned(systems.CORES[entry.load.cores][1], words), stdout=out)
            watched = systems.watch(client, backend, options.ramp_ms / 1000, options.runtime_ms / 1000)
            job = systems.report_of(case, client, out)
    read = job['read']
    latency = [read['clat_ns'].get('percentile', {}).get(f'{percent:.6f}') for percent in (50, 99, 99.9)]
    return Sample(read['iops'], cpu_percent(watched), *(None if ns is None else ns / 1000 for ns in latency))


def medians(samples):
    """Returns the median of each field; None if no sample has the field."""
    fields = {}
    for name in Sample._fields:
        values = [value for sample in samples if (value := getattr(sample, name)) is not None]
        fields[name] = statistics.median(values) if values else None
    return Sample(**fields)


def show(name, rate, median):
    number = report.number
    print(f'    {name:23}CPU {number(median.cpu_percent, "6.1f")} %  p50 {number(median.p50_us, "8.2f")}  '
          f'p99 {number(median.p99_us, "8.2f")}  p99.9 {number(median.p999_us, "8.2f")} us'
          f'{"" if median.iops >= rate * HELD else f"  (only {median.iops:,.0f}/s)"}', flush=True)


def show_ratio(ours, name, theirs):
    pairs = [(getattr(ours, field), getattr(theirs, field)) for field in Sample._fields[1:]]
    ratios = [report.number(own / other if own is not None and other else None, '.2f') for own, other in pairs]
    print(f'      {OURS} by {name}: CPU {ratios[0]}, p50 {ratios[1]}, p99 {ratios[2]}, p99.9 {ratios[3]}', flush=True)


def measure_point(tools, stack, options, store, rate):
    load = Load(store, 'randread', 'poll', DEPTH, 'two')
    entries = {name: entry for name in SYSTEMS if not systems.why_not(entry := Entry(name, 'vublk bench', load))}
    image, samples = tools.image(stack, store), {name: [] for name in entries}
    for _ in range(options.rounds):
        for name, entry in entries.items():
            samples[name].append(measure(tools, entry, image, rate, options))
    median = {name: medians(values) for name, values in samples.items()}
    print(f'  {STORES[store]}, {rate:,} requests per second')
    for name in entries:
        show(name, rate, median[name])
    for name in entries:
        if name in PEERS:
            show_ratio(median[OURS], name, median[name])
    return {'store': store, 'rate': rate, 'systems': {name: {
        'median': median[name]._asdict(), 'samples': [sample._asdict() for sample in values]}
        for name, values in samples.items()}}


def compare_all(case, options):
    tools = systems.Tools(options, case.folder)
    with contextlib.ExitStack() as stack:
        return [measure_point(tools, stack, options, store, rate) for store in STORES for rate in RATES]
