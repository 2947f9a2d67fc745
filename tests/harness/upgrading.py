# SPDX-License-Identifier: LGPL-2.1-or-later
"""
For tests that replace a running `vublk device` or `vublk serve` with another process while a verified load runs.
"""
import contextlib
import json
import os
import pathlib
import re
import signal
import socket

import peer
from peer import check

MIB = 1 << 20


def bytes_written(child):
    lines = pathlib.Path(f'/proc/{child.pid}/io').read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith('write_bytes')))


def wait_for_progress(backend, load, output):
    """
    Waits until the back-end has written 2 MiB more, which is more than the requests in flight can write. `output` is a
    function that returns the output of the processes.
    """
    before = bytes_written(backend)
    peer.wait_until(lambda: bytes_written(backend) > before + 2 * MIB or load.poll() is not None,
                    lambda: f'nothing is written: {output()}')
    check(load.poll() is None, f'the load ended: {output()}')


@contextlib.contextmanager
def ask_for_events(control, **arguments):
    """
    Asks the process at a control socket for events. Yields the sequence number of the next one, and a file from which the
    events can be read.
    """
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(peer.LIMIT_S)
        link.connect(str(control))
        with link.makefile('rw') as lines:
            lines.readline()
            lines.write(json.dumps({'command': 'events', 'arguments': arguments}) + '\n')
            lines.flush()
            yield json.loads(lines.readline())['result']['next'], lines


def events_until(control, name):
    """Returns the names of the events of the process at the control socket, up to the first event `name`."""
    names = []
    with ask_for_events(control, since=0) as (_, lines):
        while name not in names:
            names.append(json.loads(lines.readline())['event'])
    return names


def has_replaced(case, old, new, too_slow, wait_until=peer.wait_until):
    """
    Waits until the upgrade from process `old` to `new` has ended, with a function like peer.wait_until(). Returns whether
    the new process has the work now. It has not if the upgrade took too long, so that it says one of the sentences in
    `too_slow`.
    """
    wait_until(lambda: 'the upgrade is complete' in case.output(new) or new.poll() is not None, 'the upgrade does not end')
    if new.poll() is not None:
        check(any(sentence in case.output(new) for sentence in too_slow),
              f'the upgrade failed: {case.output(new)}{case.output(old)}')
        return False
    code = old.wait(peer.LIMIT_S)
    check(code == 0, f'the old process ended with {code}: {case.output(old)}')
    return True


def pause_of(output):
    """Returns the pause in microseconds that the new process reports."""
    return int(re.search(r'requests were paused for (\d+) us', output)[1])


def end_load(case, load, output):
    """Ends the load early, and checks that it has found no fault."""
    load.send_signal(signal.SIGINT)
    load.wait(peer.LIMIT_S)
    words = case.output(load)
    check('all correct' in words and 'interrupted by signal' in words, f'{words}{output()}')


class Replaceable:
    """
    A `vublk COMMAND` with a control socket. `process` is the process that serves the disk now. `programs` are the
    paths of vublk and vublk-kill.
    """

    # On a busy machine an upgrade may exceed its limits. Then it is repeated.
    too_slow = 'needed more than 50 ms', 'could not be handed over'

    def __init__(self, case, programs, command):
        self.case, self.programs, self.command = case, programs, command
        self.control = case.path('control')
        self.process = None

    def launch(self, *arguments, point=None, number=signal.SIGKILL):
        """Starts a process, which gets the signal `number` when it passes `point`."""
        vublk, vublk_kill = self.programs
        if not point:
            return self.case.start([vublk, self.command, *arguments])
        return self.case.start([vublk_kill, self.command, *arguments], env={
            **os.environ, 'VUBLK_KILL_POINT': point, 'VUBLK_KILL_SIGNAL': str(int(number))})

    def output(self, process=None):
        return self.case.output(process or self.process)

    def take_over(self, *arguments, point=None, number=signal.SIGKILL):
        return self.launch('--take-over', self.control, *arguments, point=point, number=number)

    def was_too_slow(self, process):
        return any(sentence in self.output(process) for sentence in self.too_slow)

    def try_upgrade(self, *arguments):
        """Returns whether a new process has replaced the present one. It has not if the upgrade took too long."""
        new = self.take_over(*arguments)
        if not has_replaced(self.case, self.process, new, self.too_slow):
            return False
        self.process = new
        return True

    def upgrade(self, *arguments):
        """Repeats the upgrade until it succeeds. Returns the pause in microseconds."""
        while not self.try_upgrade(*arguments):
            pass
        return pause_of(self.output())
