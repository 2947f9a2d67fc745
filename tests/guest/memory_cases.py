# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Changes while requests pass through shadow rings: a part of the guest's memory is plugged in and unplugged,
and the write cache of the back-end is set.
"""
import disk_cases
from peer import check

MIB = 1 << 20
DIMM_BYTES = 256 * MIB
PLUGS = 3
ABOVE = 4096  # MiB: QEMU plugs memory in above this address


class Changing(disk_cases.Machine):
    cases = [(f'memory is plugged in and unplugged {PLUGS} times under a verified load', 'plug'),
             ('the guest sets the write cache under a verified load', 'set_cache')]

    @classmethod
    def cases_for(cls, way):
        return cls.cases if way.door.bus == 'vhost-user' and way.door.has_plane else []

    def boot(self, **options):
        return super().boot(arguments=['-m', 'slots=1,maxmem=1G'], **options)

    def plug(self):
        self.guest.run('movable')
        for _ in range(PLUGS):
            self.guest.start_load()
            self.guest.qmp('object-add', qom_type='memory-backend-memfd', id='more', size=DIMM_BYTES, share=True)
            self.guest.qmp('device_add', driver='pc-dimm', id='dimm', memdev='more')
            self.guest.run('more', DIMM_BYTES >> 10)
            self.guest.listen_for_more()
            self.guest.stop_load()
            # The buffers of a new load are in the new memory, so its requests refer to this memory.
            self.guest.start_load()
            check(int(self.guest.last('buffers')) >= ABOVE, f'the buffers are not in the new memory: {self.guest.facts}')
            self.unplug()
            self.guest.listen_for_more()
            self.guest.stop_load()

    def unplug(self):
        self.guest.qmp('device_del', id='dimm')
        self.guest.event('DEVICE_DELETED', lambda data: data.get('device') == 'dimm')
        self.guest.qmp('object-del', id='more')

    def set_cache(self):
        self.guest.start_load()
        for mode in 2 * ['write through', 'write back'] + ['write through']:
            check(self.guest.run('wce', mode)['cache'] == [mode], f'the guest could not set {mode}')
            self.guest.listen_for_more()
        self.guest.stop_load()
        self.guest.power_off()
        self.disk.stop_door()
        check(not self.disk.info()['write_cache'], "the back-end's write cache is still on")
        self.disk.stop()
