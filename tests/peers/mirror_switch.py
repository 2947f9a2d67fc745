#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A disk moves to other storage: `mirror`, then `switch`, under a load of mirror-load.c. Both images have the same bytes
before the switch, and afterwards the target has what the load wrote. Back-ends and the device are killed at each
step, a VM is migrated, and an upgrade is refused.

    mirror_switch.py VUBLK MIRROR-LOAD [-l] [-k] [WORD...]
"""
import hashlib
import json
import pathlib
import signal
import socket
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import mirror  # noqa: E402
import peer  # noqa: E402
from peer import check  # noqa: E402

VUBLK, MIRROR_LOAD = sys.argv[1:3] if len(sys.argv) > 2 else ('vublk', 'mirror-load')
MIB, SIZE, BLOCK = mirror.MIB, 32 * mirror.MIB, 4096
mirror.VUBLK, mirror.SIZE = VUBLK, SIZE


# With these options, a device does not lose a back-end that a case has stopped, however slow the machine is,
# and sends it no message that needs an answer.
PATIENT = ('-o', 'request-timeout-ms=100000', '-o', 'keepalive-ms=0', '-o', 'config-poll-ms=0')


class Disk(mirror.Disk):
    """A disk with a state file and a load that runs until finish()."""

    def __init__(self, case, kind='serve', load='writes'):
        self.device_arguments = ('-o', f'mirror-state={case.path("state")}', *PATIENT)
        super().__init__(case, kind, device_arguments=self.device_arguments)
        self.model, self.pauses = case.path('model'), 0
        words = ['writes'] if load == 'writes' else []
        self.bench = case.start([MIRROR_LOAD, self.vm, self.model, *words], stdin=subprocess.PIPE)
        self.wait_for_load()

    def ensure_load(self):
        """Checks that the load is running, because it does not end by itself."""
        check(self.bench.poll() is None, f'the load has ended: {self.case.output(self.bench)}{self.log()}')

    def tell_load(self):
        self.bench.stdin.write(b'\n')
        self.bench.stdin.flush()

    def pause(self):
        """Pauses the load. Returns when it has completed all of its requests and a flush."""
        self.pauses += 1
        self.tell_load()
        words = f'paused {self.pauses}\n'
        peer.wait_until(lambda: words in self.case.output(self.bench) or self.bench.poll() is not None,
                        lambda: f'the load does not pause: {self.log()}')
        self.ensure_load()

    def resume(self):
        self.tell_load()
        self.wait_for_load()

    def finish(self, name):
        """
        Ends the load, the device and the back-ends. Checks that image `name` has what the load wrote, and that the other
        one is refused.
        """
        self.bench.stdin.close()
        self.finish_load()
        code = self.case.stop(self.device)
        check(code == 0, f'the device ended with {code}: {self.log()}')
        self.check_refused('ab'.replace(name, ''), 'is out of date')
        self.stop()
        with open(self.images[name], 'rb') as image, open(self.model, 'rb') as model:
            for number in range(SIZE // BLOCK):
                block, expected = image.read(BLOCK), model.read(8 + BLOCK)
                check(not expected[0] or block == expected[8:],
                      f'block {number} of {name} is not what the load wrote: {self.log()}')

    def check_same(self):
        """Waits until the mirror is in step, and compares the images. The load must be paused."""
        self.wait_for_state('synced')
        peer.wait_until(lambda: not self.ctl('mirror')['behind_bytes'],
                        lambda: f'the mirror stays behind: {self.log()}')
        check(self.digest('a') == self.digest('b'), f'the images differ at {self.differences()}: {self.log()}')

    def digest(self, name):
        digest = hashlib.sha256()
        with open(self.images[name], 'rb') as image:
            while piece := image.read(MIB):
                digest.update(piece)
        return digest.digest()

    def path_in_use(self):
        return self.ctl('status')['back_end']['chardev']

    def reach(self, moment):
        """Begins a mirror, and waits until it is at this step."""
        rates = {'begin': 'rate=1M', 'half-way': 'rate=16M'}
        self.mirror(rates.get(moment, 'rate=0'))
        if moment == 'half-way':
            peer.wait_until(lambda: self.ctl('mirror')['synced_bytes'] >= SIZE // 2,
                            lambda: f'no progress: {self.log()}')
        elif moment != 'begin':
            self.wait_for_state('synced')

    def stop_process(self, name):
        peer.suspend(self.children[name])

    def continue_process(self, name):
        self.children[name].send_signal(signal.SIGCONT)

    def begin_switch(self):
        """
        Begins a switch that cannot end, because a back-end is stopped. Returns the process that waits for its
        answer.
        """
        command = self.case.start([VUBLK, 'ctl', self.control, 'switch'])
        peer.wait_until(lambda: 'switch' in self.ctl('status')['shadow']['reasons'] or command.poll() is not None,
                        lambda: f'no switch: {self.log()}')
        check(command.poll() is None, f'the switch has ended: {self.case.output(command)}{self.log()}')
        return command

    def wait_for_last_flush(self):
        """Waits until the plane has ended the mirror for the switch. The mirror has no progress then."""
        peer.wait_until(lambda: self.ctl('mirror')['size_bytes'] == 0,
                        lambda: f'the switch does not begin: {self.log()}')

    def hold_switch(self, stopped, load):
        """
        Begins a switch that cannot end, because a back-end is stopped. If the load is running, the stopped back-end has
        requests; if it is paused, it has the last flush. Returns the process that waits for the answer.
        """
        self.reach('synced')
        if load == 'paused':
            self.pause()
            self.check_same()
        self.stop_process(stopped)
        command = self.begin_switch()
        if load == 'paused':
            self.wait_for_last_flush()
        return command

    def kill_device(self):
        self.device.kill()
        self.device.wait()

    def restart_device(self, path='a'):
        self.start_device(*self.device_arguments, path=path)
        self.ensure_load()


# --- without losses --------------------------------------------------------------------------

def switched(case, kind, load):
    """
    Whenever the load pauses, both images are the same. The disk is switched under the load, even if the load
    discards all the time. After the switch, A gets no more writes.
    """
    disk = Disk(case, kind, load)
    disk.mirror()
    for _ in range(3):
        disk.pause()
        disk.check_same()
        disk.resume()
    disk.wait_for_state('synced')
    disk.ctl('switch')
    digest = disk.digest('a')
    check(disk.path_in_use() == str(disk.paths['b']), 'the disk is not at B')
    disk.pause()
    disk.resume()
    disk.finish('b')
    check(disk.digest('a') == digest, 'A was written to after the switch')
    check(disk.digest('b') != digest, 'B was not written to after the switch')


# --- losses -------------------------------------------------------------------------------------

def check_stays(disk, command):
    """Checks that the switch has failed, and that the disk is at A."""
    code = command.wait(peer.LIMIT_S)
    words = f"the disk stays at '{disk.paths['a']}'"
    check(code == 1 and words in disk.case.output(command), f'{disk.case.output(command)}{disk.log()}')
    check(disk.path_in_use() == str(disk.paths['a']), 'the disk is not at A')


def check_ended(disk):
    """Checks that the mirror has ended, and that the command and the log say why."""
    state = disk.wait_for_state('none')
    check(state['reason'] and f"the mirror at '{disk.paths['b']}' has ended: {state['reason']}" in disk.log(),
          f'{state}{disk.log()}')


def end_at_b(disk):
    """Mirrors the disk to B, and switches."""
    disk.reach('synced')
    disk.pause()
    disk.check_same()
    disk.resume()
    disk.ctl('switch')
    disk.finish('b')


def source_killed(case, moment):
    """A is killed twice. The mirror continues with the next back-end of A."""
    disk = Disk(case)
    disk.reach(moment)
    for _ in range(2):
        disk.kill('a')
        disk.start('a')
        disk.wait_for_load()
        check(disk.ctl('mirror')['state'] in ('copying', 'synced'), disk.log())
        check(disk.path_in_use() == str(disk.paths['a']), 'the disk is not at A')
    end_at_b(disk)


def target_killed(case, moment):
    """B is killed. The load does not notice, and A's image is up to date."""
    disk = Disk(case)
    disk.reach(moment)
    disk.kill('b')
    check_ended(disk)
    disk.pause()
    disk.resume()
    check(disk.ctl('status')['back_end']['outages'] == 0, disk.log())
    disk.start('b')
    end_at_b(disk)


def killed_in_switch(case, victim, stopped, load):
    """
    During a switch one back-end is stopped, and one is killed. If the load is running, the stopped back-end
    has requests; if the load is paused, the stopped back-end has the last flush. The disk stays at A.
    """
    disk = Disk(case)
    command = disk.hold_switch(stopped, load)
    disk.kill(victim)
    if victim != stopped:
        disk.continue_process(stopped)
    disk.start(victim)
    check_stays(disk, command)
    if load == 'paused' or victim == 'b':
        check_ended(disk)
        disk.resume() if load == 'paused' else disk.pause() or disk.resume()
    end_at_b(disk)


def killed_after_switch(case):
    """B is killed when the disk has moved to it. The load waits for the next back-end there, and A is refused."""
    disk = Disk(case)
    disk.reach('synced')
    disk.ctl('switch')
    for _ in range(3):
        disk.kill('b')
        disk.start('b')
        disk.pause()
        disk.resume()
        check(disk.path_in_use() == str(disk.paths['b']), 'the disk is not at B')
    disk.finish('b')


def device_killed(case, moment):
    """The device is killed several times. A is up to date, B is refused, and the load continues on A."""
    disk = Disk(case)
    for _ in range(3):
        disk.reach(moment)
        disk.kill_device()
        disk.check_refused('b', 'is out of date')
        disk.restart_device()
        disk.pause()
        disk.resume()
    end_at_b(disk)


def device_killed_in_switch(case, stopped, load):
    """The device is killed while a back-end has requests, or B has the last flush of a switch. A is up to date."""
    disk = Disk(case)
    for _ in range(3):
        command = disk.hold_switch(stopped, load)
        disk.kill_device()
        disk.continue_process(stopped)
        check(command.wait(peer.LIMIT_S) == 1, disk.case.output(command))
        disk.check_refused('b', 'is out of date')
        disk.restart_device()
        if load != 'paused':
            disk.pause()
        disk.resume()
    end_at_b(disk)


# --- what a mirror excludes ------------------------------------------------------------------------

def upgrade_refused(case):
    """At each step, an upgrade is refused in one sentence, and the mirror continues."""
    disk = Disk(case)

    def refused():
        result = case.call([VUBLK, 'device', '--take-over', disk.control])
        check(result.code == 1 and 'mirror' in result.err and result.err.count('\n') == 1, str(result))

    for moment in ('begin', 'half-way', 'synced'):
        disk.reach(moment)
        before = disk.ctl('mirror')
        refused()
        after = disk.ctl('mirror')
        check(after['state'] in (before['state'], 'synced') and after['synced_bytes'] >= before['synced_bytes'],
              f'{before}, {after}')
    disk.stop_process('b')
    command = disk.begin_switch()
    refused()
    disk.continue_process('b')
    check(command.wait(peer.LIMIT_S) == 0, f'{case.output(command)}{disk.log()}')
    disk.finish('b')


class Qemu:
    """A VM without an operating system. Its firmware starts the rings of the disk, and finds nothing to boot."""

    def __init__(self, case, vm):
        peer.need('qemu-system-x86_64')
        path = case.path('qmp')
        self.child = case.start([
            'qemu-system-x86_64', '-machine', 'q35,accel=tcg', '-m', '64', '-display', 'none', '-nodefaults',
            '-object', 'memory-backend-memfd,id=memory,size=64M,share=on', '-numa', 'node,memdev=memory',
            '-chardev', f'socket,id=disk,path={vm},reconnect=1', '-device',
            'vhost-user-blk-pci,chardev=disk,num-queues=1,bootindex=0', '-qmp', f'unix:{path},server=on,wait=off'])
        peer.wait_for_socket(case, self.child, path)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile('rw')
        self.lines.readline()
        self.qmp('qmp_capabilities')

    def qmp(self, command, **arguments):
        self.lines.write(json.dumps({'execute': command, 'arguments': arguments}) + '\n')
        self.lines.flush()
        while line := self.lines.readline():
            reply = json.loads(line)
            if 'event' not in reply:
                check('return' in reply, f'{command}: {line}')
                return reply['return']
        raise peer.Failure(f'QEMU ended with {self.child.wait(peer.LIMIT_S)} in {command}')

    def close(self):
        self.lines.close()
        self.socket.close()


def migrated(case):
    """A migration of the VM ends the mirror, with a reason, and succeeds. QEMU would abort if it were refused."""
    disk = mirror.Disk(case)
    qemu = Qemu(case, disk.vm)
    peer.wait_until(lambda: any(queue['size'] for queue in disk.ctl('status')['queues']), 'no ring is started')
    disk.bench = qemu.child
    disk.mirror()
    disk.wait_for_state('synced')
    qemu.qmp('migrate', uri=f'exec:cat > {case.path("vm")}')
    check_ended(disk)
    check('migrate' in disk.ctl('mirror')['reason'], str(disk.ctl('mirror')))
    result = disk.call('mirror', f'target={disk.paths["b"]}')
    if result.code:  # the migration has not ended
        check('the VM is being migrated' in result.err, str(result))
    peer.wait_until(lambda: qemu.qmp('query-migrate')['status'] not in ('setup', 'active', 'device'), 'no end')
    check(qemu.qmp('query-migrate')['status'] == 'completed', str(qemu.qmp('query-migrate')))
    check('refused' not in disk.log(), disk.log())
    qemu.qmp('quit')
    check(qemu.child.wait(peer.LIMIT_S) == 0, case.output(qemu.child))
    qemu.close()
    disk.stop()


def bind(function, *arguments):
    return lambda case: function(case, *arguments)


# A needs no last flush if the load is paused, because the load has flushed.
IN_SWITCH = (('a', 'running'), ('b', 'running'), ('b', 'paused'))
MOMENTS = ('begin', 'half-way', 'synced')
CASES = [
    ('switched under load', bind(switched, 'serve', 'writes')),
    ('switched, discards', bind(switched, 'serve', 'all')),
    ('switched, qemu-storage-daemon', bind(switched, 'qemu', 'all')),
    *((f'source killed, {moment}', bind(source_killed, moment)) for moment in MOMENTS),
    *((f'target killed, {moment}', bind(target_killed, moment)) for moment in MOMENTS),
    *((f'{victim} killed in a switch, {stopped} stopped, load {load}', bind(killed_in_switch, victim, stopped, load))
      for victim in 'ab' for stopped, load in IN_SWITCH),
    killed_after_switch,
    *((f'device killed, {moment}', bind(device_killed, moment)) for moment in MOMENTS),
    *((f'device killed in a switch, {stopped} stopped, load {load}', bind(device_killed_in_switch, stopped, load))
      for stopped, load in IN_SWITCH),
    upgrade_refused, migrated,
]

if __name__ == '__main__':
    sys.exit(peer.main(CASES, sys.argv[3:]))
