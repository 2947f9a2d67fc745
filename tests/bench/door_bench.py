# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One guest has one disk per door, each with its own `vublk serve`: QEMU connected directly, through the
relay, through the relay with shadow rings, and as a PCI device on vfio-user. The guest uses one disk
after the other (guest-rate.c). Each round's rate is compared with the rate of the direct disk in the same
round. There are two direct disks: the difference between them is the noise. The disks are in memory,
because the doors are compared, not the storage.

On a busy machine, rates mean little. The processor time per request, in QEMU, device and back-end,
means more, because it does not grow when other programs get their turns.
"""
import collections
import json
import os
import pathlib
import re
import statistics
import tempfile
import time

import counter
import doors
import linux
import peer
import qemu

DISK_BYTES = 16 << 20
AGAIN = 'again'
# The disks that are compared: a name for the guest and the table, and the door.
DISKS = [('direct', 'direct'), (AGAIN, 'direct'), ('relay', 'relay'), ('shadow', 'relay-shadow'),
         ('vfio-user', 'vfio-user')]
BASE = DISKS[0][0]
# The first version with a vfio-user client.
VFIO_USER_SINCE = (10, 1)
WARM_UP_ROUNDS = 1

Run = collections.namedtuple('Run', 'round disk load requests seconds messages wakes cpu')


def processor_seconds(process):
    """Returns the processor time of all threads of a process. The clock is the one of clock_getcpuclockid(3)."""
    return time.clock_gettime(~process.pid << 3 | 2)


class NamedServe(peer.VublkServe):
    """`vublk serve` with a name as the disk's serial number, by which the guest recognizes the disk."""

    def start(self, case, image, name):
        return super().start(case, image, arguments=['-o', f'serial={name}'])


class Disk:
    """A back-end and the door to it, with a counter of messages in between if requested."""

    def __init__(self, case, vublk, folder, name, door, is_counted):
        self.name = name
        self.door = doors.DOORS[door](vublk)
        image = pathlib.Path(folder, name)
        with open(image, 'wb') as file:
            for _ in range(DISK_BYTES >> 20):
                file.write(os.urandom(1 << 20))
        self.backend, socket = NamedServe(vublk).start(case, image, name)
        self.device, self.path = self.door.start(case, socket, 1)
        self.counter = None
        if is_counted:
            protocol = counter.VFIO_USER if door == 'vfio-user' else counter.VHOST_USER
            path = case.path(f'counted-{len(case.children)}')
            self.counter, self.path = counter.Counter(path, self.path, protocol), path

    def arguments(self, number, which):
        """Returns the words for QEMU's command line."""
        chardev = self.door.chardev(self.path, which)
        words = [] if chardev is None else [
            '-chardev', ','.join(['socket', f'id={self.name}-chardev',
                                  *(f'{key}={value}' for key, value in chardev.items())])]
        device = self.door.device(self.path, f'{self.name}-chardev', 1)
        return [*words, '-device', f'pcie-root-port,id=slot-{number},chassis={number + 2}',
                '-device', json.dumps({'id': self.name, 'bus': f'slot-{number}', **device})]

    def wakes(self):
        """Returns how often the threads of the device's process have slept so far."""
        if not self.device:
            return 0
        return sum(int(re.search(r'^voluntary_ctxt_switches:\s*(\d+)', path.read_text(), re.M)[1])
                   for path in pathlib.Path(f'/proc/{self.device.pid}/task').glob('*/status'))

    def counts(self):
        """Returns the counts so far: messages, wakes, and seconds of processor time."""
        return (self.counter.messages() if self.counter else 0, self.wakes(),
                sum(processor_seconds(process) for process in (self.backend, self.device) if process))


class Meter:
    """Reads the counts of disks and QEMU. Each reading returns the difference from the previous one."""

    def __init__(self, guest, disks):
        self.guest, self.disks = guest, {disk.name: disk for disk in disks}
        self.seen = {disk.name: disk.counts() for disk in disks}
        self.cpu = processor_seconds(guest.child)

    def read(self, name):
        """Returns the counts of the disk `name`. QEMU's time since the previous reading belongs to this disk."""
        before, cpu = self.seen[name], self.cpu
        self.seen[name], self.cpu = self.disks[name].counts(), processor_seconds(self.guest.child)
        messages, wakes, seconds = (now - then for now, then in zip(self.seen[name], before))
        return messages, wakes, seconds + self.cpu - cpu


def runs_in(guest, disks, rounds):
    """
    Returns the runs of `rounds` rounds. The guest uses one disk after the other, and prints a line at the end of each
    run. So all counts between two lines belong to one disk.
    """
    guest.run('load', 'start')
    meter, runs = Meter(guest, disks), []
    while len(runs) == 0 or len(runs) % len(disks) or runs[-1].round < rounds:
        guest.until(lambda: len(guest.facts.get('run', [])) > len(runs), 'the guest measures')
        number, name, load, requests, ns = guest.facts['run'][len(runs)].split(':')
        runs.append(Run(int(number), name, load, int(requests), int(ns) / 1e9, *meter.read(name)))
    guest.run('load', 'stop')
    return [run for run in runs if run.round < rounds]


def measure(case, options, which, wanted, rounds, is_counted):
    """Boots a guest with these disks; returns its runs in `rounds` rounds."""
    with tempfile.TemporaryDirectory(prefix='vublk-', dir=options.memory) as folder:
        disks = [Disk(case, options.vublk, folder, name, door, is_counted) for name, door in wanted]
        arguments = [word for number, disk in enumerate(disks) for word in disk.arguments(number, which)]
        guest = linux.Guest(case, which, 1, [], options.programs / 'guest-rate', arguments)
        runs = runs_in(guest, disks, rounds)
        guest.power_off()
        for disk in disks:
            if disk.counter:
                disk.counter.close()
        for child in reversed(case.children):  # devices first: a device would report the end of its back-end
            case.stop(child)
    return runs


def of(runs, disk, load):
    return [run for run in runs if run.disk == disk and load in (None, run.load)]


def rates(runs, disk, load=None):
    """Returns the rate of each run of the disk, by round and load."""
    return {(run.round, run.load): run.requests / run.seconds for run in of(runs, disk, load)}


def ratio_of_medians(runs, disk, load):
    return statistics.median(rates(runs, disk, load).values()) / statistics.median(rates(runs, BASE, load).values())


def cpu_per_request(runs, disk, load):
    chosen = of(runs, disk, load)
    return sum(run.cpu for run in chosen) / sum(run.requests for run in chosen)


def cpu_ratio(runs, disk, load):
    return cpu_per_request(runs, disk, load) / cpu_per_request(runs, BASE, load)


def each_round(runs, disk, load=None):
    """
    Returns, for each round, the ratio of the disk's rate to the direct disk's rate. Both rates are measured within a
    second or two, so a longer disturbance affects both.
    """
    base = rates(runs, BASE, load)
    ratios = [rate / base[key] for key, rate in rates(runs, disk, load).items()]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f'{middle:.3f} ({low:.2f} - {high:.2f})'


def per_request(runs, disk, load, what):
    chosen = of(runs, disk, load)
    return f'{sum(getattr(run, what) for run in chosen) / sum(run.requests for run in chosen):8.4f}'


def show_row(load, disk, rate, ratio, cpu, runs, counted, only):
    messages = per_request(counted, disk, only, 'messages') if disk != AGAIN else ''
    print(f'  {load:24}{disk:11}{rate:27}{ratio:6.3f}  {each_round(runs, disk, only):22}  {cpu:>15}'
          f'  {messages:>8}  {per_request(runs, disk, only, "wakes")}', flush=True)


def show_load(load, wanted, runs, counted):
    for disk, _ in wanted:
        found = rates(runs, disk, load).values()
        show_row(load, disk, f'{statistics.median(found):6,.0f}/s ({min(found):,.0f} - {max(found):,.0f})',
                 ratio_of_medians(runs, disk, load),
                 f'{cpu_per_request(runs, disk, load) * 1e6:5.0f} us {cpu_ratio(runs, disk, load):6.3f}',
                 runs, counted, load)


def show(wanted, runs, counted):
    """Prints the results. The rows for all loads have only mean ratios, because rates of different loads differ."""
    loads = list(dict.fromkeys(run.load for run in runs))
    print(f'  {"":24}{"way":11}{"requests, median (range)":27} ratio  {"by round (middle half)":22}'
          f'  {"CPU":>8}   ratio  messages     wakes')
    for load in loads:
        show_load(load, wanted, runs, counted)
    for disk, _ in wanted[1:]:
        means = [statistics.geometric_mean(ratio(runs, disk, load) for load in loads)
                 for ratio in (ratio_of_medians, cpu_ratio)]
        show_row('all', disk, '', means[0], f'{means[1]:6.3f}', runs, counted, None)


def compare_in(case, options, which):
    """Compares the doors in one QEMU, and returns all runs."""
    which.find_version()
    wanted = [(name, door) for name, door in DISKS if door != 'vfio-user' or which.version >= VFIO_USER_SINCE]
    print(f'a guest in {which}, by each way to a disk:', flush=True)
    runs = measure(case, options, which, wanted, WARM_UP_ROUNDS + options.guest_rounds, False)
    counted = measure(case, options, which, [one for one in wanted if one[0] != AGAIN], 1, True)
    show(wanted, [run for run in runs if run.round >= WARM_UP_ROUNDS], counted)
    return {'qemu': str(which), 'warm_up_rounds': WARM_UP_ROUNDS, 'runs': [run._asdict() for run in runs],
            'counted': [run._asdict() for run in counted]}


def compare(case, options):
    """Measures with each QEMU that is available here."""
    found = []
    for kind in qemu.QEMUS.values():
        try:
            found.append(compare_in(case, options, kind()))
        except peer.Skip as reason:
            print(f'not in the {kind.name} QEMU: {reason}', flush=True)
    return found
