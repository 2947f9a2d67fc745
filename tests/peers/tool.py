#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The tool's commands under adverse conditions: signals, a back-end that is killed, stopped or
replaced, and a file size limit. Also the demo, and each way in which it can end.

    tool.py VUBLK [-l] [-k] [WORD...]
"""
import functools
import json
import os
import pathlib
import re
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import peer  # noqa: E402
from peer import check  # noqa: E402

VUBLK = sys.argv[1] if len(sys.argv) > 1 else 'vublk'
MIB = 1 << 20


def image_file(case, size, name='disk'):
    path = case.path(name)
    with open(path, 'wb') as file:
        file.truncate(size)
    return path


def check_sentence(text, command, *words):
    """Checks that the last line of the output is the error sentence of the command."""
    last = text.splitlines()[-1] if text else ''
    check(last.startswith(f'vublk {command}: '), f'the last line is not a sentence of {command}:\n{text}')
    for word in words:
        check(word in last, f'the sentence does not say {word!r}: {last}')


def ended(pid):
    """Returns whether the process does not exist or is a zombie."""
    try:
        return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] in 'ZX'
    except FileNotFoundError:
        return True


# --- the demo --------------------------------------------------------------------------

def start_demo(case, until):
    """Starts the demo in its own scratch folder and waits until it is at step `until`."""
    case.path('tmp').mkdir()
    child = case.start([VUBLK, 'demo'], env={**os.environ, 'TMPDIR': str(case.path('tmp'))})
    peer.wait_until(lambda: f'\n{until}. ' in '\n' + case.output(child) or child.poll() is not None,
                    f'the demo does not reach step {until}')
    check(child.poll() is None, f'the demo ended with {child.returncode}: {case.output(child)}')
    return child


def check_nothing_left(case):
    left = list(case.path('tmp').iterdir())
    check(not left, f'the demo left {left}')


def backend_of(case, child):
    return int(re.search(r'another process \(pid (\d+)\)', case.output(child))[1])


def demo_shows_all(case):
    child = start_demo(case, 1)
    code = case.stop(child, 0)
    text = case.output(child)
    check(code == 0, f'the demo ended with {code}: {text}')
    for words in ('1. ', '7. ', 'all correct', 'the disk has 96 MiB after', 'reads', 'writes'):
        check(words in text, f'the demo does not say {words!r}: {text}')
    check('vublk serve:' not in text and 'vublk demo:' not in text, f'there is an error: {text}')
    check(ended(backend_of(case, child)), 'the back-end still runs')
    check_nothing_left(case)


def demo_is_interrupted(case, number, step):
    child = start_demo(case, step)
    backend = backend_of(case, child) if step > 2 else None
    code = case.stop(child, number)
    check(code == -number, f'the demo ended with {code}: {case.output(child)}')
    check_nothing_left(case)
    if backend:
        peer.wait_until(lambda: ended(backend), 'the back-end still runs')


def demo_loses_its_backend(case):
    child = start_demo(case, 6)
    os.kill(backend_of(case, child), signal.SIGKILL)
    code = case.stop(child, 0)
    check(code == 1, f'the demo ended with {code}: {case.output(child)}')
    check_sentence(case.output(child), 'demo', 'back-end')
    check_nothing_left(case)


def demo_is_killed(case):
    """When the demo is killed by SIGKILL, its files stay, but its back-end must end."""
    child = start_demo(case, 4)
    backend = backend_of(case, child)
    case.stop(child, signal.SIGKILL)
    peer.wait_until(lambda: ended(backend), 'the back-end still runs')


def processor_ticks(child):
    """Returns the processor time of a back-end, which grows while it works for a client."""
    fields = pathlib.Path(f'/proc/{child.pid}/stat').read_text().rpartition(')')[2].split()
    return int(fields[11]) + int(fields[12])


# --- bench and copy ----------------------------------------------------------------------

def bench_is_interrupted(case):
    """After a signal, the report covers the time until the signal."""
    child, path = peer.VublkServe(VUBLK).start(case, image_file(case, 16 * MIB))
    for number in (signal.SIGINT, signal.SIGTERM):
        before = processor_ticks(child)
        bench = case.start([VUBLK, 'bench', path, '--rw', 'randrw', '--runtime', '60'])
        peer.wait_until(lambda: processor_ticks(child) > before + 10 or bench.poll() is not None,
                        'the back-end is not used')
        code = case.stop(bench, number)
        text = case.output(bench)
        check(code == 1, f'bench ended with {code}: {text}')
        check('vublk bench: interrupted by signal' in text, f'it does not say so: {text}')
        check('randrw' in text, f'there is no report: {text}')
    case.stop(child)


def start_slow_copy(case, path):
    """Starts a copy with one small request in flight, and waits until it has reported progress."""
    read_end, write_end = os.pipe()
    child = case.start([VUBLK, 'copy', path, case.path('back'), '--requests', '1', '--request-size',
                        '4k', '--num-queues', '1', f'--progress={write_end}', '--stall-time', '300ms'],
                       pass_fds=[write_end])
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        told = [pipe.readline(), pipe.readline()]
    check(told[0] == '0/100\n' and re.fullmatch(r'[1-9]\d?/100\n', told[1]),
          f'the progress was told as {told!r}: {case.output(child)}')
    return child  # from now on no process reads the progress, which must not stop the copy


def copy_is_interrupted(case):
    server, path = peer.VublkServe(VUBLK).start(case, image_file(case, 1024 * MIB))
    copy = start_slow_copy(case, path)
    code = case.stop(copy, signal.SIGTERM)
    check(code == 1, f'copy ended with {code}: {case.output(copy)}')
    check_sentence(case.output(copy), 'copy', 'interrupted', 'incomplete', str(case.path('back')))
    case.run([VUBLK, 'info', path])
    case.stop(server)


def a_stopped_backend(case):
    """If the back-end hangs, the commands fail after the stall time."""
    server, path = peer.VublkServe(VUBLK).start(case, image_file(case, 1024 * MIB))
    copy = start_slow_copy(case, path)
    peer.suspend(server)
    code = case.stop(copy, 0)
    check(code == 1, f'copy ended with {code}: {case.output(copy)}')
    check_sentence(case.output(copy), 'copy', 'no request completed', 'within 300 ms', 'incomplete')
    server.send_signal(signal.SIGCONT)
    for mode in ('event', 'poll'):
        before = processor_ticks(server)
        bench = case.start([VUBLK, 'bench', path, '--runtime', '60', '--mode', mode,
                            '--stall-time', '300ms'])
        peer.wait_until(lambda: processor_ticks(server) > before + 10 or bench.poll() is not None,
                        'the back-end is not used')
        peer.suspend(server)
        code = case.stop(bench, 0)
        check(code == 1, f'bench ended with {code}: {case.output(bench)}')
        check(re.search('the back-end completed no request within 300 ms', case.output(bench)),
              case.output(bench))
        server.send_signal(signal.SIGCONT)
    case.run([VUBLK, 'info', path])
    case.stop(server)


def interrupted_without_a_backend(case):
    """During an outage, the first signal ends bench and copy immediately, although the stall time is an hour."""
    waits = ['-o', 'reconnect-ms=1000', '--stall-time', '1h']
    image = image_file(case, 1024 * MIB)
    for command in (['bench', '--runtime', '1h'], ['bench', '--runtime', '1h', '--verify', '--rw', 'randrw'],
                    ['bench', '--runtime', '1h', '--mode', 'poll'],
                    ['copy', '--requests', '1', '--request-size', '4k', '--num-queues', '1']):
        server, path = peer.VublkServe(VUBLK).start(case, image)
        before = processor_ticks(server)
        target = [case.path('back')] if command[0] == 'copy' else []
        child = case.start([VUBLK, *command, *waits, path, *target])
        peer.wait_until(lambda: processor_ticks(server) > before + 10 or child.poll() is not None,
                        'the back-end is not used')
        case.stop(server, signal.SIGKILL)
        peer.wait_until(lambda: 'requests wait for the next back-end' in case.output(child),
                        'the outage is not reported')
        code = case.stop(child, signal.SIGTERM)
        check(code == 1, f'{command} ended with {code}: {case.output(child)}')
        check('interrupted' in case.output(child), case.output(child))
        path.unlink(missing_ok=True)


def bench_keeps_to_its_time_without_a_backend(case):
    """bench ends at its time during an outage. The case repeats it until the outage has begun early enough."""
    image, text = image_file(case, 16 * MIB), ''
    while 'the measurement ended during an outage' not in text:
        server, path = peer.VublkServe(VUBLK).start(case, image)
        before = processor_ticks(server)
        child = case.start([VUBLK, 'bench', path, '--runtime', '3', '-o', 'reconnect-ms=1000', '--stall-time', '1h'])
        peer.wait_until(lambda: processor_ticks(server) > before + 5 or child.poll() is not None, 'the back-end is not used')
        case.stop(server, signal.SIGKILL)
        code = case.stop(child, 0)
        text = case.output(child)
        check(code == 0, f'bench ended with {code}: {text}')
        path.unlink(missing_ok=True)


def bench_keeps_a_rate(case):
    """No check depends on the speed: a slow machine starts requests later, and never more of them."""
    child, path = peer.VublkServe(VUBLK).start(case, image_file(case, 16 * MIB), queues=2)
    rate, count = 500, 100
    for mode in 'event', 'poll':
        words = [VUBLK, 'bench', path, '--mode', mode, '--rate_iops', rate, '--json']
        for job in json.loads(case.run([*words, '--numjobs', '2', '--number_ios', count]))['jobs']:
            check(job['job options']['rate_iops'] == str(rate), str(job['job options']))
            check(job['read']['total_ios'] == count, f'{count} requests were asked for: {job}')
            check(job['job_runtime'] >= (count - 1) * 1000 // rate, f'{count} requests are too early: {job}')
        job = json.loads(case.run([*words, '--rw', 'randrw', '--fsync', '5', '--runtime', '300ms']))['jobs'][0]
        done = job['read']['total_ios'] + job['write']['total_ios']
        check(done <= rate * (job['job_runtime'] + 1) / 1000 + 1, f'too many requests: {job}')
    text = case.run([VUBLK, 'bench', path, '--rw', 'randrw', '--verify', '--rate_iops', '2000', '--number_ios', '64'])
    check('at most 2000 IOPS per job' in text and 'all correct' in text, text)
    case.stop(child)


def another_disk(case):
    """The next back-end serves another, smaller image. bench prints a warning and continues."""
    server, path = peer.VublkServe(VUBLK).start(case, image_file(case, 16 * MIB))
    before = processor_ticks(server)
    child = case.start([VUBLK, 'bench', path, '--runtime', '1h', '--time_based', '--size', '1M',
                        '-o', 'reconnect-ms=10'])
    peer.wait_until(lambda: processor_ticks(server) > before + 10 or child.poll() is not None, 'the back-end is not used')
    case.stop(server, signal.SIGKILL)
    path.unlink(missing_ok=True)
    server, _ = peer.VublkServe(VUBLK).start(case, image_file(case, 8 * MIB, 'other'), path=path)
    for words in ('the capacity of the disk at', f'changed from {16 * MIB} to {8 * MIB} bytes',
                  'the serial of the disk at'):
        peer.wait_until(lambda: words in case.output(child) or child.poll() is not None, f'{words}: is missing')
        check(case.output(child).count(words) == 1, case.output(child))
    check(case.stop(child) == 1, case.output(child))
    case.stop(server)


def copy_loses_its_backend(case):
    server, path = peer.VublkServe(VUBLK).start(case, image_file(case, 1024 * MIB))
    copy = start_slow_copy(case, path)
    server.kill()
    code = case.stop(copy, 0)
    check(code == 1, f'copy ended with {code}: {case.output(copy)}')
    check_sentence(case.output(copy), 'copy', 'disconnected', 'incomplete')


def copy_to_a_file_that_may_not_grow(case):
    server, path = peer.VublkServe(VUBLK).start(case, image_file(case, 16 * MIB))
    result = case.call(['sh', '-c', 'ulimit -f 1000; exec "$@"', 'sh', VUBLK, 'copy', path,
                        case.path('back')])
    check(result.code == 1, str(result))
    check_sentence(result.err, 'copy', str(case.path('back')), 'File too large')
    case.stop(server)


def without_standard_descriptors(case):
    """A disk or file must not get the descriptor of a closed standard stream."""
    image = image_file(case, MIB)
    server, path = peer.VublkServe(VUBLK).start(case, image)
    for closed in ('<&-', '>&-', '2>&-', '<&- >&- 2>&-'):
        case.run(['sh', '-c', f'exec "$@" {closed}', 'sh', VUBLK, 'copy', path, case.path('back')])
        case.call(['sh', '-c', f'exec "$@" {closed}', 'sh', VUBLK, 'bench', path, '--bs', '513'])
    check(not any(case.path('back').read_bytes()), 'something was printed into the copy')
    check(not any(image.read_bytes()), 'something was printed into the disk')
    case.stop(server)


def cases():
    interruptions = [(number, step) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
                     for step in (1, 2, 3, 4, 5, 6)]
    yield from [demo_shows_all, demo_loses_its_backend, demo_is_killed]
    for number, step in interruptions:
        yield (f'demo_is_interrupted ({number.name} in step {step})',
               functools.partial(demo_is_interrupted, number=number, step=step))
    yield from [bench_is_interrupted, copy_is_interrupted, a_stopped_backend,
                interrupted_without_a_backend, bench_keeps_to_its_time_without_a_backend,
                bench_keeps_a_rate, another_disk,
                copy_loses_its_backend,
                copy_to_a_file_that_may_not_grow, without_standard_descriptors]


if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(peer.main(list(cases()), sys.argv[2:]))
