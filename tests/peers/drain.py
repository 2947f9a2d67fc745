#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
`vublk ctl PATH drain`: a back-end ends for planned maintenance, and the disk continues with the next one
(docs/operating.md).

    drain.py VUBLK [-l] [-k] [WORD...]
"""
import json
import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import frozen  # noqa: E402
import peer  # noqa: E402
import upgrading  # noqa: E402
from peer import check  # noqa: E402
from upgrading import MIB  # noqa: E402

VUBLK = sys.argv[1] if len(sys.argv) > 1 else 'vublk'
QUEUES = 4
ROUNDS = 4


class Disk:
    """A back-end with a control socket, and a verified load that is connected to it directly or through a relay."""

    def __init__(self, case, *arguments):
        self.case, self.arguments = case, arguments
        self.image, self.path, self.control = case.path('disk'), case.path('socket'), case.path('control')
        with open(self.image, 'wb') as file:
            file.truncate(32 * MIB)
        self.relay = self.load = None
        self.start()

    def start(self):
        self.serve = self.case.start([VUBLK, 'serve', '--socket-path', self.path, '--blk-file', self.image,
                                      '--num-queues', QUEUES, '--control', self.control, *self.arguments])
        peer.wait_for_socket(self.case, self.serve, self.path)
        peer.wait_for_socket(self.case, self.serve, self.control)

    def start_load(self, *arguments):
        self.load = self.case.start([VUBLK, 'bench', self.path, '--rw', 'randrw', '--runtime', 600, '--verify',
                                     '--numjobs', QUEUES, '-o', 'reconnect-ms=20', *arguments])
        self.wait_for_progress()

    def start_load_behind_relay(self, *arguments):
        path = self.case.path('relay')
        self.relay = self.case.start([VUBLK, 'device', '--chardev', f'path={self.path},reconnect-ms=20', '--bus',
                                      f'vhost-user:{path}', *arguments])
        peer.wait_for_socket(self.case, self.relay, path)
        self.load = self.case.start([VUBLK, 'bench', path, '--rw', 'randrw', '--runtime', 600, '--verify',
                                     '--numjobs', QUEUES])
        self.wait_for_progress()

    def output(self):
        return ''.join(self.case.output(child) for child in (self.serve, self.relay, self.load) if child)

    def wait_for_progress(self):
        upgrading.wait_for_progress(self.serve, self.load, self.output)

    def drain(self, *arguments):
        return self.case.call([VUBLK, 'ctl', self.control, 'drain', *arguments])

    def status(self):
        return json.loads(self.case.run([VUBLK, 'ctl', self.control, 'status']))

    def check_drained(self, result):
        check(result.code == 0 and json.loads(result.out) == {'drain': 'drained'}, f'{result}{self.output()}')
        code = self.serve.wait(peer.LIMIT_S)
        check(code == 0, f'serve ended with {code}: {self.output()}')
        for path in (self.path, self.control):
            check(not os.path.exists(path), f'{path} is still there')

    def end(self):
        upgrading.end_load(self.case, self.load, self.output)
        for child in filter(None, (self.relay, self.serve)):
            check(self.case.stop(child) == 0, self.output())


def under_load(case, serve, start, *arguments):
    """Several back-ends are drained one after the other. None leaves a request for the next one."""
    disk = Disk(case, *serve)
    getattr(disk, start)(*arguments)
    for _ in range(ROUNDS):
        disk.check_drained(disk.drain())
        disk.start()
        disk.wait_for_progress()
        check('repeating' not in case.output(disk.serve), f'a request was begun and not completed: {disk.output()}')
    peer.check_no_reset(disk.output())
    disk.end()


def without_a_front_end(case):
    disk = Disk(case)
    check(disk.status()['drain'] == 'none', str(disk.status()))
    disk.check_drained(disk.drain('timeout-ms=5000'))
    disk.start()
    case.run([VUBLK, 'bench', disk.path, '--rw', 'randrw', '--runtime', '1', '--verify'])
    disk.check_drained(disk.drain())


def stuck(case):
    """A drain that takes too long reports why, and has no effect: the disk is served, and can be drained later."""
    disk = Disk(case, '-o', 'threads=1')
    worker = min(peer.own_threads(disk.serve.pid) - {disk.serve.pid})  # the control thread starts later
    disk.start_load()
    stopped = frozen.Frozen(worker)
    result = disk.drain('timeout-ms=100')
    check(result.code == 1 and 'has not completed' in result.err and 'served as before' in result.err, str(result))
    check(disk.status()['drain'] == 'failed' and disk.serve.poll() is None, disk.output())
    stopped.thaw()
    disk.wait_for_progress()
    disk.check_drained(disk.drain())
    disk.start()
    disk.wait_for_progress()
    disk.end()


def with_a_signal(case):
    """SIGTERM ends a drain that is waiting, and then ends the process as usual."""
    disk = Disk(case, '-o', 'threads=1')
    disk.start_load()
    peer.suspend(disk.serve)
    waiting = case.start([VUBLK, 'ctl', disk.control, 'drain'])
    disk.serve.send_signal(signal.SIGTERM)
    disk.serve.send_signal(signal.SIGCONT)
    check(disk.serve.wait(peer.LIMIT_S) == 0, disk.output())
    waiting.wait(peer.LIMIT_S)
    disk.start()
    disk.wait_for_progress()
    disk.end()


def refusals(case):
    disk = Disk(case)
    for words, sentence in ((['timeout-ms=0'], 'must be a number'), (['timeout-ms=x'], 'must be a number'),
                            (['when=now'], 'its arguments are timeout-ms')):
        result = disk.drain(*words)
        check(result.code == 1 and sentence in result.err, str(result))
    check(disk.status()['state'] == 'listening', str(disk.status()))
    check(case.stop(disk.serve) == 0, disk.output())


def bind(function, *arguments):
    return lambda case: function(case, *arguments)


def main():
    no_area = ('-o', 'inflight=off')
    cases = [('block API', bind(under_load, (), 'start_load')),
             ('block API, depth 32', bind(under_load, (), 'start_load', '--iodepth', 32)),
             ('block API, no in-flight area', bind(under_load, no_area, 'start_load', '--iodepth', 32, '-o',
                                                    'unflushed=trust')),
             ('relay', bind(under_load, (), 'start_load_behind_relay')),
             ('relay, no in-flight area', bind(under_load, no_area, 'start_load_behind_relay', '-o', 'shadow=auto')),
             without_a_front_end, stuck, with_a_signal, refusals]
    return peer.main(cases, sys.argv[2:])


if __name__ == '__main__':
    sys.exit(main())
