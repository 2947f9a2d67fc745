#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
`vublk ctl trace` (docs/control.md): the records of a known load, in each format, and how Wireshark shows them.

    trace.py VUBLK [-l] [-k] [WORD...]
"""
import json
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import peer  # noqa: E402
from peer import check  # noqa: E402

VUBLK = sys.argv[1] if len(sys.argv) > 1 else 'vublk'
DISSECTOR = pathlib.Path(__file__).resolve().parent.parent.parent / 'src/cli/control/vublk.lua'
MIB = 1 << 20
READ, WRITE, FLUSH = 0, 1, 4
MEMBERS = {'queue', 'type', 'sector', 'bytes', 'status', 'taken_ns', 'submitted_ns', 'completed_ns', 'latency_ns'}


def start(case, *options):
    """Starts a back-end, and a relay with the control socket device.ctl. Returns the relay."""
    image = case.path('disk')
    image.write_bytes(bytes(64 * MIB))
    peer.VublkServe(VUBLK).start(case, image, path=case.path('back.sock'))
    child = case.start([VUBLK, 'device', '--chardev', case.path('back.sock'), '--bus', f'vhost-user:{case.path("vm.sock")}',
                        '--control', case.path('device.ctl'), *(word for option in options for word in ('-o', option))])
    peer.wait_for_socket(case, child, case.path('vm.sock'))
    peer.wait_for_socket(case, child, case.path('device.ctl'))
    return child


def start_trace(case, *options, number=1):
    """
    Starts a trace and waits until it has begun. From then on, the device accepts a request for the trace's records.
    """
    child = case.start([VUBLK, 'ctl', case.path('device.ctl'), 'trace', *options])
    peer.wait_until(lambda: child.poll() is not None or
                    case.call([VUBLK, 'ctl', case.path('device.ctl'), 'trace', f'number={number}']).code == 0,
                    'the trace does not begin')
    check(child.poll() is None, case.output(child))
    return child


def end_trace(case, child):
    code = case.stop(child, signal.SIGINT)
    check(code == 0, f'exit {code}: {case.output(child)}')
    return case.output(child)


def write(case, count, *arguments):
    """Writes blocks of 8 KiB one after the other, and flushes after every 4."""
    case.run([VUBLK, 'bench', case.path('vm.sock'), '--rw', 'write', '--bs', '8k', '--number_ios', count, '--fsync', '4',
              *arguments])


def tshark(case, file, *fields):
    """Returns the fields of each packet as numbers. A missing field is None."""
    lines = case.run(['tshark', '-X', f'lua_script:{DISSECTOR}', '-r', file, '-T', 'fields',
                      *(word for field in fields for word in ('-e', field))]).splitlines()
    return [[int(text) if text else None for text in line.split('\t')] for line in lines]


def pcapng(case):
    """
    tshark shows type, sector, length, status and latency of each request. The device uses shadow rings while the trace
    runs.
    """
    peer.need('tshark')
    start(case)
    file = case.path('t.pcapng')
    trace = start_trace(case, '--format', 'pcapng', '-o', file)
    write(case, 64)
    check('and dropped 0' in end_trace(case, trace), 'records were dropped')
    check(not json.loads(case.run([VUBLK, 'ctl', case.path('device.ctl'), 'shadow']))['reasons'], 'a reason is left')
    packets = tshark(case, file, 'vublk.type', 'vublk.sector', 'vublk.length', 'vublk.queue', 'vublk.status', 'vublk.wait',
                     'vublk.latency')
    writes = sorted(packet[1:3] for packet in packets if packet[0] == WRITE)
    check(writes == [[16 * i, 8192] for i in range(64)], str(writes))
    check(sum(packet[0] == FLUSH for packet in packets) >= 10, str(packets))
    check({packet[0] for packet in packets} <= {READ, WRITE, FLUSH, 8}, str(packets))
    for kind, _, length, queue, status, wait, latency in packets:
        check((queue, status) == (0, 0) and 0 <= wait < latency, f'{queue} {status} {wait} {latency}')
        check(length == 0 or kind != FLUSH, 'a flush has bytes')
    check('DLT' not in case.run(['capinfos', '-E', file]) and 'USER 0' in case.run(['capinfos', '-E', file]).upper(), 'capinfos')


def latency(case):
    """
    The latency includes the wait for a limit. With 4 requests in flight and 20 per second, it is 200 ms, most
    of which is the wait. On a busy machine some requests wait less, because the load itself is late.
    """
    peer.need('tshark')
    start(case, 'shadow=on', 'iops=20', 'burst-ms=1')
    file = case.path('t.pcapng')
    trace = start_trace(case, '--format', 'pcapng', '-o', file, '--max', '40')
    case.run([VUBLK, 'bench', case.path('vm.sock'), '--rw', 'randwrite', '--number_ios', '40', '--iodepth', '4'])
    peer.wait_until(lambda: trace.poll() == 0, 'the trace does not end after --max')
    packets = tshark(case, file, 'vublk.type', 'vublk.wait', 'vublk.latency')
    check(len(packets) == 40, f'{len(packets)} packets')
    writes = [packet for packet in packets if packet[0] == WRITE]
    for _, wait, total in writes:
        check(total >= wait, f'waited {wait} of {total} ns')
    check(max(wait for _, wait, _ in writes) > 100e6, f'no write waited for the limit: {writes}')


def text_and_json(case):
    start(case, 'shadow=on')
    trace = start_trace(case, '--format', 'json', '--max', '20', '-o', case.path('t.json'))
    write(case, 32, '--iodepth', '1')
    peer.wait_until(lambda: trace.poll() == 0, 'the trace does not end after --max')
    records = [json.loads(line) for line in case.path('t.json').read_text().splitlines()]
    check(len(records) == 20 and all(set(record) == MEMBERS for record in records), str(records[:2]))
    for record in records:
        check(record['taken_ns'] <= record['submitted_ns'] <= record['completed_ns'], str(record))
        check(record['latency_ns'] == record['completed_ns'] - record['taken_ns'], str(record))
    check({record['type'] for record in records} >= {'write', 'flush'}, str(records))
    trace = start_trace(case, '-o', case.path('t.txt'), number=2)
    write(case, 32)
    end_trace(case, trace)
    lines = [line.split() for line in case.path('t.txt').read_text().splitlines()]
    check(lines[0][:3] == ['completed', 'queue', 'type'], str(lines[0]))
    check([line[2:6] for line in lines if line[2] == 'write' and line[3] == '16'] == [['write', '16', '8192', 'ok']], str(lines))


def one_reader(case):
    """
    While a trace has a reader, a second trace is refused. If the reader is killed, its trace ends after some time.
    """
    start(case, 'shadow=on')
    trace = start_trace(case, '-o', case.path('t.txt'))
    result = case.call([VUBLK, 'ctl', case.path('device.ctl'), 'trace'])
    check(result.code == 1 and 'another trace is being read' in result.err, str(result))
    trace.kill()
    trace.wait()
    peer.wait_until(lambda: case.call([VUBLK, 'ctl', case.path('device.ctl'), 'trace', 'start=true']).code == 0,
                    'the trace of a client that was killed does not end', 30)
    result = case.call([VUBLK, 'ctl', case.path('device.ctl'), 'trace', 'number=1'])
    check(result.code == 1 and 'has ended' in result.err, str(result))
    stopped = json.loads(case.run([VUBLK, 'ctl', case.path('device.ctl'), 'trace', 'number=2', 'stop=true']))
    check(stopped == {'number': 2, 'active': False, 'dropped': 0, 'records': []}, str(stopped))


def refusals(case):
    start(case)
    control = case.path('device.ctl')
    for words, code, sentence in (
            (['trace', '--format', 'xml'], 2, '--format must be text, json or pcapng'),
            (['status', '--max', '5'], 2, "only with the command 'trace'"), (['trace', '--max', '0'], 2, '--max must be'),
            (['trace', '--watch'], 2, '--watch cannot be used'),
            (['trace', '-o', case.path('no/where')], 1, 'cannot create'), (['trace', 'number=0'], 1, "'number' must be"),
            (['trace', 'start=1'], 1, "'start' must be"), (['trace', 'stop=true'], 1, "needs either 'start'"),
            (['trace', 'x=1'], 1, "no argument 'x'")):
        result = case.call([VUBLK, 'ctl', control, *words])
        check(result.code == code and sentence in result.err and len(result.err.splitlines()) <= 2, f'{words}: {result}')


CASES = [pcapng, latency, text_and_json, one_reader, refusals]

if __name__ == '__main__':
    sys.exit(peer.main(CASES, sys.argv[2:]))
