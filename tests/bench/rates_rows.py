# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The rows of the part `rates`: the systems that each row compares, and the goals of the row. A goal is a limit
for the ratio of our system's median to the other system's median.
"""
import collections

import idle_bench
from systems import Entry, Load

DEPTHS = (1, 32, 128)
PEERS = ['qsd newer', 'qsd']

# A limit for the ratio of a metric, which is a field of systems.Sample or costs.Costs. A goal with `instead`
# is an alternative: if the first goal is missed, the alternative decides.
Goal = collections.namedtuple('Goal', 'metric at_least at_most instead', defaults=[None, None, False])
# Two entries, and the goals for their ratios.
Duel = collections.namedtuple('Duel', 'ours theirs goals')
# Entries that are measured in turns: A B A B.
Point = collections.namedtuple('Point', 'title duels')
# With `costs`, system calls and instructions are counted, too. `check(tools)` returns results that are
# not ratios (findings).
Row = collections.namedtuple('Row', 'name title points costs check', defaults=[False, None])


def rate(at_least):
    return Goal('iops', at_least=at_least)


def against_peers(load, peers, goals, client='libblkio', off=None):
    """Returns a point: our back-end against each peer, and with the goal `off` also against ours with --poll=off."""
    ours = Entry('vublk', client, load)
    duels = [Duel(ours, Entry(peer, client, load), goals) for peer in peers]
    if off:
        duels.append(Duel(ours, Entry('vublk poll=off', client, load), [rate(off)]))
    return Point(f'{load.rw}, depth {load.depth}', duels)


def null_row(name, title, mode, cores, bounds, peers, more=(), off=None):
    return Row(name, title, [
        against_peers(Load('null', 'randread', mode, depth, cores), peers, [rate(bound), *more], off=off)
        for depth, bound in zip(DEPTHS, bounds)], costs=True)


def file_row(name, title, store, bounds, more=()):
    return Row(name, title, [
        against_peers(Load(store, rw, 'poll', depth, 'two'), PEERS, [rate(bound), *more])
        for rw in ('randread', 'randwrite') for depth, bound in zip(DEPTHS, bounds)])


def driver_row():
    """Returns a row: our client against libblkio, on the same back-end."""
    points = []
    for system in 'vublk', PEERS[0]:
        for depth in DEPTHS:
            load = Load('null', 'randread', 'poll', depth, 'two')
            duel = Duel(Entry(system, 'libvublk', load), Entry(system, 'libblkio', load),
                        [rate(1.1), Goal('client_instructions', at_most=0.7)])
            points.append(Point(f'on {system}, depth {depth}', [duel]))
    return Row('driver', 'our client against libblkio on the same back-end, null, poll', points, costs=True)


def memory_row():
    load = Load('memory', 'randread', 'poll', 32, 'two')
    duels = [Duel(Entry('vublk', client, load), Entry('none', 'memcpy', load), [rate(0.85)])
             for client in ('vublk bench', 'libblkio')]
    return Row('memory', 'our memory disk against memcpy of as much memory, poll, a core each',
               [Point('randread, depth 32', duels)])


def queues_row():
    loads = [Load('null', 'randread', 'event', 32, 'all', jobs) for jobs in (2, 1)]
    duel = Duel(*(Entry('vublk', 'vublk bench', load) for load in loads), [rate(1.0)])
    return Row('queues', 'two queues on two threads against one, null, event, not pinned',
               [Point('randread, depth 32 each', [duel])])


def rows(sockets=()):
    """Returns all rows. `sockets` are names of back-ends that already listen: peers in the rows without storage."""
    null_peers = [*PEERS, *sockets]
    cpu = Goal('backend_us', at_most=0.6, instead=True)
    return [
        null_row('null-poll', 'null, poll, a core each', 'poll', 'two', (2.0, 1.2, 1.5), null_peers, [cpu]),
        null_row('null-event', 'null, event, a core each', 'event', 'two', (2.0, 1.5, 1.5), null_peers, off=0.97),
        null_row('null-event-one', 'null, event, both on one core', 'event', 'one', (1.1, 1.3, 1.5), null_peers,
                 off=0.97),
        file_row('shm', 'a file in /dev/shm, poll, a core each', 'shm', (3.0, 2.0, 2.0)),
        file_row('disk', 'a raw file on disk, O_DIRECT, poll, a core each', 'disk', (1.0, 1.0, 1.0),
                 [Goal('backend_us', at_most=0.7)]),
        memory_row(),
        driver_row(),
        queues_row(),
        Row('idle', 'an idle disk with adaptive polling', [], check=idle_bench.idle),
        Row('resident', 'resident memory of an idle back-end, one queue, null', [], check=idle_bench.resident),
    ]
