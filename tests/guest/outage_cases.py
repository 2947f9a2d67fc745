# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A process dies while the guest's requests are in flight. If it is the back-end or the relay, the guest must not notice,
unless no record of the requests survives. If it is QEMU, the other processes must serve the next QEMU.
"""
import json
import signal

import disk_cases
import doors
import groups
import huge_pages
import linux
import peer
from peer import check

KILLS = 20
HUGE_PAGES_OF_A_GUEST = 128  # of 2 MiB: see qemu.MEMORY
RESTARTS = 3


class BackendKilled(disk_cases.Machine):
    """With an in-flight area or shadow rings, the next back-end completes the requests of a killed back-end."""
    cases = [(f'the back-end is killed {KILLS} times under a verified load', 'kill_under_load')]

    @classmethod
    def cases_for(cls, way):
        return cls.cases if way.keeps_requests() else []

    def kill_under_load(self):
        self.guest.start_load()
        for number in range(KILLS):
            self.disk.kill()
            self.disk.start_again()
            # Some kills come shortly after the previous one, and others after many requests.
            self.guest.listen_for_more(1 if number % 2 else 100)
        self.guest.stop_load()
        self.files_survive()
        self.end()


class HugePages(disk_cases.Machine):
    """A guest whose memory can be mapped only in whole huge pages."""
    kills = 3
    pages = 0
    cases = [(f'the guest has huge pages, and the back-end is killed {kills} times', 'kill_under_load')]

    @classmethod
    def cases_for(cls, way):
        return cls.cases if way.keeps_requests() else []

    def open(self):
        try:
            self.pages = huge_pages.add(HUGE_PAGES_OF_A_GUEST)
        except PermissionError:
            raise peer.Skip('only root can reserve huge pages') from None
        if self.pages < HUGE_PAGES_OF_A_GUEST:
            raise peer.Skip(f'the host has {self.pages} huge pages to spare of {HUGE_PAGES_OF_A_GUEST}')
        super().open()

    def boot(self):
        return super().boot(memory=',hugetlb=on,hugetlbsize=2M')

    def kill_under_load(self):
        self.guest.start_load()
        for _ in range(self.kills):
            self.disk.kill()
            self.disk.start_again()
            self.guest.listen_for_more(100)
        self.guest.stop_load()
        self.files_survive()
        self.end()

    def drop(self):
        super().drop()
        if self.pages > 0:
            huge_pages.add(-self.pages)


class WithoutRecord(disk_cases.Machine):
    """No record of the requests survives the back-end. The case asks the device how many requests are outstanding."""
    def open(self):
        self.control = self.case.path('control')
        self.image = disk_cases.make_image(self.case)
        options = ['--control', self.control] if self.way.door.has_process else []
        self.disk = doors.Disk(self.case, self.way, self.image, self.queues, door_options=options)
        self.guest = self.boot()

    def status(self):
        return json.loads(self.case.run([self.way.program, 'ctl', self.control, 'status']))

    def count_outstanding(self):
        return sum(queue['outstanding'] or 0 for queue in self.status()['queues'])


class BackendKilledIdle(WithoutRecord):
    """Without an in-flight area, the disk continues if no request is outstanding."""
    queues = 1
    cases = [(f'the back-end is killed {RESTARTS} times while nothing is outstanding', 'kill_idle')]

    @classmethod
    def cases_for(cls, way):
        return [] if way.keeps_requests() else cls.cases

    def kill_idle(self):
        for number in range(1, RESTARTS + 1):
            self.guest.start_load()
            self.guest.stop_load()
            if self.way.door.has_process:
                check(self.count_outstanding() == 0, f'requests are outstanding without a load: {self.status()}')
            self.disk.kill()
            self.disk.start_again()
            if self.way.door.has_process:
                # Requests that the guest sends before the device notices the loss would count as outstanding.
                peer.wait_until(lambda: self.has_returned(number), 'the device does not find the next back-end')
        self.files_survive()
        self.end()

    def has_returned(self, outages):
        back_end = self.status()['back_end']
        return back_end['connected'] and back_end['outages'] >= outages


class BackendLost(WithoutRecord):
    """Without an in-flight area, a back-end is lost with requests outstanding. The device asks for a reset."""
    cases = [('the back-end is killed under load: the device asks for a reset, in words', 'lose')]

    @classmethod
    def cases_for(cls, way):
        return [] if way.keeps_requests() or not way.door.has_process else cls.cases

    def lose(self):
        self.guest.start_load()
        # A stopped back-end completes nothing, so requests are outstanding when it dies.
        peer.suspend(self.disk.child)
        peer.wait_until(lambda: self.count_outstanding() > 0, 'no request is outstanding under load')
        self.disk.kill()
        self.disk.start_again()
        peer.wait_until(lambda: 'must reset the device' in self.case.output(self.disk.door),
                        'the device says nothing of a reset')
        # Only a reset makes the disk usable again.
        self.guest.reset()
        self.files_survive()
        self.end()


class RelayRestarted(disk_cases.Machine):
    """When the relay ends, QEMU connects to the next relay, and passes the in-flight area to it."""
    restarts = 3
    cases = [(f'the relay is stopped {restarts} times by SIGTERM under a verified load', 'terminate'),
             (f'the relay is killed {restarts} times by SIGKILL under a verified load', 'kill')]

    @classmethod
    def cases_for(cls, way):
        return cls.cases if way.door.bus == 'vhost-user' and way.keeps_requests() else []

    def terminate(self):
        self.restart(self.disk.stop_door)

    def kill(self):
        self.restart(self.disk.kill_door)
        self.end()

    def restart(self, stop):
        self.guest.start_load()
        for _ in range(self.restarts):
            stop()
            self.disk.start_door_again()
            self.guest.listen_for_more(100)
        self.guest.stop_load()
        self.files_survive()


class QemuKilled(groups.Group):
    """When QEMU is killed, device and back-end continue to run, and serve the next QEMU."""
    cases = [('QEMU is killed under load, and the next finds all in order', 'kill_qemu')]

    def open(self):
        self.disk = doors.Disk(self.case, self.way, disk_cases.make_image(self.case), 4)

    def start_qemu(self):
        guest = linux.Guest(self.case, self.way.qemu, 4, [self.disk], self.load)
        guest.start_load()
        return guest

    def kill_qemu(self):
        before = len(self.disk.descriptors())
        self.start_qemu().kill()
        self.wait_for_descriptors(before)
        guest = self.start_qemu()
        guest.stop_load()
        guest.start_load()
        guest.kill()
        self.wait_for_descriptors(before)
        check(self.disk.child.poll() is None, 'the back-end has ended')
        self.disk.stop()

    def wait_for_descriptors(self, before):
        """
        Waits until the device has closed the descriptors of a dead QEMU. The device may keep one more than
        `before`, to watch the directory of its socket.
        """
        allowed = before + (1 if self.way.door.has_process else 0)
        try:
            peer.wait_until(lambda: len(self.disk.descriptors()) <= allowed, '')
        except peer.Failure:
            raise peer.Failure(f'{before} descriptors were open before QEMU came; these are after it has ended:\n'
                               + '\n'.join(self.disk.descriptors())) from None
