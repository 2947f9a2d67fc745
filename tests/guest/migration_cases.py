# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A guest moves from one QEMU to another on this host while it writes. Each QEMU has a door and a connection to a
back-end of its own. Both back-ends serve the same image.
"""
import disk_cases
import doors
import peer
from peer import check

MOVES = 2


class Moved(disk_cases.Machine):
    cases = [(f'the guest moves to another QEMU under load, {MOVES} times', 'move')]

    @classmethod
    def cases_for(cls, way):
        return cls.cases if way.door.is_migratable else []

    def open(self):
        # Measured with QEMU's own disk, with one and four processors, in one thread and in one thread per processor.
        if self.way.qemu.version < (8,):
            raise peer.Skip('this QEMU loses memory of a guest that it emulates and moves under load, '
                            'whatever disk that has')
        self.image = disk_cases.make_image(self.case)
        self.disk = doors.Disk(self.case, self.way, self.image, self.queues, is_shared=True)
        self.guest = self.boot()

    def move(self):
        self.guest.start_load()
        with self.disk.stopped_under_load(self.guest):
            for _ in range(MOVES):
                self.move_once()
                self.guest.listen_for_more()
            self.guest.stop_load()
        self.disk.stop()

    def move_once(self):
        """Moves the guest. It runs in the source until the target has its whole state, and then in the target."""
        source, source_disk = self.guest, self.disk
        self.disk = source_disk.another()
        path = self.case.path(f'migration-{len(self.case.children)}')
        target = self.boot(arguments=['-incoming', f'unix:{path}'])
        source.qmp('migrate-set-capabilities', capabilities=[{'capability': 'events', 'state': True}])
        source.qmp('migrate', uri=f'unix:{path}')
        outcome = source.event('MIGRATION', lambda data: data['status'] in ('completed', 'failed'))
        check(outcome['data']['status'] == 'completed', f'the migration failed: {source.qmp("query-migrate")}')
        target.continue_for(source)
        source.qmp('quit')
        source.wait()
        source.close()
        source_disk.leave()
        self.guest = target
