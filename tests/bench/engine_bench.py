# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The engines nbd and rbd of `vublk serve`, compared with the drivers nbd and rbd of qemu-storage-daemon. Both sides use
the same server, or the same cluster, which runs all the time. Otherwise each row is like those of the part `rates`.

The server runs on the client's processor, so the back-end has its own: its processor time contains no waiting for the
processor.
"""
import contextlib
import os
import pathlib

import mini_ceph
import peer
import rates_bench
import systems
from rates_rows import DEPTHS, Duel, Goal, Point, Row, rate
from systems import Entry, Load

OURS, THEIRS = 'vublk', 'qsd'
GOALS = [rate(1.0), Goal('backend_us', at_most=0.8)]
RBD_MIB = 256  # written to the cluster by `rbd import`


def row(store, title, costs):
    points = []
    for rw in 'randread', 'randwrite':
        for depth in DEPTHS:
            load = Load(store, rw, 'event', depth, 'two')
            duel = Duel(Entry(OURS, 'vublk bench', load), Entry(THEIRS, 'vublk bench', load), GOALS)
            points.append(Point(f'{rw}, depth {depth}', [duel]))
    return Row(store, title, points, costs)


def start_nbdkit(case, tools):
    """Serves memory, which is filled, because nbdkit does not store blocks that were never written."""
    peer.need('nbdkit')
    path, data = case.path('nbd.sock'), case.path('data')
    systems.fill(data, tools.size)
    child = case.start(systems.pinned(systems.CORES['two'][1], [
        'nbdkit', '--foreground', '--exit-with-parent', '--unix', path, 'memory', tools.size]))
    peer.wait_for_socket(case, child, path)
    case.run(['nbdcopy', data, f'nbd+unix:///?socket={path}'])
    data.unlink()
    return path


def start_cluster(case, stack):
    """
    Returns the configuration of a cluster that has an image. A back-end that is killed would keep an exclusive lock for
    a while, so the image has none.
    """
    cluster = stack.enter_context(mini_ceph.Cluster())
    data = case.path('data')
    systems.fill(data, RBD_MIB << 20)
    cluster.rbd('import', '--image-feature', 'layering', data, systems.RBD_IMAGE)
    data.unlink()
    return cluster.conf


def compare_all(case, options):
    tools, engines = systems.Tools(options, case.folder), pathlib.Path(options.programs).resolve().parents[1] / 'engines'
    os.environ.setdefault('VUBLK_ENGINE_PATH', f'{engines / "nbd"}:{engines / "rbd"}')
    rows = rates_bench.chosen(options, [row('nbd', 'the same nbdkit, a disk in its memory', True),
                                        row('rbd', 'the same Ceph cluster, with one OSD', False)])
    starters = {'nbd': lambda: start_nbdkit(case, tools), 'rbd': lambda: start_cluster(case, stack)}
    with contextlib.ExitStack() as stack:
        for row_ in list(rows):
            try:
                tools.images[row_.name] = starters[row_.name]()
            except peer.Skip as reason:
                print(f'{row_.name}: not here: {reason}')
                rows.remove(row_)
        return rates_bench.compare(case, tools, stack, options, rows)
