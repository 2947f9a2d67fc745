#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
`vublk chaos` with real back-ends: nothing is lost, repeated or stuck, however often and
wherever they die; and the command itself when it is interrupted or killed.

    chaos.py VUBLK VUBLK-KILL [-l] [-k] [WORD...]

VUBLK-KILL is the same program, which dies at the kill point that the environment names. Each
combination of back-end, queues and depth is one case, which prints a line with its result.
"""
import collections
import functools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import peer  # noqa: E402
from peer import check  # noqa: E402

MIB = 1 << 20
DISK = 32 * MIB
KILLS = 50         # at random times, per combination
INTERVAL = '20-60'
MEMORY_FOLDER, DISK_FOLDER = '/dev/shm', '/var/tmp'

QUEUES, DEPTHS = (1, 4), (1, 32, 128)
# How often the back-end passes a kill point before it dies there, so that the load has begun.
PASSES = 150
ALWAYS_TOLD = ('lost', 'repeated', 'stuck')


# --- back-ends -----------------------------------------------------------------------------

# `relay`: the options of the `vublk device` through which the load runs; None: no relay.
Backend = collections.namedtuple('Backend', 'name command points relay format', defaults=(None, 'raw'))
SHADOW = ('-o', 'shadow=on')
REPLAY = (*SHADOW, '-o', 'unflushed=replay')


def serve(program, path, image, queues, inflight):
    return [program, 'serve', '--socket-path', path, '--blk-file', image, '--num-queues', queues,
            '-o', f'inflight={inflight}', '--quiet']


def storage_daemon(_, path, image, queues, program=('qemu-storage-daemon',), format_='raw'):
    peer.need(program[0])
    return [*program, '--blockdev', f'driver=file,node-name=file,filename={image},discard=unmap',
            '--blockdev', f'driver={format_},node-name=disk,file=file,discard=unmap',
            '--export', 'type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,'
            f'addr.path={path},num-queues={queues},writable=on']


def kill_points(vublk_kill):
    """
    Returns the kill points that a request passes. `vublk_kill` lists all its kill points if the environment
    names an unknown one. Only a take-over passes the others, and no take-over happens here.
    """
    command = [vublk_kill, 'serve', '--socket-path', '/none/socket', '--engine', 'null', '--size', '1M']
    done = subprocess.run(command, env={**os.environ, 'VUBLK_KILL_POINT': '?'}, capture_output=True, text=True)
    listed = re.search(r'must be one of (.*), with', done.stderr)
    check(listed, f'{vublk_kill} does not list its kill points: {done.stderr}')
    return [point for point in listed[1].split(', ') if not point.startswith(('old-', 'new-'))]


def backends(vublk_kill):
    points = kill_points(vublk_kill)
    return [
        Backend('serve', lambda *words: serve(*words, 'on'), points),
        Backend('serve, inflight=off', lambda *words: serve(*words, 'off'),
                [point for point in points if 'inflight' not in point]),
        Backend('qemu-storage-daemon', storage_daemon, []),
    ]


def shadowed(vublk_kill):
    """Returns the back-ends without an in-flight area, each behind a relay with shadow rings."""
    return [backend._replace(name=f'{backend.name}, shadow rings', relay=SHADOW)
            for backend in backends(vublk_kill) if backend.name != 'serve']


def replayed():
    """Returns a back-end that keeps completed writes in its own memory, behind a relay that replays them."""
    return Backend('qemu-storage-daemon qcow2, replay', functools.partial(storage_daemon, format_='qcow2'), [],
                   REPLAY, 'qcow2')


# --- a combination --------------------------------------------------------------------------

class Sum:
    """The sum of several reports, with a list of their reconnect times."""

    def __init__(self):
        self.count = collections.Counter()
        self.found = collections.Counter()
        self.medians, self.worst = [], 0

    def add(self, report):
        self.count['faults'] += sum(report['faults'].values())
        self.count['requests'] += sum(report['requests'].values())
        self.count['in flight'] += report['in_flight_at_losses']
        self.count['overlapping'] += report['overlapping_blocks']
        self.found.update(report['found'])
        if report['reconnect_ns']['N']:
            self.medians.append(report['reconnect_ns']['median'] / 1e6)
            self.worst = max(self.worst, report['reconnect_ns']['max'] / 1e6)

    def __str__(self):
        wrong = ', '.join(f'{count} {name}' for name, count in self.found.items() if count or name in ALWAYS_TOLD)
        return (f'{self.count["faults"]} faults, {self.count["requests"]} requests, '
                f'{self.count["in flight"]} in flight when a back-end was lost; {wrong}')


def run_chaos(case, vublk, path, command, queues, depth, arguments):
    """Runs chaos and returns its report. If chaos finds a fault, the case fails."""
    return json.loads(case.run([vublk, 'chaos', path, '--queues', queues, '--iodepth', depth, '--size', DISK // 2,
                                *arguments, '--json', '--', *command], limit_s=300))


def image_file(case, folder=None, format_='raw'):
    path = pathlib.Path(folder, 'disk') if folder else case.path('disk')
    if format_ != 'raw':
        peer.need('qemu-img')
        case.run(['qemu-img', 'create', '-q', '-f', format_, path, DISK])
        return path
    with open(path, 'wb') as file:
        file.truncate(DISK)
    return path


def start_relay(case, vublk, path, options):
    """Starts a `vublk device`, which waits for a back-end at `path`. Returns the process and its bus socket."""
    relay = case.path(f'relay-{len(case.children)}')
    return case.start([vublk, 'device', '--chardev', f'path={path},reconnect-ms=50', '--bus', f'vhost-user:{relay}',
                       *options]), relay


def stop_relay(case, child):
    check(case.stop(child) == 0, f'the relay ended with {child.returncode}: {case.output(child)}')
    peer.check_no_reset(case.output(child))


def torment(case, vublk, vublk_kill, backend, queues, depth, kills, faults='kill', folder=None):
    """Kills the back-end `kills` times at random times, and makes it die once at each of its kill points."""
    if backend.relay is None:
        return torment_with(case, vublk, vublk_kill, backend, queues, depth, kills, faults, folder)
    child, relay = start_relay(case, vublk, case.path('socket'), backend.relay)
    total = torment_with(case, vublk, vublk_kill, backend, queues, depth, kills, faults, folder,
                         ('--through', relay))
    stop_relay(case, child)
    return total


def torment_with(case, vublk, vublk_kill, backend, queues, depth, kills, faults, folder, options=()):
    image, path, total = image_file(case, folder, backend.format), case.path('socket'), Sum()
    command = backend.command(vublk, path, image, queues)
    total.add(run_chaos(case, vublk, path, command, queues, depth,
                        ['--kills', kills, '--interval', INTERVAL, '--faults', faults, *options]))
    for point in backend.points:
        command = backend.command(vublk_kill, path, image, queues)
        report = run_chaos(case, vublk, path, command, queues, depth,
                           ['--kills', 1, '--faults', 'none', '--runtime', '1m',
                            '--env', f'VUBLK_KILL_POINT={point}:{PASSES}', *options])
        check(report['faults']['own'] == 1, f'the back-end did not die {point}: {report}')
        total.add(report)
    return total


def combination(vublk, vublk_kill, backend, queues, depth):
    def case_function(case):
        print(f'# {backend.name}, queues {queues}, depth {depth}: '
              f'{torment(case, vublk, vublk_kill, backend, queues, depth, KILLS)}', flush=True)
    return f'{backend.name}: queues {queues}, depth {depth}', case_function


def all_faults(vublk, vublk_kill, backend):
    plain = backend._replace(points=[])

    def case_function(case):
        print(f'# {backend.name}, killed, stopped, replaced: '
              f'{torment(case, vublk, vublk_kill, plain, 4, 32, KILLS, "kill,stop,term,replace")}', flush=True)
    return f'{backend.name}: killed, stopped, ended, replaced', case_function


def on_a_real_disk(vublk, vublk_kill, backend):
    """Returns a case with O_DIRECT. There, requests in the kernel can outlive the back-end's process."""
    def case_function(case):
        with tempfile.TemporaryDirectory(prefix='vublk-', dir=DISK_FOLDER) as folder:
            print(f'# {backend.name}, in {DISK_FOLDER}: '
                  f'{torment(case, vublk, vublk_kill, backend, 4, 32, KILLS, folder=folder)}', flush=True)
    return f'{backend.name}: on a real disk', case_function


def volatile_cache(case, vublk):
    """Only flushed writes are guaranteed, because qcow2 keeps metadata in the daemon's memory until a flush."""
    path = case.path('socket')
    command = storage_daemon(vublk, path, image_file(case, format_='qcow2'), 2, format_='qcow2')
    report = run_chaos(case, vublk, path, command, 2, 32, ['--kills', 20, '--interval', INTERVAL, '--volatile-cache'])
    print(f'# volatile cache: {report["forgotten_blocks"]} blocks fell back', flush=True)


def replay(case, vublk):
    """With replay, all completed writes are guaranteed. The smaller log flushes more often."""
    path = case.path('socket')
    for size in 64, 1:
        command = storage_daemon(None, path, image_file(case, format_='qcow2'), 4, format_='qcow2')
        report = run_chaos(case, vublk, path, command, 4, 32, ['--kills', 20, '--interval', INTERVAL,
                                                               '-o', 'unflushed=replay', '-o', f'replay-mib={size}'])
        print(f'# replay, {size} MiB: {report["requests"]}', flush=True)


def replay_through_a_relay(case, vublk):
    """With replay, all completed writes are guaranteed. The smaller log flushes more often."""
    for size in 64, 1:
        backend = replayed()._replace(relay=(*REPLAY, '-o', f'replay-mib={size}'))
        print(f'# replay, {size} MiB: {torment(case, vublk, None, backend, 4, 32, 20)}', flush=True)


# --- the command itself ----------------------------------------------------------------------

def start_chaos(case, vublk):
    """Starts chaos and waits until it has killed at least one back-end."""
    image, path = image_file(case), case.path('socket')
    child = case.start([vublk, 'chaos', path, '--runtime', '10m', '--interval', INTERVAL, '--faults',
                        'kill,stop', '--verbose', '--', *serve(vublk, path, image, 2, 'on')])
    peer.wait_until(lambda: 'chaos: 3: ' in case.output(child) or child.poll() is not None, 'it kills no back-end')
    check(child.poll() is None, case.output(child))
    return child


def backends_left(case):
    """Returns the processes whose command line contains the case's socket."""
    found = []
    for line in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
        try:
            if str(case.path('socket')).encode() in line.read_bytes():
                found.append(line.parent.name)
        except OSError:
            pass
    return found


def ends_with_all(case, vublk, number, code):
    child = start_chaos(case, vublk)
    check(case.stop(child, number) == code, f'it ended with {child.returncode}: {case.output(child)}')
    peer.wait_until(lambda: not backends_left(case), 'its back-end still runs')
    return case.output(child).splitlines()[-1]


def interrupted(case, vublk):
    last = ends_with_all(case, vublk, signal.SIGINT, 1)
    check(last == 'vublk chaos: interrupted by signal 2 before the end', f'its last words are: {last}')


def killed(case, vublk):
    ends_with_all(case, vublk, signal.SIGKILL, -signal.SIGKILL)


def refusals(case, vublk):
    image, path = image_file(case), case.path('socket')
    command = ['--', *serve(vublk, path, image, 1, 'on')]
    for arguments, code, words in (
            ([], 2, 'SOCKET'), ([path], 2, 'COMMAND'), ([path, '--faults', 'slay', *command], 2, 'slay'),
            ([path, '--interval', '9-3', *command], 2, '--interval'), ([path, '--env', 'x', *command], 2, '--env'),
            ([path, '--queues', '2', *command], 1, '--queues'), ([path, '--', 'false'], 1, "'false' ended with"),
            ([path, '--faults', 'none', *command], 2, '--runtime'), ([path, '--', '/none'], 1, '/none')):
        result = case.call([vublk, 'chaos', *arguments])
        check(result.code == code and words in result.err and not result.out, str(result))
        check(len(result.err.splitlines()) == 1, f'one sentence was expected: {result}')


def in_use(case, vublk):
    """chaos does not touch a disk that another process serves."""
    child, path = peer.VublkServe(vublk).start(case, image_file(case))
    result = case.call([vublk, 'chaos', path, '--', 'sleep', '100'])
    check(result.code == 1 and 'another process listens' in result.err, str(result))
    case.stop(child)


def use_memory():
    """Puts the images in memory if possible, because the test is not about the host's disk."""
    if os.path.isdir(MEMORY_FOLDER):
        os.environ.setdefault('TMPDIR', MEMORY_FOLDER)


def cases(vublk, vublk_kill):
    listed = [(name, lambda case, function=function: function(case, vublk)) for name, function in (
        ('interrupted', interrupted), ('killed', killed), ('refusals', refusals), ('in use', in_use),
        ('volatile cache', volatile_cache), ('volatile cache: replay', replay),
        ('volatile cache: replay through a relay', replay_through_a_relay))]
    for backend in backends(vublk_kill):
        listed += [combination(vublk, vublk_kill, backend, queues, depth) for queues in QUEUES for depth in DEPTHS]
        listed += [all_faults(vublk, vublk_kill, backend), on_a_real_disk(vublk, vublk_kill, backend)]
    for backend in shadowed(vublk_kill):
        listed += [combination(vublk, vublk_kill, backend, 4, 32), all_faults(vublk, vublk_kill, backend)]
    return listed


def main():
    use_memory()
    vublk, vublk_kill, *words = sys.argv[1:]
    return peer.main(cases(vublk, vublk_kill), words)


if __name__ == '__main__':
    sys.exit(main())
