#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The command `mirror` of `vublk device` with real back-ends: a disk is copied under a verified load, back-ends are
killed meanwhile, and in the end both images have the same bytes.

    mirror.py VUBLK [-l] [-k] [WORD...]
"""
import json
import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import peer  # noqa: E402
from peer import check  # noqa: E402

VUBLK = sys.argv[1] if len(sys.argv) > 1 else 'vublk'
MIB = 1 << 20
SIZE = 64 * MIB
PART = 8 * MIB  # the part of the disk that a load uses
CAUTIOUS = ('-o', 'inflight=off')  # the requests of a back-end that is killed are unknown


class Disk:
    """Two images with different contents, a back-end for each, and a device on the first one."""

    def __init__(self, case, kind='serve', backend_arguments=(), device_arguments=()):
        self.case, self.kind, self.arguments = case, kind, backend_arguments
        self.images = {name: case.path(f'{name}.img') for name in 'ab'}
        self.paths = {name: case.path(f'{name}.sock') for name in 'ab'}
        self.children, self.bench = {}, None
        for image in self.images.values():
            image.write_bytes(os.urandom(MIB) * (SIZE // MIB))
        for name in 'ab':
            self.start(name)
        self.start_device(*device_arguments)

    def start(self, name):
        path = self.paths[name]
        if path.exists():
            path.unlink()
        if self.kind == 'qemu':
            peer.need('qemu-storage-daemon')
            self.children[name], _ = peer.StorageDaemon().start(self.case, self.images[name], 2, path=path)
            return
        self.children[name] = self.case.start([VUBLK, 'serve', '--socket-path', path, '--blk-file', self.images[name],
                                               '--num-queues', 2, *self.arguments])
        peer.wait_for_socket(self.case, self.children[name], path)

    def check_refused(self, name, words):
        """Checks that a device with the state file refuses the back-end."""
        result = self.case.call([VUBLK, 'device', '--chardev', self.paths[name], '--bus',
                                 f'vhost-user:{self.case.path("refused.sock")}', '-o',
                                 f'mirror-state={self.case.path("state")}'])
        check(result.code == 1 and words in result.err, f'expected "{words}": {result}')

    def start_device(self, *arguments, path='a'):
        self.vm, self.control = self.case.path('vm.sock'), self.case.path('ctl')
        for path_of_last in (self.vm, self.control):
            path_of_last.unlink(missing_ok=True)
        self.device = self.case.start([VUBLK, 'device', '--chardev', f'path={self.paths[path]},reconnect-ms=20',
                                       '--bus', f'vhost-user:{self.vm}', '--control', self.control, *arguments])
        peer.wait_for_socket(self.case, self.device, self.vm)

    def kill(self, name):
        self.children[name].kill()
        self.children[name].wait()

    def load(self, runtime=4, *arguments):
        self.bench = self.case.start([VUBLK, 'bench', self.vm, '--rw', 'randrw', '--runtime', runtime, '--verify',
                                      '--numjobs', 2, '--iodepth', 16, '--time_based', *arguments])
        self.wait_for_load()

    def wait_for_load(self):
        """Waits until requests pass through the device."""
        def moves():
            return any(queue['outstanding'] for queue in self.ctl('status')['queues'])
        peer.wait_until(lambda: moves() or self.bench.poll() is not None, 'the load does not begin')

    def call(self, *arguments):
        return self.case.call([VUBLK, 'ctl', self.control, *arguments])

    def ctl(self, *arguments):
        result = self.call(*arguments)
        check(result.code == 0, f'{result}{self.log()}')
        return json.loads(result.out)

    def ensure_load(self):
        """Starts another load if the last one has ended, because a disk that no VM uses is not copied."""
        if self.bench.poll() is not None:
            self.finish_load()
            self.load()

    def mirror(self, *arguments):
        """Begins a mirror. Asks again while the device is starting, as it may be when the load has just connected."""
        self.ensure_load()
        answer = None

        def has_begun():
            nonlocal answer
            answer = self.call('mirror', f'target={self.paths["b"]}', *arguments)
            return 'the device is starting' not in answer.err
        peer.wait_until(has_begun, 'the device does not start')
        check(answer.code == 0, f'{answer}{self.log()}')
        return json.loads(answer.out)

    def wait_for_state(self, *states):
        def is_reached():
            if 'synced' in states:
                self.ensure_load()
            return self.ctl('mirror')['state'] in states
        peer.wait_until(is_reached,
                        lambda: f'the mirror does not become {" or ".join(states)}: {self.ctl("mirror")}{self.log()}')
        return self.ctl('mirror')

    def wait_for_marks(self, path, size):
        """Waits until no region is marked in the state file except those of the first `size` bytes."""
        def is_reached():
            self.ensure_load()
            bitmap = path.read_bytes()[8192:8192 + SIZE // MIB // 8]  # 0: the region is marked
            return all(byte == 0xff for byte in bitmap[size // MIB // 8:])
        peer.wait_until(is_reached, 'the marks are not removed')

    def log(self):
        return self.case.output(self.device)

    def finish_load(self):
        code = self.bench.wait(peer.LIMIT_S)
        check(code == 0, f'the load ended with {code}: {self.case.output(self.bench)}{self.log()}')
        check('all correct' in self.case.output(self.bench), self.case.output(self.bench))
        peer.check_no_reset(self.log())

    def check_identical(self):
        """Ends the mirror, the device and the back-ends, and compares the images."""
        self.wait_for_state('synced')
        self.finish_load()
        self.ctl('mirror', 'stop')
        check(self.ctl('mirror')['state'] == 'none', 'the mirror has not ended')
        self.stop()
        same = self.images['a'].read_bytes() == self.images['b'].read_bytes()
        check(same, f'the images differ: {self.differences()}{self.log()}')

    def differences(self):
        a, b = (self.images[name].read_bytes() for name in 'ab')
        return [at for at in range(0, SIZE, 4096) if a[at:at + 4096] != b[at:at + 4096]][:20]

    def stop(self):
        code = self.case.stop(self.device)
        check(code == 0, f'the device ended with {code}: {self.log()}')
        for child in self.children.values():
            child.send_signal(signal.SIGTERM)
            child.wait(peer.LIMIT_S)


def under_load(case, kind):
    """The disk is copied under a load, and later writes reach both images."""
    disk = Disk(case, kind)
    disk.load()
    result = disk.mirror()
    check(result['size_bytes'] == SIZE and result['target'] == str(disk.paths['b']), str(result))
    disk.check_identical()


def source_killed(case, kind, arguments, moment):
    """A is killed, and the mirror continues with the back-end that replaces it."""
    disk = Disk(case, kind, arguments, ('-o', 'shadow=on'))
    disk.load(6)
    disk.mirror(*(['rate=8M'] if moment == 'copying' else []))
    disk.wait_for_state(moment)
    for _ in range(3):
        disk.kill('a')
        disk.start('a')
        disk.wait_for_state('copying', 'synced')
    disk.mirror()
    disk.check_identical()


def target_killed(case, moment):
    """B is killed: the mirror ends, and the load does not notice. Then the disk is mirrored to the next B."""
    disk = Disk(case)
    disk.load(6)
    disk.mirror(*(['rate=8M'] if moment == 'copying' else []))
    disk.wait_for_state(moment)
    disk.kill('b')
    state = disk.wait_for_state('none')
    check(state['reason'], str(state))
    check(f"the mirror at '{disk.paths['b']}' has ended" in disk.log(), disk.log())
    disk.start('b')
    disk.mirror()
    disk.check_identical()


def target_hangs(case):
    """B is stopped: the mirror ends after request-timeout-ms."""
    disk = Disk(case, device_arguments=('-o', 'shadow=on', '-o', 'request-timeout-ms=8000'))
    disk.load(15)
    disk.mirror()
    disk.wait_for_state('synced')
    peer.suspend(disk.children['b'])
    disk.wait_for_state('none')
    disk.finish_load()
    disk.children['b'].send_signal(signal.SIGCONT)
    disk.stop()


def switched(case, kind):
    """The disk moves to B under a load. From then on, a device with the state file refuses A."""
    disk = Disk(case, kind, device_arguments=('-o', f'mirror-state={case.path("state")}'))
    disk.load(8)
    disk.mirror()
    disk.wait_for_state('synced')
    disk.ensure_load()
    disk.ctl('switch')
    check(disk.ctl('status')['back_end']['chardev'] == str(disk.paths['b']), 'the disk is not at B')
    disk.finish_load()
    check(case.stop(disk.device) == 0, disk.log())
    disk.check_refused('a', 'is out of date')
    disk.start_device('-o', f'mirror-state={case.path("state")}', path='b')
    disk.stop()


def device_killed(case, moment):
    """
    The device is killed. Afterwards B is refused, because this copy may differ, and A is accepted. Then the
    mirror is resumed. It copies only regions that had not been copied, or that were written since shortly
    before the death.
    """
    arguments = ('-o', f'mirror-state={case.path("state")}')
    disk = Disk(case, device_arguments=arguments)
    disk.load(60, '--size', PART)
    disk.mirror(*(['rate=8M'] if moment == 'copying' else []))
    disk.wait_for_state(moment)
    if moment == 'synced':
        disk.wait_for_marks(case.path('state'), PART)
    disk.device.kill()
    disk.device.wait()
    disk.bench.wait()
    disk.check_refused('b', 'is out of date')
    info = case.call([VUBLK, 'info', '-o', f'mirror-state={case.path("state")}', disk.paths['a']])
    check(info.code == 0, f'{info}')
    disk.start_device(*arguments)
    check(f"the mirror of this disk to '{disk.paths['b']}' was interrupted" in disk.log(), disk.log())
    check('was interrupted' in disk.ctl('mirror')['reason'], 'the state does not show the interrupted mirror')
    disk.check_refused('b', 'is in use by another device')
    disk.load(8, '--size', PART)
    result = disk.mirror('rate=1M')  # slow, so that not much has been copied when the state is read
    result = disk.wait_for_state('copying', 'synced')
    left = SIZE - result['synced_bytes']
    check('is resumed: ' in disk.log(), disk.log())
    if moment == 'synced':
        check(left <= SIZE // 4, f'{left} bytes are copied again')
    disk.mirror('rate=0')
    disk.check_identical()


def file_fails(case, fail):
    """The state file is truncated or removed: the mirror ends with the reason, and the load does not notice."""
    path = case.path('state')
    disk = Disk(case, device_arguments=('-o', f'mirror-state={path}'))
    disk.load(8)
    disk.mirror()
    disk.wait_for_state('synced')
    fail(path)
    state = disk.wait_for_state('none')
    check('state file' in state['reason'], str(state))
    disk.finish_load()
    disk.stop()


def rate(case):
    """A rate limits the copy, and can be changed."""
    disk = Disk(case)
    disk.load(8)
    disk.mirror('rate=1M')
    state = disk.ctl('mirror')
    check(state['state'] == 'copying' and state['rate'] == MIB and state['synced_bytes'] < SIZE, str(state))
    disk.mirror('rate=0')
    disk.check_identical()


def refused(case):
    """Targets that cannot be used are refused, and so are actions that a mirror excludes. The load continues."""
    disk = Disk(case)
    disk.load(4)

    def fails(words, *arguments):
        result = disk.call('mirror', *arguments)
        check(result.code == 1 and words in result.err, f'expected "{words}": {result}')

    fails('is a path of the disk itself', f'target={disk.paths["a"]}')
    fails('does not exist', f'target={case.path("none")}')
    fails("'rate' needs 'target'", 'rate=1')
    small, path = case.path('small.img'), case.path('small.sock')
    small.write_bytes(bytes(MIB))
    child = case.start([VUBLK, 'serve', '--socket-path', path, '--blk-file', small, '--num-queues', 2])
    peer.wait_for_socket(case, child, path)
    fails('cannot be the target', f'target={path}')
    disk.mirror('rate=1M')
    fails('the disk is being mirrored to', f'target={path}')
    result = case.call([VUBLK, 'device', '--take-over', disk.control])
    check(result.code == 1 and 'mirror' in result.err, f'the upgrade was not refused: {result}')
    disk.ctl('mirror', 'stop')
    disk.finish_load()
    disk.stop()


CASES = [
    ('under load', lambda case: under_load(case, 'serve')),
    ('under load, qemu-storage-daemon', lambda case: under_load(case, 'qemu')),
    ('source killed while copying', lambda case: source_killed(case, 'serve', (), 'copying')),
    ('source killed while synced', lambda case: source_killed(case, 'serve', (), 'synced')),
    ('source without area killed while copying', lambda case: source_killed(case, 'serve', CAUTIOUS, 'copying')),
    ('source without area killed while synced', lambda case: source_killed(case, 'serve', CAUTIOUS, 'synced')),
    ('source killed, qemu-storage-daemon', lambda case: source_killed(case, 'qemu', (), 'synced')),
    ('target killed while copying', lambda case: target_killed(case, 'copying')),
    ('target killed while synced', lambda case: target_killed(case, 'synced')),
    ('switched', lambda case: switched(case, 'serve')),
    ('switched, qemu-storage-daemon', lambda case: switched(case, 'qemu')),
    ('device killed while copying', lambda case: device_killed(case, 'copying')),
    ('device killed while synced', lambda case: device_killed(case, 'synced')),
    ('state file truncated', lambda case: file_fails(case, lambda path: os.truncate(path, 4096))),
    ('state file removed', lambda case: file_fails(case, lambda path: path.unlink())),
    target_hangs, rate, refused,
]

if __name__ == '__main__':
    sys.exit(peer.main(CASES, sys.argv[2:]))
