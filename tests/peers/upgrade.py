#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
`vublk device --take-over`: a new process takes over the disk of a relay, while the client and the back-end
stay connected (docs/upgrade.md).

    upgrade.py VUBLK VUBLK-KILL [-l] [-k] [WORD...]

The environment variable VUBLK_UPGRADES sets how often the long case upgrades (default 30).
"""
import json
import os
import pathlib
import re
import signal
import socket
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import peer  # noqa: E402
import upgrading  # noqa: E402
from peer import check  # noqa: E402
from upgrading import MIB, bytes_written  # noqa: E402

# Absolute paths, because some processes start in another folder.
VUBLK, VUBLK_KILL = (os.path.abspath(path) for path in (sys.argv[1:3] or ['vublk', 'vublk-kill']))
QUEUES = 4
# The kill points of the new process before the disk belongs to it.
BEFORE_NEW_OWNS = 'new-prepared', 'new-received', 'new-installed'


def image_file(case, size=32 * MIB):
    path = case.path('disk')
    with open(path, 'wb') as file:
        file.truncate(size)
    return path


class Relay(upgrading.Replaceable):
    """A relay with a back-end."""
    too_slow = ('needed more than 50 ms',)

    def __init__(self, case, *arguments, backend=(), point=None, number=signal.SIGKILL):
        super().__init__(case, (VUBLK, VUBLK_KILL), 'device')
        self.backend_arguments = backend
        self.image = image_file(case)
        self.serve, self.backend = peer.VublkServe(VUBLK).start(case, self.image, QUEUES, arguments=backend)
        self.path = case.path('relay')
        self.process = self.launch('--chardev', f'path={self.backend},reconnect-ms=50', '--bus',
                                   f'vhost-user:{self.path}', '--control', self.control, *arguments, point=point,
                                   number=number)
        peer.wait_for_socket(case, self.process, self.path)
        peer.wait_for_socket(case, self.process, self.control)

    def start_load(self, *arguments, runtime=60, queues=QUEUES):
        """Starts a verified load, and waits until it writes."""
        load = self.case.start([VUBLK, 'bench', self.path, '--rw', 'randrw', '--runtime', runtime, '--verify',
                                '--numjobs', queues, *arguments])
        self.wait_for_progress(load)
        return load

    def wait_for_progress(self, load):
        upgrading.wait_for_progress(self.serve, load, lambda: self.case.output(load) + self.output())

    def end_load(self, load):
        upgrading.end_load(self.case, load, self.output)

    def wait_for_requests(self, load):
        """
        Waits until more of the load's requests are complete than can be in flight. The bytes that the
        back-end writes do not show this, because a replay also writes. The relay must count its requests.
        """
        def count():
            queues = json.loads(self.case.run([VUBLK, 'ctl', self.control, 'stats']))['queues']
            return sum(kind['count'] for queue in queues for kind in queue['requests'].values())

        before = count()
        peer.wait_until(lambda: load.poll() is not None or count() > before + QUEUES * 32, 'no request is completed')
        check(load.poll() is None, f'the load ended: {self.case.output(load)}{self.output()}')

    def status(self):
        return json.loads(self.case.run([VUBLK, 'ctl', self.control, 'status']))

    def verify(self):
        self.case.run([VUBLK, 'bench', self.path, '--rw', 'randrw', '--runtime', '1', '--verify'])

    def kill_backend(self):
        self.serve.kill()
        self.serve.wait()

    def start_backend(self):
        self.serve = self.case.start([VUBLK, 'serve', '--socket-path', self.backend, '--blk-file', self.image,
                                      '--num-queues', QUEUES, *self.backend_arguments])

    def stop(self):
        code = self.case.stop(self.process)
        check(code == 0, f'the relay ended with {code}: {self.output()}')
        for path in (self.path, self.control):
            check(not os.path.exists(path), f'{path} is still there')
        peer.VublkServe(VUBLK).stop(self.case, self.serve)


def once(case):
    """One upgrade under load. The client, the back-end and the control socket stay connected."""
    relay = Relay(case)
    load = relay.start_load()
    old = relay.process
    relay.upgrade('-v')
    status = relay.status()
    check(status['state'] == 'serving' and status['device'] == 'running', str(status))
    check(status['back_end']['outages'] == 0, 'the back-end was lost')
    check(f'process {relay.process.pid}' in relay.output(old), relay.output(old))
    relay.wait_for_progress(load)
    check('stopping' not in relay.output(), f'the rings were stopped: {relay.output()}')
    relay.end_load(load)
    relay.verify()
    relay.stop()


def often(case):
    """Many upgrades under load. Each replaces the process that the previous one has started."""
    count = int(os.environ.get('VUBLK_UPGRADES', '30'))
    relay = Relay(case)
    load = relay.start_load(runtime=3600)
    pauses = []
    for _ in range(count):
        pauses.append(relay.upgrade())
        check(load.poll() is None, f'the load ended: {case.output(load)}')
    relay.wait_for_progress(load)
    relay.end_load(load)
    print(f'# {count} upgrades under load: the longest pause was {max(pauses)} us, the median '
          f'{sorted(pauses)[count // 2]} us')
    relay.stop()


def then_lost(case, depth):
    """
    After an upgrade, the new process has all data that later back-ends need. At depth 1, a lost kick or call
    would stop the load.
    """
    relay = Relay(case)
    load = relay.start_load('--iodepth', depth)
    for _ in range(3):
        relay.upgrade()
        relay.kill_backend()
        relay.start_backend()
        relay.wait_for_progress(load)
    check(relay.status()['back_end']['outages'] == 3, str(relay.status()))
    relay.end_load(load)
    relay.verify()
    relay.stop()


def then_resized(case):
    """The back channel is also handed over, so the new process gets the back-end's report of a new size."""
    relay = Relay(case, '-o', 'config-poll-ms=0')
    load = relay.start_load()
    relay.upgrade()
    os.truncate(relay.image, 64 * MIB)
    relay.serve.send_signal(signal.SIGHUP)
    peer.wait_until(lambda: relay.status()['size_bytes'] == 64 * MIB, 'the new size is not noticed')
    relay.end_load(load)
    relay.stop()


def in_an_outage(case):
    """An upgrade during an outage. The new process finds the next back-end, which completes the requests."""
    relay = Relay(case)
    load = relay.start_load()
    relay.kill_backend()
    peer.wait_until(lambda: relay.status()['device'] == 'lost', 'the loss is not noticed')
    relay.upgrade()
    status = relay.status()
    check(status['device'] in ('lost', 'reconnecting') and status['back_end']['outage_ms'] > 0, str(status))
    relay.upgrade()
    relay.start_backend()
    relay.wait_for_progress(load)
    check(relay.status()['back_end']['outages'] == 1, str(relay.status()))
    relay.end_load(load)
    relay.stop()


# --- shadow rings ----------------------------------------------------------------------------

class ShadowRelay(Relay):
    """A relay whose requests use the shadow rings, also during and after every upgrade."""
    too_slow = upgrading.Replaceable.too_slow

    def __init__(self, case, *arguments, backend=(), client=(), point=None):
        super().__init__(case, '-o', 'shadow=on', '-o', 'keepalive-ms=0', '-o', 'config-poll-ms=0', *arguments, backend=backend, point=point)
        self.load = self.start_load('--iodepth', 32, *client, runtime=3600)
        peer.wait_until(self.is_shadowed, lambda: f'the requests do not take the shadow rings: {self.output()}')

    def is_shadowed(self):
        return self.status()['shadow']['path'] == 'shadow'

    def upgrade(self, *arguments):
        pause = super().upgrade(*arguments)
        check(self.is_shadowed() and 'the direct path' not in self.output(), f'the path has changed: {self.output()}')
        return pause

    def upgrade_with_stopped_backend(self):
        """The back-end is stopped before the upgrade, and stays stopped, except while an upgrade is tried again."""
        peer.suspend(self.serve)
        while not self.try_upgrade():
            self.serve.send_signal(signal.SIGCONT)
            self.wait_for_progress(self.load)
            peer.suspend(self.serve)

    def end(self):
        self.wait_for_progress(self.load)
        self.end_load(self.load)
        self.stop()


def shadow_often(case):
    """Many upgrades under load with shadow rings. The requests stay on these rings."""
    count = int(os.environ.get('VUBLK_UPGRADES', '30'))
    relay = ShadowRelay(case)
    pauses = []
    for _ in range(count):
        pauses.append(relay.upgrade())
        check(relay.load.poll() is None, f'the load ended: {case.output(relay.load)}{relay.output()}')
    check(relay.status()['back_end']['outages'] == 0, str(relay.status()))
    print(f'# {count} upgrades under load with shadow rings: the longest pause was {max(pauses)} us, the median '
          f'{sorted(pauses)[count // 2]} us')
    relay.end()


def shadow_variant(case, arguments, backend=(), client=()):
    """Upgrades and losses in turn, with a feature that needs the shadow rings."""
    relay = ShadowRelay(case, *arguments, backend=backend, client=client)
    for _ in range(3):
        for _ in range(3):
            relay.upgrade()
        relay.wait_for_progress(relay.load)
        relay.kill_backend()
        relay.start_backend()
        relay.wait_for_progress(relay.load)
    check(relay.status()['back_end']['outages'] == 3, str(relay.status()))
    relay.end()


def requests_are_outstanding(case):
    """
    The back-end is stopped, so each upgrade hands over requests that the back-end has. The last process gets
    the completions, or gives the requests to the next back-end.
    """
    relay = ShadowRelay(case, '-o', 'slow-request-ms=1')
    for ends in (signal.SIGCONT, signal.SIGKILL):
        for _ in range(3):
            relay.upgrade_with_stopped_backend()
        relay.serve.send_signal(ends)
        if ends == signal.SIGKILL:
            relay.serve.wait()
            relay.start_backend()
        relay.wait_for_progress(relay.load)
    check(relay.status()['back_end']['outages'] == 1, str(relay.status()))
    relay.end()


def copies_are_kept(case):
    """
    With unflushed=replay, the copies of completed writes outlive the upgrade. The back-end is stopped, so
    that no flush makes the writes stable, and is then killed.
    """
    relay = ShadowRelay(case, '-o', 'unflushed=replay', '-o', 'statistics=on')
    replayed = False
    for _ in range(20):
        relay.upgrade_with_stopped_backend()
        relay.kill_backend()
        relay.start_backend()
        relay.wait_for_requests(relay.load)
        replayed = bool(re.search(r'repeated [1-9]\d* write', relay.output()))
        if replayed:
            break
    check(replayed, f'no write was repeated: {relay.output()}')
    relay.end()


def limits_are_kept(case):
    """Requests that wait for a limit continue to wait in the new process, which also inherits the debt of the limit."""
    relay = ShadowRelay(case)
    case.run([VUBLK, 'ctl', relay.control, 'limit', 'iops=1', 'burst-ms=1'])
    for _ in range(2):
        relay.upgrade()
        limits = json.loads(case.run([VUBLK, 'ctl', relay.control, 'limit']))
        check(limits['iops'] == 1 and limits['waiting'] > 0, str(limits))
    case.run([VUBLK, 'ctl', relay.control, 'limit', 'iops=0'])
    relay.end()


def area_is_continued(case):
    """
    The client has an in-flight area, and the back-end has none. The new process records requests in the
    client's area, so that the next relay can repeat them when the new process is killed.
    """
    relay = ShadowRelay(case, backend=('-o', 'inflight=off'), client=('-o', 'reconnect-ms=100'))
    for _ in range(5):
        relay.upgrade()
    relay.wait_for_progress(relay.load)
    relay.process.kill()
    relay.process.wait()
    relay.process = relay.launch('--chardev', f'path={relay.backend},reconnect-ms=50', '--bus',
                                 f'vhost-user:{relay.path}', '--control', relay.control, '-o', 'shadow=on')
    relay.wait_for_progress(relay.load)
    relay.end()


def backend_killed_meanwhile(case):
    """The back-end is killed right before, during and right after an upgrade."""
    relay = ShadowRelay(case)
    for _ in range(5):
        relay.kill_backend()
        relay.upgrade()
        relay.start_backend()
        relay.wait_for_progress(relay.load)
        new = relay.take_over()
        relay.kill_backend()
        peer.wait_until(lambda: 'is complete' in relay.output(new) or new.poll() is not None,
                        lambda: f'the upgrade does not end: {relay.output(new)}{relay.output()}')
        if new.poll() is None:
            check(relay.process.wait(peer.LIMIT_S) == 0, relay.output())
            relay.process = new
        relay.start_backend()
        relay.wait_for_progress(relay.load)
        relay.upgrade()
        relay.kill_backend()
        relay.start_backend()
        relay.wait_for_progress(relay.load)
    relay.end()


def shadow_in_an_outage(case):
    """
    The disk is handed over while the next back-end does not answer yet, so no features of a back-end are known. The
    new process must know the features of the driver's rings.
    """
    relay = ShadowRelay(case)
    relay.kill_backend()
    relay.backend.unlink()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(relay.backend))
        silent.listen()
        silent.accept()
        relay.upgrade()
    relay.backend.unlink()
    relay.start_backend()
    relay.wait_for_progress(relay.load)
    check('malformed' not in relay.output(), relay.output())
    relay.end()


def shadow_new_killed(case, point):
    relay = ShadowRelay(case)
    for _ in range(3):
        new = relay.take_over(point=point)
        check(new.wait(peer.LIMIT_S) == -signal.SIGKILL, f'it was not killed: {relay.output(new)}')
        peer.wait_until(lambda: 'this process continues, because the upgrade' in relay.output(), 'no word of the failure')
        relay.wait_for_progress(relay.load)
        check(relay.is_shadowed() and relay.status()['back_end']['outages'] == 0, relay.output())
        relay.upgrade()
    relay.end()


def shadow_old_killed(case, point):
    relay = ShadowRelay(case, point=point)
    while True:
        new = relay.take_over()
        peer.wait_until(lambda: 'is complete' in relay.output(new) or new.poll() is not None, 'the upgrade does not end')
        if 'is complete' in relay.output(new):
            break
        check(relay.was_too_slow(new), relay.output(new) + relay.output())
    check(relay.process.wait() == -signal.SIGKILL, f'it was not killed: {relay.output()}')
    relay.process = new
    check(relay.is_shadowed() and relay.status()['back_end']['outages'] == 0, str(relay.status()))
    relay.end()


def shadow_owner_killed(case, point):
    """The owner is killed with requests in the shadow rings. The client's area tells the next relay which ones."""
    is_old = point.startswith('old')
    relay = ShadowRelay(case, client=('-o', 'reconnect-ms=100'), point=point if is_old else None)
    old, new = relay.process, relay.take_over(point=None if is_old else point)
    codes = old.wait(peer.LIMIT_S), new.wait(peer.LIMIT_S)
    check(codes == ((-signal.SIGKILL, 1) if is_old else (0, -signal.SIGKILL)),
          f'{codes}: {relay.output(old)}{relay.output(new)}')
    relay.process = relay.launch('--chardev', f'path={relay.backend},reconnect-ms=50', '--bus',
                                 f'vhost-user:{relay.path}', '--control', relay.control, '-o', 'shadow=on')
    relay.end()


def exchanged(case):
    """An upgrade cancels an exchange of the path that cannot end, and the new process begins it again."""
    relay = Relay(case, '-o', 'keepalive-ms=0')
    load = relay.start_load('--iodepth', 32)
    peer.suspend(relay.serve)
    ctl = case.start([VUBLK, 'ctl', relay.control, 'shadow', 'on'])
    peer.wait_until(lambda: relay.status()['shadow']['changing'], 'no exchange begins')
    relay.upgrade()
    ctl.wait(peer.LIMIT_S)  # the connection has ended with the old process
    relay.serve.send_signal(signal.SIGCONT)
    peer.wait_until(lambda: relay.status()['shadow']['path'] == 'shadow', lambda: f'no shadow rings: {relay.output()}')
    relay.wait_for_progress(load)
    relay.end_load(load)
    relay.stop()


def traced(case):
    """A trace ends with the old process, which logs this."""
    relay = ShadowRelay(case)
    trace = case.start([VUBLK, 'ctl', relay.control, 'trace'])
    peer.wait_until(lambda: case.output(trace).count('\n') > 10, lambda: f'no trace: {case.output(trace)}')
    old = relay.process
    relay.upgrade()
    check('the trace of requests ends' in relay.output(old), relay.output(old))
    trace.wait(peer.LIMIT_S)
    print('#', trace.returncode, case.output(trace).splitlines()[-1])
    relay.end()


def counted(case):
    """The new process counts requests if the old one does, because of the property or of a later `ctl stats`."""
    for arguments, enable in ((('-o', 'statistics=on'), True), ((), True), (('-o', 'statistics=on'), False)):
        relay = Relay(case, '-o', 'shadow=on', *arguments)
        case.run([VUBLK, 'ctl', relay.control, 'stats', f'enable={str(enable).lower()}'])
        relay.upgrade()
        load = relay.start_load()
        peer.wait_until(lambda: relay.status()['shadow']['path'] == 'shadow', 'no shadow rings')
        relay.wait_for_progress(load)
        stats = json.loads(case.run([VUBLK, 'ctl', relay.control, 'stats']))
        check(stats['enabled'] == enable and bool(stats['queues'][0]['requests']) == enable, f'{arguments}: {stats}')
        relay.end_load(load)
        relay.stop()


def paused(case):
    """The operator's pause outlasts two upgrades, and is not reported again."""
    relay = Relay(case)
    load = relay.start_load()
    case.run([VUBLK, 'ctl', relay.control, 'pause'])
    before = bytes_written(relay.serve)
    relay.upgrade()
    check(relay.status()['pause'] == 'paused', str(relay.status()))
    relay.upgrade()
    check(bytes_written(relay.serve) == before and load.poll() is None, 'requests are executed in a pause')
    case.run([VUBLK, 'ctl', relay.control, 'resume'])
    names = upgrading.events_until(relay.control, 'resumed')
    check('paused' not in names and 'pausing' not in names, f'{names}')
    relay.wait_for_progress(load)
    relay.end_load(load)
    relay.stop()


def many_queues(case):
    """Many queues have more descriptors than one message can carry, and more than may be in transit together."""
    backend = case.path('backend')
    serve = case.start([VUBLK, 'serve', '--engine', 'memory', '--size', '8M', '--num-queues', 128,
                        '--socket-path', backend])
    peer.wait_for_socket(case, serve, backend)
    path, device = case.path('relay'), upgrading.Replaceable(case, (VUBLK, VUBLK_KILL), 'device')
    device.process = device.launch('--chardev', backend, '--bus', f'vhost-user:{path}', '--control', device.control)
    peer.wait_for_socket(case, device.process, path)
    load = case.start([VUBLK, 'bench', path, '--rw', 'randrw', '--runtime', '60', '--verify', '--num-queues', '128',
                       '--iodepth', '2', '--numjobs', '4'])

    def queues():
        return len(json.loads(case.run([VUBLK, 'ctl', device.control, 'status']))['queues'])
    peer.wait_until(lambda: queues() == 128, 'the queues are not set up')
    for _ in range(2):
        device.try_upgrade()
        check(queues() == 128, 'queues are missing')
    upgrading.end_load(case, load, device.output)
    check(case.stop(device.process) == 0 and case.stop(serve) == 0, device.output())


def then_stuck(case):
    """After an upgrade, the client disconnects while the back-end hangs. The stop still has a deadline."""
    relay = Relay(case, '-o', 'shadow=on', '-o', 'request-timeout-ms=500', '-o', 'keepalive-ms=0')
    load = relay.start_load()
    relay.upgrade()
    peer.wait_until(lambda: relay.status()['shadow']['path'] == 'shadow', 'no shadow rings')
    relay.wait_for_progress(load)
    peer.suspend(relay.serve)
    load.kill()
    peer.wait_until(lambda: 'did not complete within 500 ms' in relay.output() or relay.process.poll() is not None,
                    lambda: f'the stop has no deadline: {relay.output()}')
    check(relay.process.poll() is None, f'the relay ended with {relay.process.returncode}: {relay.output()}')
    relay.serve.send_signal(signal.SIGCONT)
    peer.wait_until(lambda: relay.status()['back_end']['connected'], 'no back-end')
    relay.stop()


def without_a_client(case, *arguments):
    relay = Relay(case, *arguments)
    for _ in range(2):
        relay.upgrade()
        check(relay.status()['state'] == 'listening', str(relay.status()))
        for path in (relay.path, relay.control):
            check(peer.server_pid(path) == relay.process.pid, f'{path} names another process')
        relay.verify()
    relay.stop()


def in_a_stop(case):
    """An upgrade waits until the back-end has returned the rings."""
    relay = Relay(case, '-v')
    load = relay.start_load()
    peer.suspend(relay.serve)
    load.send_signal(signal.SIGINT)
    load.kill()
    peer.wait_until(lambda: relay.status()['device'] == 'stopping', 'the rings are not being stopped')
    old = relay.process
    new = relay.take_over()
    peer.wait_until(lambda: 'the upgrade waits' in relay.output(old),
                    lambda: f'the upgrade does not wait: {relay.output(old)}')
    check(old.poll() is None and new.poll() is None, relay.output(new))
    relay.serve.send_signal(signal.SIGCONT)
    peer.wait_until(lambda: 'the upgrade is complete' in relay.output(new) or new.poll() is not None,
                    'the upgrade does not end')
    if new.poll() is None:
        check(old.wait(peer.LIMIT_S) == 0, relay.output(old))
        relay.process = new
    else:
        check(relay.was_too_slow(new), relay.output(new))
    relay.verify()
    relay.stop()


def with_server(case):
    """If the relay listens for back-ends, that socket is also handed over, and the last process removes it."""
    image, backend = image_file(case), case.path('backend')
    path, control = case.path('relay'), case.path('control')
    old = case.start([VUBLK, 'device', '--chardev', f'path={backend},server=on', '--bus', f'vhost-user:{path}',
                      '--control', control])
    peer.wait_for_socket(case, old, backend)

    def connect():
        link = socket.socket(socket.AF_UNIX)
        # The file exists a moment before the relay listens.
        peer.wait_until(lambda: link.connect_ex(str(backend)) == 0, 'the relay does not listen for back-ends')
        child = case.start([VUBLK, 'serve', '--fd', link.fileno(), '--blk-file', image], pass_fds=[link.fileno()])
        link.close()
        return child
    serve = connect()
    peer.wait_for_socket(case, old, path)
    for _ in range(2):
        new = case.start([VUBLK, 'device', '--take-over', control])
        peer.wait_until(lambda: 'upgrade is complete' in case.output(new) or new.poll() is not None, 'no upgrade')
        check(new.poll() is None and old.wait(peer.LIMIT_S) == 0, case.output(new) + case.output(old))
        old = new
        serve.kill()
        serve = connect()
        case.run([VUBLK, 'bench', path, '--rw', 'randrw', '--runtime', '1', '--verify'])
    check(case.stop(old) == 0, case.output(old))
    for name in (backend, path, control):
        check(not os.path.exists(name), f'{name} is still there')


# --- processes that are killed ---------------------------------------------------------------

def new_killed(case, point):
    """The new process is killed before it has the disk. The old one continues, and can be upgraded again."""
    relay = Relay(case)
    load = relay.start_load()
    new = relay.take_over(point=point)
    check(new.wait(peer.LIMIT_S) == -signal.SIGKILL, f'it was not killed: {relay.output(new)}')
    peer.wait_until(lambda: 'this process continues, because the upgrade' in relay.output(), 'no word of the failure')
    relay.wait_for_progress(load)
    check(relay.process.poll() is None and relay.status()['back_end']['outages'] == 0, relay.output())
    relay.upgrade()
    relay.wait_for_progress(load)
    relay.end_load(load)
    relay.stop()


def old_killed(case, point):
    """The old process is killed after the new one has received all of its state. The new one continues."""
    relay = Relay(case, point=point)
    load = relay.start_load()
    while True:
        new = relay.take_over()
        peer.wait_until(lambda: 'is complete' in relay.output(new) or new.poll() is not None, 'the upgrade does not end')
        if 'is complete' in relay.output(new):
            break
        check(relay.was_too_slow(new), relay.output(new) + relay.output())
    check(relay.process.wait() == -signal.SIGKILL, f'it was not killed: {relay.output()}')
    relay.process = new
    relay.wait_for_progress(load)
    check(relay.status()['back_end']['outages'] == 0, str(relay.status()))
    relay.end_load(load)
    relay.stop()


def owner_killed(case, point):
    """The process that owns the disk is killed. The other one also ends, and the next relay loses no request."""
    is_old = point.startswith('old')
    relay = Relay(case, point=point if is_old else None)
    load = relay.start_load('-o', 'reconnect-ms=100')
    old, new = relay.process, relay.take_over(point=None if is_old else point)
    codes = old.wait(peer.LIMIT_S), new.wait(peer.LIMIT_S)
    check(codes == ((-signal.SIGKILL, 1) if is_old else (0, -signal.SIGKILL)),
          f'{codes}: {relay.output(old)}{relay.output(new)}')
    relay.process = relay.launch('--chardev', f'path={relay.backend},reconnect-ms=50', '--bus',
                                 f'vhost-user:{relay.path}', '--control', relay.control)
    relay.wait_for_progress(load)
    relay.end_load(load)
    relay.stop()


def terminated(case, point):
    """
    A process gets SIGTERM in the middle of the upgrade. The signal ends the process that owns the disk,
    whichever it is, and the next relay loses no request. If the old process gets the signal before the new
    one has the disk, it ends itself. If the new process gets the signal before it has the disk, it ends, and
    the old one continues.
    """
    is_old = point.startswith('old')
    relay = Relay(case, point=point if is_old else None, number=signal.SIGTERM)
    load = relay.start_load('-o', 'reconnect-ms=100')
    old, new = relay.process, None
    while new is None or (new.returncode == 1 and relay.was_too_slow(new)):
        new = relay.take_over(point=None if is_old else point, number=signal.SIGTERM)
        new.wait(peer.LIMIT_S)
    output = relay.output(new)
    if point in BEFORE_NEW_OWNS:
        check(new.returncode == 1 and 'the new process was asked to stop' in output, output)
        peer.wait_until(lambda: 'this process continues, because the upgrade' in relay.output(), 'no word of the failure')
        relay.wait_for_progress(load)
        relay.end_load(load)
        relay.stop()
        return
    check(old.wait(peer.LIMIT_S) == 0, relay.output(old))
    early = 'was asked to stop' in output
    check(new.returncode == (1 if early else 0), f'{new.returncode}: {output}{relay.output(old)}')
    # The old process checks for the signal only after sending the state. By then the new one may have the disk.
    check(not early or point in ('old-frozen', 'old-sent'), output)
    for path in (relay.path, relay.control):
        check(not os.path.exists(path), f'{path} is still there')
    relay.process = relay.launch('--chardev', f'path={relay.backend},reconnect-ms=50', '--bus',
                                 f'vhost-user:{relay.path}', '--control', relay.control)
    relay.wait_for_progress(load)
    relay.end_load(load)
    relay.stop()


def told_to_refresh(case):
    """SIGHUP comes too late for the old process, which passes it on to the new one."""
    relay = Relay(case, '-o', 'config-poll-ms=0', point='old-lost', number=signal.SIGHUP)
    relay.upgrade()
    peer.wait_until(lambda: 'configuration again' in relay.output(), relay.output())
    relay.stop()


def two_at_once(case):
    """During an upgrade, a second one is refused. If the first one then fails, the old process keeps the disk."""
    relay = Relay(case)
    load = relay.start_load()
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(str(relay.control))
        lines = first.makefile('rb')
        check('upgrade' in json.loads(lines.readline())['commands'], 'the greeting does not name the command')
        first.sendall(b'{"command":"upgrade","id":3}\n')
        check(json.loads(lines.readline()) == {'id': 3, 'result': {}}, 'the answer')
        second = relay.take_over()
        check(second.wait(peer.LIMIT_S) == 1 and 'is under way' in relay.output(second), relay.output(second))
        lines.close()
    peer.wait_until(lambda: 'this process continues, because the upgrade' in relay.output(), 'no word of the failure')
    relay.upgrade()
    relay.wait_for_progress(load)
    relay.end_load(load)
    relay.stop()


def rubbish(case):
    """A client that sends an invalid hand-over is refused, and the old process continues to serve the disk."""
    relay = Relay(case)
    for data in (b'x' * 64, b'\x01\0\0\0' + b'\0' * 4 + b'\xff' * 8, b'\x03\0\0\0' + b'\0' * 12,
                 b'\x01\0\0\0' + b'\0' * 4 + b'\x40' + b'\0' * 7 + b'\xff' * 64):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(relay.control))
            lines = client.makefile('rb')
            lines.readline()
            client.sendall(b'{"command":"upgrade"}\n')
            check(b'result' in lines.readline(), 'the answer')
            client.sendall(data)
            client.settimeout(peer.LIMIT_S)
            try:
                while client.recv(1 << 16):
                    pass
            except ConnectionResetError:
                pass
            lines.close()
        relay.verify()
    relay.upgrade()
    relay.stop()


# --- refusals ----------------------------------------------------------------------------------

def refused(case, sentence, control, **options):
    new = case.start([VUBLK, 'device', '--take-over', control], **options)
    check(new.wait(peer.LIMIT_S) == 1 and sentence in case.output(new), f'{sentence}: {case.output(new)}')


def refusals(case):
    control, serve = case.path('serve-control'), case.path('serve')
    child = case.start([VUBLK, 'serve', '--engine', 'memory', '--size', '1M', '--socket-path', serve, '--control', control])
    peer.wait_for_socket(case, child, control)
    refused(case, 'vublk serve', control)
    refused(case, 'does not exist', case.path('nothing'))
    for bus, sentence in (('vfio-user', 'a vfio-user bus cannot be handed'), ('vhost-user', 'no back-end has connected yet')):
        path, control = case.path(f'{bus}.bus'), case.path(f'{bus}.control')
        backend = serve if bus == 'vfio-user' else case.path('none')
        child = case.start([VUBLK, 'device', '--chardev', backend, '--bus', f'{bus}:{path}', '--control', control])
        peer.wait_for_socket(case, child, control)
        if bus == 'vfio-user':
            peer.wait_for_socket(case, child, path)
        refused(case, sentence, control)
        check(case.stop(child) == 0, case.output(child))


def relative_paths(case):
    """With relative paths, both processes must run in the same folder, because they use the paths later."""
    image_file(case)
    serve, _ = peer.VublkServe(VUBLK).start(case, case.path('disk'), path=case.path('backend'))
    folder = case.path('folder')
    os.mkdir(folder)
    old = case.start([VUBLK, 'device', '--chardev', 'backend', '--bus', 'vhost-user:relay', '--control', 'control'],
                     cwd=case.folder)
    peer.wait_for_socket(case, old, case.path('relay'))
    peer.wait_for_socket(case, old, case.path('control'))
    refused(case, f"its working directory is '{case.folder}'", '../control', cwd=folder)
    new = case.start([VUBLK, 'device', '--take-over', 'control'], cwd=case.folder)
    peer.wait_until(lambda: 'upgrade is complete' in case.output(new) or new.poll() is not None, 'no upgrade')
    check(old.wait(peer.LIMIT_S) == 0, case.output(new) + case.output(old))
    check(case.stop(new) == 0, case.output(new))
    for name in ('relay', 'control'):
        check(not os.path.exists(case.path(name)), f'{name} is still there')
    peer.VublkServe(VUBLK).stop(case, serve)


def another_user(case):
    if os.geteuid():
        raise peer.Skip('only root can start a process of another user')
    relay = Relay(case, '--control-mode', '0666')
    os.chmod(case.folder, 0o755)
    refused(case, 'belongs to user', relay.control, user=65534)
    relay.upgrade()
    relay.stop()


def misuse(case):
    for words in (['--bus', 'vhost-user:x'], ['--chardev', 'x'], ['--control', 'x'], ['-o', 'shadow=on']):
        result = case.call([VUBLK, 'device', '--take-over', 'x', *words])
        check(result.code == 2 and '--take-over uses' in result.err, str(result))


def bind(function, *arguments):
    return lambda case: function(case, *arguments)


def main():
    cases = [once, often, *((f'then lost, depth {depth}', bind(then_lost, depth)) for depth in (1, 32)), then_resized, in_an_outage,
             ('shadow rings, often', shadow_often),
             ('shadow rings, then lost', bind(shadow_variant, ())),
             ('shadow rings, replay', bind(shadow_variant, ('-o', 'unflushed=replay'))),
             ('shadow rings, a small log', bind(shadow_variant, ('-o', 'unflushed=replay', '-o', 'replay-mib=1'))),
             ('shadow rings, small rings', bind(shadow_variant, ('-o', 'shadow-queue-size=16'))),
             ('shadow rings, limits', bind(shadow_variant, ('-o', 'iops=20000', '-o', 'bps-write=100000000'))),
             ('shadow rings, policy', bind(shadow_variant, ('-o', 'discard=off', '-o', 'statistics=on'))),
             ('shadow rings, a client with an area', bind(shadow_variant, (), ('-o', 'inflight=off'), ('-o', 'reconnect-ms=100'))),
             requests_are_outstanding, copies_are_kept, limits_are_kept, area_is_continued, backend_killed_meanwhile,
             shadow_in_an_outage,
             exchanged, traced,
             counted, paused, many_queues, without_a_client,
             ('without a client, shadow=on', bind(without_a_client, '-o', 'shadow=on')), then_stuck, in_a_stop, with_server,
             *((f'{point} killed', bind(new_killed, point)) for point in BEFORE_NEW_OWNS),
             *((f'{point} killed', bind(old_killed, point)) for point in ('old-sent', 'old-lost')),
             *((f'{point} killed', bind(owner_killed, point))
               for point in ('old-asked', 'old-options', 'old-frozen', 'old-half', 'new-owns', 'new-told')),
             *((f'shadow rings, {point} killed', bind(shadow_new_killed, point))
               for point in BEFORE_NEW_OWNS),
             *((f'shadow rings, {point} killed', bind(shadow_old_killed, point)) for point in ('old-sent', 'old-lost')),
             *((f'shadow rings, {point} killed', bind(shadow_owner_killed, point))
               for point in ('old-frozen', 'old-half', 'new-owns', 'new-told')),
             *((f'{point} terminated', bind(terminated, point))
               for point in ('old-frozen', 'old-sent', 'old-lost', *BEFORE_NEW_OWNS, 'new-owns', 'new-told')),
             told_to_refresh, two_at_once, rubbish, refusals, relative_paths, another_user, misuse]
    return peer.main(cases, sys.argv[3:])


if __name__ == '__main__':
    sys.exit(main())
