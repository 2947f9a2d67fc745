#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
`vublk serve --take-over`: a new process takes over the disk of a back-end, while the front-end stays connected
(docs/upgrade.md).

    takeover.py VUBLK VUBLK-KILL [-l] [-k] [WORD...]

The environment variable VUBLK_UPGRADES sets how often the long cases upgrade (default 30).
"""
import json
import os
import pathlib
import signal
import socket
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import frozen  # noqa: E402
import peer  # noqa: E402
import upgrading  # noqa: E402
from peer import check  # noqa: E402
from upgrading import MIB  # noqa: E402

# Absolute paths, because some processes start in another folder.
VUBLK, VUBLK_KILL = (os.path.abspath(path) for path in (sys.argv[1:3] or ['vublk', 'vublk-kill']))
QUEUES = 4
# The kill points of the new process before the disk belongs to it.
BEFORE_NEW_OWNS = 'new-prepared', 'new-received', 'new-installed'


class Disk(upgrading.Replaceable):
    """A back-end, and the relay in front of it, if there is one."""

    def __init__(self, case, *arguments, point=None, number=signal.SIGKILL):
        super().__init__(case, (VUBLK, VUBLK_KILL), 'serve')
        self.arguments = arguments
        self.image, self.path = case.path('disk'), case.path('socket')
        with open(self.image, 'wb') as file:
            file.truncate(32 * MIB)
        self.relay = self.relay_control = None
        self.start(point, number)

    def start(self, point=None, number=signal.SIGKILL):
        self.process = self.launch('--socket-path', self.path, '--blk-file', self.image, '--num-queues', QUEUES,
                                   '--control', self.control, *self.arguments, point=point, number=number)
        peer.wait_for_socket(self.case, self.process, self.path)
        peer.wait_for_socket(self.case, self.process, self.control)

    def start_relay(self, *arguments):
        self.relay_path, self.relay_control = self.case.path('relay'), self.case.path('relay-control')
        self.relay = self.case.start([VUBLK, 'device', '--chardev', f'path={self.path},reconnect-ms=50', '--bus',
                                      f'vhost-user:{self.relay_path}', '--control', self.relay_control, *arguments])
        peer.wait_for_socket(self.case, self.relay, self.relay_path)

    def start_load(self, *arguments):
        """Starts a verified load, and waits until it writes."""
        self.load = self.case.start([VUBLK, 'bench', self.relay_path if self.relay else self.path, '--rw', 'randrw',
                                     '--runtime', 3600, '--verify', '--numjobs', QUEUES, *arguments])
        self.wait_for_progress()

    def wait_for_progress(self):
        upgrading.wait_for_progress(self.process, self.load, lambda: self.case.output(self.load) + self.output())

    def end_load(self):
        upgrading.end_load(self.case, self.load, self.output)

    def ctl(self, *words):
        return json.loads(self.case.run([VUBLK, 'ctl', self.control, *words]))

    def outages(self):
        return json.loads(self.case.run([VUBLK, 'ctl', self.relay_control, 'status']))['back_end']['outages']

    def verify(self):
        self.case.run([VUBLK, 'bench', self.path, '--rw', 'randrw', '--runtime', '1', '--verify'])

    def stop(self):
        if self.relay:
            check(self.case.stop(self.relay) == 0, self.output(self.relay))
        code = self.case.stop(self.process)
        check(code == 0, f'the back-end ended with {code}: {self.output()}')
        for path in (self.path, self.control):
            check(not os.path.exists(path), f'{path} is still there')


def with_load(case, serve, relay, *load):
    disk = Disk(case, *serve)
    if relay is not None:
        disk.start_relay(*relay)
    disk.start_load(*load)
    return disk


def often(case, serve, relay, *load, count=None):
    """Many upgrades under load. Each replaces the process that the previous one has started."""
    disk = with_load(case, serve, relay, *load)
    pauses = [disk.upgrade() for _ in range(count or int(os.environ.get('VUBLK_UPGRADES', '30')))]
    check('repeating' not in disk.output(), f'a request was begun and not completed: {disk.output()}')
    status = disk.ctl('status')
    check(status['state'] == 'serving' and status['front_end']['features'], str(status))
    check(not relay or disk.outages() == 0, 'the relay has lost its back-end')
    disk.wait_for_progress()
    disk.end_load()
    print(f'# {len(pauses)} upgrades under load: the longest pause was {max(pauses)} us, the median '
          f'{sorted(pauses)[len(pauses) // 2]} us')
    disk.stop()


def then_killed(case):
    """After an upgrade, the in-flight area is still in use, so a kill loses no request and repeats none."""
    disk = with_load(case, (), None, '--iodepth', 32, '-o', 'reconnect-ms=50')
    for _ in range(3):
        disk.upgrade()
        disk.process.kill()
        disk.process.wait()
        disk.start()
        disk.wait_for_progress()
    disk.end_load()
    disk.verify()
    disk.stop()


def then_resized(case):
    """The back channel is also handed over, so the front-end is told about a new size."""
    disk = with_load(case, (), ('-o', 'config-poll-ms=0'))

    def size():
        return json.loads(case.run([VUBLK, 'ctl', disk.relay_control, 'status']))['size_bytes']
    disk.upgrade()
    os.truncate(disk.image, 64 * MIB)
    check(disk.ctl('resize')['size_bytes'] == 64 * MIB, 'not resized')
    peer.wait_until(lambda: size() == 64 * MIB, 'the new size is not noticed')
    os.truncate(disk.image, 96 * MIB)
    disk.upgrade()  # the new process reads the size when it opens the image
    peer.wait_until(lambda: size() == 96 * MIB, 'the size that the new process has found is not noticed')
    disk.end_load()
    disk.stop()


def counted(case):
    """The new process continues the statistics with the values of the old one."""
    disk = with_load(case, (), None)
    disk.ctl('stats', 'enable=true')
    disk.wait_for_progress()

    def count(kind):
        return sum(queue['requests'].get(kind, {'count': 0})['count'] for queue in disk.ctl('stats')['queues'])
    before = count('write')
    disk.upgrade()
    check(disk.ctl('stats')['enabled'] and count('write') >= before > 0, f'{before}: {disk.ctl("stats")}')
    disk.end_load()
    disk.stop()


def without_a_front_end(case):
    disk = Disk(case)
    for _ in range(2):
        serial = disk.ctl('status')['disk']
        disk.upgrade()
        check(disk.ctl('status')['state'] == 'listening' and disk.ctl('status')['disk'] == serial, disk.output())
        for path in (disk.path, disk.control):
            check(peer.server_pid(path) == disk.process.pid, f'{path} names another process')
        disk.verify()
    disk.stop()


def with_stopped_rings(case):
    """The rings are stopped, because the relay is paused. They continue in the next process."""
    disk = with_load(case, (), ())
    case.run([VUBLK, 'ctl', disk.relay_control, 'pause'])
    check(not any(queue['running'] for queue in disk.ctl('status')['queues']), str(disk.ctl('status')))
    for _ in range(2):
        before = disk.ctl('status')['queues']
        disk.upgrade()
        check(disk.ctl('status')['queues'] == before, f'{before}: {disk.ctl("status")}')
    case.run([VUBLK, 'ctl', disk.relay_control, 'resume'])
    disk.wait_for_progress()
    disk.end_load()
    check(disk.outages() == 0, 'the relay has lost its back-end')
    disk.stop()


def with_lock(case):
    """The image stays locked in each process, and is free at the end."""
    disk = Disk(case)
    for _ in range(2):
        other = case.call([VUBLK, 'serve', '--socket-path', case.path('other'), '--blk-file', disk.image])
        check(other.code == 1 and 'in use' in other.err, str(other))
        disk.upgrade()
    other = case.call([VUBLK, 'serve', '--socket-path', case.path('other'), '--blk-file', disk.image])
    check(other.code == 1 and 'in use' in other.err, str(other))
    disk.stop()
    disk.start()
    disk.stop()


def both_upgraded(case):
    """The relay and the back-end are replaced in turn, under load."""
    disk = with_load(case, (), ())
    for _ in range(3):
        disk.upgrade()
        relay = case.start([VUBLK, 'device', '--take-over', disk.relay_control])
        peer.wait_until(lambda: 'the upgrade is complete' in case.output(relay) or relay.poll() is not None, 'no end')
        if relay.poll() is None:
            check(disk.relay.wait(peer.LIMIT_S) == 0, case.output(disk.relay))
            disk.relay = relay
        disk.wait_for_progress()
    check(disk.outages() == 0, 'the relay has lost its back-end')
    disk.end_load()
    disk.stop()


def stuck(case):
    """If the storage does not complete its requests, the upgrade is refused, and the old process continues."""
    disk = with_load(case, ('-o', 'threads=1'), None)
    stopped = frozen.Frozen(min(peer.own_threads(disk.process.pid) - {disk.process.pid}))
    new = disk.take_over()
    check(new.wait(peer.LIMIT_S) == 1 and 'has not completed the requests' in disk.output(new), disk.output(new))
    check('this process continues' in disk.output(), disk.output())
    stopped.thaw()
    disk.wait_for_progress()
    disk.upgrade()
    disk.wait_for_progress()
    disk.end_load()
    disk.stop()


# --- processes that are killed ---------------------------------------------------------------

def new_killed(case, point):
    """The new process is killed before it has the disk. The old one continues, and can be upgraded again."""
    disk = with_load(case, (), None)
    new = disk.take_over(point=point)
    check(new.wait(peer.LIMIT_S) == -signal.SIGKILL or disk.was_too_slow(new), f'it was not killed: {disk.output(new)}')
    peer.wait_until(lambda: 'this process continues, because the upgrade' in disk.output(), 'no word of the failure')
    disk.wait_for_progress()
    disk.upgrade()
    disk.wait_for_progress()
    disk.end_load()
    disk.stop()


def old_killed(case, point):
    """The old process is killed after the new one has received all of its state. The new one continues."""
    disk = Disk(case, point=point)
    disk.start_load()
    while True:
        new = disk.take_over()
        peer.wait_until(lambda: 'is complete' in disk.output(new) or new.poll() is not None, 'the upgrade does not end')
        if 'is complete' in disk.output(new):
            break
        check(disk.was_too_slow(new), disk.output(new) + disk.output())
    check(disk.process.wait() == -signal.SIGKILL, f'it was not killed: {disk.output()}')
    disk.process = new
    disk.wait_for_progress()
    disk.end_load()
    disk.stop()


def owner_killed(case, point):
    """The process that owns the disk is killed. The other one also ends, and the next back-end loses no request."""
    is_old = point.startswith('old')
    disk = Disk(case, point=point if is_old else None)
    disk.start_load('-o', 'reconnect-ms=50', '--iodepth', 8)
    old, new = disk.process, None
    while new is None or (new.returncode == 1 and disk.was_too_slow(new)):
        new = disk.take_over(point=None if is_old else point)
        new.wait(peer.LIMIT_S)
    codes = old.wait(peer.LIMIT_S), new.returncode
    check(codes == ((-signal.SIGKILL, 1) if is_old else (0, -signal.SIGKILL)),
          f'{codes}: {disk.output(old)}{disk.output(new)}')
    disk.start()
    disk.wait_for_progress()
    disk.end_load()
    disk.stop()


def terminated(case, point):
    """
    A process gets SIGTERM in the middle of the upgrade. The signal ends the process that owns the disk,
    whichever it is. If the new process gets the signal before it has the disk, it ends, and the old one
    continues.
    """
    is_old = point.startswith('old')
    disk = Disk(case, point=point if is_old else None, number=signal.SIGTERM)
    disk.start_load('-o', 'reconnect-ms=50')
    old, new = disk.process, None
    while new is None or (new.returncode == 1 and disk.was_too_slow(new)):
        new = disk.take_over(point=None if is_old else point, number=signal.SIGTERM)
        new.wait(peer.LIMIT_S)
    if point in BEFORE_NEW_OWNS:
        check(new.returncode == 1 and 'the new process was asked to stop' in disk.output(new), disk.output(new))
        peer.wait_until(lambda: 'this process continues, because the upgrade' in disk.output(), 'no word of the failure')
        disk.wait_for_progress()
        disk.end_load()
        disk.stop()
        return
    check(old.wait(peer.LIMIT_S) == 0, disk.output(old))
    early = 'was asked to stop' in disk.output(new)
    check(new.returncode == (1 if early else 0), f'{new.returncode}: {disk.output(new)}{disk.output(old)}')
    # The old process checks for the signal only after sending the state. By then the new one may have the disk.
    check(not early or point in ('old-frozen', 'old-sent'), disk.output(new))
    for path in (disk.path, disk.control):
        check(not os.path.exists(path), f'{path} is still there')
    disk.start()
    disk.wait_for_progress()
    disk.end_load()
    disk.stop()


# --- refusals ----------------------------------------------------------------------------------

def refused(case, sentence, control, **options):
    new = case.start([VUBLK, 'serve', '--take-over', control], **options)
    check(new.wait(peer.LIMIT_S) == 1 and sentence in case.output(new), f'{sentence}: {case.output(new)}')


def section(name, payload, may_be_skipped=False):
    return struct.pack('=24sHHI', name, 1, may_be_skipped, len(payload)) + payload


def text(value):
    return struct.pack('=Q', len(value)) + value


def an_older_version(case):
    """A process that does not know a section of the state is refused before anything stops."""
    disk = with_load(case, (), None)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(disk.control))
        lines = client.makefile('rb')
        check('upgrade' in json.loads(lines.readline())['commands'], 'the greeting does not name the command')
        client.sendall(b'{"command":"upgrade"}\n')
        check(b'result' in lines.readline(), 'the answer')
        hello = section(b'origin', text(b'0.0.9')) + section(b'knows', text(b'back-end'), True)
        client.sendall(struct.pack('=IIQ', 1, 0, len(hello)) + hello)
        kind, _, size = struct.unpack('=IIQ', lines.read(16))
        answer = lines.read(size).decode()
        check(kind == 7 and "(version 0.0.9) does not know the section 'front-end'" in answer, f'{kind}: {answer}')
        lines.close()
    disk.wait_for_progress()
    disk.upgrade()
    disk.end_load()
    disk.stop()


def refusals(case):
    control = case.path('memory-control')
    child = case.start([VUBLK, 'serve', '--engine', 'memory', '--size', '1M', '--socket-path', case.path('memory'),
                        '--control', control])
    peer.wait_for_socket(case, child, control)
    refused(case, 'in the memory of this process', control)
    check(case.stop(child) == 0, case.output(child))
    refused(case, 'does not exist', case.path('nothing'))
    disk = with_load(case, (), ())
    refused(case, 'not to vublk serve', disk.relay_control)
    disk.wait_for_progress()
    disk.end_load()
    disk.stop()


def another_image(case):
    """The path must lead to the image that the old process serves."""
    disk = with_load(case, (), None)
    os.rename(disk.image, case.path('moved'))
    refused(case, 'must be at this path', disk.control)
    with open(disk.image, 'wb') as file:
        file.truncate(32 * MIB)
    refused(case, 'is no longer the image', disk.control)
    os.rename(case.path('moved'), disk.image)
    disk.wait_for_progress()
    disk.upgrade()
    disk.end_load()
    disk.stop()


def another_folder(case):
    """With relative paths, both processes must run in the same folder."""
    with open(case.path('disk'), 'wb') as file:
        file.truncate(MIB)
    os.mkdir(case.path('folder'))
    child = case.start([VUBLK, 'serve', '--socket-path', 'socket', '--blk-file', 'disk', '--control', 'control'],
                       cwd=case.folder)
    peer.wait_for_socket(case, child, case.path('control'))
    refused(case, f"its working directory is '{case.folder}'", '../control', cwd=case.path('folder'))
    check(case.stop(child) == 0, case.output(child))


def another_user(case):
    if os.geteuid():
        raise peer.Skip('only root can start a process of another user')
    disk = Disk(case, '--control-mode', '0666')
    os.chmod(case.folder, 0o755)
    refused(case, 'belongs to user', disk.control, user=65534)
    disk.upgrade()
    disk.stop()


def misuse(case):
    for words in (['--socket-path', 'x'], ['--blk-file', 'x'], ['--control', 'x'], ['-o', 'threads=1']):
        result = case.call([VUBLK, 'serve', '--take-over', 'x', *words])
        check(result.code == 2 and '--take-over uses' in result.err, str(result))


def bind(function, *arguments, **options):
    return lambda case: function(case, *arguments, **options)


def main():
    no_area = ('-o', 'inflight=off')
    cases = [('often, block API', bind(often, (), None, '--iodepth', 8)),
             ('often, relay', bind(often, (), ())),
             ('no in-flight area', bind(often, no_area, None, '--iodepth', 32, count=5)),
             ('no in-flight area, shadow rings', bind(often, no_area, ('-o', 'shadow=auto'), count=5)),
             ('blocking calls', bind(often, ('-o', 'io=blocking', '-o', 'cache=buffered'), None, count=5)),
             then_killed, then_resized, counted, without_a_front_end, with_stopped_rings, with_lock, both_upgraded, stuck,
             *((f'{point} killed', bind(new_killed, point)) for point in BEFORE_NEW_OWNS),
             *((f'{point} killed', bind(old_killed, point)) for point in ('old-sent', 'old-lost')),
             *((f'{point} killed', bind(owner_killed, point))
               for point in ('old-asked', 'old-options', 'old-frozen', 'old-half', 'new-owns', 'new-told')),
             *((f'{point} terminated', bind(terminated, point))
               for point in ('old-frozen', 'old-sent', 'old-lost', *BEFORE_NEW_OWNS, 'new-owns', 'new-told')),
             an_older_version, refusals, another_image, another_folder, another_user, misuse]
    return peer.main(cases, sys.argv[3:])


if __name__ == '__main__':
    sys.exit(main())
