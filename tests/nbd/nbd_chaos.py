#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
`vublk chaos` with the engine nbd: `vublk serve`, the NBD server, or both are killed under a verified load.

    nbd_chaos.py VUBLK MODULE [-l] [-k] [WORD...]
"""
import contextlib
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import nbd_server  # noqa: E402
import peer  # noqa: E402
from peer import check  # noqa: E402

VUBLK, MODULE = sys.argv[1:3] if len(sys.argv) > 2 else ('vublk', 'libvublk-engine-nbd.so')
ENV = {**os.environ, 'VUBLK_ENGINE_PATH': os.path.dirname(os.path.abspath(MODULE))}
DISK = 64 << 20
KILLS = 40
INTERVAL_S = 0.1
# Starts the back-end until it ends with success, because it needs a server that listens. Before that, waits until the server
# ($1 has its process id) has finished the requests of the killed back-end: qemu-nbd serves the next client meanwhile, and would
# replace the next client's writes by older ones, which is a fault of the server, and no engine can prevent it.
REPEAT = ['sh', '-c', """
pid=$(cat "$1")
shift
while grep -qs '^State:.[RD]' /proc/$pid/task/*/status; do :; done
until "$@"; do :; done
""", 'sh']


def note(case, server):
    """Writes the process id of the server for REPEAT."""
    case.path('new-pid').write_text(str(server.pid))
    case.path('new-pid').rename(case.path('pid'))
    return server


def nbdkit(case):
    return note(case, nbd_server.nbdkit(case, case.path('nbd'), 'file', case.path('image')))


def qemu_nbd(case):
    return note(case, nbd_server.qemu_nbd(case, case.path('nbd'), '--shared', '8', '--discard', 'unmap', case.path('image')))


def one_client(case):
    """All queues of the disk share the only connection that this server accepts."""
    return note(case, nbd_server.qemu_nbd(case, case.path('nbd'), case.path('image')))


def start_chaos(case, *arguments):
    serve = [VUBLK, 'serve', '--socket-path', case.path('disk'), '--engine', 'nbd', '--num-queues', '4', '--quiet',
             '-o', f'uri=nbd+unix:///?socket={case.path("nbd")}', '-o', 'unflushed=trust']
    output = open(case.path('report'), 'w')
    with output:
        return case.start([VUBLK, 'chaos', case.path('disk'), '--queues', '4', '--size', DISK // 2, '--interval', '20-60',
                           '--json', *arguments, '--', *REPEAT, case.path('pid'), *serve], env=ENV, stdout=output)


def kill_until(case, server, start, load):
    """
    Kills the server and starts it again, until the load ends. Returns how often. Some kills follow the first change of the
    image, and others come after many requests.
    """
    kills = 0
    while load.poll() is None:
        server.kill()
        server.wait()
        kills += 1
        before = case.path('image').stat().st_mtime_ns
        server = start(case)
        peer.wait_until(lambda: case.path('image').stat().st_mtime_ns != before or load.poll() is not None,
                        lambda: f'the load does not continue: {case.output(load)}')
        if kills % 2:
            with contextlib.suppress(subprocess.TimeoutExpired):
                load.wait(INTERVAL_S)
    return kills


def restart_until(case, server, start, load):
    """
    Starts the server again if it has aborted, until the load ends: nbdkit 1.32 can fail an assertion when a client
    disconnects while requests are executed.
    """
    while load.poll() is None:
        peer.wait_until(lambda: load.poll() is not None or server.poll() is not None, 'the load does not end', 300)
        if load.poll() is None:
            check(server.poll() == -signal.SIGABRT, f'the server has ended: {case.output(server)}')
            server = start(case)


def chaos(case, start, kills_server, arguments):
    with open(case.path('image'), 'wb') as image:
        image.truncate(DISK)
    server = start(case)
    load = start_chaos(case, *arguments)
    kills = 0
    if kills_server:
        kills = kill_until(case, server, start, load)
    else:
        restart_until(case, server, start, load)
    check(load.wait(300) == 0, f'{case.output(load)}{case.path("report").read_text()}')
    report = json.loads(case.path('report').read_text())
    print(f'# {kills} servers and {report["faults"]["kill"]} back-ends killed, {sum(report["requests"].values())} requests, '
          f'{report["in_flight_at_losses"]} in flight when a back-end was lost', flush=True)
    check(not kills_server or kills > 4, f'only {kills} servers were killed')


ACTIONS = {
    'the back-end is killed': (False, ['--kills', KILLS]),
    'the server is killed': (True, ['--faults', 'none', '--runtime', '10s']),
    'both are killed': (True, ['--runtime', '10s']),
}
CASES = [(f'{start.__name__}: {name}', functools.partial(chaos, start=start, kills_server=kills_server, arguments=arguments))
         for start in (nbdkit, qemu_nbd, one_client) for name, (kills_server, arguments) in ACTIONS.items()]

if __name__ == '__main__':
    sys.exit(peer.main(CASES, sys.argv[3:]))
