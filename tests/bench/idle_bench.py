# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The cost of an idle disk: memory, and the processor time of device and back-end. The measurement of the time
begins one second after the last request. The goals are absolute limits.
"""
import pathlib
import re
import time

import peer
from door_bench import processor_seconds
from systems import Entry, Load, processes, start_backend, why_not

AFTER_S, WATCH_S = 1.0, 2.0
LOAD = Load('null', 'randread', 'poll', 1, 'two')
IDLE_PERCENT = 0.05  # rounds to 0.0 %
RESIDENT_KIB = 3072


def finding(what, value, unit, limit=None):
    """Returns a result. As in a duel's verdict, `is_met` is None if there is no answer: here, without a limit."""
    return {'what': what, 'value': value, 'unit': unit, 'limit': limit,
            'is_met': None if limit is None else value <= limit}


def start_idle_disk(case, tools, path):
    """Starts the client, and returns its process when its requests are complete."""
    out = open(case.path('idle'), 'wb')
    with out:
        child = case.start([tools.folder / 'idle-disk', path], stdout=out)
    peer.wait_until(lambda: case.path('idle').read_text() == 'idle\n' or child.poll() is not None,
                    'idle-disk does not come to rest')
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
