# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A block device of the host, from a file: by `vublk serve` and `vublk attach` (driver ublk_drv), and by qemu-nbd and
nbd-client on a Unix socket (driver nbd). The host is one guest in QEMU, which has both. Both files are in its memory,
and have the same content and cache mode. guest-rate.c uses one device after the other, round after round.

The guest's processors are emulated, so only the ratios mean something. There are two guests. One has two processors
and measures time, which other programs on the machine disturb. The other has one processor, and its clock counts
instructions (4 ns for each) instead of time: nothing disturbs it, but what a wake-up costs on real hardware does not
count, either.
"""
import collections
import statistics

import host
import peer
import qemu
from door_bench import WARM_UP_ROUNDS, processor_seconds

OURS, THEIRS = 'ublkb0', 'nbd0'
IMAGE_MIB = 16
GOAL = 1.5
# As many requests in flight as the driver nbd has.
ATTACH_OPTIONS = ('--depth', 128)
NBD_OPTIONS = ('--cache=writeback', '--discard=unmap')
MODULES = ('ublk_drv', 'nbd')
CLOCKS = {'time': {}, 'instructions': {'processors': 1, 'arguments': ('-icount', 'shift=2,sleep=off')}}
INSTRUCTION_ROUNDS = 5  # enough, because there is little noise, and more would take long

Run = collections.namedtuple('Run', 'round disk load requests seconds cpu')


def start(case, options, which, **more):
    """Boots the guest, and returns it when it has both block devices."""
    guest = host.Host(case, which, options.programs / 'guest-rate', options.vublk, None, ('qemu-nbd', 'nbd-client'),
                      MODULES, **more)
    guest.run('random_image', IMAGE_MIB)
    guest.run('serve_qemu_nbd', *NBD_OPTIONS)
    guest.run('nbd_client')
    guest.run('serve', '--num-queues', 1)
    guest.attach(*ATTACH_OPTIONS)
    return guest


def runs_in(guest, rounds):
    """
    Returns the runs of `rounds` rounds. The guest prints a line at the end of each run, so QEMU's processor time between
    two lines belongs to one run.
    """
    guest.run('rate', f'/dev/{OURS}', f'/dev/{THEIRS}')
    cpu, runs = processor_seconds(guest.child), []
    while len(runs) == 0 or len(runs) % 2 or runs[-1].round < rounds:
        guest.until(lambda: len(guest.facts.get('run', [])) > len(runs), 'the guest measures')
        number, name, load, requests, ns = guest.facts['run'][len(runs)].split(':')
        now = processor_seconds(guest.child)
        runs.append(Run(int(number), name, load, int(requests), int(ns) / 1e9, now - cpu))
        cpu = now
    guest.run('end_rate')
    return [run for run in runs if WARM_UP_ROUNDS <= run.round < rounds]


def of(runs, disk, load):
    return [run for run in runs if (run.disk, run.load) == (disk, load)]


def rates(runs, disk, load):
    return [run.requests / run.seconds for run in of(runs, disk, load)]


def cpu_us(runs, disk, load):
    chosen = of(runs, disk, load)
    return sum(run.cpu for run in chosen) / sum(run.requests for run in chosen) * 1e6


def by_round(runs, load):
    """Returns the quartiles of each round's own ratio."""
    return statistics.quantiles([ours / theirs for ours, theirs in zip(*(rates(runs, disk, load)
                                                                         for disk in (OURS, THEIRS)))], n=4)


def verdict(runs, load):
    ours, theirs = (statistics.median(rates(runs, disk, load)) for disk in (OURS, THEIRS))
    low, middle, high = by_round(runs, load)
    return {'load': load, 'ours': ours, 'theirs': theirs, 'ratio': ours / theirs, 'by_round': [low, middle, high],
            'cpu_us': [cpu_us(runs, disk, load) for disk in (OURS, THEIRS)], 'bound': GOAL,
            'is_met': ours / theirs >= GOAL}


def show(found):
    low, middle, high = found['by_round']
    print(f'  {found["load"]:24}{found["ours"]:9,.0f}/s {found["theirs"]:9,.0f}/s  {found["ratio"]:5.2f}  '
          f'{middle:.2f} ({low:.2f} - {high:.2f})   CPU {found["cpu_us"][0]:5.0f} {found["cpu_us"][1]:5.0f} us  '
          f'goal >= {GOAL:g}: {"met" if found["is_met"] else "NOT met"}', flush=True)


def compare_by(clock, case, options, which):
    rounds = options.guest_rounds if clock == 'time' else min(options.guest_rounds, INSTRUCTION_ROUNDS)
    guest = start(case, options, which, **CLOCKS[clock])
    print(f'a guest in {which}, whose clock counts {clock}: {OURS} and {THEIRS} in requests per second, ratio of medians, '
          'by round (middle half), processor time of QEMU per request:', flush=True)
    runs = runs_in(guest, WARM_UP_ROUNDS + rounds)
    guest.kill()
    found = [verdict(runs, load) for load in dict.fromkeys(run.load for run in runs)]
    for one in found:
        show(one)
    return {'clock': clock, 'verdicts': found, 'runs': [run._asdict() for run in runs]}


def compare(case, options):
    which = qemu.QEMUS['newer']()
    try:
        which.find_version()
        return {'qemu': str(which), 'guests': [compare_by(clock, case, options, which) for clock in CLOCKS]}
    except peer.Skip as reason:
        print(f'not measured: {reason}', flush=True)
        return {}
