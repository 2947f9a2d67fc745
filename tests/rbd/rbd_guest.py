#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A guest in QEMU whose disk is an image of a Ceph cluster (mini_ceph.py), with the machinery of tests/guest.

    rbd_guest.py --load LOAD [--door D] VUBLK FOLDER-OF-THE-MODULE [-l] [WORD...]
"""
import argparse
import os
import pathlib
import sys

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / 'harness'), str(TESTS / 'guest')]

import disk_cases  # noqa: E402
import doors  # noqa: E402
import engine_cases  # noqa: E402
import groups  # noqa: E402
import linux  # noqa: E402
import mini_ceph  # noqa: E402
import peer  # noqa: E402
import qemu  # noqa: E402
from peer import check  # noqa: E402

IMAGE = f'{mini_ceph.POOL}/disk'
KILLS = 3  # the next back-end waits each time until the cluster notices the death


class Serve(engine_cases.EngineServe):
    """The image belongs to the cluster, which starts before the first case."""
    name = 'vublk serve with a Ceph cluster'
    engine = 'rbd'

    def __init__(self, program, qemu):
        super().__init__(program, qemu)
        if not os.environ['VUBLK_ENGINE_PATH']:
            raise peer.Skip('this build is without the engine rbd')
        self.cluster = mini_ceph.Cluster().__enter__()

    def open_storage(self, case, image):
        return ['-o', f'image={pathlib.Path(image).name}', '-o', f'conf={self.cluster.conf}', '-o', f'user={mini_ceph.USER}']

    def kill_storage(self, case, image):
        """Kills the OSD, which has the data, and starts it again."""
        self.cluster.kill('osd.0')
        self.cluster.daemon('osd.0')

    def grow(self, case, child, image, bytes_):
        self.cluster.rbd('resize', '--no-progress', '--size', f'{bytes_ >> 20}M', image)


class Machine(engine_cases.StorageKilled):
    # The last case ends the machine.
    cases = [
        ('files survive a reset', 'files_survive'),
        ('the guest sees its disk grow', 'grow'),
        ('a snapshot is taken under a verified load', 'take_snapshot'),
        (f'the OSD is killed {KILLS} times under a verified load', 'kill_under_load'),
        (f'the back-end is killed {KILLS} times under a verified load', 'kill_backends'),
        (f'OSD and back-end are killed in turn, up to {KILLS} times, while files are written', 'kill_while_writing'),
    ]
    kills = KILLS

    def open(self):
        self.cluster = self.way.backend.cluster
        # After a case that has failed, the next machine gets a new image.
        self.name = f'{IMAGE}-{os.path.basename(self.folder)}'
        self.cluster.rbd('create', '--size', f'{disk_cases.DISK_BYTES >> 20}M', self.name)
        self.disk = doors.Disk(self.case, self.way, self.name, self.queues)
        self.guest = self.boot()

    def files_are_the_same(self):
        """Compares the files after a reset. Ceph's own program reads the image for the host's part."""
        self.guest.reset()
        self.guest.run('verify')
        self.image = self.case.path(f'exported-{len(os.listdir(self.folder))}')
        self.cluster.rbd('export', '--no-progress', self.name, self.image)
        linux.check_file_system(self.case, self.image)
        self.check_sums(self.sums)
        self.image.unlink()

    def files_survive(self):
        self.make_files()
        check(int(self.guest.last('flushes')) > 0, 'the guest sent no flush')
        self.files_are_the_same()

    def grow(self):
        bytes_ = disk_cases.DISK_BYTES + disk_cases.GROWTH_BYTES
        self.guest.begin('grow')
        self.guest.listen('waiting')
        self.disk.grow(bytes_)
        self.guest.end()
        check(self.guest.last('sectors') == str(bytes_ // 512),
              f'the guest sees {self.guest.last("sectors")} sectors of {bytes_} bytes')

    def take_snapshot(self):
        self.guest.start_load()
        self.cluster.rbd('snap', 'create', '--no-progress', f'{self.name}@one')
        self.guest.listen_for_more(100)
        self.guest.stop_load()

    def kill_backends(self):
        self.guest.start_load()
        for _ in range(KILLS):
            self.kill_backend()
            self.guest.listen_for_more(100)
        self.guest.stop_load()

    def changes(self):
        told = self.cluster.perf_counters(self.disk.child.pid)
        return sum(values['wr'] for name, values in told.items() if name.startswith('librbd-'))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('vublk', help='the tool, such as build/src/cli/vublk')
    parser.add_argument('modules', help='the folder of the engine, such as build/engines/rbd; empty: skip all cases')
    parser.add_argument('words', nargs='*', help='only cases that have one of these words')
    parser.add_argument('--load', required=True, help="the guest's load, such as build/tests/guest/guest-load")
    parser.add_argument('--door', choices=doors.DOORS, default='relay', help='how the disk reaches QEMU (relay)')
    parser.add_argument('-l', '--list', action='store_true', help='list the cases')
    return parser.parse_intermixed_args()


def main():
    options = parse()
    os.environ['VUBLK_ENGINE_PATH'] = options.modules and os.path.abspath(options.modules)
    way = doors.Way(options.vublk, options.door, Serve, qemu.QEMUS['system']())
    try:
        return groups.main([Machine], way, options.load, options.words, options.list)
    finally:
        if isinstance(way.backend, Serve):
            way.backend.cluster.close()


if __name__ == '__main__':
    sys.exit(main())
