#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The disk of a back-end as a block device of the host, by `vublk attach`, and by nbdkit with our plugin and nbd-client.
The host is a guest in QEMU, whose kernel has the drivers ublk_drv and nbd. All programs run in the guest.

    attach.py --load LOAD [--plugin PLUGIN] [--qemu Q] VUBLK [-l] [WORD...]

Words select the cases whose names contain one of them; -l lists the cases.
"""
import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import groups  # noqa: E402
import host  # noqa: E402
import peer  # noqa: E402
import qemu  # noqa: E402
from host import QUEUES  # noqa: E402
from peer import check  # noqa: E402

DISK_BYTES = 64 << 20
KILLS = 3
SINCE_RESIZE = (6, 16)  # the first kernel whose ublk_drv can change the size of a device
ZEROES = 'bb9f8df61474d25e71fa00722318cd387396ca1736605e1248821cc0de3d3af8'  # 4 MiB of them


def check_discard(guest):
    for option in '-z', '':
        parts = guest.run('discard', option)['part']
        check(parts[1] == ZEROES, f'{option}: the range is not zeroed')
        check(ZEROES not in (parts[0], parts[2]), f'{option}: more than the range is zeroed')
    check(int(guest.run('statistic', 12)['statistic'][-1]) > 0, 'the device has no discards')


def kill_backend(guest):
    guest.start_load()
    for _ in range(KILLS):
        guest.run('signal', 'serve', 'KILL')
        guest.run('serve_again')
        guest.listen_for_more()
    guest.stop_load()


class Attached(groups.Group):
    """A host with a back-end and an attached disk. Each case but the last leaves it so."""
    serve = ()

    def open(self):
        self.guest = host.Host(self.case, self.way.qemu, self.load, self.way.program)
        self.guest.run('image', DISK_BYTES)
        self.guest.run('serve', *self.serve)
        self.guest.attach()

    def detach(self):
        code, said = self.guest.vublk_says('detach', '/dev/ublkb0')
        check(code == 0 and not said, f'vublk detach ended with {code}: {said}')
        facts = self.guest.run('is_gone')
        check(facts['said'] == [''], f'vublk attach said {facts["said"]}')


class Used(Attached):
    cases = [
        ('the kernel has the sizes and limits of the disk', 'is_told'),
        ('files survive detach and attach, and the image has them', 'files_survive'),
        ('what is trimmed and zeroed reads as zeroes', 'discard'),
        ('a write with FUA is in the image when it completes', 'write_through'),
        ('the back-end is killed under load', 'kill_backend'),
        ('vublk attach is killed under load', 'kill_attach'),
        ('both are killed under load', 'kill_both'),
        ('a second vublk attach is refused', 'second'),
        ('a second vublk attach is refused while the first waits for the back-end', 'second_waiting'),
        ('of several vublk attach at the same moment one attaches', 'race'),
        ('the block device follows the size of the disk where the kernel can', 'resize'),
        ('detach of a mounted device is refused, and SIGTERM leaves it', 'mounted'),
        ('SIGTERM removes a device that is not in use', 'terminate'),
        ('an orphaned device is listed and removed', 'orphan'),
        ('an orphaned device that is about to be continued is not removed', 'orphan_begun'),
        ('a forced detach needs no back-end', 'force'),
    ]

    def is_told(self):
        facts = self.guest.run('facts')
        for name, wanted in {'sectors': DISK_BYTES // 512, 'queues': QUEUES, 'ro': 0,
                             'logical_block_size': 512}.items():
            check(facts[name] == [str(wanted)], f'{name} is {facts[name][0]}, not {wanted}')
        for name in 'discard_max_hw_bytes', 'write_zeroes_max_bytes':
            check(int(facts[name][0]) > 0, f'{name} is {facts[name][0]}')
        for name, wanted in (('write_cache', 'write back'), ('fua', '1'), ('max_hw_sectors_kb', '128'),
                             ('nr_requests', '16')):
            check(self.guest.run('queue', name)[name][-1] == wanted, f'{name} is not {wanted}')
        [device] = self.guest.devices()
        for name, wanted in (('device', '/dev/ublkb0'), ('state', 'attached'), ('num_queues', QUEUES), ('depth', 16),
                             ('capacity_bytes', DISK_BYTES), ('socket', '/tmp/socket')):
            check(device[name] == wanted, f'{name} is {device[name]} in the list, not {wanted}')

    def files_survive(self):
        self.guest.run('files')
        self.guest.run('leave')
        self.detach()
        self.guest.run('check_image')
        self.guest.attach()
        self.guest.run('verify')

    def discard(self):
        check_discard(self.guest)

    def write_through(self):
        self.guest.run('write_direct')

    def kill_backend(self):
        kill_backend(self.guest)

    def kill_attach(self):
        self.guest.start_load()
        for _ in range(KILLS):
            self.guest.run('signal', 'attach', 'KILL')
            self.guest.attach()
            self.guest.listen_for_more()
        self.guest.stop_load()

    def kill_both(self):
        self.guest.start_load()
        for _ in range(KILLS):
            self.guest.run('kill_both')
            self.guest.run('serve')
            self.guest.attach()
            self.guest.listen_for_more()
        self.guest.stop_load()

    def second(self):
        code, said = self.guest.vublk_says('attach', '/tmp/socket')
        check(code == 1 and '/dev/ublkb0' in said, f'{code}: {said}')

    def second_waiting(self):
        self.detach()
        self.guest.run('pause', 'serve', 'STOP')
        self.guest.run('begin_attach')
        code, said = self.guest.vublk_says('attach', '/tmp/socket')
        check(code == 1 and 'is about to attach' in said, f'{code}: {said}')
        self.guest.run('pause', 'serve', 'CONT')
        self.guest.run('end_attach')
        check(self.guest.last('device') == '/dev/ublkb0', 'the first vublk attach has no device')

    def race(self):
        self.detach()
        facts = self.guest.run('attach_race')
        check(facts['device'] == ['/dev/ublkb0'], f'{facts}')
        for said in facts['refused']:
            check('already attached' in said or 'is about to attach' in said, said)
        check(len(self.guest.devices()) == 1, 'there is more than one device')

    def check_size(self, bytes_):
        facts = self.guest.run('resized', bytes_)
        version = tuple(int(part) for part in facts['kernel'][-1].split('.')[:2])
        wanted = bytes_ if version >= SINCE_RESIZE else DISK_BYTES
        check(facts['sectors'] == [str(wanted // 512)], f'the disk has {bytes_} bytes: {facts}')

    def resize(self):
        larger, largest = (DISK_BYTES + (number << 20) for number in (1, 2))
        self.guest.run('resize', larger)
        self.check_size(larger)
        self.guest.run('signal', 'attach', 'KILL')
        self.guest.run('resize', largest)
        self.guest.attach()
        self.check_size(largest)
        self.guest.run('resize', DISK_BYTES)
        self.check_size(DISK_BYTES)

    def mounted(self):
        self.guest.run('files')
        code, said = self.guest.vublk_says('detach', '0')
        check(code == 1 and 'in use' in said, f'{code}: {said}')
        said = self.guest.run('signal', 'attach', 'TERM')['said'][-1]
        check('in use' in said and 'stays' in said, said)
        self.guest.attach()
        self.guest.run('leave')
        self.guest.run('verify')

    def terminate(self):
        said = self.guest.run('signal', 'attach', 'TERM')['said'][-1]
        check(not said, said)
        self.guest.run('is_gone')
        self.guest.attach()

    def orphan(self):
        self.guest.run('signal', 'attach', 'KILL')
        [device] = self.guest.devices()
        check(device['state'] == 'orphaned', f'{device}')
        code, said = self.guest.vublk_says('detach', '--orphans')
        check(code == 0 and not said, f'{code}: {said}')
        check(not self.guest.devices(), 'the list still has the device')
        self.guest.run('is_gone')
        self.guest.attach()

    def orphan_begun(self):
        self.guest.run('signal', 'attach', 'KILL')
        self.guest.run('pause', 'serve', 'STOP')
        self.guest.run('begin_attach')
        [device] = self.guest.devices()
        check(device['state'] == 'starting', f'{device}')
        code, said = self.guest.vublk_says('detach', '--orphans')
        check(code == 0 and not said, f'{code}: {said}')
        self.guest.run('pause', 'serve', 'CONT')
        self.guest.run('end_attach')
        check([device['state'] for device in self.guest.devices()] == ['attached'], f'{self.guest.devices()}')

    def force(self):
        """Leaves no device, so this is the last case."""
        self.guest.loses_requests = True
        self.guest.run('signal', 'serve', 'KILL')
        self.guest.run('begin_write')
        self.guest.run('vublk', 'detach', '--force', '/dev/ublkb0')
        check(self.guest.last('exit') == '0', self.guest.last('said'))
        check(self.guest.run('end_write')['exit'] != ['0'], 'the write succeeded')
        self.guest.run('is_gone')


class ReadOnly(Attached):
    serve = ('--read-only',)
    cases = [('a read-only disk is a read-only block device', 'refuses')]

    def refuses(self):
        check(self.guest.run('facts')['ro'] == ['1'], 'the block device is not read-only')
        self.guest.run('look')
        check(self.guest.has_said('refused'), 'a write succeeded')
        self.detach()


class Nbd(groups.Group):
    """A host with a back-end, nbdkit with our plugin, and nbd-client. Each case but the last leaves it so."""
    cases = [
        ('nbd-client: the kernel has the size and limits of the disk', 'is_told'),
        ('nbd-client: files survive a new connection, and the image has them', 'files_survive'),
        ('nbd-client: what is trimmed and zeroed reads as zeroes', 'discard'),
        ('nbd-client: a write with FUA is in the image when it completes', 'write_through'),
        ('nbd-client: the back-end is killed under load', 'kill_backend'),
        ('nbd-client: nbdkit ends when its client has left', 'end'),
    ]

    def open(self):
        if not self.way.plugin:
            raise peer.Skip('the plugin for nbdkit was not built')
        self.guest = host.Host(self.case, self.way.qemu, self.load, self.way.program, self.way.plugin,
                               ('nbdkit', 'nbd-client'), ('nbd',))
        self.guest.run('image', DISK_BYTES)
        self.guest.run('serve')
        self.guest.run('serve_nbdkit')
        self.guest.run('nbd_client')

    def is_told(self):
        facts = self.guest.run('facts')
        for name, wanted in {'sectors': DISK_BYTES // 512, 'ro': 0, 'logical_block_size': 512}.items():
            check(facts[name] == [str(wanted)], f'{name} is {facts[name][0]}, not {wanted}')
        check(int(facts['discard_max_hw_bytes'][0]) > 0, 'the device has no discard')
        for name, wanted in ('write_cache', 'write back'), ('fua', '1'):
            check(self.guest.run('queue', name)[name][-1] == wanted, f'{name} is not {wanted}')

    def files_survive(self):
        check(int(self.guest.run('files')['flushes'][-1]) > 0, 'the device has no flushes')
        self.guest.run('leave')
        self.guest.run('nbd_disconnect')
        self.guest.run('check_image')
        self.guest.run('nbd_client')
        self.guest.run('verify')

    def discard(self):
        check_discard(self.guest)

    def write_through(self):
        self.guest.run('write_direct')

    def kill_backend(self):
        kill_backend(self.guest)

    def end(self):
        self.guest.run('nbd_disconnect')
        self.guest.run('signal', 'nbdkit', 'TERM')


class Way:
    def __init__(self, program, plugin, which):
        self.program, self.qemu = pathlib.Path(program).absolute(), which
        self.plugin = pathlib.Path(plugin).absolute() if plugin else None

    def prepare(self):
        self.qemu.find_version()
        host.kernel()

    def __str__(self):
        return str(self.qemu)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('vublk', help='the tool, such as build/src/cli/vublk')
    parser.add_argument('words', nargs='*', help='only cases that have one of these words')
    parser.add_argument('--load', required=True, help="the guest's load, such as build/tests/guest/guest-load")
    parser.add_argument('--plugin', help='our plugin for nbdkit (without it, its cases are skipped)')
    parser.add_argument('--qemu', choices=qemu.QEMUS, default='system')
    parser.add_argument('-l', '--list', action='store_true', help='list the cases')
    options = parser.parse_intermixed_args()
    way = Way(options.vublk, options.plugin, qemu.QEMUS[options.qemu]())
    return groups.main([Used, ReadOnly, Nbd], way, options.load, options.words, options.list)


if __name__ == '__main__':
    sys.exit(main())
