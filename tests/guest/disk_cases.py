# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of a guest with one disk: what the guest does with the disk, and what an operator does with the guest."""
import hashlib
import os
import time

import doors
import groups
import linux
import peer
from peer import check

DISK_BYTES = 96 << 20
GROWTH_BYTES = 16 << 20
TIMES = 10


def make_image(case, random_bytes=0, name='disk'):
    image = case.path(name)
    with open(image, 'wb') as file:
        file.write(os.urandom(random_bytes))
        file.truncate(DISK_BYTES)
    return image


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Machine(groups.Group):
    """A guest with one disk."""
    queues = 4

    def open(self):
        self.image = make_image(self.case)
        self.disk = doors.Disk(self.case, self.way, self.image, self.queues)
        self.guest = self.boot()

    def boot(self, **options):
        return linux.Guest(self.case, self.way.qemu, self.queues, [self.disk], self.load, **options)

    # The host reads the files from the image, without the guest, and must get the same checksums.
    def check_sums(self, sums):
        for name, wanted in sums.items():
            copy = self.case.path('copy')
            linux.debugfs(self.case, self.image, f'dump {name} {copy}')
            found = sha256(copy.read_bytes())
            check(found == wanted, f'{name} in the image is {found}, and {wanted} for the guest')

    def make_files(self):
        self.take_sums(self.guest.run('files'))

    def take_sums(self, facts):
        self.sums = {name[4:]: values[-1] for name, values in facts.items() if name.startswith('sum ')}
        check(len(self.sums) == 8, f'the guest told {len(self.sums)} checksums')

    def files_survive(self):
        """Files are written and synced before a reset, and verified after it by guest and host."""
        self.make_files()
        if self.way.backend.write_back:
            check(int(self.guest.last('flushes')) > 0, 'the guest sent no flush')
        self.files_are_the_same()

    def files_are_the_same(self):
        self.guest.reset()
        self.guest.run('verify')
        linux.check_file_system(self.case, self.image)
        self.check_sums(self.sums)

    def end(self):
        self.guest.power_off()
        self.disk.stop()


class FourQueues(Machine):
    # The last case ends the machine.
    cases = [
        ('the disk is to the guest what it is to the back-end', 'is_told'),
        ('files survive a reset, 4 queues', 'files_survive'),
        ('what the guest trims the image gives back', 'trim'),
        ('the guest discards and zeroes ranges', 'discard'),
        ('the guest sees its disk grow immediately', 'grow'),
        (f'stopped and continued under load, {TIMES} times', 'stop_and_continue'),
        ('reset under load', 'reset'),
        (f'unplugged and plugged in, {TIMES} times', 'plug'),
        ('the guest sets the write cache of the back-end', 'set_cache'),
    ]

    @classmethod
    def cases_for(cls, way):
        return [case for case in cls.cases if case[1] != 'plug' or way.door.is_unpluggable]

    def is_told(self):
        facts = self.guest.run('facts')
        info = self.disk.told
        for name, wanted in {
                'sectors': info['capacity_bytes'] // 512, 'queues': self.queues, 'ro': int(info['read_only']),
                'cache': 'write back' if info['write_cache'] else 'write through',
                'logical_block_size': info['block_size_bytes'],
                'physical_block_size': info['physical_block_bytes'],
                'discard_max_hw_bytes': info['max_discard_bytes'],
                'discard_granularity': info['discard_alignment_bytes'],
                'write_zeroes_max_bytes': info['max_write_zeroes_bytes']}.items():
            check(facts[name] == [str(wanted)], f'{name} is {facts[name][0]} in the guest, not {wanted}')

    def trim(self):
        self.make_files()
        self.guest.run('leave')
        before = self.image.stat().st_blocks
        facts = self.guest.run('trim')
        freed = (before - self.image.stat().st_blocks) * 512
        check(int(facts['discards'][-1]) > 0, 'the guest sent no discard')
        check(freed > 10_000_000, f'the image gave back {freed} bytes of the 13 MB that were trimmed')
        linux.check_file_system(self.case, self.image)

    def discard(self):
        """After a discard or write zeroes, the range reads as zeroes, and the data around it is unchanged."""
        zeroes = sha256(bytes(4 << 20))
        for option in '-z', '':
            parts = self.guest.run('discard', option)['part']
            with open(self.image, 'rb') as file:
                mine = [sha256(file.read(mib << 20)) for mib in (2, 4, 2)]
            check(parts == mine, f'{option}: the guest reads {parts}, the host {mine}')
            check(parts[1] == zeroes, f'{option}: the range is not zeroed')
            check(zeroes not in (parts[0], parts[2]), f'{option}: more than the range is zeroed')

    def grow(self):
        """
        The disk grows, and the guest notices it. The shortest of three delays counts, because other guests
        may use the machine.
        """
        if not self.way.backend.tells_growth:
            raise peer.Skip('this back-end does not announce that its disk has grown')
        delays = []
        for _ in range(3):
            self.guest.begin('grow')
            self.guest.listen('waiting')
            bytes_ = self.image.stat().st_size + GROWTH_BYTES
            start = time.monotonic()
            self.disk.grow(bytes_)
            self.guest.listen('seen')
            delays.append(time.monotonic() - start)
            self.guest.end()
            check(self.guest.last('sectors') == str(bytes_ // 512),
                  f'the guest sees {self.guest.last("sectors")} sectors of {bytes_} bytes')
        check(min(delays) < 1, f'the guest saw it after {delays} s')

    def stop_and_continue(self):
        if not self.way.backend.finishes_at_stop:
            raise peer.Skip('this back-end panics when it is stopped with requests under way')
        self.guest.start_load()
        with self.disk.stopped_under_load(self.guest):
            for _ in range(TIMES):
                self.guest.qmp('stop')
                self.guest.event('STOP')
                self.guest.qmp('cont')
                self.guest.event('RESUME')
                self.guest.listen_for_more()
            self.guest.stop_load()

    def reset(self):
        """The guest is reset in the middle of writes. The disk works afterwards."""
        with self.disk.stopped_under_load(self.guest):
            for _ in range(2):
                self.guest.start_load()
                self.guest.reset()
            self.guest.start_load()
            self.guest.stop_load()

    def plug(self):
        for _ in range(TIMES):
            self.disk.unplug(self.guest)
            self.guest.run('gone')
            self.disk.plug(self.guest)
            facts = self.guest.run('there')
            check(facts['sectors'] == [str(self.image.stat().st_size // 512)],
                  f'the guest sees {facts["sectors"]} sectors')

    def set_cache(self):
        """The guest sets the write cache, and the next front-end finds the setting of the previous one."""
        for mode in 'write through', 'write back', 'write through':
            check(self.guest.run('cache', mode)['cache'] == [mode], f'the guest could not set {mode}')
        self.guest.power_off()
        self.disk.stop_door()
        check(not self.disk.info()['write_cache'], "the back-end's write cache is still on")
        self.disk.stop()


class PluggedIn(Machine):
    """A disk that cannot be unplugged can still be plugged in."""
    queues = 1
    cases = [('plugged in', 'plug_in')]

    @classmethod
    def cases_for(cls, way):
        return [] if way.door.is_unpluggable else cls.cases

    def boot(self, **options):
        return linux.Guest(self.case, self.way.qemu, self.queues, [], self.load, **options)

    def plug_in(self):
        self.disk.plug(self.guest)
        self.guest.run('there')
        self.end()


class OneQueue(Machine):
    queues = 1
    cases = [('files survive a reset, 1 queue', 'files_survive_alone')]

    def files_survive_alone(self):
        self.files_survive()
        self.end()


class DefaultQueues(Machine):
    """Without a number of queues, QEMU requests one queue per processor of its guest."""
    queues = None
    processors = 2 * len(os.sched_getaffinity(0))
    cases = [('as many queues as the guest has processors, by default', 'look')]

    @classmethod
    def cases_for(cls, way):
        return cls.cases if way.door.name == 'direct' and way.backend.name == 'vublk serve' else []

    def boot(self, **options):
        return linux.Guest(self.case, self.way.qemu, self.processors, [self.disk], self.load, **options)

    def look(self):
        check(self.guest.run('facts')['queues'] == [str(self.processors)], 'the guest has other queues')
        self.end()


class SmallQueue(Machine):
    """Long requests on a small queue, which has room for 14 segments per request."""
    queues = 1
    cases = [('a queue of 16 entries, no indirect descriptors', 'write_much')]

    @classmethod
    def cases_for(cls, way):
        return cls.cases if way.door.name == 'direct' and way.backend.name == 'vublk serve' else []

    def open(self):
        self.image = make_image(self.case)
        self.disk = doors.Disk(self.case, self.way, self.image, self.queues, seg_max=14)
        self.disk.properties = {'queue-size': 16, 'indirect_desc': False}
        self.guest = self.boot()

    def write_much(self):
        self.guest.run('discard', '-z')
        self.end()


class ReadOnly(Machine):
    queues = 1
    cases = [('a read-only disk is one in the guest', 'look')]

    def open(self):
        self.image = make_image(self.case, random_bytes=1 << 20)
        self.disk = doors.Disk(self.case, self.way, self.image, self.queues, read_only=True)
        self.guest = self.boot()

    def look(self):
        before = self.image.read_bytes()
        check(self.guest.run('facts')['ro'] == ['1'], 'the guest sees a writable disk')
        facts = self.guest.run('look')
        check(facts['head'] == [sha256(before[:1 << 20])], 'the guest read something else')
        check(self.guest.has_said('refused'), 'the guest wrote to a read-only disk')
        self.end()
        check(self.image.read_bytes() == before, 'the image has changed')


class PresentedReadOnly(ReadOnly):
    """A writable back-end, which the device's property read-only presents as a read-only disk."""
    cases = [('a writable back-end is a read-only disk with read-only=on', 'look_at_policy')]

    @classmethod
    def cases_for(cls, way):
        return cls.cases if way.door.has_process and way.backend.name == 'vublk serve' else []

    def open(self):
        self.image = make_image(self.case, random_bytes=1 << 20)
        self.disk = doors.Disk(self.case, self.way, self.image, self.queues, door_options=['-o', 'read-only=on'])
        self.guest = self.boot()

    def look_at_policy(self):
        check(not self.disk.told['read_only'], 'the back-end is read-only itself')
        facts = self.guest.run('facts')
        for name in 'discard_max_hw_bytes', 'write_zeroes_max_bytes':
            check(facts[name] == ['0'], f'{name} is {facts[name]} in the guest')
        self.look()
