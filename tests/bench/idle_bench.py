# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The cost of an idle disk: memory, and the processor time of device and back-end. For a single disk, the measurement
of the time begins one second after the last request, and the goals are absolute limits. For many disks (the part
`idle-disks`), each with a back-end of its own, the figures are those of a disk, and have no goals.
"""
import collections
import contextlib
import pathlib
import re
import resource
import time

import peer
import report
from door_bench import processor_seconds
from systems import Entry, Load, Tools, processes, start_backend, why_not

AFTER_S, WATCH_S = 1.0, 2.0
LOAD = Load('null', 'randread', 'poll', 1, 'two')
# After its start, a back-end of ours looks for requests without a kick once per second, ten times.
MANY_AFTER_S, MANY_WATCH_S = 12.0, 10.0
MANY_REQUESTS = 1000  # per disk, before it is idle
MANY_LOAD = Load('null', 'randread', 'poll', 1, 'all')
PEER_SHARE = 10  # a peer has fewer processes by this factor, because it needs more memory
SECONDS_PER_DISK = 0.5  # the most that the start of a disk and its requests may take
IDLE_PERCENT = 0.05  # rounds to 0.0 %
RESIDENT_KIB = 3072


def finding(what, value, unit, limit=None):
    """Returns a result. As in a duel's verdict, `is_met` is None if there is no answer: here, without a limit."""
    return {'what': what, 'value': value, 'unit': unit, 'limit': limit,
            'is_met': None if limit is None else value <= limit}


def start_idle_disk(case, tools, *words, limit_s=peer.LIMIT_S):
    """Starts the client with its arguments, and returns its process when its requests are complete."""
    out = open(case.path('idle'), 'wb')
    with out:
        child = case.start([tools.folder / 'idle-disk', *words], stdout=out)
    peer.wait_until(lambda: case.path('idle').read_text() == 'idle\n' or child.poll() is not None,
                    'idle-disk does not come to rest', limit_s)
    peer.check(child.poll() is None, case.output(child))
    return child


def idle(tools):
    with processes(tools.temporary) as case:
        backend, path = start_backend(case, tools, Entry('vublk', None, LOAD), None)
        ends = {'back-end': backend, 'device': start_idle_disk(case, tools, path)}
        time.sleep(AFTER_S)
        before, start = {name: processor_seconds(end) for name, end in ends.items()}, time.monotonic()
        time.sleep(WATCH_S)
        seconds = time.monotonic() - start
        return [finding(f'{name}, {AFTER_S:.0f} s after the last request',
                        (processor_seconds(end) - before[name]) / seconds * 100, '% of a processor', IDLE_PERCENT)
                for name, end in ends.items()]


def resident_kib(process):
    return int(re.search(r'^VmRSS:\s*(\d+)', pathlib.Path(f'/proc/{process.pid}/status').read_text(), re.M)[1])


def resident(tools):
    """Measures the memory of our back-end and of the peers, before a client connects and after a disk was used."""
    findings = []
    for name, limit in ('vublk', RESIDENT_KIB), ('qsd newer', None), ('qsd', None):
        entry = Entry(name, None, LOAD)
        if why_not(entry):
            continue
        with processes(tools.temporary) as case:
            backend, path = start_backend(case, tools, entry, None)
            findings.append(finding(f'{name}, not connected', resident_kib(backend), 'KiB', limit))
            start_idle_disk(case, tools, path)
            findings.append(finding(f'{name}, with an idle disk', resident_kib(backend), 'KiB', limit))
    return findings


# --- many disks -----------------------------------------------------------------------

def memory_kib(group):
    """Returns the sums of the resident memory of all processes, and of the part that no other process shares."""
    found = [collections.Counter({name: int(kib) for name, kib in re.findall(
        r'^(\w+):\s*(\d+) kB', pathlib.Path(f'/proc/{process.pid}/smaps_rollup').read_text(), re.M)})
        for process in group]
    total = sum(found, collections.Counter())
    return total['Rss'], total['Private_Clean'] + total['Private_Dirty']


def percent_while_idle(ends):
    """Returns the processor time of each group of processes, in percent of a processor."""
    def seconds():
        return [sum(processor_seconds(process) for process in group) for group in ends]

    time.sleep(MANY_AFTER_S)
    before, start = seconds(), time.monotonic()
    time.sleep(MANY_WATCH_S)
    after, passed = seconds(), time.monotonic() - start
    return [(now - then) / passed * 100 for now, then in zip(after, before)]


def measure_many(tools, name, disks):
    entry = Entry(name, None, MANY_LOAD)
    with contextlib.ExitStack() as stack:
        # Each back-end is a case of its own, because a case has one socket.
        cases = [stack.enter_context(processes(tools.temporary)) for _ in range(disks)]
        backends, paths = zip(*(start_backend(case, tools, entry, None) for case in cases))
        device = start_idle_disk(cases[0], tools, '-n', MANY_REQUESTS, *paths,
                                 limit_s=peer.LIMIT_S + disks * SECONDS_PER_DISK)
        percents = percent_while_idle([backends, [device]])
        found = []
        for end, group, percent in zip(('back-end', 'device'), (backends, [device]), percents):
            resident_, private = memory_kib(group)
            title = f'{name}, {disks} disks, {end}'
            found += [finding(f'{title}, resident', resident_ / disks, 'KiB per disk'),
                      finding(f'{title}, not shared', private / disks, 'KiB per disk'),
                      finding(f'{title}, processor', percent / disks, '% of a processor per disk')]
    return found


def allow_descriptors():
    """Raises the limit of descriptors as far as permitted: the device has several for each disk."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)


def measure_idle_disks(case, options):
    tools, found = Tools(options, case.folder), []
    allow_descriptors()
    for name in ('vublk', 'qsd newer', 'qsd'):
        if why_not(Entry(name, None, MANY_LOAD)):
            continue
        disks = options.disks if name == 'vublk' else max(options.disks // PEER_SHARE, 1)
        found.append({'system': name, 'disks': disks, 'findings': measure_many(tools, name, disks)})
        report.print_findings(found[-1]['findings'])
    return found
