#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What an operator observes through the control sockets of `vublk serve` and `vublk device`
(docs/control.md): events, statistics and metrics.

    observe.py VUBLK [-l] [-k] [WORD...]
"""
import http.client
import json
import os
import re
import signal
import socket
import sys

import failover
from control import (DEVICE_STATUS, MIB, VUBLK, Client, check, check_schema, ctl, end, peer, resident_bytes, start_backend,
                     start_device, start_load, start_serve, wait_for_status)

COUNTERS = {'count': int, 'bytes': int, 'errors': int, 'in_flight': int,
            'latency_ns': {name: int for name in ('mean', 'p50', 'p90', 'p99', 'p99_9', 'p99_99', 'max')}}
DEVICE_STATS = {'state': str, 'device': str, 'outages': int, 'outage_ms': int, 'outage_total_ms': int, 'reconnects': int,
                'enabled': bool, 'available': bool}
EVENTS = {'stream': bool, 'next': int}
EVENT = {'event': str, 'sequence': int, 'time': str, 'monotonic_ms': int}
EVENT_MEMBERS = {
    'connected': {'back_end': str, 'size_bytes': int}, 'lost': {'reason': str}, 'recovered': {'outage_ms': int, 'requests': int},
    'refused': {'reason': str}, 'gave_up': {'reason': str}, 'resized': {'before_bytes': int, 'size_bytes': int},
    'needs_reset': {'reason': str}, 'client_connected': {'pid': int}, 'client_disconnected': {'pid': int},
    'client_refused': {'pid': int, 'reason': str},
    'mirror_started': {'target': str}, 'mirror_synced': {'target': str}, 'mirror_ended': {'target': str, 'reason': str},
    'mirror_stopped': {'target': str, 'reason': str},
    'pausing': {'requests': int}, 'paused': {}, 'resumed': {},
    'limits_changed': {name: int for name in ('iops', 'iops-read', 'iops-write', 'bps', 'bps-read', 'bps-write', 'burst-ms')},
    'shadow_on': {'reasons': str}, 'shadow_off': {}, 'shadow_refused': {'reason': str},
    'switch_started': {'target': str}, 'switched': {'target': str}, 'switch_failed': {'target': str, 'reason': str},
    'trace_started': {}, 'trace_ended': {'reason': str},
    'replayed': {'writes': int, 'bytes': int}, 'replay_failed': {'reason': str},
    'drain_started': {}, 'drained': {}, 'drain_failed': {'reason': str},
    'slow_request': {'queue': int, 'request': str, 'offset_bytes': int, 'bytes': int, 'waited_ms': int, 'requests': int},
}
KEPT_EVENTS = 256


class Events(Client):
    """A client of a control socket that has asked for events."""

    def __init__(self, path, **arguments):
        super().__init__(path)
        answer = self.result('events', **arguments)
        check_schema(answer, EVENTS)
        self.next = answer['next']
        self.monotonic_ms = 0

    def take(self):
        """Returns the next event, and checks its sequence number."""
        event = self.receive()
        if event['event'] == 'missed':
            check_schema(event, {'event': str, 'missed': int})
            self.next += event['missed']
            return event
        cause = {'caused_by': {'command': str, 'pid': int}} if 'caused_by' in event else {}
        check_schema(event, {**EVENT, **EVENT_MEMBERS[event['event']], **cause})
        check(re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z', event['time']), str(event))
        check(event['sequence'] == self.next, f'{event} is not number {self.next}')
        check(event['monotonic_ms'] >= self.monotonic_ms, str(event))
        self.next, self.monotonic_ms = event['sequence'] + 1, event['monotonic_ms']
        return event

    def expect(self, name, **members):
        """Returns the next event, and checks that it has this name and these members."""
        event = self.take()
        while event['event'] == 'refused' != name:  # there is one per reason
            event = self.take()
        check(event['event'] == name and members.items() <= event.items(), f'{event}, not {name} {members}')
        return event

    def expect_of(self, command, name, **members):
        """Like expect(), for an event that this client has caused with a command."""
        return self.expect(name, caused_by={'command': command, 'pid': os.getpid()}, **members)


def check_stats(stats):
    """Checks that the counters have the right types and consistent values."""
    check_schema(stats['enabled'], bool)
    for queue in stats['queues']:
        check_schema(queue['index'], int)
        for name, counters in queue['requests'].items():
            check_schema(counters, COUNTERS)
            times = [counters['latency_ns'][key] for key in ('p50', 'p90', 'p99', 'p99_9', 'p99_99', 'max')]
            check(times == sorted(times) and times[0] > 0, f'{name}: {counters}')


def total(stats, name, member):
    return sum(queue['requests'].get(name, {}).get(member, 0) for queue in stats['queues'])


def count_load(case, path, *arguments):
    """Runs a load of 4 KiB requests. Returns the numbers of its reads and writes."""
    report = json.loads(case.run([VUBLK, 'bench', path, '--rw', 'randrw', '--runtime', '1', '--output-format', 'json',
                                  *arguments]))
    return [sum(job[kind]['total_ios'] for job in report['jobs']) for kind in ('read', 'write')]


def serve_stats(case):
    """Requests are counted only after counting is switched on. Then the counters agree with the client's."""
    child, path, control = start_serve(case)
    count_load(case, path)
    check(ctl(case, control, 'stats') == {'enabled': False, 'queues': []}, 'requests are counted without being asked to')
    check(ctl(case, control, 'stats', 'enable=true')['enabled'], 'not switched on')
    reads, writes = count_load(case, path)
    stats = ctl(case, control, 'stats')
    check_stats(stats)
    for name, count in (('read', reads), ('write', writes)):
        found = total(stats, name, 'count')
        check(count <= found <= count + 100, f'{found} {name}s are counted, not {count}')
        check(total(stats, name, 'bytes') == 4096 * found, f'{name}: {stats}')
        check(not total(stats, name, 'errors') and not total(stats, name, 'in_flight'), f'{name}: {stats}')
    ctl(case, control, 'stats', 'enable=false')
    count_load(case, path)
    check(ctl(case, control, 'stats')['queues'] == stats['queues'], 'requests are counted although that is off')
    for words in (['enable=5'], ['x=1']):
        check(case.call([VUBLK, 'ctl', control, 'stats', *words]).code == 1, str(words))
    end(case, child)


def check_histograms(samples, types):
    """Checks that the buckets of each histogram grow with their limit, and that the last one (+Inf) is the count."""
    for name in (name for name, kind in types.items() if kind == 'histogram'):
        buckets = {}
        for (sample, labels), value in samples.items():
            if sample == f'{name}_bucket':
                match = re.fullmatch(r'(.*?),?le="([^"]+)"', labels)
                check(match, f'a bucket without a limit: {labels}')
                buckets.setdefault(match[1], []).append((float(match[2]), value))
        for labels, series in buckets.items():
            check(series == sorted(series) and [v for _, v in series] == sorted(v for _, v in series), f'{labels}: {series}')
            check(series[-1] == (float('inf'), samples[f'{name}_count', labels]), f'{labels}: {series[-1]}')
            check((f'{name}_sum', labels) in samples, f'{labels}: no sum')


def parse_metrics(text):
    """Checks the Prometheus text format. Returns the samples by name and labels, and the types."""
    samples, types, helped, latest = {}, {}, '', ''
    check(text.endswith('\n'), 'the last line has no newline')
    for line in text.splitlines():
        if match := re.fullmatch(r'# HELP ([a-z_]+) (\S.*)', line):
            helped = match[1]
            continue
        if match := re.fullmatch(r'# TYPE ([a-z_]+) (counter|gauge|histogram)', line):
            check(match[1] not in types, f'two types: {line}')
            check(match[1] == helped, f'no help: {line}')
            check((match[2] == 'counter') == match[1].endswith('_total'), f'a counter ends with _total: {line}')
            latest, types[match[1]] = match[1], match[2]
            continue
        match = re.fullmatch(r'([a-z_]+)(?:\{((?:[a-z]+="[^"\\\n]*",?)*)\})? ([0-9.e+-]+)', line)
        check(match, f'not a sample: {line}')
        family = match[1] if match[1] in types else re.sub('_(bucket|sum|count)$', '', match[1])
        check(family in types, f'a sample without a type: {line}')
        check(family == latest, f'not next to its type: {line}')
        check((types[family] == 'histogram') == (family != match[1]), f'wrong type: {line}')
        check((match[1], match[2]) not in samples, f'twice: {line}')
        samples[match[1], match[2]] = float(match[3])
    check_histograms(samples, types)
    return samples, types


def serve_metrics(case):
    child, path, control = start_serve(case, '-o', 'statistics=on')
    samples, types = parse_metrics(case.run([VUBLK, 'ctl', control, 'metrics']))
    check(samples['vublk_disk_size_bytes', None] == 32 * MIB and samples['vublk_statistics_enabled', None] == 1, str(samples))
    check(types['vublk_request_duration_seconds'] == 'histogram', str(types))
    count_load(case, path)
    samples, _ = parse_metrics(case.run([VUBLK, 'ctl', control, 'metrics']))
    stats = ctl(case, control, 'stats')
    name = 'vublk_request_duration_seconds'
    for kind in ('read', 'write'):
        counted = total(stats, kind, 'count')
        check(samples['vublk_requests_total', f'queue="0",type="{kind}"'] == counted > 0, str(samples))
        check(samples['vublk_request_bytes_total', f'queue="0",type="{kind}"'] == total(stats, kind, 'bytes'), str(samples))
        buckets = [value for (sample, labels), value in samples.items()
                   if sample == f'{name}_bucket' and f'type="{kind}"' in labels]
        check(len(buckets) > 10 and buckets == sorted(buckets), f'{buckets}')
        check(buckets[-1] == samples[f'{name}_count', f'type="{kind}"'] == counted, f'{buckets}')
        check(samples[f'{name}_sum', f'type="{kind}"'] > 0, str(samples))
    end(case, child)


def check_device_stats(stats):
    check_schema({name: value for name, value in stats.items() if name not in ('queues', 'why_unavailable')}, DEVICE_STATS)
    check(stats['available'] != ('why_unavailable' in stats), str(stats))
    for queue in stats['queues']:
        check_schema({name: value for name, value in queue.items() if name != 'requests'}, DEVICE_STATUS['queues'][0])
    check_stats({'enabled': stats['enabled'], 'queues': stats['queues']})


def device_stats(case):
    """
    Without shadow rings, `stats` and `metrics` show outages and ring positions, but no requests. They do not
    switch shadow rings on.
    """
    child, control = start_device(case)
    backend = start_backend(case)
    wait_for_status(case, control, lambda s: s['state'] == 'listening', 'the back-end is not found')
    stats = ctl(case, control, 'stats', 'enable=true')
    check_device_stats(stats)
    check((stats['enabled'], stats['available'], stats['queues']) == (True, False, []), str(stats))
    bench = start_load(case, child, case.path('vm.sock'))
    wait_for_status(case, control, lambda s: s['device'] == 'running', 'the rings do not run')
    lose_with_requests(case, control, backend)
    wait_for_status(case, control, lambda s: s['back_end']['outages'], 'the loss is not noticed')
    stats = ctl(case, control, 'stats')
    check_device_stats(stats)
    check((stats['outages'], stats['reconnects']) == (1, 0) and stats['queues'][0]['outstanding'] > 0, str(stats))
    samples, _ = parse_metrics(case.run([VUBLK, 'ctl', control, 'metrics']))
    check(samples['vublk_back_end_connected', None] == 0 and samples['vublk_vmm_connected', None] == 1, str(samples))
    check(samples['vublk_queue_outstanding', 'queue="0"'] > 0 and samples['vublk_outages_total', None] == 1, str(samples))
    backend = start_backend(case)
    wait_for_status(case, control, lambda s: s['device'] == 'running', 'the rings do not run again')
    stats = ctl(case, control, 'stats')
    check((stats['outages'], stats['reconnects'], stats['outage_ms']) == (1, 1, 0) and stats['outage_total_ms'] > 0, str(stats))
    check(stats['queues'][0]['requests'] == {} and not stats['available'], str(stats))
    samples, _ = parse_metrics(case.run([VUBLK, 'ctl', control, 'metrics']))
    check(samples['vublk_outage_seconds_total', None] > 0 and samples['vublk_outage_seconds', None] == 0, str(samples))
    check(samples['vublk_device_state', 'state="running"'] == 1, str(samples))
    check(sum(value for (name, _), value in samples.items() if name == 'vublk_device_state') == 1, str(samples))
    check(samples['vublk_statistics_available', None] == 0, str(samples))
    case.stop(bench)
    end(case, child)
    end(case, backend)


def wait_until_loaded(case, control):
    """
    Waits until a request is outstanding. A client registers its buffers after the start of its rings, which takes a
    back-end that answers; so `running` does not mean that there will be requests after a back-end was suspended.
    """
    wait_for_status(case, control, lambda s: any(q['outstanding'] for q in s['queues']), 'no request is outstanding')


def device_request_stats(case):
    """With shadow rings the device counts requests, and agrees with the client and the back-end."""
    child, control = start_device(case, 'vhost-user', '-o', 'shadow=on')
    backend = start_backend(case, '-o', 'statistics=on', '--control', case.path('back-control'))
    wait_for_status(case, control, lambda s: s['state'] == 'listening', 'the back-end is not found')
    stats = ctl(case, control, 'stats')
    check_device_stats(stats)
    check((stats['enabled'], stats['available']) == (False, True), str(stats))
    check(ctl(case, control, 'stats', 'enable=true')['enabled'], 'not switched on')
    reads, writes = count_load(case, case.path('vm.sock'))
    theirs = ctl(case, case.path('back-control'), 'stats')
    samples, _ = parse_metrics(case.run([VUBLK, 'ctl', control, 'metrics']))
    for name, count in (('read', reads), ('write', writes)):
        found = samples['vublk_requests_total', f'queue="0",type="{name}"']
        check(found == total(theirs, name, 'count') and count <= found <= count + 100, f'{found} {name}s')
        check(samples['vublk_request_bytes_total', f'queue="0",type="{name}"'] == total(theirs, name, 'bytes'), str(samples))
        check(samples['vublk_request_duration_seconds_count', f'type="{name}"'] == found, str(samples))
    bench = start_load(case, child, case.path('vm.sock'))
    wait_until_loaded(case, control)
    peer.suspend(backend)
    wait_until_loaded(case, control)
    peer.wait_until(lambda: total(ctl(case, control, 'stats'), 'read', 'in_flight') +
                    total(ctl(case, control, 'stats'), 'write', 'in_flight') > 0, 'no request is in flight')
    check_device_stats(ctl(case, control, 'stats'))
    backend.send_signal(signal.SIGCONT)
    peer.wait_until(lambda: ctl(case, control, 'status')['device'] == 'running', 'the rings do not run again')
    case.stop(bench)
    end(case, child)
    end(case, backend)


def slow_requests(case):
    """A request that waits for a hanging back-end is reported while it waits."""
    child, control = start_device(case, 'vhost-user', '-o', 'shadow=on', '-o', 'slow-request-ms=100', '-o', 'keepalive-ms=0')
    backend = start_backend(case)
    wait_for_status(case, control, lambda s: s['state'] == 'listening', 'the back-end is not found')
    bench = start_load(case, child, case.path('vm.sock'))
    wait_until_loaded(case, control)
    with Events(control) as events:
        peer.suspend(backend)
        slow = events.expect('slow_request', queue=0)
        check(slow['request'] in ('read', 'write') and slow['bytes'] == 4096, str(slow))
        check(slow['waited_ms'] >= 100 and slow['requests'] >= 1, str(slow))
        backend.send_signal(signal.SIGCONT)
    case.stop(bench)
    end(case, child)
    end(case, backend)


def watch(case):
    """ctl --watch repeats a command until the queried process has ended."""
    child, _, control = start_serve(case)
    watcher = case.start([VUBLK, 'ctl', control, 'stats', '--watch=1ms'])
    peer.wait_until(lambda: case.output(watcher).count('"enabled"') >= 3, 'the command is not repeated')
    end(case, child)
    check(watcher.wait() == 1 and 'closed the connection' in case.output(watcher), 'ctl does not say why it ends')


def device_events(case):
    """
    The events in the life of a disk, with their members. Each client gets all of them. With `since`, a client
    also gets the events before its connection.
    """
    child, control = start_device(case)
    with Events(control, since=0) as events:
        check('back.sock' in events.expect('refused')['reason'], 'the first back-end is not named')
        backend = start_backend(case)
        events.expect('connected', size_bytes=32 * MIB, back_end=str(case.path('back.sock')))
        bench = start_load(case, child, case.path('vm.sock'))
        events.expect('client_connected', pid=bench.pid)
        with Events(control) as late:
            check(late.next == events.next, 'events of the past are sent without being asked for')
            wait_for_status(case, control, lambda s: s['device'] == 'running', 'the rings do not run')
            lose_with_requests(case, control, backend)
            check('connection' in events.expect('lost')['reason'], 'the reason of a loss')
            check('back.sock' in events.expect('refused')['reason'], 'the reason of a refusal')
            os.truncate(case.path('disk'), 48 * MIB)
            backend = start_backend(case)
            events.expect('resized', before_bytes=32 * MIB, size_bytes=48 * MIB)
            events.expect('connected', size_bytes=48 * MIB)
            recovered = events.expect('recovered')
            check(recovered['outage_ms'] > 0 and recovered['requests'] > 0, str(recovered))
            case.stop(bench)
            events.expect('client_disconnected', pid=bench.pid)
            names = [late.take()['event'] for _ in range(events.next - late.next)]
            check([name for name in names if name != 'refused'] ==
                  ['lost', 'resized', 'connected', 'recovered', 'client_disconnected'], f'the second client: {names}')
        with Events(control, since=events.next - 2) as again:
            again.expect('client_disconnected', pid=bench.pid)
            check(again.ask('events', since=1000)['error']['code'] == 'EINVAL', 'events of the future')
            check(again.ask('events', since=-1)['error']['code'] == 'EINVAL', 'a negative number')
    end(case, child)
    end(case, backend)


def events_of_paths(case):
    """The event `connected` names the path of the back-end, both after an outage and after a switch."""
    disk = failover.Disk(case)
    disk.start('a')
    disk.start('b')
    disk.start_relay('-o', 'shadow=on')
    with Events(disk.ctl, since=0) as events:
        events.expect('connected', back_end=str(disk.paths['a']))
        disk.load(60)
        events.expect('client_connected', pid=disk.bench.pid)
        events.expect('shadow_on', reasons='property')
        wait_until_running(case, disk.ctl)
        failover.switch(disk, 'b')
        check(events.expect('switch_started', target=str(disk.paths['b']))['caused_by']['command'] == 'switch', 'the cause')
        events.expect('connected', back_end=str(disk.paths['b']))
        events.expect('switched', target=str(disk.paths['b']))
        disk.children['b'].kill()
        events.expect('lost')
        events.expect('connected', back_end=str(disk.paths['a']))
        events.expect('recovered')
    case.stop(disk.bench)
    end(case, disk.relay)


def events_of_commands(case):
    """
    Each change by a client of the control socket is an event that names the command and the client. Later
    consequences of the change are separate events.
    """
    child, control = start_device(case, 'vhost-user', '-o', 'reconnect-ms=100')
    backend = start_backend(case)
    wait_for_status(case, control, lambda s: s['state'] == 'listening', 'the back-end is not found')
    bench = start_load(case, child, case.path('vm.sock'))
    wait_for_status(case, control, lambda s: s['device'] == 'running', 'the rings do not run')
    with Events(control) as events, Client(control) as client:
        client.result('pause')
        events.expect_of('pause', 'pausing')
        events.expect('paused')
        client.result('pause')  # changes nothing
        client.result('resume')
        events.expect_of('resume', 'resumed')
        client.result('limit', iops=5000)
        events.expect_of('limit', 'limits_changed', iops=5000, bps=0)
        events.expect('shadow_on', reasons='limit')
        client.result('limit', iops=5000)  # changes nothing
        client.result('shadow', on=True)
        client.result('limit', off=True)
        events.expect_of('limit', 'limits_changed', iops=0)
        number = client.result('trace', start=True)['number']
        events.expect_of('trace', 'trace_started')
        client.result('trace', number=number, stop=True)
        check('request' in events.expect_of('trace', 'trace_ended')['reason'], 'the reason')
        client.result('shadow', off=True)
        events.expect('shadow_off')
    case.stop(bench)
    end(case, child)
    end(case, backend)


def events_of_a_mirror(case):
    """The events of a mirror: its start, the end of the copy, and its stop."""
    child, control = start_device(case, 'vhost-user', '-o', 'reconnect-ms=100')
    backend = start_backend(case)
    case.path('copy').write_bytes(bytes(32 * MIB))
    copy, target = peer.VublkServe(VUBLK).start(case, case.path('copy'), path=case.path('copy.sock'))
    wait_for_status(case, control, lambda s: s['state'] == 'listening', 'the back-end is not found')
    bench = start_load(case, child, case.path('vm.sock'))
    wait_for_status(case, control, lambda s: s['device'] == 'running', 'the rings do not run')
    with Events(control) as events, Client(control) as client:
        client.result('mirror', target=str(target))
        events.expect_of('mirror', 'mirror_started', target=str(target))
        events.expect('shadow_on', reasons='mirror')
        events.expect('mirror_synced', target=str(target))
        client.result('mirror', stop=True)
        check('request' in events.expect_of('mirror', 'mirror_stopped', target=str(target))['reason'], 'the reason')
        events.expect('shadow_off')
    for one in (bench, copy):
        case.stop(one)
    end(case, child)
    end(case, backend)


def events_of_a_drain(case):
    """The events of a drain: its start and its end. The last event arrives before the process ends."""
    child, _, control = start_serve(case)
    with Events(control) as events:
        drain = case.start([VUBLK, 'ctl', control, 'drain'])
        events.expect('drain_started', caused_by={'command': 'drain', 'pid': drain.pid})
        events.expect('drained')
        check(events.socket.recv(1) == b'', 'the connection stays open')
    check((child.wait(), drain.wait()) == (0, 0), case.output(child))


def events_of_a_replay(case):
    """
    With unflushed=replay, `status` and `metrics` show the size of the kept copies, and its limit. When the
    next back-end has executed the copied writes, an event and a log line tell how many they were.
    """
    child, control = start_device(case, 'vhost-user', '-o', 'shadow=on', '-o', 'unflushed=replay', '-o', 'replay-mib=8')
    backend = start_backend(case)
    wait_for_status(case, control, lambda s: s['state'] == 'listening', 'the back-end is not found')
    bench = start_load(case, child, case.path('vm.sock'))
    status = wait_for_status(case, control, lambda s: s['replay'] and s['replay']['kept_bytes'], 'no write is kept')
    check(status['replay']['kept_bytes'] <= status['replay']['max_bytes'] == 8 * MIB, str(status['replay']))
    check(status['replay']['replays'] == 0, str(status['replay']))
    with Events(control) as events:
        peer.suspend(backend)
        kept = wait_for_status(case, control, lambda s: s['replay']['kept_bytes'], 'no write is kept')['replay']
        backend.kill()
        backend.wait()
        events.expect('lost')
        backend = start_backend(case)
        events.expect('connected')
        events.expect('recovered')
        replayed = events.expect('replayed')
        check(0 < replayed['bytes'] <= 8 * MIB and replayed['bytes'] == 4096 * replayed['writes'], f'{replayed} of {kept}')
    replay = ctl(case, control, 'status')['replay']
    check((replay['replays'], replay['last_writes'], replay['last_bytes'], replay['failure']) ==
          (1, replayed['writes'], replayed['bytes'], ''), str(replay))
    check(f'repeated {replayed["writes"]} write' in case.output(child) and f'({replayed["bytes"]} bytes)' in case.output(child),
          'the log')
    samples, _ = parse_metrics(case.run([VUBLK, 'ctl', control, 'metrics']))
    check((samples['vublk_replay_max_bytes', None], samples['vublk_replays_total', None]) == (8 * MIB, 1), str(samples))
    check(samples['vublk_replayed_writes_total', None] == replayed['writes'], str(samples))
    case.stop(bench)
    end(case, child)
    end(case, backend)


def wait_until_running(case, control):
    peer.wait_until(lambda: ctl(case, control, 'status')['device'] == 'running', 'the rings do not run')


def lose_with_requests(case, control, backend):
    """Kills the back-end while requests of the driver are outstanding."""
    wait_until_loaded(case, control)
    peer.suspend(backend)
    wait_until_loaded(case, control)
    backend.kill()
    backend.wait()


def events_of_failures(case):
    """
    The events of failures: a back-end is refused, a driver has to reset the device, a VMM is refused, or the
    search for a back-end ends.
    """
    child, control = start_device(case, 'vhost-user', '-o', 'reconnect-deadline-ms=5000')
    backend = start_backend(case, '-o', 'inflight=off')
    wait_for_status(case, control, lambda s: s['state'] == 'listening', 'the back-end is not found')
    bench = start_load(case, child, case.path('vm.sock'))
    wait_for_status(case, control, lambda s: s['device'] == 'running', 'the rings do not run')
    with Events(control) as events:
        lose_with_requests(case, control, backend)
        events.expect('lost')
        events.expect('refused')
        backend = start_backend(case, '--read-only')
        while "cannot replace the previous back-end" not in events.expect('refused')['reason']:
            pass
        end(case, backend)
        backend = start_backend(case, '-o', 'inflight=off')
        events.expect('connected')
        check('reset' in events.expect('needs_reset')['reason'], 'the reason')
        case.stop(bench)
        events.expect('client_disconnected')
        with socket.socket(socket.AF_UNIX) as rude:
            rude.connect(str(case.path('vm.sock')))
            events.expect('client_connected', pid=os.getpid())
            rude.sendall(b'GET / HTTP/1.0\r\n\r\n')
            check('closed' not in events.expect('client_refused', pid=os.getpid())['reason'], 'the reason')
            events.expect('client_disconnected', pid=os.getpid())
        backend.kill()
        events.expect('lost')
        events.expect('refused')
        check('gave up' in events.expect('gave_up')['reason'], 'the reason')
        check(events.socket.recv(1) == b'', 'the connection stays open')
    check(child.wait() == 1, 'the device does not fail')


def serve_events(case):
    """serve also has events, and `vublk ctl` prints them as they come."""
    child, path, control = start_serve(case)
    printer = case.start([VUBLK, 'ctl', control, 'events', 'since=0'])
    with Events(control) as events:
        os.truncate(case.path('disk'), 64 * MIB)
        ctl(case, control, 'resize')
        events.expect('resized', before_bytes=32 * MIB, size_bytes=64 * MIB)
        load = start_load(case, child, path)
        events.expect('client_connected', pid=load.pid)
        os.truncate(case.path('disk'), 96 * MIB)
        ctl(case, control, 'resize')
        events.expect('resized', before_bytes=64 * MIB, size_bytes=96 * MIB)
        case.stop(load)
        events.expect('client_disconnected', pid=load.pid)
        with socket.socket(socket.AF_UNIX) as rude:
            rude.connect(str(path))
            rude.sendall(b'x' * 100)
            events.expect('client_connected')
            events.expect('client_refused')
            events.expect('client_disconnected')
        check(events.result('status')['state'] == 'listening', 'a client with events has no other commands')
        events.socket.shutdown(socket.SHUT_WR)
        os.truncate(case.path('disk'), 32 * MIB)
        ctl(case, control, 'resize')
        events.expect('resized', size_bytes=32 * MIB)
    end(case, child)
    check(printer.wait() == 1, 'ctl does not say that the connection ended')
    lines = case.output(printer).splitlines()
    check([json.loads(line)['event'] for line in lines[:-1]] ==
          ['resized', 'client_connected', 'resized', 'client_disconnected', 'client_connected', 'client_refused',
           'client_disconnected', 'resized'] and 'closed the connection' in lines[-1], str(lines))


def connect_often(path, times):
    for _ in range(times):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.shutdown(socket.SHUT_WR)
            check(client.recv(1) == b'', 'the back-end answers nothing')  # it has closed the connection


def slow_event_clients(case):
    """
    A client that does not read events misses some, and is told how many. The disk and memory use are not affected.
    """
    child, path, control = start_serve(case)
    connect_often(path, KEPT_EVENTS)
    before = resident_bytes(child)
    with Events(control) as slow, Events(control, since=0) as late:
        missed = late.take()
        check(missed == {'event': 'missed', 'missed': KEPT_EVENTS}, str(missed))
        connect_often(path, 2000)
        check(resident_bytes(child) - before < 4 * MIB, 'the memory has grown')
        with Events(control) as now:
            last = now.next - 1
        missed = []
        while slow.next <= last:
            event = slow.take()
            missed += [event['missed']] if event['event'] == 'missed' else []
        check(len(missed) == 1 and 1000 < missed[0] <= 4000 - KEPT_EVENTS, f'missed {missed}')
        check(slow.result('status')['state'] == 'listening', 'the slow client is not served any more')
    end(case, child)


class UnixHttp(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__('localhost', timeout=peer.LIMIT_S)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(peer.LIMIT_S)
        self.sock.connect(str(self.path))


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def request(connection, method='GET', page='/metrics'):
    """Makes an HTTP request. Returns the status, the headers and the text of the answer."""
    connection.request(method, page)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, response, text


def need_http(case):
    result = case.call([VUBLK, 'serve', '--engine', 'null', '--size', '1M', '--socket-path', case.path('x'),
                        '--metrics-listen', 'x:y'])
    if 'without libmicrohttpd' in result.err:
        raise peer.Skip('this vublk was built without libmicrohttpd')


def check_pages(connect):
    status, head, text = request(connect())
    check(status == 200 and head.getheader('Content-Type') == 'text/plain; version=0.0.4', f'{status} {head.headers}')
    samples, _ = parse_metrics(text)
    check(request(connect(), page='/')[0] == 404 and request(connect(), 'POST', '/x')[0] == 404, 'another page')
    for method in ('POST', 'PUT', 'HEAD', 'DELETE'):
        status, head, _ = request(connect(), method)
        check(status == 405 and head.getheader('Allow') == 'GET', f'{method}: {status} {head.headers}')
    return samples


def metrics_over_http(case):
    """serve (on TCP, without a control socket) and device (on a Unix socket) have only the page of `metrics`."""
    need_http(case)
    image, path, port = case.path('disk'), case.path('sock'), free_port()
    image.write_bytes(bytes(MIB))
    child = case.start([VUBLK, 'serve', '--blk-file', image, '--socket-path', path, '--metrics-listen', port])
    peer.wait_for_socket(case, child, path)
    peer.wait_until(lambda: socket.socket().connect_ex(('127.0.0.1', port)) == 0, 'no process listens at the port')
    samples = check_pages(lambda: http.client.HTTPConnection('127.0.0.1', port, timeout=peer.LIMIT_S))
    check(samples['vublk_disk_size_bytes', None] == MIB, str(samples))
    end(case, child)
    child, control = start_device(case, 'vhost-user', '--metrics-listen', case.path('http.sock'))
    peer.wait_for_socket(case, child, case.path('http.sock'))
    check(case.path('http.sock').stat().st_mode & 0o777 == 0o600, 'the permissions of the socket')
    samples = check_pages(lambda: UnixHttp(case.path('http.sock')))
    check(samples['vublk_back_end_connected', None] == 0, str(samples))
    check(samples.keys() == parse_metrics(case.run([VUBLK, 'ctl', control, 'metrics']))[0].keys(), 'other metrics')
    end(case, child)
    check(not case.path('http.sock').exists(), 'the socket was left behind')


def metrics_addresses(case):
    """Each address that cannot be used is refused with a sentence."""
    need_http(case)
    serve = [VUBLK, 'serve', '--engine', 'null', '--size', '1M', '--socket-path', case.path('s'), '--metrics-listen']
    with socket.socket() as busy:
        busy.bind(('127.0.0.1', 0))
        busy.listen()
        port = busy.getsockname()[1]
        for address, word in ((f'{port}', 'another process listens'), (f'localhost:{port}', 'another process listens'), ('x', 'must be a port'),
                              (':80', 'must be a port'), ('1.2.3.4:', 'must be a port'), ('::1:80', 'must be a port'),
                              ('[]:80', 'must be a port'), ('70000', 'must be a port'), ('', 'must be a port'),
                              ('192.0.2.1:1', 'cannot listen'), ('no.such.host.invalid:1', 'cannot resolve'),
                              (case.path('no/where'), 'does not exist')):
            result = case.call([*serve, address])
            check(result.code == 1 and word in result.err and len(result.err.splitlines()) <= 2, f'{address}: {result}')


def slow_http_clients(case):
    """Clients that send half a request, or read no answer, delay neither the disk nor the control socket."""
    need_http(case)
    child, path, control = start_serve(case, '--metrics-listen', case.path('http.sock'))
    peer.wait_for_socket(case, child, case.path('http.sock'))
    before, threads = resident_bytes(child), len(peer.own_threads(child.pid))
    clients = []
    for number in range(40):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(peer.LIMIT_S)
        client.connect(str(case.path('http.sock')))
        try:
            client.sendall(b'GET /metrics HTTP/1.1\r\nHost: x\r\n' if number % 2 else
                           b'GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n' * 1000)
        except OSError:
            pass  # one of those that are refused, or whose requests are too long for the server's memory
        clients.append(client)
    case.run([VUBLK, 'bench', path, '--rw', 'randrw', '--runtime', '1', '--verify'])
    check(ctl(case, control, 'status')['state'] == 'listening', 'the control socket')
    check(resident_bytes(child) - before < 16 * MIB, 'the memory has grown')
    check(len(peer.own_threads(child.pid)) < threads + 8, 'a thread per connection')
    for client in clients:
        client.close()
    peer.wait_until(lambda: http_status(case.path('http.sock')) == 200, 'no client is served any more')
    end(case, child)


def http_status(path):
    try:
        return request(UnixHttp(path))[0]
    except (OSError, http.client.HTTPException):
        return 0


CASES = [
    serve_stats, serve_metrics, device_stats, device_request_stats, slow_requests, watch, device_events, events_of_paths,
    events_of_commands, events_of_a_mirror, events_of_a_drain, events_of_a_replay, events_of_failures, serve_events, slow_event_clients, metrics_over_http, metrics_addresses, slow_http_clients,
]

if __name__ == '__main__':
    sys.exit(peer.main(CASES, sys.argv[2:]))
