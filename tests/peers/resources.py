#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What an idle `vublk device` needs with shadow rings, statistics and a control socket: memory, and no wake-ups.

    resources.py VUBLK [-l] [-k] [WORD...]
"""
import json
import os
import pathlib
import re
import select
import socket
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import peer  # noqa: E402
from peer import check  # noqa: E402

# `meson test` sets this variable, which makes malloc() touch all memory that it returns.
os.environ.pop('MALLOC_PERTURB_', None)

VUBLK = sys.argv[1] if len(sys.argv) > 1 else 'vublk'
MIB = 1 << 20
QUEUES, ENTRIES = 4, 128
MOST_BYTES = 6 * MIB
# Disables the messages that the device sends at intervals, by default every 1 and 5 seconds.
SILENT = ('-o', 'config-poll-ms=0', '-o', 'keepalive-ms=0')
# The memory of `vublk bench`, which the device keeps open.
OF_CLIENT = ('/memfd:vublk-buffers', '/memfd:vublk-rings')
QUIET_S = 2  # long enough to find a thread that wakes up once a second


def start_device(case, *more):
    """Starts a back-end and a device. Returns the device and the paths of its bus and its control socket."""
    back, front, control = (case.path(name) for name in ('back.sock', 'front.sock', 'control'))
    backend = case.start([VUBLK, 'serve', '--quiet', '--engine', 'null', '--size', '1G', '--num-queues', QUEUES,
                          '--socket-path', back])
    peer.wait_for_socket(case, backend, back)
    child = case.start([VUBLK, 'device', '--chardev', f'path={back},num-queues={QUEUES}', '--bus', f'vhost-user:{front}',
                        '--control', control, '-o', 'shadow=on', '-o', 'statistics=on', *more])
    peer.wait_for_socket(case, child, control)
    peer.wait_for_socket(case, child, front)
    return child, front, control


def load(case, front, *more):
    case.run([VUBLK, 'bench', front, '--num-queues', QUEUES, '--queue-size', ENTRIES, '--number_ios', 5000, *more])


def anonymous_bytes(child):
    rollup = pathlib.Path(f'/proc/{child.pid}/smaps_rollup').read_text()
    return int(re.search(r'^Anonymous:\s*(\d+) kB', rollup, re.M)[1]) << 10


def memfds(child):
    """Returns name and allocated bytes of each memfd that the process has open, except for the client's."""
    found = {}
    for path in pathlib.Path(f'/proc/{child.pid}/fd').iterdir():
        name = os.readlink(path)
        if name.startswith('/memfd:') and not name.startswith(OF_CLIENT):
            status = path.stat()
            found[status.st_ino] = (name, status.st_blocks * 512)
    return list(found.values())


def wakes(child):
    """Returns how often each thread has slept so far."""
    return {path.parent.name: int(re.search(r'^voluntary_ctxt_switches:\s*(\d+)', path.read_text(), re.M)[1])
            for path in pathlib.Path(f'/proc/{child.pid}/task').glob('*/status')}


def ctl(case, control, *words):
    return json.loads(case.run([VUBLK, 'ctl', control, *words]))


def num_requests(case, control):
    return sum(counters['count'] for queue in ctl(case, control, 'stats')['queues']
               for counters in queue.get('requests', {}).values())


def memory(case):
    """Anonymous memory and memfds of a device whose rings are full of requests need at most 6 MiB."""
    child, front, control = start_device(case)
    client = case.start([VUBLK, 'bench', front, '--num-queues', QUEUES, '--queue-size', ENTRIES, '--rw', 'randrw',
                         '--bs', '64k', '--iodepth', ENTRIES, '--runtime', 2 * peer.LIMIT_S])
    peer.wait_until(lambda: num_requests(case, control) > 20 * QUEUES * ENTRIES, 'no requests are counted')
    own = memfds(child)
    total = anonymous_bytes(child) + sum(size for _, size in own)
    check(any('vublk-shadow' in name for name, _ in own), f'there are no shadow rings: {own}')
    check(total <= MOST_BYTES, f'{total} bytes, of which memfds: {own}')
    client.kill()
    client.wait()
    case.stop(child)


def idleness(case):
    """Without requests no thread wakes up, even with limits, a client of events, and statistics."""
    child, front, control = start_device(case, *SILENT)
    load(case, front, '--rw', 'randrw', '--iodepth', 32)
    ctl(case, control, 'limit', 'iops=100000', 'bps=1G')
    with socket.socket(socket.AF_UNIX) as watcher:
        watcher.connect(str(control))
        watcher.sendall(b'{"command": "events"}\n')
        ctl(case, control, 'stats')
        seen = []

        def is_quiet():
            before = wakes(child)
            select.select([], [], [], QUIET_S)
            seen.append((before, wakes(child)))
            return len(before) >= 3 and before == seen[-1][1]

        for _ in range(10):
            if is_quiet():
                break
        check(is_quiet(), f'a thread of an idle device wakes up: {seen}')
        ctl(case, control, 'status')  # the device still answers
        check(wakes(child) != seen[-1][1], 'the counters do not count')
    case.stop(child)


CASES = [memory, idleness]

if __name__ == '__main__':
    sys.exit(peer.main(CASES, sys.argv[2:]))
