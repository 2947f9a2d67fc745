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
import groups  # noqa: E402
import linux  # noqa: E402
import mini_ceph  # noqa: E402
import peer  # noqa: E402
import qemu  # noqa: E402
from peer import check  # noqa: E402

IMAGE = f'{mini_ceph.POOL}/disk'
KILLS = 3  # the next back-end waits each time until the cluster notices the death


class Serve(doors.Serve):
    """`vublk serve` with the engine rbd. The image belongs to the cluster, which starts before the first case."""
    name = 'vublk serve with a Ceph cluster'
    is_replaceable = False

    def __init__(self, program, qemu):
        super().__init__(program, qemu)
        if not os.environ['VUBLK_ENGINE_PATH']:
            raise peer.Skip('this build is without the engine rbd')
        self.cluster = mini_ceph.Cluster().__enter__()

    def begin(self, case, image, queues, path):
        """Starts the process, and does not wait until it listens."""
        return case.start([self.program, 'serve', '--socket-path', path, '--num-queues', queues, '--engine', 'rbd',
                           '-o', f'image={pathlib.Path(image).name}', '-o', f'conf={self.cluster.conf}',
                           '-o', f'user={mini_ceph.USER}'])

    def start(self, case, image, queues=1, path=None, **_):
        path = path or case.path(f'socket-{len(case.children)}')
        child = self.begin(case, image, queues, path)
        peer.wait_for_socket(case, child, path)
        return child, path

    def grow(self, case, child, image, bytes_):
        self.cluster.rbd('resize', '--no-progress', '--size', f'{bytes_ >> 20}M', image)


class Machine(disk_cases.Machine):
    # The last case ends the machine.
    cases = [
        ('files survive a reset', 'files_survive'),
        ('the guest sees its disk grow', 'grow'),
        ('a snapshot is taken under a verified load', 'take_snapshot'),
        ('the OSD is killed and started again under a verified load', 'restart_osd'),
        (f'the back-end is killed {KILLS} times under a verified load', 'kill_backend'),
        ('both are killed while files are written', 'kill_both'),
    ]

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

    def kill_osd(self):
        self.cluster.kill('osd.0')
        self.cluster.daemon('osd.0')

    def restart_osd(self):
        self.guest.start_load()
        self.kill_osd()
        self.guest.listen_for_more(100)
        self.guest.stop_load()

    def start_again(self):
        """Starts a back-end, and reads meanwhile what the guest says: QEMU drops text that is not read for long."""
        disk = self.disk
        disk.child = self.way.backend.begin(self.case, disk.image, disk.queues, disk.socket)
        self.guest.wait_until(lambda: peer.listens(disk.socket) or disk.child.poll() is not None,
                              'the next back-end does not listen')
        check(disk.child.poll() is None, f'vublk serve ended: {self.case.output(disk.child)}')

    def kill_backend(self):
        self.guest.start_load()
        for _ in range(KILLS):
            self.disk.kill()
            self.start_again()
            self.guest.listen_for_more(100)
        self.guest.stop_load()

    def count_writes(self):
        told = self.cluster.perf_counters(self.disk.child.pid)
        return sum(values['wr'] for name, values in told.items() if name.startswith('librbd-'))

    def kill_both(self):
        written = self.count_writes() + 20
        self.guest.begin('files')
        self.guest.wait_until(lambda: self.count_writes() >= written, 'the guest does not write')
        check(f'done {self.guest.jobs}' not in self.guest.words, 'the guest has written its files already')
        self.disk.kill()
        self.kill_osd()
        self.start_again()
        facts = self.guest.end()
        self.sums = {name[4:]: values[-1] for name, values in facts.items() if name.startswith('sum ')}
        check(len(self.sums) == 8, f'the guest told {len(self.sums)} checksums')
        self.files_are_the_same()
        self.end()


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
