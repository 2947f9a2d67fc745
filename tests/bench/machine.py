# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine that measures: its processors, kernel and commit, and whether other programs use it."""
import datetime
import os
import platform
import re
import subprocess
import time

WATCH_S = 1.0
BUSY_SHARE = 0.1  # of all processors; above it, figures are doubtful


def processor_times():
    """Returns the busy time and the total time of all processors since the machine was started."""
    with open('/proc/stat') as file:
        user, nice, system, idle, io_wait, *others = [int(word) for word in file.readline().split()[1:9]]
    return user + nice + system + sum(others), user + nice + system + idle + io_wait + sum(others)


def busy_share():
    """Returns the share of all processors that is in use now, including time that other VMs have stolen."""
    before = processor_times()
    time.sleep(WATCH_S)
    busy, total = (now - then for now, then in zip(processor_times(), before))
    return busy / max(total, 1)


def load_average():
    return ' '.join(f'{value:.1f}' for value in os.getloadavg())


def processor_name():
    with open('/proc/cpuinfo') as file:
        found = re.search(r'^model name\s*:\s*(.*)$', file.read(), re.M)
    return found[1] if found else platform.machine()


def commit_of(root):
    """Returns the last commit, marked if there are later changes. A release archive has no commit."""
    done = subprocess.run(['git', '-C', root, 'describe', '--always', '--dirty', '--abbrev=12', '--exclude=*'],
                          capture_output=True, text=True)
    return done.stdout.strip() or 'unknown'


def describe(root):
    return {'date': datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
            'commit': commit_of(root), 'kernel': platform.release(), 'processor': processor_name(),
            'processors': len(os.sched_getaffinity(0)), 'load_average': load_average(),
            'busy_share': round(busy_share(), 3)}


def sentence(machine):
    return (f'{machine["date"]}, commit {machine["commit"]}, Linux {machine["kernel"]}, {machine["processors"]} '
            f'processors ({machine["processor"]}), load average {machine["load_average"]}')


def warning(machine):
    """Returns a warning about the figures, or an empty text if the machine is idle enough."""
    if machine['busy_share'] <= BUSY_SHARE:
        return ''
    return (f'WARNING: others use {machine["busy_share"]:.0%} of the processors: figures will be wrong, '
            'and ratios, too\n')
