# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What an operator does while the guest writes: exchange the path of the requests, replace the process of the
relay or of the back-end, switch to another back-end of the same storage, kill the back-end in use, and move
the disk to other storage.
"""
import json
import subprocess

import disk_cases
import doors
import peer
import upgrading
from peer import check

# `make soak` repeats more often: see soak_rows.py.
TIMES = 10
EXCHANGES = 50
# The ways that the lane `guest` tests: each back-end, and each QEMU.
WAYS = [('vublk serve', 'system'), ('qemu-storage-daemon', 'newer')]


class Controlled(disk_cases.Machine):
    """A guest whose disk has a door with a control socket."""
    control = None  # the path of the control socket, which open() of a derived class sets

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
        # With `auto` and a back-end without an in-flight area, the relay offers QEMU an area of its own, so
        # the direct path is not possible.
        self.shadow = 'auto' if self.way.backend.has_inflight else 'off'
        self.image = disk_cases.make_image(self.case)
        self.control = self.case.path('control')
        first, second = self.case.path('first'), self.case.path('second')
        options = ['--control', self.control, '--chardev', second, '-o', f'shadow={self.shadow}', '-o', 'failover-ms=50']
        # Both back-ends have the image open, so neither locks it.
        self.disk = doors.Disk(self.case, self.way, self.image, self.queues, path=first, door_options=options,
                               **self.backend_options(first))
        self.children = {first: self.disk.child, second: None}
        self.start_backend(second)
        self.guest = self.boot()

    def backend_control(self, path):
        return path.with_name(f'{path.name}-control')

    def backend_options(self, path):
        control = {'control': self.backend_control(path)} if self.way.backend.is_replaceable else {}
        return {'is_shared': True, **control}

    def start_backend(self, path, image=None):
        self.children[path], _ = self.way.backend.start(self.case, image or self.image, queues=self.queues, path=path,
                                                        **self.backend_options(path))

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

    def replace(self, old, command, control, too_slow):
        """
        Starts a process that takes over from `old`, and returns it with the pause in microseconds. On a busy
        machine the upgrade may be too slow. Then the new process prints one of the words in `too_slow`, and
        the upgrade is tried again.
        """
        while True:
            new = self.case.start([self.way.program, command, '--take-over', control])
            if upgrading.has_replaced(self.case, old, new, too_slow, self.guest.wait_until):
                return new, upgrading.pause_of(self.case.output(new))

    def upgrade_once(self):
        self.disk.door, pause = self.replace(self.disk.door, 'device', self.control, ('needed more than 50 ms',))
        return pause

    def upgrade(self, times=TIMES):
        """Upgrades the relay, half of the times on each path. Returns the longest pause in microseconds."""
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

    def upgrade_backend(self, times=TIMES):
        """Upgrades the process of the back-end. Returns the longest pause in microseconds."""
        path, pauses = self.path_in_use(), []
        self.guest.start_load()
        for _ in range(times):
            self.children[path], pause = self.replace(self.children[path], 'serve', self.backend_control(path),
                                                      upgrading.Replaceable.too_slow)
            pauses.append(pause)
            self.guest.listen_for_more(1)
        self.guest.stop_load()
        self.check_outages(0)
        print(f'# {times} upgrades of the back-end: the longest pause was {max(pauses)} us', flush=True)
        return max(pauses)

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
        """Kills the back-end in use twice. Each time, the guest continues on the other back-end."""
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

    def move(self):
        """A mirror copies the disk to another image, and the guest continues there."""
        target = self.case.path('target')
        self.start_backend(target, disk_cases.make_image(self.case, name='copy'))
        outages = self.ctl('status')['back_end']['outages']
        self.guest.start_load()
        self.ctl('mirror', f'target={target}')
        self.guest.wait_until(lambda: self.ctl('mirror')['state'] == 'synced', f'the mirror is not synced: {self.log()}')
        self.ctl('switch')
        check(self.path_in_use() == target, f'the disk is not at {target}: {self.log()}')
        self.guest.listen_for_more()
        self.guest.stop_load()
        self.check_outages(outages)

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
             (f'the back-end is upgraded {TIMES} times under a verified load', 'upgrade_backend'),
             ('the back-end is killed under a verified load, and the guest continues on the other one', 'fail_over'),
             ('the disk is moved to another image under a verified load', 'move_and_end')]

    @classmethod
    def cases_for(cls, way):
        if way.door.name != 'relay' or (way.backend.name, way.qemu.name) not in WAYS:
            return []
        return [case for case in cls.cases if way.backend.is_replaceable or case[1] != 'upgrade_backend']

    def move_and_end(self):
        self.move()
        self.end()
