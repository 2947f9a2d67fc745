# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The relay with shadow rings and without, between `vublk-rate` and a back-end that stores nothing. Both
relays run at the same time and are measured in turns, round after round. A relay without shadow rings is
not in the data path, so the ratio shows what the request plane costs.

With fewer processors than threads the rates mean little, because the threads take turns. In that case two
other figures mean more: the processor time per request of client, relay and back-end together, and the
relay's instructions, which callgrind counts.
"""
import collections
import json
import pathlib
import re
import statistics

import costs
import peer
import systems

DEPTHS = (1, 32, 128)
COUNTED_DEPTH = 32
MODES = {'direct': ('-o', 'shadow=off'), 'shadow': ('-o', 'shadow=on')}
BASE, OURS = MODES
# The most instructions per request that the plane may need.
GOAL_INSTRUCTIONS = 700

Run = collections.namedtuple('Run', 'mode depth rate cpu wakes')


class Stack:
    """A back-end that stores nothing, and a relay in front of it."""

    def __init__(self, case, options, mode, tracer=()):
        backend = case.path(f'backend-{mode}')
        self.backend = case.start([options.vublk, 'serve', '--quiet', '--socket-path', backend, '--engine', 'null',
                                   '--size', '1G', '--num-queues', 1])
        peer.wait_for_socket(case, self.backend, backend)
        self.path = case.path(f'relay-{mode}')
        self.relay = case.start([*tracer, options.vublk, 'device', '--quiet', '--chardev', backend,
                                 '--bus', f'vhost-user:{self.path}', *MODES[mode]])
        peer.wait_for_socket(case, self.relay, self.path)
        peer.wait_until(lambda: systems.is_listening(self.path), f'no process listens at {self.path}')

    def seconds(self):
        return sum(systems.processor_seconds(process) for process in (self.backend, self.relay))

    def wakes(self):
        """Returns how often the relay's threads have slept so far."""
        return sum(int(re.search(r'^voluntary_ctxt_switches:\s*(\d+)', path.read_text(), re.M)[1])
                   for path in pathlib.Path(f'/proc/{self.relay.pid}/task').glob('*/status'))


def client(options, path, depth, *more):
    return [options.programs / 'vublk-rate', path, '--iodepth', depth, *more]


def measure(case, options, mode, stack, depth):
    seconds, wakes = stack.seconds(), stack.wakes()
    told = case.run(client(options, stack.path, depth, '--runtime', options.runtime, '--ramp_time', '0'))
    job = json.loads(told)['jobs'][0]
    count = max(job['read']['total_ios'], 1)
    cpu = (job['usr_cpu'] + job['sys_cpu']) / 100 * job['job_runtime'] / 1000
    return Run(mode, depth, job['read']['iops'], (stack.seconds() - seconds + cpu) / count,
               (stack.wakes() - wakes) / count)


def instructions(options, mode):
    """Returns the instructions per request of the whole relay, from two runs of different length."""
    counts = []
    for requests in costs.REQUESTS:
        with systems.processes(options.memory) as case:
            log = case.path('traced')
            stack = Stack(case, options, mode, ['valgrind', '--tool=callgrind', '--callgrind-out-file=/dev/null',
                                                f'--log-file={log}'])
            case.run(client(options, stack.path, COUNTED_DEPTH, '--number_ios', requests), limit_s=300)
            case.stop(stack.relay)
            counts.append(int(re.search(r'Collected : (\d+)', log.read_text())[1]))
    return (counts[1] - counts[0]) / (costs.REQUESTS[1] - costs.REQUESTS[0])


def of(runs, mode, depth, what):
    return [getattr(run, what) for run in runs if run.mode == mode and run.depth == depth]


def show(runs, depth):
    rates = {mode: of(runs, mode, depth, 'rate') for mode in MODES}
    ratios = [ours / base for ours, base in zip(rates[OURS], rates[BASE])]
    cpu = {mode: statistics.median(of(runs, mode, depth, 'cpu')) * 1e6 for mode in MODES}
    print(f'  {depth:5}  {statistics.median(rates[BASE]):11,.0f}/s  {statistics.median(rates[OURS]):11,.0f}/s'
          f'  {statistics.median(ratios):6.3f} ({min(ratios):.2f} - {max(ratios):.2f})'
          f'  {cpu[BASE]:7.2f} us  {cpu[OURS]:7.2f} us'
          f'  {statistics.median(of(runs, OURS, depth, "wakes")):9.4f}', flush=True)


def compare(case, options):
    """Measures and prints all comparisons, and returns all runs."""
    stacks = {mode: Stack(case, options, mode) for mode in MODES}
    runs = [measure(case, options, mode, stacks[mode], depth)
            for depth in DEPTHS for _ in range(options.rounds) for mode in MODES]
    print('the relay, with a back-end that stores nothing (randread, 4 KiB, the client sleeps):\n'
          f'  depth  {BASE:>13}  {OURS:>13}  ratio, by round (range)  {"CPU per request":>21}  {"wakes":>9}')
    for depth in DEPTHS:
        show(runs, depth)
    for stack in stacks.values():
        for child in (stack.relay, stack.backend):
            case.stop(child)
    counted = instructions(options, OURS)
    print(f'  depth {COUNTED_DEPTH}: {counted:.0f} instructions per request in the relay with shadow rings '
          f'(goal: at most {GOAL_INSTRUCTIONS})', flush=True)
    return {'runs': [run._asdict() for run in runs], 'instructions': counted}
