#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
`vublk serve` and `vublk device` as services of systemd, which the test plays: notifications, the watchdog, and sockets
that are passed to them.

    service.py VUBLK [-l] [-k] [WORD...]
"""
import json
import os
import pathlib
import signal
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import frozen  # noqa: E402
import peer  # noqa: E402
from peer import check  # noqa: E402
from supervisor import Supervisor, listener  # noqa: E402

VUBLK = sys.argv[1] if len(sys.argv) > 1 else 'vublk'
MIB = 1 << 20


def image_file(case):
    path = case.path('disk')
    with open(path, 'wb') as file:
        file.truncate(32 * MIB)
    return path


def serve_command(case, *arguments):
    return [VUBLK, 'serve', '--blk-file', image_file(case), *arguments]


def device_command(case, *arguments, bus='vhost-user'):
    return [VUBLK, 'device', '--chardev', case.path('back'), '--bus', f'{bus}:{case.path("vm")}', *arguments]


def info(case, path):
    return json.loads(case.run([VUBLK, 'info', path, '--json']))


def stop(case, child, supervisor):
    code = case.stop(child)
    check(code == 0, f'it ended with {code}: {case.output(child)}')
    lines = supervisor.receive()
    check(lines.count('STOPPING=1') == 1, f'STOPPING=1 was not sent once: {lines}')
    check(lines.index('STOPPING=1') > lines.index('READY=1'), f'{lines}')


def serve_is_ready(case):
    """READY=1 means that a front-end is served; the status names the disk and the front-end."""
    for control in ([], ['--control', case.path('ctl')]):
        supervisor = Supervisor(case, f'notify-{len(control)}')
        child = supervisor.start(serve_command(case, '--socket-path', case.path('back'), *control))
        supervisor.wait_for('READY=1', child)
        check(info(case, case.path('back'))['capacity_bytes'] == 32 * MIB, 'another size')
        check(f"'{case.path('disk')}'" in supervisor.status() and '32 MiB' in supervisor.status(), supervisor.status())
        bench = case.start([VUBLK, 'bench', case.path('back'), '--rw', 'randread', '--runtime', '60'])
        supervisor.wait_for_status(f'Serves process {bench.pid}', child)
        case.stop(bench)
        supervisor.wait_for_status('no front-end is connected', child)
        stop(case, child, supervisor)


def device_is_ready(case):
    """The relay is ready when its first back-end has connected. The VMM connects earlier and waits."""
    supervisor, waiting = Supervisor(case), listener(case.path('vm'))
    child = supervisor.start(device_command(case, '--control', case.path('ctl')), waiting)
    supervisor.wait_for_status('Waits for the first back-end: the socket', child)
    vmm = case.start([VUBLK, 'info', '--timeout', '100s', case.path('vm'), '--json'])
    check('READY=1' not in supervisor.receive(), 'it is ready without a back-end')
    serve, _ = peer.VublkServe(VUBLK).start(case, image_file(case), path=case.path('back'))
    supervisor.wait_for('READY=1', child)
    check(vmm.wait(peer.LIMIT_S) == 0, case.output(vmm))
    supervisor.wait_for_status('no VMM is connected', child)
    os.kill(serve.pid, signal.SIGKILL)
    supervisor.wait_for_status('No back-end, requests wait', child)
    peer.VublkServe(VUBLK).start(case, image_file(case), path=case.path('back'))
    supervisor.wait_for_status(f'Back-end {case.path("back")}', child)
    stop(case, child, supervisor)
    check(supervisor.lines.count('READY=1') == 1, f'{supervisor.lines}')
    check(case.path('vm').exists(), 'the socket of another process was removed')


def reload(case):
    """SIGHUP is reported as a reload, and the size is read again before its end."""
    supervisor = Supervisor(case)
    child = supervisor.start(serve_command(case, '--socket-path', case.path('back')))
    supervisor.wait_for('READY=1', child)
    for number in (2, 3):
        os.truncate(case.path('disk'), number * 32 * MIB)
        child.send_signal(signal.SIGHUP)
        supervisor.wait_for('READY=1', child, number)
        check(supervisor.lines.count('RELOADING=1') == number - 1, f'{supervisor.lines}')
        check(f'{number * 32} MiB' in supervisor.status(), supervisor.status())
        check(int(supervisor.wait_for('MONOTONIC_USEC=', child, number - 1).partition('=')[2]) > 0, 'no time')
    stop(case, child, supervisor)


def device_reload(case):
    supervisor = Supervisor(case)
    peer.VublkServe(VUBLK).start(case, image_file(case), path=case.path('back'))
    child = supervisor.start(device_command(case))
    supervisor.wait_for('READY=1', child)
    child.send_signal(signal.SIGHUP)
    supervisor.wait_for('READY=1', child, 2)
    check(supervisor.lines.count('RELOADING=1') == 1, f'{supervisor.lines}')
    stop(case, child, supervisor)


def watchdog(case):
    """The main loop reports that it runs, also while the thread that waits for the storage is stopped."""
    for control in ([], ['--control', case.path('ctl')]):
        supervisor = Supervisor(case, f'notify-{len(control)}')
        child = supervisor.start(serve_command(case, '--socket-path', case.path('back'), '-o', 'threads=1', *control),
                                 WATCHDOG_USEC='20000')
        supervisor.wait_for('WATCHDOG=1', child, 3)
        worker, = peer.own_threads(child.pid) - {child.pid} - control_threads(child)
        stopped = frozen.Frozen(worker)
        sent = supervisor.receive().count('WATCHDOG=1')
        supervisor.wait_for('WATCHDOG=1', child, sent + 5)
        stopped.thaw()
        stop(case, child, supervisor)


def control_threads(child):
    """The control socket's thread, which begins after the worker."""
    return set() if '--control' not in map(str, child.args) else {max(peer.own_threads(child.pid))}


def watchdog_of_the_relay(case):
    supervisor = Supervisor(case)
    child = supervisor.start(device_command(case), WATCHDOG_USEC='20000')
    supervisor.wait_for('WATCHDOG=1', child, 3)
    check(case.stop(child) == 0, case.output(child))


def upgrade(case):
    """
    The old process names the new one as the main process of the service, and reports no end. The new process reports,
    and still has the socket that was passed to the old one.
    """
    serve_socket, device_socket = listener(case.path('back')), listener(case.path('vm'))
    for number, (name, command, given) in enumerate((('serve', serve_command(case, '--socket-path', case.path('back')), serve_socket),
                                                     ('device', device_command(case), device_socket))):
        supervisor, control = Supervisor(case, f'notify-{name}'), case.path(f'{name}.ctl')
        old = supervisor.start([*command, '--control', control], given)
        supervisor.wait_for('READY=1', old)
        new = supervisor.start([VUBLK, name, '--take-over', control], WATCHDOG_USEC='20000')
        supervisor.wait_for(f'MAINPID={new.pid}', new)
        check(old.wait(peer.LIMIT_S) == 0, case.output(old))
        check('STOPPING=1' not in supervisor.receive(), f'{supervisor.lines}')
        supervisor.wait_for('READY=1', new, 2)
        supervisor.wait_for('WATCHDOG=1', new, 3)
        info(case, case.path('vm' if number else 'back'))
    for child in (new, *[other for other in case.children if other.poll() is None]):
        check(case.stop(child) == 0, case.output(child))
    check(case.path('vm').exists() and case.path('back').exists(), 'a socket of another process was removed')


def abstract_address(case):
    """NOTIFY_SOCKET may name an abstract socket."""
    supervisor = Supervisor(case)
    supervisor.socket.close()
    supervisor.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    supervisor.socket.bind('\0' + str(supervisor.path))
    supervisor.socket.setblocking(False)
    child = supervisor.start(serve_command(case, '--socket-path', case.path('back')), NOTIFY_SOCKET=f'@{supervisor.path}')
    supervisor.wait_for('READY=1', child)
    stop(case, child, supervisor)


def fill_queue(supervisor):
    filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    filler.setblocking(False)
    try:
        while True:
            filler.sendto(b'FILLER=1', str(supervisor.path))
    except BlockingIOError:
        filler.close()


def full_queue_at_upgrade(case):
    """The old process names the new one to a supervisor that begins to read when the new one serves."""
    supervisor, other = Supervisor(case), Supervisor(case, 'other')
    old = supervisor.start(serve_command(case, '--socket-path', case.path('back'), '--control', case.path('ctl')))
    supervisor.wait_for('READY=1', old)
    fill_queue(supervisor)
    new = other.start([VUBLK, 'serve', '--take-over', case.path('ctl')])
    other.wait_for('READY=1', new)
    supervisor.wait_for(f'MAINPID={new.pid}', new)
    check(old.wait(peer.LIMIT_S) == 0, case.output(old))
    stop(case, new, other)


def full_queue(case):
    """A supervisor that does not read delays READY=1, and nothing else."""
    supervisor = Supervisor(case)
    fill_queue(supervisor)
    child = supervisor.start(serve_command(case, '--socket-path', case.path('back')))
    peer.wait_for_socket(case, child, case.path('back'))
    info(case, case.path('back'))
    supervisor.wait_for('READY=1', child)
    stop(case, child, supervisor)


def many_clients(case):
    """Clients that connect and disconnect do not flood the supervisor: ten changes of the text per second at most."""
    supervisor = Supervisor(case)
    child = supervisor.start(serve_command(case, '--socket-path', case.path('back')))
    supervisor.wait_for('READY=1', child)
    begin = time.monotonic()
    for _ in range(200):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(case.path('back')))
        supervisor.receive()
    client = case.start([VUBLK, 'bench', case.path('back'), '--rw', 'randread', '--runtime', '60'])
    supervisor.wait_for_status(f'Serves process {client.pid}', child)
    sent = sum(line.startswith('STATUS=') for line in supervisor.receive())
    check(sent <= (time.monotonic() - begin) * 10 + 2, f'{sent} changes in {time.monotonic() - begin} s')
    case.stop(client)
    stop(case, child, supervisor)


def no_supervisor(case):
    """Addresses that are not usable are ignored."""
    for number, address in enumerate(('', 'relative', '/', '@', '/' + 'x' * 200, str(case.path('missing')))):
        child = Supervisor(case, f'unused-{number}').start(
            serve_command(case, '--socket-path', case.path('back')), NOTIFY_SOCKET=address, WATCHDOG_USEC='1000')
        peer.wait_for_socket(case, child, case.path('back'))
        info(case, case.path('back'))
        check(case.stop(child) == 0, case.output(child))


def serve_on_a_passed_socket(case):
    """With and without --socket-path, and through a symbolic link. The socket stays when the process has ended."""
    waiting = listener(case.path('back'))
    case.path('link').symlink_to(case.path('back'))
    for number, arguments in enumerate(([], ['--socket-path', case.path('back')], ['--socket-path', case.path('link')],
                                        ['--fd', '3'])):
        supervisor = Supervisor(case, f'notify-{number}')
        client = case.start([VUBLK, 'info', '--timeout', '100s', case.path('back'), '--json'])
        child = supervisor.start(serve_command(case, *arguments), waiting, LISTEN_FDNAMES='back')
        supervisor.wait_for('READY=1', child)
        check(client.wait(peer.LIMIT_S) == 0, case.output(client))
        stop(case, child, supervisor)
        check(case.path('back').exists(), 'the socket of another process was removed')


def killed_relay(case):
    """The VMM's socket outlives the relay: the next relay serves a VMM that has connected meanwhile, on both buses."""
    peer.VublkServe(VUBLK).start(case, image_file(case), path=case.path('back'))
    for bus in ('vhost-user', 'vfio-user'):
        case.path('vm').unlink(missing_ok=True)
        waiting = listener(case.path('vm'))
        for number in range(2):
            supervisor = Supervisor(case, f'notify-{bus}-{number}')
            vmm = case.start([VUBLK, 'info', '--timeout', '100s', case.path('vm'), '--json']) if bus == 'vhost-user' else None
            child = supervisor.start(device_command(case, bus=bus), waiting)
            supervisor.wait_for('READY=1', child)
            check(vmm is None or vmm.wait(peer.LIMIT_S) == 0, vmm and case.output(vmm))
            case.stop(child, signal.SIGKILL)
        waiting.close()


def refused(case, words, command, given, code=2, **variables):
    child = Supervisor(case, f'notify-{len(case.children)}').start(command, given, passes=True, **variables)
    check(child.wait(peer.LIMIT_S) == code, f'it ended with {child.returncode}, not {code}: {case.output(child)}')
    said = case.output(child).splitlines()
    check(len(said) == 1 and words in said[0], f'expected "{words}": {said}')


def mismatched_sockets(case):
    """A socket that does not fit is refused with one sentence."""
    connected, _other = socket.socketpair()
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(case.path('bound')))
    good = listener(case.path('other'))
    serve = serve_command(case, '--socket-path', case.path('vm'))
    datagram, seqpacket = listener(case.path('dgram'), socket.SOCK_DGRAM), listener(case.path('seq'), socket.SOCK_SEQPACKET)
    with open(case.path('disk')) as file, socket.socket() as tcp:
        tcp.listen()
        for command in (device_command(case), serve):
            refused(case, f"a socket at '{case.path('other')}'", command, good)
            refused(case, 'is not a socket', command, file)
            refused(case, "a socket at ''", command, tcp)
            refused(case, "a socket at ''", command, connected)
            refused(case, 'passes 2 sockets (a:b), but one is needed', command, good, LISTEN_FDS='2', LISTEN_FDNAMES='a:b')
            refused(case, 'LISTEN_FDS', command, good, LISTEN_FDS='x')
            refused(case, 'LISTEN_FDS', command, good, LISTEN_FDS='-1')
            refused(case, 'LISTEN_FDS', command, good, LISTEN_FDS='2147483647')
            refused(case, 'passes 0 sockets', command, good, LISTEN_FDS='0')
            refused(case, 'which is not open', command, None)
        refused(case, 'remove the option', serve_command(case, '--fd', '4'), good)
        refused(case, 'AF_UNIX', serve_command(case), tcp)
        for name, given, words in (('dgram', datagram, 'SOCK_STREAM'), ('seq', seqpacket, 'SOCK_STREAM'),
                                   ('bound', bound, 'neither listening nor connected')):
            refused(case, words, serve_command(case, '--socket-path', case.path(name)), given)
            refused(case, words, [VUBLK, 'device', '--chardev', case.path('back'), '--bus', f'vhost-user:{case.path(name)}'],
                    given)
        mode = ['--socket-mode', '0660']
        right = listener(case.path('vm'))
        refused(case, '--socket-mode', [*serve, *mode], right)
        refused(case, '--socket-mode', device_command(case, *mode), right)


def variables_of_another_process(case):
    """LISTEN_FDS for another process is ignored, so --socket-path makes a socket."""
    supervisor = Supervisor(case)
    child = supervisor.start(serve_command(case, '--socket-path', case.path('back')), passes=True, LISTEN_PID='1')
    supervisor.wait_for('READY=1', child)
    info(case, case.path('back'))
    stop(case, child, supervisor)


if __name__ == '__main__':
    sys.exit(peer.main([serve_is_ready, device_is_ready, reload, device_reload, watchdog, watchdog_of_the_relay, upgrade,
                        abstract_address, full_queue, full_queue_at_upgrade, many_clients, no_supervisor, serve_on_a_passed_socket, killed_relay,
                        mismatched_sockets, variables_of_another_process], sys.argv[2:]))
