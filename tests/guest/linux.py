# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A Linux guest: Debian's kernel, an initramfs, and its script `init`, which receives jobs on the serial console
and prints its results there.
"""
import functools
import os
import pathlib
import re
import signal
import tempfile

import initramfs
import peer
import qemu
from peer import check

BOOT_LIMIT_S = 300  # ends a deadlock only: a boot takes some seconds, and minutes on a busy machine
MARK = 'vublk: '
# Kernel messages about a disk that failed a request or completed it twice, or about a fault of the kernel.
FAULTS = re.compile(r'I/O error|is not a head|hung_task|blocked for more than|Kernel panic|EXT4-fs error')

scratch = []


@functools.cache
def memory_disk(load):
    scratch.append(tempfile.TemporaryDirectory(prefix='vublk-'))
    return initramfs.make(pathlib.Path(scratch[-1].name), load)


class Guest(qemu.Process):
    """A QEMU with a Linux guest. The guest's output becomes `words`, the `facts` of the current job, and `writes`."""

    def system(self):
        """Returns the kernel and the initramfs."""
        return initramfs.kernel(), memory_disk(self.load)

    def __init__(self, case, which, processors, disks, load, arguments=(), memory=''):
        self.case, self.qemu, self.load, self.memory = case, which, load, memory
        self.processors = processors
        self.extra = [argument for disk in disks for argument in disk.arguments(which, bus='slot-disk')] + [*arguments]
        self.boots = 0
        self.boot()
        if '-incoming' not in self.extra:
            self.until_ready()

    def boot(self):
        self.boots += 1
        self.console = self.unfinished = ''
        self.facts, self.words, self.jobs, self.writes = {}, [], 0, 0
        kernel, memory = self.system()
        super().__init__(self.case, self.qemu, [
            '-smp', self.processors, '-kernel', kernel, '-initrd', memory,
            '-append', 'console=ttyS0 quiet panic=-1 printk.devkmsg=on no_timer_check',
            '-device', 'pcie-root-port,id=slot-disk,chassis=1', *self.extra], BOOT_LIMIT_S, self.memory)

    def until_ready(self):
        """
        Waits until the guest is up. In rare cases the kernel hangs or panics on one of several
        emulated processors, or QEMU crashes, before the kernel has a driver for the disk. Then the
        guest is booted again.
        """
        try:
            self.until(lambda: 'ready' in self.words or self.hangs_before_init(), 'the guest is up')
        except peer.Failure:
            if not self.crashed_before_init():
                raise
        if 'ready' not in self.words:
            print('# the guest hangs or QEMU crashed before the first process; the guest is booted again', flush=True)
            self.kill()
            self.boot()
            self.until_ready()

    def is_before_init(self):
        return 'begin' not in self.words and self.boots < 3

    def hangs_before_init(self):
        return self.is_before_init() and any(word in self.console for word in ('BUG: soft lockup', 'Kernel panic'))

    def crashed_before_init(self):
        return self.is_before_init() and self.child.poll() == -signal.SIGSEGV

    def remarks(self):
        return f'{super().remarks()}\nThe guest: {self.console[-2000:]}'

    def hear_console(self, piece):
        text = piece.decode(errors='replace')
        self.console += text
        *lines, self.unfinished = (self.unfinished + text).split('\n')
        for line in lines:
            self.take(line.rstrip('\r'))

    def take(self, line):
        said = line.partition(MARK)[2]
        name, equals, value = said.partition('=')
        if name == 'writes':
            # QEMU drops text that is not read for long, so a number may be cut or joined with the next line.
            self.writes = max(self.writes, int(value)) if value.isdigit() else self.writes
        elif equals:
            self.facts.setdefault(name, []).append(value)
        elif said:
            self.words.append(said)
        check(not said.startswith('failed'), f'the guest {said}{self.remarks()}')
        check(not FAULTS.search(line) or self.hangs_before_init(), f'the guest has trouble: {line}{self.remarks()}')

    def has_said(self, word):
        """
        Returns whether the guest has said the word. Removes it, so that the next call looks for the next
        occurrence.
        """
        if word in self.words:
            self.words.remove(word)
            return True
        return False

    def listen(self, word):
        self.until(lambda: self.has_said(word), f'the guest says "{word}"')

    def begin(self, job, *arguments):
        """Gives the guest a job, and does not wait for the job's end."""
        self.facts, self.jobs = {}, self.jobs + 1
        line = ' '.join(str(word) for word in (self.jobs, job, *arguments))
        self.console_socket.sendall(line.encode() + b'\n')

    def end(self):
        self.listen(f'done {self.jobs}')
        return self.facts

    def run(self, job, *arguments):
        """Gives the guest a job, and waits until it ends. Returns its facts, each with a list of values."""
        self.begin(job, *arguments)
        return self.end()

    def last(self, name):
        check(name in self.facts, f'the guest did not tell "{name}"{self.remarks()}')
        return self.facts[name][-1]

    def start_load(self):
        self.writes = 0
        self.run('load', 'start')
        self.listen_for_more()

    def stop_load(self):
        """Stops the load, and waits until it has verified all blocks once more."""
        self.run('load', 'stop')
        self.last('verified')

    def written(self):
        """Returns how many writes the load has reported since its start, whichever jobs ran meanwhile."""
        self.catch_up()
        return self.writes

    def listen_for_more(self, writes=200):
        """Waits until the load has done this many more writes than it has reported."""
        written = self.written()
        self.until(lambda: self.written() >= written + writes,
                   f'the load writes on after {written} writes')

    def reset(self):
        """Resets the virtual machine. Returns when the guest is up again."""
        self.words, self.jobs = [], 0
        self.qmp('system_reset')
        self.event('RESET', lambda data: data.get('reason') == 'host-qmp-system-reset')
        self.unfinished = ''
        self.until_ready()

    def continue_for(self, source):
        """
        Waits until this QEMU runs the guest that has migrated from `source`. Takes over the state of the
        object `source`.
        """
        self.event('RESUME')
        self.facts, self.words, self.jobs, self.writes = source.facts, source.words, source.jobs, source.writes

    def power_off(self):
        self.begin('end')
        self.wait()
        self.close()


def debugfs(case, image, request):
    return case.call(['debugfs', '-R', request, image],
                     env={**os.environ, 'PATH': os.environ['PATH'] + ':/usr/sbin:/sbin'})


def check_file_system(case, image):
    peer.need('e2fsck')
    result = case.call(['/sbin/e2fsck', '-fn', image])
    check(result.code == 0, str(result))
