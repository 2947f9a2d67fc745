#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
`vublk device` with several paths: back-ends of the same image are killed, stopped, missing or too
small, and a verified load has to continue on the next one, but never while the lost one could write.

    failover.py VUBLK [-l] [-k] [WORD...]
"""
import json
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import peer  # noqa: E402
from peer import check  # noqa: E402

VUBLK = sys.argv[1] if len(sys.argv) > 1 else 'vublk'
MIB = 1 << 20
SHADOW = ('-o', 'shadow=on')


class Disk:
    """An image, and back-ends of it at the paths a and b."""

    def __init__(self, case, size=32 * MIB):
        self.case = case
        self.image = case.path('image')
        self.paths = {name: case.path(f'{name}.sock') for name in 'abc'}
        self.children, self.relay, self.bench = {}, None, None
        with open(self.image, 'wb') as file:
            file.truncate(size)

    def start(self, name, image=None, *arguments):
        """Starts a back-end without a lock. Both back-ends have the image open, like gateways to a remote disk."""
        path = self.paths[name]
        if path.exists():
            path.unlink()
        child = self.case.start([VUBLK, 'serve', '--socket-path', path, '--blk-file', image or self.image,
                                 '--num-queues', 2, '-o', 'lock=off', '--control', self.control(name), *arguments])
        peer.wait_for_socket(self.case, child, path)
        peer.wait_for_socket(self.case, child, self.control(name))
        self.children[name] = child
        return child

    def control(self, name):
        return self.case.path(f'{name}.ctl')

    def start_relay(self, *arguments, wait=True):
        self.vm, self.ctl = self.case.path('vm.sock'), self.case.path('ctl')
        self.relay = self.case.start([
            VUBLK, 'device', '--chardev', f'path={self.paths["a"]},reconnect-ms=20', '--chardev', self.paths['b'],
            '--bus', f'vhost-user:{self.vm}', '--control', self.ctl, '-o', 'failover-ms=50', *arguments])
        if wait:
            peer.wait_for_socket(self.case, self.relay, self.vm)

    def load(self, runtime=4, *arguments):
        self.bench = self.case.start([VUBLK, 'bench', self.vm, '--rw', 'randrw', '--runtime', runtime, '--verify',
                                      '--numjobs', 2, *arguments])

    def served(self, name):
        """Returns whether the back-end has a front-end whose queues run."""
        status = json.loads(self.case.run([VUBLK, 'ctl', self.control(name), 'status']))
        return any(queue['running'] for queue in status['queues'])

    def used(self, name):
        """Returns how many requests the back-end has completed in this connection, modulo 65536."""
        status = json.loads(self.case.run([VUBLK, 'ctl', self.control(name), 'status']))
        return sum(queue['used_index'] for queue in status['queues'] if queue['running'])

    def wait_for_requests(self, name):
        peer.wait_until(lambda: self.used(name) > 1000 or self.bench.poll() is not None, f'{name} has no requests')
        check(self.bench.poll() is None, f'the bench ended: {self.case.output(self.bench)}')

    def kill(self, name):
        self.children[name].kill()
        self.children[name].wait()

    def log(self):
        return self.case.output(self.relay)

    def wait_for_log(self, words):
        peer.wait_until(lambda: words in self.log(), lambda: f'the log lacks "{words}": {self.log()}')

    def back_end(self):
        return json.loads(self.case.run([VUBLK, 'ctl', self.ctl, 'status']))['back_end']

    def path_in_use(self):
        return pathlib.Path(self.back_end()['chardev'])

    def waits_for(self):
        return self.back_end()['waits_for']

    def finish(self):
        code = self.bench.wait(peer.LIMIT_S)
        check(code == 0, f'the bench ended with {code}: {self.case.output(self.bench)}{self.log()}')
        check('all correct' in self.case.output(self.bench), self.case.output(self.bench))
        peer.check_no_reset(self.log())

    def stop(self):
        code = self.case.stop(self.relay)
        check(code == 0, f'the relay ended with {code}: {self.log()}')


def killed(case, backend_arguments, relay_arguments):
    """The load continues on B when A is killed, and on A when B is killed later."""
    disk = Disk(case)
    disk.start('a', None, *backend_arguments)
    disk.start('b', None, *backend_arguments)
    disk.start_relay(*relay_arguments)
    disk.load()
    for here, there in ('ab', 'ba', 'ab'):
        disk.wait_for_requests(here)
        disk.kill(here)
        peer.wait_until(lambda: disk.served(there), lambda: f'{there} is not used: {disk.log()}')
        check(f'the disk continues on back-end {disk.paths[there]}; it was on {disk.paths[here]}' in disk.log(),
              disk.log())
        check(disk.path_in_use() == disk.paths[there], str(disk.path_in_use()))
        disk.start(here, None, *backend_arguments)
    disk.finish()
    disk.stop()


def killed_storage_daemons(case):
    """The load also continues on the other back-end if both are qemu-storage-daemon, which has no in-flight area."""
    disk = Disk(case)
    daemon = peer.StorageDaemon()

    def start(name):
        peer.need('qemu-storage-daemon')
        if disk.paths[name].exists():
            disk.paths[name].unlink()
        # The first daemon locks the image, so the second one can start only after the end of the first one.
        disk.children[name], _ = daemon.start(case, disk.image, 2, path=disk.paths[name])

    start('a')
    disk.start_relay(*SHADOW)
    disk.load()
    for here, there in ('ab', 'ba', 'ab'):
        peer.wait_until(lambda: disk.path_in_use() == disk.paths[here], disk.log())
        disk.kill(here)
        start(there)
        peer.wait_until(lambda: disk.path_in_use() == disk.paths[there], disk.log())
    disk.finish()
    disk.stop()


def hangs(case):
    """While A is stopped but alive, B gets no request. When A has been killed, B gets the requests."""
    disk = Disk(case)
    a = disk.start('a')
    disk.start('b')
    disk.start_relay(*SHADOW, '-o', 'keepalive-ms=50', '-o', 'request-timeout-ms=2000')
    disk.load()
    disk.wait_for_requests('a')
    peer.suspend(a)
    disk.wait_for_log(f'process {a.pid} of the previous back-end is alive')
    check(f'end it (kill -KILL {a.pid})' in disk.log(), disk.log())
    check(not disk.served('b') and disk.path_in_use() == disk.paths['a'], 'B has the rings, and A is alive')
    check(disk.waits_for()['pid'] == a.pid and 'is alive' in disk.waits_for()['reason'], str(disk.waits_for()))
    disk.kill('a')
    disk.wait_for_log('the back-end process that the device waited for has ended')
    check(disk.waits_for() is None, str(disk.waits_for()))
    disk.finish()
    check(disk.path_in_use() == disk.paths['b'], str(disk.path_in_use()))
    disk.stop()


def hangs_and_continues(case):
    """When A is stopped and later continues, it gets the disk back. Meanwhile, B does not get the disk."""
    disk = Disk(case)
    a = disk.start('a')
    disk.start('b')
    disk.start_relay(*SHADOW, '-o', 'keepalive-ms=50', '-o', 'request-timeout-ms=2000')
    disk.load()
    disk.wait_for_requests('a')
    peer.suspend(a)
    disk.wait_for_log('is alive')
    a.send_signal(signal.SIGCONT)
    disk.finish()
    check(disk.path_in_use() == disk.paths['a'] and disk.used('b') == 0, 'B was used')
    check('continues on' not in disk.log(), disk.log())
    disk.stop()


def hangs_on_one_path(case):
    """
    With fence=exit, A is stopped, and another back-end replaces it at the same path. The device uses the new
    one only when A has ended, not when A continues and completes its writes.
    """
    disk = Disk(case)
    a = disk.start('a', None, '-o', 'inflight=off')
    disk.vm, disk.ctl = case.path('vm.sock'), case.path('ctl')
    disk.relay = case.start([VUBLK, 'device', '--chardev', f'path={disk.paths["a"]},reconnect-ms=20', '--bus',
                             f'vhost-user:{disk.vm}', '--control', disk.ctl, *SHADOW, '-o', 'keepalive-ms=50',
                             '-o', 'request-timeout-ms=2000', '-o', 'fence=exit'])
    peer.wait_for_socket(case, disk.relay, disk.vm)
    disk.load()
    disk.wait_for_requests('a')
    peer.suspend(a)
    disk.wait_for_log(f'cannot reconnect yet: process {a.pid} of the previous back-end is alive')
    check(disk.waits_for()['pid'] == a.pid, str(disk.waits_for()))
    disk.paths['b'] = disk.paths['a']
    disk.start('b', None, '-o', 'inflight=off')
    a.send_signal(signal.SIGCONT)
    for _ in range(20):
        check(not disk.served('b'), 'the next back-end is used, and A is alive')
    check(disk.bench.poll() is None, case.output(disk.bench))
    disk.kill('a')
    peer.wait_until(lambda: disk.served('b'), lambda: f'the next back-end is not used: {disk.log()}')
    disk.finish()
    disk.stop()


def smaller(case):
    """B's disk is smaller, so B is refused: its storage is not that of A. When A returns, the load continues."""
    disk = Disk(case)
    other = case.path('other')
    with open(other, 'wb') as file:
        file.truncate(16 * MIB)
    disk.start('a')
    disk.start('b', other)
    disk.start_relay(*SHADOW)
    disk.load()
    disk.wait_for_requests('a')
    disk.kill('a')
    disk.wait_for_log('the back-end has 32768 sectors, but the disk had 65536; all paths must lead to the same storage')
    check(not disk.served('b'), 'the smaller disk is used')
    disk.start('a')
    disk.finish()
    check(disk.path_in_use() == disk.paths['a'], str(disk.path_in_use()))
    disk.stop()


def both_lost(case, back):
    """If both are lost, the device looks for each of them in turn, and continues on the first one that returns."""
    disk = Disk(case)
    disk.start('a')
    disk.start('b')
    disk.start_relay(*SHADOW)
    disk.load(2)
    disk.wait_for_requests('a')
    disk.kill('b')
    disk.kill('a')
    disk.wait_for_log(f"at '{disk.paths['b']}' within 50 ms; the device now tries '{disk.paths['a']}'")
    disk.start(back)
    disk.finish()
    check(disk.path_in_use() == disk.paths[back], str(disk.path_in_use()))
    disk.stop()


def deadline(case):
    """reconnect-deadline-ms limits the search on all paths together."""
    disk = Disk(case)
    disk.start('a')
    disk.start_relay(*SHADOW, '-o', 'reconnect-deadline-ms=500')
    disk.kill('a')
    code = disk.relay.wait(peer.LIMIT_S)
    check(code == 1 and 'gave up reconnecting after 500 ms' in disk.log(), disk.log())
    check(f"now tries '{disk.paths['b']}'" in disk.log(), disk.log())


def first_is_missing(case):
    """If no process listens at A, the disk starts on B, and stays on B when A appears."""
    disk = Disk(case)
    disk.start('b')
    disk.start_relay()
    check(disk.path_in_use() == disk.paths['b'], str(disk.path_in_use()))
    check(f"the disk uses the back-end at '{disk.paths['b']}', because the socket '{disk.paths['a']}' does not exist" in disk.log(),
          disk.log())
    disk.start('a')
    disk.load(1)
    disk.finish()
    check(disk.path_in_use() == disk.paths['b'], str(disk.path_in_use()))
    disk.stop()


def both_are_missing(case):
    """If no process listens at either path, the message names both, and the first one that appears is used."""
    disk = Disk(case)
    disk.start_relay(wait=False)
    disk.wait_for_log(f"the socket '{disk.paths['a']}' does not exist; check the path, and start the back-end if it is "
                      f"not running; and the socket '{disk.paths['b']}' does not exist")
    disk.start('b')
    peer.wait_for_socket(case, disk.relay, disk.vm)
    disk.stop()


def first_hangs(case):
    """If a process listens at A but does not answer, B is not used, because the process may write to the disk."""
    disk = Disk(case)
    a = disk.start('a')
    peer.suspend(a)
    disk.start('b')
    disk.start_relay('-o', 'request-timeout-ms=100', wait=False)
    disk.wait_for_log(f"back-end '{disk.paths['a']}': the back-end did not answer")
    a.send_signal(signal.SIGCONT)
    peer.wait_for_socket(case, disk.relay, disk.vm)
    check(disk.path_in_use() == disk.paths['a'], str(disk.path_in_use()))
    disk.stop()


def refused(case):
    """Paths and properties that cannot work together are refused with a sentence."""
    a, b = case.path('a.sock'), case.path('b.sock')

    def fails(code, words, *arguments):
        result = case.call([VUBLK, 'device', '--bus', f'vhost-user:{case.path("vm.sock")}', *arguments])
        check(result.code == code and words in result.err, f'expected "{words}": {result}')

    fails(2, 'chardev-2 cannot be set with server=on', '--chardev', f'path={a},server=on', '--chardev', b)
    fails(2, 'are the same path', '--chardev', a, '--chardev', a)
    fails(2, 'chardev-3 is set, but chardev-2 is not', '--chardev', a, '-o', f'chardev-3={b}')
    fails(2, 'chardev-2 needs a device that reconnects', '--chardev', a, '--chardev', b, '-o', 'reconnect-ms=0')
    fails(2, 'at most 4 times', *[word for i in range(5) for word in ('--chardev', f'{a}{i}')])
    fails(2, 'chardev-2 and --bus are the same path', '--chardev', a, '--chardev', case.path('vm.sock'))


def switch(disk, name, code=0):
    """
    Switches to the path `name`, with the expected exit status `code`. Returns the sentence on standard error. Asks again
    while the device is starting or waits for its back-end, for example when a VM has just connected.
    """
    result = disk.case.call([VUBLK, 'ctl', disk.ctl, 'switch', f'to={disk.paths[name]}'])
    while 'try again' in result.err:
        result = disk.case.call([VUBLK, 'ctl', disk.ctl, 'switch', f'to={disk.paths[name]}'])
    check(result.code == code, f'expected exit {code}: {result}{disk.log()}')
    return result.err


def switch_under_load(disk, name):
    """Switches to the path `name` while the load runs. Returns False if the load has ended."""
    result = disk.case.call([VUBLK, 'ctl', disk.ctl, 'switch', f'to={disk.paths[name]}'])
    if disk.bench.poll() is not None:
        return False
    check(result.code == 0, f'{result}{disk.log()}')
    return True


def switched(case):
    """
    A hundred switches under a load. After each switch the disk is at the new path. A gets a flush before each switch
    to B.
    """
    disk = Disk(case)
    disk.start('a', None, '-o', 'inflight=off')
    disk.start('b', None, '-o', 'inflight=off')
    disk.start_relay(*SHADOW)
    case.run([VUBLK, 'ctl', disk.control('a'), 'stats', 'enable=true'])
    num_switches = 0
    while num_switches < 100:
        disk.load(12)
        here, there = 'ab' if disk.path_in_use() == disk.paths['a'] else 'ba'
        disk.wait_for_requests(here)
        while num_switches < 100 and switch_under_load(disk, there):
            check(not disk.served(here), f'{here} has rings')
            peer.wait_until(lambda: disk.used(there) or disk.bench.poll() is not None, f'{there} has no requests')
            num_switches += 1
            here, there = there, here
        disk.finish()
    stats = json.loads(case.run([VUBLK, 'ctl', disk.control('a'), 'stats']))
    flushes = sum(queue['requests'].get('flush', {}).get('count', 0) for queue in stats['queues'])
    check(flushes >= 40, f'A was left about 50 times, and has got {flushes} flushes')
    check('was lost' not in disk.log() and 'waits for a back-end' not in disk.log(), disk.log())
    disk.stop()


def switch_refused(case):
    """If the new back-end cannot be used, the old one keeps the disk, no request fails, and the answer says why."""
    disk = Disk(case)
    other = case.path('other')
    with open(other, 'wb') as file:
        file.truncate(16 * MIB)
    disk.start('a')
    disk.start_relay(*SHADOW, '-o', 'request-timeout-ms=500')
    disk.load()
    disk.wait_for_requests('a')
    check('does not exist' in switch(disk, 'b', 1), disk.log())
    check("is not one of the disk's paths" in switch(disk, 'c', 1), disk.log())
    b = disk.start('b', other)
    words = switch(disk, 'b', 1)
    check(f"the disk stays at '{disk.paths['a']}'" in words and 'the back-end has 32768 sectors' in words, words)
    peer.wait_until(lambda: disk.served('a'), lambda: f'the disk does not return: {disk.log()}')
    peer.suspend(b)
    words = switch(disk, 'b', 1)
    check('did not answer' in words and 'the disk stays' in words, words)
    disk.finish()
    check(disk.path_in_use() == disk.paths['a'], str(disk.path_in_use()))
    disk.stop()


def switch_during_an_outage(case):
    """During an outage, a switch is refused while A is stopped but alive, and succeeds when A has ended."""
    disk = Disk(case)
    a = disk.start('a')
    disk.start('b')
    disk.start_relay(*SHADOW, '-o', 'failover-ms=3600000', '-o', 'keepalive-ms=50', '-o', 'request-timeout-ms=2000')
    disk.load()
    disk.wait_for_requests('a')
    peer.suspend(a)
    disk.wait_for_log('cannot reconnect yet')
    peer.wait_until(lambda: f'process {a.pid} of the previous back-end is alive' in switch(disk, 'b', 1),
                    'the switch is not refused')
    disk.kill('a')
    peer.wait_until(lambda: case.call([VUBLK, 'ctl', disk.ctl, 'switch', f'to={disk.paths["b"]}']).code == 0,
                    'the switch is refused')
    disk.finish()
    check(disk.path_in_use() == disk.paths['b'], str(disk.path_in_use()))
    disk.stop()


def switch_clients(case):
    """Two clients switch in an outage. Each gets its own result, the second one when the disk is at its path."""
    disk = Disk(case)
    disk.start('a')
    disk.start_relay(*SHADOW, '-o', 'failover-ms=3600000')
    disk.load()
    disk.wait_for_requests('a')
    disk.kill('a')
    peer.wait_until(lambda: not disk.back_end()['connected'], 'the loss is not noticed')
    first = case.start([VUBLK, 'ctl', disk.ctl, 'switch', f'to={disk.paths["b"]}'])
    peer.wait_until(lambda: disk.path_in_use() == disk.paths['b'], lambda: f'the switch does not begin: {disk.log()}')
    second = case.start([VUBLK, 'ctl', disk.ctl, 'switch', f'to={disk.paths["a"]}'])
    check(first.wait(peer.LIMIT_S) == 1 and 'another switch was requested' in case.output(first), case.output(first))
    check(second.poll() is None, f'the switch ended in the outage: {case.output(second)}')
    disk.start('a')
    check(second.wait(peer.LIMIT_S) == 0, case.output(second))
    check(disk.path_in_use() == disk.paths['a'] and disk.back_end()['connected'], str(disk.back_end()))
    disk.finish()
    disk.stop()


def switch_without_flush(case, *relay_arguments):
    """
    If the old back-end fails to flush, the switch fails, and the old back-end keeps the disk. The shadow rings stay in
    use until the next flush of the load has failed.
    """
    peer.need('qemu-storage-daemon')
    disk = Disk(case)
    a = case.start(['qemu-storage-daemon',
                    '--blockdev', f'driver=file,node-name=file,filename={disk.image},locking=off',
                    '--blockdev', 'driver=blkdebug,node-name=disk,image=file,'
                    'inject-error.0.event=none,inject-error.0.iotype=flush,inject-error.0.once=on',
                    '--export', 'type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,'
                    f'addr.path={disk.paths["a"]},num-queues=2,writable=on'])
    peer.wait_for_socket(case, a, disk.paths['a'])
    disk.start('b', None, '-o', 'num-queues=2')
    disk.start_relay(*relay_arguments)
    disk.load(2)
    peer.wait_until(lambda: json.loads(case.run([VUBLK, 'ctl', disk.ctl, 'status']))['queues'], 'no VM runs')
    words = switch(disk, 'b', 1)
    check('the final flush of a switch failed' in words and 'the disk stays' in words, words)
    status = json.loads(case.run([VUBLK, 'ctl', disk.ctl, 'status']))
    check(status['back_end']['connected'], 'the answer came before the disk was back')
    check('failed flush' in status['shadow']['reasons'] and status['shadow']['path'] == 'shadow', str(status['shadow']))
    check(disk.bench.wait(peer.LIMIT_S) == 1 and 'flush failed: Input/output error' in case.output(disk.bench),
          case.output(disk.bench))
    disk.load(1)
    disk.finish()
    status = json.loads(case.run([VUBLK, 'ctl', disk.ctl, 'status']))
    check('failed flush' not in status['shadow']['reasons'], str(status['shadow']))
    check(disk.path_in_use() == disk.paths['a'], str(disk.path_in_use()))
    disk.stop()


def block_api(case):
    """The block API has the same properties for several paths."""
    disk = Disk(case)
    disk.start('a')
    disk.start('b')
    disk.bench = case.start([VUBLK, 'bench', disk.paths['a'], '-o', f'chardev-2={disk.paths["b"]}', '-o',
                             'reconnect-ms=20', '-o', 'failover-ms=50', '--rw', 'randrw', '--runtime', '3', '--verify'])
    disk.relay = disk.bench
    disk.wait_for_requests('a')
    disk.kill('a')
    peer.wait_until(lambda: disk.served('b') or disk.bench.poll() is not None, 'B is not used')
    disk.finish()


def vms_come_and_go(case):
    """
    Switches while VMs connect and disconnect. Each switch succeeds, or is refused with a reason. A VM waits while a
    back-end executes the last flush of a switch, which takes seconds on a busy disk.
    """
    patience = ['-o', f'request-timeout-ms={peer.LIMIT_S * 500}']
    disk = Disk(case)
    disk.start('a')
    disk.start('b')
    disk.start_relay(*patience)
    for _ in range(12):
        disk.load(0.2, *patience)
        while disk.bench.poll() is None:
            for name in 'ba':
                case.call([VUBLK, 'ctl', disk.ctl, 'switch', f'to={disk.paths[name]}'])
        disk.finish()
    for name in 'ab':
        peer.wait_until(lambda: not case.call([VUBLK, 'ctl', disk.ctl, 'switch', f'to={disk.paths[name]}']).code,
                        'the switch is refused')
    disk.stop()


def switch_direct(case):
    """Requests on the direct path use shadow rings during a switch."""
    disk = Disk(case)
    disk.start('a')
    disk.start('b')
    disk.start_relay()
    switch(disk, 'b')
    check(disk.path_in_use() == disk.paths['b'], str(disk.path_in_use()))
    disk.load(4)
    disk.wait_for_requests('b')

    def renew_load():
        if disk.bench.poll() is not None:
            disk.finish()
            disk.load(4)

    def is_direct():
        renew_load()
        return json.loads(case.run([VUBLK, 'ctl', disk.ctl, 'shadow']))['path'] == 'direct'

    for name in 5 * 'ab':
        switch(disk, name)
        peer.wait_until(lambda: disk.used(name) > 100 or disk.bench.poll() is not None, f'{name} has no requests')
        renew_load()
    peer.wait_until(is_direct, 'the requests stay on the shadow rings')
    disk.finish()
    disk.stop()


CASES = [
    ('killed, shadow rings', lambda case: killed(case, ['-o', 'inflight=off'], SHADOW)),
    ('killed, in-flight area', lambda case: killed(case, [], [])),
    killed_storage_daemons, hangs, hangs_and_continues, hangs_on_one_path, smaller, deadline, first_is_missing,
    both_are_missing, first_hangs, refused,
    switched, switch_refused, switch_during_an_outage, switch_clients,
    ('switch without flush, shadow rings', lambda case: switch_without_flush(case, *SHADOW)),
    ('switch without flush, direct', switch_without_flush), switch_direct, block_api, vms_come_and_go,
    ('both lost, A returns', lambda case: both_lost(case, 'a')),
    ('both lost, B returns', lambda case: both_lost(case, 'b')),
]

if __name__ == '__main__':
    sys.exit(peer.main(CASES, sys.argv[2:]))
