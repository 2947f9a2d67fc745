# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The costs of a request that can be counted: callgrind counts instructions (virtual machines seldom have
hardware counters), and strace counts system calls. Only one end, the back-end or the client, is traced.
This makes it many times slower, so no time is measured in these runs, and the traced end hardly ever waits
for the other one. The count of a short run is subtracted from that of a longer run, which removes
the costs of start and end.

Two ends that poll make no system calls while both are awake, so strace does not slow them. But an end that
fell asleep under strace would stay slow. Therefore strace is attached to ends that are already running,
for a limited time, and its count is divided by their rate.
"""
import collections
import re
import shutil
import signal
import time

import peer
from systems import (CLIENTS, CORES, SYSTEMS, environment_of, pinned, prepare, processes, report_of, start_backend,
                     wait_for_end, way_of)

# Per request, on average; None: not counted.
Costs = collections.namedtuple('Costs', 'backend_instructions client_instructions backend_calls client_calls')
# `words` gets a Tools and the path of a log, and returns the words before the traced command. `total` is the
# pattern that finds the count in the log.
Tracer = collections.namedtuple('Tracer', 'program words total')
REQUESTS = (2000, 12000)
TRIES = 3  # with a client that polls: the smallest count is used, because waiting only adds instructions
WARM_UP_S, ATTACHED_S, RUNTIME_MS = 0.5, 0.5, 1500

TRACERS = {
    'instructions': Tracer('valgrind', lambda tools, log: [
        tools.folder / 'no-uring', 'valgrind', '--tool=callgrind', '--callgrind-out-file=/dev/null',
        f'--log-file={log}'], re.compile(r'Collected : (\d+)')),
    # With -D strace runs as a grandchild, so a signal goes to the traced program itself.
    'calls': Tracer('strace', lambda tools, log: [
        'strace', '-D', '-f', '-qq', '-c', '-U', 'calls,name', '-o', log], re.compile(r'^\s*(\d+) total', re.M)),
}


def total_of(case, tracer):
    """Waits for the total in the tracer's log and returns it. A tracer may end after the traced program."""
    log = case.path('traced')
    peer.wait_until(lambda: log.exists() and tracer.total.search(log.read_text()),
                    f'{tracer.program} says no total')
    return int(tracer.total.search(log.read_text())[1])


def run_traced(tools, entry, image, tracer, end, requests):
    """Counts the events of one end (`backend` or `client`) in a run of `requests`, including start and end."""
    with processes(tools.temporary) as case:
        words = tracer.words(tools, case.path('traced'))
        backend, path = start_backend(case, tools, entry, image, words if end == 'backend' else (),
                                      end == 'client' and entry.load.mode == 'poll')
        prepare(case, tools, entry.load, backend, path)
        client = [*(words if end == 'client' else ()), *CLIENTS[entry.client](tools, path, entry.load),
                  '--number_ios', requests]
        case.run(pinned(CORES[entry.load.cores][1], client), env=environment_of(SYSTEMS[entry.system]))
        if end == 'backend':
            case.stop(backend)
        return total_of(case, tracer)


def attach(case, process):
    """Returns the system calls per second of a process; None if tracing the process is not permitted."""
    start = time.monotonic()
    tracer = case.start(['strace', '-f', '-qq', '-c', '-U', 'calls,name', '-o', case.path('traced'), '-p', process.pid])
    if wait_for_end(tracer, ATTACHED_S):
        return None
    case.stop(tracer, signal.SIGINT)
    found = TRACERS['calls'].total.search(case.path('traced').read_text())
    return int(found[1] if found else 0) / (time.monotonic() - start)


def count_attached(tools, entry, image, end):
    """Returns the system calls per request of one end, while both ends poll."""
    with processes(tools.temporary) as case:
        backend, path = start_backend(case, tools, entry, image)
        prepare(case, tools, entry.load, backend, path)
        words = [*CLIENTS[entry.client](tools, path, entry.load), '--runtime', f'{RUNTIME_MS}ms']
        with open(case.path('report'), 'wb') as out:
            client = case.start(pinned(CORES[entry.load.cores][1], words), stdout=out)
            if wait_for_end(client, WARM_UP_S):
                return None
            calls = attach(case, backend if end == 'backend' else client)
            job = report_of(case, client, out)
        return None if calls is None else calls / job[way_of(entry.load)]['iops']


def count(tools, entry, image, what, end):
    tracer = TRACERS[what]
    if not shutil.which(tracer.program) or (end == 'backend' and not SYSTEMS[entry.system].command):
        return None
    if what == 'calls' and entry.load.mode == 'poll':
        return count_attached(tools, entry, image, end)
    tries = TRIES if end == 'client' and entry.load.mode == 'poll' else 1
    few, many = (min(run_traced(tools, entry, image, tracer, end, requests) for _ in range(tries))
                 for requests in REQUESTS)
    return (many - few) / (REQUESTS[1] - REQUESTS[0])


def count_all(tools, entry, image):
    return Costs(*(count(tools, entry, image, what, end)
                   for what in ('instructions', 'calls') for end in ('backend', 'client')))


def line(costs):
    def pair(backend, client, form):
        return ' + '.join('-' if value is None else format(value, form) for value in (backend, client))
    return (f'instructions {pair(costs.backend_instructions, costs.client_instructions, ",.0f")}  '
            f'system calls {pair(costs.backend_calls, costs.client_calls, ".3f")}')
