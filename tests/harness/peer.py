# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The runner of the tests that start whole programs: each case is a function with its own
scratch folder and its own processes, which end with the case. The output is TAP.

    def test_something(case): case.run(['true'])
    sys.exit(peer.main([test_something]))

Arguments of a test program: words select the cases whose names contain one of
them; -l lists the cases; -k keeps the scratch folders and prints their paths.
"""
import ctypes
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback

# This limit only ends a deadlock, so it is long enough for instrumented builds and busy machines.
LIMIT_S = 120

libc = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


class Skip(Exception):
    """Says why a case cannot run here."""


class Failure(Exception):
    """Says what was expected and what happened instead."""


def tie_to_parent():
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def check(condition, sentence):
    if not condition:
        raise Failure(sentence)


RESET = 'the driver must reset the device'
# A warning about a back-end that returns rings early, as qemu-storage-daemon does. No reset is needed yet.
CONDITION = f'if the connection is lost before they are complete, {RESET}'


def check_no_reset(log):
    """Checks that a device has not asked its driver for a reset, which would lose the driver's requests."""
    check('must reset the device' not in log.replace(CONDITION, ''), f'{RESET}: {log}')


def need(*programs):
    for program in programs:
        if not shutil.which(program, path=os.environ.get('PATH', '') + ':/usr/sbin:/sbin'):
            raise Skip(f'no {program} here')


def own_threads(pid):
    """The threads of a process, without those that the kernel starts for io_uring, whose number depends on the load."""
    return {int(path.parent.name) for path in pathlib.Path(f'/proc/{pid}/task').glob('*/comm')
            if not path.read_text().startswith('iou-')}


def wait_until(condition, sentence, limit_s=LIMIT_S):
    """
    Polls `condition` until it is true. After the time limit, fails with `sentence`, which may be a function, so that it
    can contain what a program has said until then.
    """
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() >= end:
            raise Failure(sentence() if callable(sentence) else sentence)
        time.sleep(0.005)


class Result:
    def __init__(self, command, done):
        self.command = [str(word) for word in command]
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    def __str__(self):
        return f'{" ".join(self.command)}: exit {self.code}\n{self.out}{self.err}'


class Case:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.children = []

    def path(self, name):
        return self.folder / name

    def start(self, command, **options):
        """Starts a process that runs next to the case; its output goes to a file."""
        number = len(self.children)
        log = open(self.folder / f'output-{number}', 'w+b')
        options.setdefault('stdout', log)
        options.setdefault('stdin', subprocess.DEVNULL)
        child = subprocess.Popen([str(word) for word in command], stderr=log,
                                 preexec_fn=tie_to_parent, **options)
        child.log = log
        self.children.append(child)
        return child

    def output(self, child):
        return pathlib.Path(child.log.name).read_text(errors='replace')

    def stop(self, child, number=signal.SIGTERM):
        """Ends a process and returns its exit code."""
        if child.poll() is None:
            child.send_signal(number)
        try:
            return child.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            raise Failure(f'{child.args[0]} still runs after signal {number}') from None

    def call(self, command, limit_s=LIMIT_S, **options):
        """Runs a program and returns its Result, whatever its exit code is."""
        try:
            done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, errors='replace', timeout=limit_s,
                                  preexec_fn=tie_to_parent, **options)
        except subprocess.TimeoutExpired as late:
            said = b''.join(text for text in (late.stdout, late.stderr) if text).decode(errors='replace')
            raise Failure(f'{" ".join(map(str, command))}: no end after {limit_s} s: {said}') from None
        return Result(command, done)

    def run(self, command, **options):
        """Runs a program, which must succeed, and returns its output."""
        result = self.call(command, **options)
        check(result.code == 0, str(result))
        return result.out

    def close(self):
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait()
            child.log.close()


class VublkServe:
    """Our own back-end. It must exit with 0."""
    name = 'vublk serve'
    write_back = True

    def __init__(self, program):
        self.program = program

    def start(self, case, image, queues=1, read_only=False, arguments=(), form='raw', path=None):
        """Returns the process and the socket. `path`: the socket of a killed back-end. `queues` None: the default."""
        check(form == 'raw', 'vublk serve knows raw files only')
        path = path or case.path(f'socket-{len(case.children)}')
        command = [self.program, 'serve', '--socket-path', path, '--blk-file', image,
                   *(['--num-queues', queues] if queues else []), *(['--read-only'] if read_only else []), *arguments]
        child = case.start(command)
        wait_for_socket(case, child, path)
        return child, path

    def stop(self, case, child):
        code = case.stop(child)
        check(code == 0, f'vublk serve ended with {code}: {case.output(child)}')


class StorageDaemon:
    name = 'qemu-storage-daemon'
    write_back = False  # according to wce in its config
    program, environment = ['qemu-storage-daemon'], {}

    def start(self, case, image, queues=1, read_only=False, arguments=(), form='raw', path=None,
              block_bytes=512, locking='auto'):
        need(self.program[0])
        path = path or case.path(f'socket-{len(case.children)}')
        on_off = 'on' if read_only else 'off'
        command = [*self.program,
                   '--blockdev', f'driver=file,node-name=file,filename={image},read-only={on_off},discard=unmap,'
                   f'locking={locking}',
                   '--blockdev', f'driver={form},node-name=disk,file=file,read-only={on_off},discard=unmap',
                   '--export', 'type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,'
                   f'addr.path={path},num-queues={queues},writable={"off" if read_only else "on"},'
                   f'logical-block-size={block_bytes}',
                   *arguments]
        child = case.start(command, env={**os.environ, **self.environment})
        wait_for_socket(case, child, path)
        return child, path

    def stop(self, case, child):
        """
        Repeats SIGTERM until the daemon ends. The daemon's signal handler only sets a flag, so a
        SIGTERM that arrives between the check of the flag and poll() may have no effect.
        """
        end = time.monotonic() + LIMIT_S
        while child.poll() is None:
            check(time.monotonic() < end, f'{child.args[0]} still runs after SIGTERM')
            child.send_signal(signal.SIGTERM)
            time.sleep(0.01)


def listens(path):
    """
    Whether a process listens on the Unix socket. The file appears with bind(), and until listen() the kernel
    refuses connections. A connection would tell, too, but the process would see a client. The kernel lists the path as
    the process has given it, which may be relative.
    """
    LISTENS = 1 << 16  # __SO_ACCEPTCON in the column of flags
    lines = (line.split(maxsplit=7) for line in pathlib.Path('/proc/net/unix').read_text().splitlines()[1:])
    names = [line[7] for line in lines if line[7:] and int(line[3], 16) & LISTENS]
    return path.is_socket() and any(path.parts[-len(name.parts):] == name.parts for name in map(pathlib.Path, names))


def wait_for_socket(case, child, path):
    wait_until(lambda: listens(path) or child.poll() is not None,
               lambda: f'nothing listens on {path}: {case.output(child)}')
    check(child.poll() is None, f'{child.args[0]} ended with {child.returncode}: {case.output(child)}')


def server_pid(path):
    """The process that the kernel names as the peer of a new connection to the socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        return struct.unpack('3i', client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


def suspend(child):
    """
    Stops a child with SIGSTOP, and returns when all of its threads have stopped. kill() returns earlier: the kernel
    tells one thread, and until that thread runs, the others continue.
    """
    os.kill(child.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def clean_up_at_signals():
    """
    Makes signals that end a program, such as SIGTERM at a time limit or Ctrl-C, end it as an exception does, so that its
    processes and folders do not stay. Later signals are ignored, because they would interrupt the cleanup.
    """
    numbers = [number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
               if signal.getsignal(number) != signal.SIG_IGN]

    def end(*_):
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        sys.exit(1)

    for number in numbers:
        signal.signal(number, end)


def outcome_of(function):
    """Calls the function; returns ok, skip or not ok, and the reason."""
    try:
        function()
        return 'ok', ''
    except Skip as reason:
        return 'skip', str(reason)
    except Failure as failure:
        place = [frame for frame in traceback.extract_tb(failure.__traceback__)
                 if frame.filename != __file__][-1]
        return 'not ok', f'{place.name}, line {place.lineno}: {failure}'
    except Exception:  # a mistake in the test itself
        return 'not ok', traceback.format_exc()


def run_case(function, keep):
    folder = tempfile.mkdtemp(prefix='vublk-')
    case = Case(folder)
    try:
        return outcome_of(lambda: function(case))
    finally:
        case.close()
        if keep:
            print(f'# {folder}')
        else:
            shutil.rmtree(folder, ignore_errors=True)


def report(number, name, outcome, text):
    """Prints the case's TAP line. If the case has failed, prints `text` as comments before it."""
    for line in text.splitlines() if outcome == 'not ok' else []:
        print(f'# {line}')
    suffix = f' # SKIP {text}' if outcome == 'skip' else ''
    print(f'{"not ok" if outcome == "not ok" else "ok"} {number} - {name}{suffix}', flush=True)


def main(cases, words=()):
    """Runs the cases, each a function or a pair (name, function). Returns the exit status."""
    options = [word for word in words if word.startswith('-')]
    words = [word for word in words if not word.startswith('-')]
    named = [case if isinstance(case, tuple) else (case.__name__, case) for case in cases]
    wanted = [(name, function) for name, function in named
              if not words or any(word in name for word in words)]
    if '-l' in options:
        print('\n'.join(name for name, _ in named))
        return 0
    clean_up_at_signals()
    print(f'1..{len(wanted)}')
    failed = False
    for number, (name, function) in enumerate(wanted, 1):
        outcome, text = run_case(function, '-k' in options)
        report(number, name, outcome, text)
        failed |= outcome == 'not ok'
    return int(failed)
