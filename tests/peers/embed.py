#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
examples/embed.c: a toy VMM with its own bus, which uses only <vublk/device.h>.

    embed.py VUBLK EMBED [-l] [-k] [WORD...]
"""
import functools
import os
import pathlib
import re
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import peer  # noqa: E402
from peer import check  # noqa: E402

MIB = 1 << 20
BLOCK_BYTES = 4096


class Machine:
    """The example as a running process. Each line on its standard input starts a round of its guest."""

    def __init__(self, case, program, socket):
        self.case = case
        self.child = case.start([program, socket], stdin=subprocess.PIPE)

    def told(self):
        return self.case.output(self.child)

    def wait_for(self, pattern):
        peer.wait_until(lambda: re.search(pattern, self.told()) or self.child.poll() is not None,
                        f'"{pattern}" is never told')
        check(re.search(pattern, self.told()), f'it ended without telling "{pattern}": {self.told()}')

    def another_round(self):
        self.child.stdin.write(b'\n')
        self.child.stdin.flush()

    def turn_off(self):
        self.child.stdin.close()
        code = self.child.wait(peer.LIMIT_S)
        check(code == 0, f'it ended with {code}: {self.told()}')


def image_of_zeroes(case):
    image = case.path('disk')
    with open(image, 'wb') as file:
        file.truncate(MIB)
    return image


def holds(image, byte):
    """Checks that the first block contains only `byte`, and that the second one was not written."""
    with open(image, 'rb') as file:
        data = file.read(2 * BLOCK_BYTES)
    check(data == byte * BLOCK_BYTES + bytes(BLOCK_BYTES), f'the disk does not begin with {byte} {BLOCK_BYTES} times')


def two_rounds(case, program, server):
    image = image_of_zeroes(case)
    child, socket = server.start(case, image)
    machine = Machine(case, program, socket)
    machine.wait_for(f'capacity {MIB} bytes\n')
    machine.wait_for('round 1: ')
    holds(image, b'a')
    machine.another_round()
    machine.wait_for('round 2: ')
    machine.turn_off()
    server.stop(case, child)
    holds(image, b'b')


def config_interrupt(case, program, server):
    """The guest is notified of a resize of the disk."""
    image = image_of_zeroes(case)
    child, socket = server.start(case, image)
    machine = Machine(case, program, socket)
    machine.wait_for('round 1: ')
    os.truncate(image, 2 * MIB)
    child.send_signal(signal.SIGHUP)
    machine.wait_for(f'capacity {2 * MIB} bytes\n')
    generations = re.findall(r'config generation (\d+): ', machine.told())
    check(len(set(generations)) == 2, f'the generations are {generations}')
    machine.turn_off()
    server.stop(case, child)


def outlives_its_backend(case, program, server):
    """A round that starts without a back-end is completed by the next back-end."""
    image = image_of_zeroes(case)
    child, socket = server.start(case, image)
    machine = Machine(case, program, socket)
    machine.wait_for('round 1: ')
    child.kill()
    machine.wait_for('waiting for another back-end: ')
    machine.another_round()
    socket.unlink()
    child, _ = server.start(case, image, path=socket)
    machine.wait_for('round 2: ')
    machine.turn_off()
    server.stop(case, child)
    holds(image, b'b')


def off_without_a_backend(case, program, server):
    """A reset without a back-end completes immediately."""
    child, socket = server.start(case, image_of_zeroes(case))
    machine = Machine(case, program, socket)
    machine.wait_for('round 1: ')
    child.kill()
    machine.wait_for('waiting for another back-end: ')
    machine.turn_off()


def read_only(case, program, server):
    """The guest's write fails, and the example says so."""
    child, socket = server.start(case, image_of_zeroes(case), read_only=True)
    result = case.call([program, socket])
    check(result.code == 1 and 'a request of the guest' in result.err, str(result))
    server.stop(case, child)


def no_backend(case, program, server):
    result = case.call([program, case.path('socket')])
    check(result.code == 1 and str(case.path('socket')) in result.err, str(result))


def cases(vublk, program):
    ours, daemon = peer.VublkServe(vublk), peer.StorageDaemon()
    all_cases = [(two_rounds, ours), (two_rounds, daemon), (config_interrupt, ours), (outlives_its_backend, ours),
                 (off_without_a_backend, ours), (read_only, ours), (no_backend, ours)]
    for function, server in all_cases:
        yield (f'{function.__name__} ({server.name})',
               functools.partial(function, program=program, server=server))


if __name__ == '__main__':
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(peer.main(list(cases(*sys.argv[1:3])), sys.argv[3:]))
