# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The part of `make soak` with guests (scripts/soak): back-ends are killed at random times under a guest's
verified load, and each action of an operator is repeated many times.
"""
import collections
import itertools
import json
import random

import disk_cases
import doors
import operator_cases
import peer
import qemu
import upgrading
from peer import check

QUEUES = (1, 4)
DEPTH = 8  # the threads of the load, each with one request
REPLAY = ('-o', 'unflushed=replay')
EXCHANGES, TIMES = 1000, 100
PAUSE_S = 0.05

# `start` has options of the back-end's start().
Backend = collections.namedtuple('Backend', 'name make start options')


def qemus():
    """Returns the QEMUs that are installed."""
    found = []
    for kind in qemu.QEMUS.values():
        which = kind()
        try:
            which.find_version()
        except peer.Skip as skip:
            print(f'scripts/soak: {skip}')
            continue
        found.append(which)
    return found


def backends():
    listed = [Backend('serve, inflight=off', doors.Serve, {'inflight': False}, ())]
    for which in qemus():
        version = '.'.join(map(str, which.version[:2]))

        # Uses the daemon of this version, whichever QEMU runs the guest.
        def make(program, _, which=which):
            return doors.Daemon(program, which)
        listed += [Backend(f'qemu-storage-daemon {version}', make, {}, ()),
                   Backend(f'qemu-storage-daemon {version} qcow2, replay', make, {'form': 'qcow2'}, REPLAY)]
    return listed


class Killed(operator_cases.Controlled):
    def __init__(self, way, load, backend, queues):
        super().__init__(way, load)
        self.backend, self.queues = backend, queues

    def open(self):
        form = self.backend.start.get('form', 'raw')
        self.image = disk_cases.make_image(self.case)
        if form != 'raw':
            peer.need('qemu-img')
            self.case.run(['qemu-img', 'create', '-q', '-f', form, self.image, disk_cases.DISK_BYTES])
        self.control = self.case.path('control')
        self.disk = doors.Disk(self.case, self.way, self.image, self.queues, **self.backend.start,
                               door_options=['--control', self.control, *self.backend.options])
        self.guest = self.boot()

    def kill(self, times):
        """Returns the guest's requests, and how many were in flight when a back-end was lost."""
        self.guest.start_load()
        for _ in range(times):
            # Most kills come when the guest writes again, and some while it recovers from the last one.
            if random.random() < 0.75:
                self.guest.listen_for_more(1)
            self.guest.catch_up_for(random.uniform(0, PAUSE_S))
            self.disk.kill()
            self.disk.start_again()
        self.guest.listen_for_more()
        self.guest.stop_load()
        self.check_no_reset()
        requests = int(self.guest.last('requests'))
        in_flight = self.count_in_flight()
        self.guest.power_off()
        self.disk.stop()
        return requests, in_flight

    def count_in_flight(self):
        """Returns the sum of the requests in the events `recovered`."""
        with upgrading.ask_for_events(self.control) as (end, _):
            pass
        count = sequence = 0
        with upgrading.ask_for_events(self.control, since=0) as (_, lines):
            while sequence < end - 1:
                event = json.loads(lines.readline())
                check(event['event'] not in ('needs_reset', 'missed'), f'{event}')
                sequence = event['sequence']
                count += event['requests'] if event['event'] == 'recovered' else 0
        return count


def run(group, function):
    """Opens the group, and calls the function. On failure, adds the last words of the processes."""
    try:
        group.open()
        return function()
    except peer.Failure as failure:
        raise peer.Failure(f'{group.way}: {failure}{group.last_words()}') from failure
    finally:
        group.drop()


def way_of(program, door, backend, which):
    way = doors.Way(program, door, backend, which)
    way.prepare()
    return way


def kill_rows(program, load, kills):
    """Yields the cells of a row for each QEMU, back-end and number of queues, with `kills` kills in each."""
    for which, backend, queues in itertools.product(qemus(), backends(), QUEUES):
        group = Killed(way_of(program, 'relay-shadow', backend.make, which), load, backend, queues)
        requests, in_flight = run(group, lambda: group.kill(kills))
        yield [f'{backend.name}, guest in {which}', queues, DEPTH, kills, f'{requests:,}', f'{in_flight:,}', '-']


def operate(group):
    group.exchange(EXCHANGES)
    pause = group.upgrade(TIMES)
    cells = [f'{EXCHANGES:,}', TIMES, f'{pause / 1000:.1f} ms', '-', '-']
    if group.way.backend.is_replaceable:
        cells[3:] = [TIMES, f'{group.upgrade_backend(TIMES) / 1000:.1f} ms']
    group.switch(TIMES)
    group.fail_over()
    group.move()
    group.end()
    return [*cells, TIMES, 2, 1]


OPERATIONS = ['way to the disk', 'exchanges', 'upgrades of the relay', 'longest pause', 'upgrades of the back-end',
              'longest pause', 'switches', 'fail-overs', 'mirrored moves']


def operation_rows(program, load):
    """Yields the cells of a row for each back-end, each with another QEMU, in the order of OPERATIONS."""
    for which, backend in zip(itertools.cycle(qemus()), doors.BACKENDS):
        group = operator_cases.Relay(way_of(program, 'relay', backend, which), load)
        yield [str(group.way), *run(group, lambda: operate(group))]
