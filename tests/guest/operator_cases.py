# SPDX-License-Identifier: LGPL-2.1-or-later
"""
An operator changes the relay while the guest writes: exchanges the path of the requests, replaces the relay's process
by another one, switches to another back-end of the same storage, and loses the back-end that the disk is on.
"""
import json
import re
import subprocess

import disk_cases
import doors
import peer
from peer import check

TOO_SLOW = 'needed more than 50 ms'
# `make soak` repeats more often: see soak_rows.py.
TIMES = 10
EXCHANGES = 50
# The ways in which the lane `guest` does this: each back-end, and each QEMU.
WAYS = [('vublk serve', 'system'), ('qemu-storage-daemon', 'newer')]


class Controlled(disk_cases.Machine):
    """A guest whose disk has a door with a control socket."""
    control = None  # its path, which open() of a derived class sets

    def ctl(self, *words):
        command = [str(word) for word in (self.way.program, 'ctl', self.control, *words)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              preexec_fn=peer.tie_to_parent) as child:
            self.guest.wait_until(lambda: child.poll() is not None, f'no answer to {words}')
            answer = child.stdout.read()
        check(child.returncode == 0, f'{words}: {answer}{self.log()}')
        return json.loads(answer)

    def log(self):
        return self.case.output(self.disk.door)

    def check_no_reset(self):
        peer.check_no_reset(self.log())

    def check_outages(self, count):
        self.check_no_reset()
        found = self.ctl('status')['back_end']['outages']
        check(found == count, f'{found} outages, not {count}: {self.log()}')


class Relay(Controlled):
    """A guest, a relay, and two back-ends that serve the same image, at the paths `first` and `second`."""

    def open(self):
        # With `auto` and a back-end without an in-flight area, QEMU gets an area, so the direct path is not possible.
        self.shadow = 'auto' if self.way.backend.has_inflight else 'off'
        self.image = disk_cases.make_image(self.case)
        self.control = self.case.path('control')
        first, second = self.case.path('first'), self.case.path('second')
        options = ['--control', self.control, '--chardev', second, '-o', f'shadow={self.shadow}', '-o', 'failover-ms=50']
        # Both have the image open, so neither locks it.
        self.disk = doors.Disk(self.case, self.way, self.image, self.queues, path=first, door_options=options,
                               is_shared=True)
        self.children = {first: self.disk.child, second: None}
        self.start_backend(second)
        self.guest = self.boot()

    def start_backend(self, path):
        self.children[path], _ = self.way.backend.start(self.case, self.image, queues=self.queues, path=path,
                                                        is_shared=True)

    # --- the path of the requests ---

    def set_path(self, path):
        answer = self.ctl('shadow', 'on' if path == 'shadow' else 'off')
        check(answer['path'] == path, f'{answer}{self.log()}')

    def exchange(self, times=EXCHANGES):
        self.guest.start_load()
        path = self.ctl('status')['shadow']['path']
        for _ in range(times):
            path = 'direct' if path == 'shadow' else 'shadow'
            self.set_path(path)
            self.guest.listen_for_more(1)
        self.guest.stop_load()
        self.check_outages(0)
        self.ctl('shadow', self.shadow)

    # --- the process ---

    def upgrade_once(self):
        """Returns the pause in microseconds. An upgrade that a busy machine makes too slow is tried again."""
        while True:
            new = self.case.start([self.way.program, 'device', '--take-over', self.control])
            self.guest.wait_until(
                lambda: 'the upgrade is complete' in self.case.output(new) or new.poll() is not None, 'the upgrade does not end')
            if new.poll() is None:
                break
            check(TOO_SLOW in self.case.output(new), f'the upgrade failed: {self.case.output(new)}{self.log()}')
        code = self.disk.door.wait(peer.LIMIT_S)
        check(code == 0, f'the old process ended with {code}: {self.log()}')
        self.disk.door = new
        return int(re.search(r'requests were paused for (\d+) us', self.log())[1])

    def upgrade(self, times=TIMES):
        """Half of the upgrades on each path. Returns the longest pause in microseconds."""
        pauses = {'direct': [], 'shadow': []}
        self.guest.start_load()
        for path, found in pauses.items():
            self.set_path(path)
            for _ in range(times // 2):
                self.guest.wait_until(lambda: self.ctl('status')['shadow']['path'] == path, f'the path is not {path}')
                found.append(self.upgrade_once())
                self.guest.listen_for_more(1)
            print(f'# {times // 2} upgrades on the {path} path: the longest pause was {max(found)} us', flush=True)
        self.guest.stop_load()
        self.check_outages(0)
        self.ctl('shadow', self.shadow)
        return max(pauses['direct'] + pauses['shadow'])

    # --- the back-end ---

    def path_in_use(self):
        path = self.ctl('status')['back_end']['chardev']
        return next(known for known in self.children if str(known) == path)

    def other_path(self, path):
        return next(known for known in self.children if known != path)

    def switch(self, times=TIMES):
        self.guest.start_load()
        for _ in range(times):
            path = self.other_path(self.path_in_use())
            self.ctl('switch', f'to={path}')
            check(self.path_in_use() == path, f'the disk is not at {path}: {self.log()}')
            self.guest.listen_for_more(1)
        self.guest.stop_load()
        self.check_outages(0)

    def fail_over(self):
        """The back-end that is in use is killed, so the guest continues on the other one; and back again."""
        if not self.way.backend.has_inflight:
            self.set_path('shadow')
        self.guest.start_load()
        for kills in 1, 2:
            path = self.path_in_use()
            self.children[path].kill()
            self.children[path].wait()
            self.guest.wait_until(lambda: self.path_in_use() != path, f'the disk stays at {path}')
            self.guest.listen_for_more()
            self.check_outages(kills)
            self.start_backend(path)
        self.guest.stop_load()

    def end(self):
        self.guest.power_off()
        self.disk.stop_door()
        for child in self.children.values():
            self.way.backend.stop(self.case, child)


class Operated(Relay):
    """The last case ends the machine."""
    cases = [(f'the path is exchanged {EXCHANGES} times under a verified load', 'exchange'),
             (f'the relay is upgraded {TIMES} times under a verified load', 'upgrade'),
             (f'the disk switches {TIMES} times between two back-ends under a verified load', 'switch'),
             ('the back-end is killed under a verified load, and the guest continues on the other one', 'lose')]

    @classmethod
    def cases_for(cls, way):
        return cls.cases if way.door.name == 'relay' and (way.backend.name, way.qemu.name) in WAYS else []

    def lose(self):
        self.fail_over()
        self.end()
