#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Limits of `vublk device` (docs/control.md), with a load through the relay: the rates, counted by the back-end, and
what a limit must not hold up.

    limit.py VUBLK [-l] [-k] [WORD...]
"""
import json
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import peer  # noqa: E402
from peer import check  # noqa: E402

VUBLK = sys.argv[1] if len(sys.argv) > 1 else 'vublk'
MIB = 1 << 20
SECONDS = 10
NONE = {'iops': 0, 'iops-read': 0, 'iops-write': 0, 'bps': 0, 'bps-read': 0, 'bps-write': 0, 'burst-ms': 100, 'waiting': 0}


def ctl(case, control, *words):
    return json.loads(case.run([VUBLK, 'ctl', case.path(control), *words]))


def limit(case, *words):
    return ctl(case, 'device.ctl', 'limit', *words)


def start(case, *options):
    """Starts a back-end that counts requests, and a relay in front of it. Returns the relay."""
    image = case.path('disk')
    image.write_bytes(bytes(64 * MIB))
    peer.VublkServe(VUBLK).start(case, image, queues=4, path=case.path('back.sock'),
                                 arguments=['--control', case.path('serve.ctl'), '-o', 'statistics=on'])
    child = case.start([VUBLK, 'device', '--chardev', case.path('back.sock'), '--bus', f'vhost-user:{case.path("vm.sock")}',
                        '--control', case.path('device.ctl'), *(word for option in options for word in ('-o', option))])
    peer.wait_for_socket(case, child, case.path('vm.sock'))
    peer.wait_for_socket(case, child, case.path('device.ctl'))
    return child


def path(case):
    return ctl(case, 'device.ctl', 'shadow')['path']


def start_load(case, *arguments):
    return case.start([VUBLK, 'bench', case.path('vm.sock'), '--runtime', '600', *arguments])


def sample(case, member):
    """Returns the counter `member` of each queue, and the times before and after the counters were read."""
    before = time.monotonic()
    stats = ctl(case, 'serve.ctl', 'stats')
    after = time.monotonic()
    return [sum(kind[member] for kind in queue['requests'].values()) for queue in stats['queues']], before, after


def check_rate(case, member, rate):
    """
    Checks that the rate over SECONDS is right within 2 %. On a slow machine, reading the counters takes time, so the
    clock is read before and after. The upper bound is computed from the longest possible time, and the lower bound
    from the shortest one.
    """
    first, begin_before, begin_after = sample(case, member)
    time.sleep(SECONDS)
    last, end_before, end_after = sample(case, member)
    counts = [b - a for a, b in zip(first, last)]
    count = sum(counts)
    check(count <= 1.02 * rate * (end_after - begin_before), f'{count} in {end_after - begin_before} s are too many')
    check(count >= 0.98 * rate * (end_before - begin_after), f'{count} in {end_before - begin_after} s are too few')
    return counts


def end_load(case, load, relay):
    load.kill()
    load.wait()
    check(relay.poll() is None, case.output(relay))


def iops(case):
    """
    The limit of requests per second, for four queues with reads and writes. Under load, setting the limit switches to
    shadow rings, and removing it switches back.
    """
    relay = start(case)
    load = start_load(case, '--rw', 'randrw', '--numjobs', '4', '--iodepth', '16')
    peer.wait_until(lambda: len(sample(case, 'count')[0]) == 4, 'not all queues are in use')
    limit(case, 'iops=2000', 'burst-ms=2000')
    peer.wait_until(lambda: limit(case)['waiting'] > 50, 'no request waits')
    counts = check_rate(case, 'count', 2000)
    check(max(counts) <= 1.2 * min(counts), f'the queues got {counts}')
    check(path(case) == 'shadow', 'the limit has no shadow rings')
    check((left := limit(case, 'off=true')) == NONE, f'not removed: {left}')
    check(path(case) == 'direct', 'the shadow rings stay without a limit')
    end_load(case, load, relay)


def bytes_per_second(case):
    """The limit of written bytes per second, first with a burst that is smaller than a request."""
    relay = start(case, 'shadow=on', f'bps-write={8 * MIB}', 'burst-ms=1')
    shown = limit(case)
    check(shown['bps-write'] == 8 * MIB and shown['burst-ms'] == 1, str(shown))
    load = start_load(case, '--rw', 'randwrite', '--bs', '64k', '--iodepth', '16')
    limit(case, 'burst-ms=2000')
    peer.wait_until(lambda: limit(case)['waiting'] > 10, 'no request waits')
    check_rate(case, 'bytes', 8 * MIB)
    check(limit(case, 'bps-write="1M"', 'iops=7')['bps-write'] == MIB, 'not changed')
    check(limit(case, 'bps-write=2M')['iops'] == 7, 'a limit that was not given has changed')
    end_load(case, load, relay)


def a_stop_under_a_limit(case):
    """
    A VMM can stop its rings although its requests would wait for a minute because of the limit. Meanwhile the
    back-end does not count as lost, and the device sleeps.
    """
    relay = start(case, 'shadow=on', 'iops=1')
    load = start_load(case, '--rw', 'randwrite', '--iodepth', '64')
    peer.wait_until(lambda: limit(case)['waiting'] == 63, 'the requests do not wait')
    used = cpu_ticks(relay)
    peer.wait_until(lambda: limit(case)['waiting'] == 63 and sum(sample(case, 'count')[0]) > 3, 'no request passes')
    used = cpu_ticks(relay) - used
    check(used < os.sysconf('SC_CLK_TCK') // 2, f'the device has used {used} ticks while requests waited')
    end_load(case, load, relay)
    peer.wait_until(lambda: ctl(case, 'device.ctl', 'status')['state'] == 'listening', 'the VMM is not let go')
    status = ctl(case, 'device.ctl', 'status')
    check(status['back_end']['outages'] == 0, str(status))
    check(sum(sample(case, 'count')[0]) >= 64, 'requests were dropped')
    code = case.stop(relay)
    check(code == 0, case.output(relay))


def cpu_ticks(child):
    fields = pathlib.Path(f'/proc/{child.pid}/stat').read_text().rpartition(')')[2].split()
    return int(fields[11]) + int(fields[12])


def refusals(case):
    """Values that are not valid limits are refused."""
    start(case)
    check(limit(case) == NONE, 'a limit is shown')
    for words, sentence in (
            (['iops=-1'], "'iops' must be a number"), (['bps=fast'], "'bps' must be a number"),
            (['bps=10X'], "'bps' must be a number"), (['iops=true'], "'iops' must be a number"),
            (['bps=2000T'], 'maximum is 1000000000000000'), (['burst-ms=4000000'], 'maximum is 3600000'),
            (['off=false'], 'no other argument'), (['off=true', 'iops=5'], 'no other argument'), (['x=1'], "no argument 'x'")):
        result = case.call([VUBLK, 'ctl', case.path('device.ctl'), 'limit', *words])
        check(result.code == 1 and sentence in result.err and len(result.err.splitlines()) == 1, f'{words}: {result}')
    check(limit(case) == NONE, 'a refused limit has changed something')


CASES = [iops, bytes_per_second, a_stop_under_a_limit, refusals]

if __name__ == '__main__':
    sys.exit(peer.main(CASES, sys.argv[2:]))
