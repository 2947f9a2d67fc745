# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a request costs that can be counted: instructions, by callgrind (such machines seldom
have hardware counters), and system calls, by strace. Both make what they watch many times
slower, so nothing is timed meanwhile; the other end runs as it is, and so is always the
faster one, for which the watched one hardly ever waits. Runs of two lengths are
subtracted, so that neither start nor end counts.
"""
import collections
import re
import shutil

import peer
from systems import CLIENTS, CORES, environment_of, pinned, prepare, processes, start_backend, SYSTEMS

# Of a request, on average; None: not counted.
Costs = collections.namedtuple('Costs', 'backend_instructions client_instructions backend_calls client_calls')
# The words before a command, given Tools and where to write; and what to find there.
Tracer = collections.namedtuple('Tracer', 'program words total')
REQUESTS = (2000, 12000)

TRACERS = {
    'instructions': Tracer('valgrind', lambda tools, log: [
        tools.folder / 'no-uring', 'valgrind', '--tool=callgrind', '--callgrind-out-file=/dev/null',
        f'--log-file={log}'], re.compile(r'Collected : (\d+)')),
    # As a grandchild (-D), so that a signal goes to the traced program itself.
    'calls': Tracer('strace', lambda tools, log: [
        'strace', '-D', '-f', '-qq', '-c', '-U', 'calls,name', '-o', log], re.compile(r'^\s*(\d+) total', re.M)),
}


def total_of(case, tracer):
    """A tracer may end after what it traces."""
    log = case.path('traced')
    peer.wait_until(lambda: log.exists() and tracer.total.search(log.read_text()),
                    f'{tracer.program} says no total')
    return int(tracer.total.search(log.read_text())[1])


def run_traced(tools, entry, image, tracer, end, requests):
    """Events of one end, `backend` or `client`, for so many requests, with all before and after."""
    with processes(tools.temporary) as case:
        words = tracer.words(tools, case.path('traced'))
        backend, path = start_backend(case, tools, entry, image, words if end == 'backend' else ())
        prepare(case, tools, entry.load, path)
        client = [*(words if end == 'client' else ()), *CLIENTS[entry.client](tools, path, entry.load),
                  '--number_ios', requests]
        case.run(pinned(CORES[entry.load.cores][1], client), env=environment_of(SYSTEMS[entry.system]))
        if backend:
            case.stop(backend)
        return total_of(case, tracer)


def count(tools, entry, image, what, end):
    tracer = TRACERS[what]
    if not shutil.which(tracer.program) or (end == 'backend' and not SYSTEMS[entry.system].command):
        return None
    few, many = (run_traced(tools, entry, image, tracer, end, requests) for requests in REQUESTS)
    return (many - few) / (REQUESTS[1] - REQUESTS[0])


def count_all(tools, entry, image):
    return Costs(*(count(tools, entry, image, what, end)
                   for what in ('instructions', 'calls') for end in ('backend', 'client')))


def line(costs):
    def pair(backend, client, form):
        return ' + '.join('-' if value is None else format(value, form) for value in (backend, client))
    return (f'instructions {pair(costs.backend_instructions, costs.client_instructions, ",.0f")}  '
            f'system calls {pair(costs.backend_calls, costs.client_calls, ".3f")}')
