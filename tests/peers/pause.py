#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The commands `pause` and `resume` of `vublk device` (docs/control.md): new requests wait, those that
are outstanding are completed, whatever the back-end and the VMM do during the pause.

    pause.py VUBLK [-l] [-k] [WORD...]
"""
import signal
import sys

from control import VUBLK, check, ctl, end, peer, start_backend, start_device, wait_for_status

DEPTH = 32  # the load's requests in flight


class Disk:
    """A device with a back-end and a load, with or without shadow rings."""

    def __init__(self, case, shadow):
        self.case = case
        self.child, self.control = start_device(case, 'vhost-user', '-o', f'shadow={shadow}', '-o', 'keepalive-ms=0',
                                                '-o', 'config-poll-ms=0')
        self.start_backend()
        self.wait(lambda s: s['state'] == 'listening', 'the back-end is not found')
        self.start_load()

    def start_backend(self):
        control = self.case.path('back-control')
        self.backend = start_backend(self.case, '-o', 'statistics=on', '--control', control)
        peer.wait_until(lambda: self.case.call([VUBLK, 'ctl', control, 'status']).code == 0, 'the back-end does not answer')

    def kill_backend(self):
        self.backend.kill()
        self.backend.wait()

    def start_load(self):
        self.load = self.case.start([VUBLK, 'bench', self.case.path('vm.sock'), '--rw', 'randrw', '--verify',
                                     '--iodepth', DEPTH, '--size', '4M', '--runtime', '60', '--time_based'])

    def kill_load(self):
        self.load.kill()
        self.load.wait()

    def wait(self, condition, sentence):
        return wait_for_status(self.case, self.control, condition, sentence)

    def wait_for_requests(self):
        """Waits until all DEPTH requests of the load are outstanding."""
        self.wait(lambda s: sum(q['outstanding'] or 0 for q in s['queues']) == DEPTH, 'the driver does not fill its ring')

    def executed(self):
        """Returns how many requests the back-end has executed."""
        stats = ctl(self.case, self.case.path('back-control'), 'stats')
        return sum(counters['count'] for queue in stats['queues'] for counters in queue['requests'].values())

    def wait_for_progress(self):
        before = self.executed()
        peer.wait_until(lambda: self.executed() > before + 2 * DEPTH, 'the load does not continue')
        check(self.load.poll() is None, self.case.output(self.load))

    def pause(self):
        check(ctl(self.case, self.control, 'pause') == {'pause': 'paused'}, 'no pause')
        check(ctl(self.case, self.control, 'status')['pause'] == 'paused', 'status does not know of the pause')

    def resume(self):
        check(ctl(self.case, self.control, 'resume') == {'pause': 'none'}, 'not resumed')
        check(ctl(self.case, self.control, 'status')['pause'] == 'none', 'status does not know of the end')

    def check_stands(self):
        """Checks that the driver's requests wait, and that the back-end executes none of them."""
        before = self.executed()
        self.wait_for_requests()
        check(self.executed() == before, 'requests are executed during the pause')

    def time_out(self, ms=10):
        result = self.case.call([VUBLK, 'ctl', self.control, 'pause', f'timeout-ms={ms}'])
        check(result.code == 1 and 'have not completed yet' in result.err, str(result))
        # On a busy machine the pause may take effect between the two commands, because the device disconnects a
        # back-end that hangs.
        check(ctl(self.case, self.control, 'status')['pause'] in ('pausing', 'paused'), 'not pausing')

    def close(self):
        self.case.stop(self.load)
        check('all correct' in self.case.output(self.load), f'the load: {self.case.output(self.load)}')
        end(self.case, self.child)
        end(self.case, self.backend)


def in_both_modes(function):
    """Returns two cases, which call `function` with and without shadow rings."""
    return [(f'{function.__name__}_{mode}', lambda case, shadow=shadow: function(case, shadow))
            for mode, shadow in (('direct', 'off'), ('with_shadow_rings', 'on'))]


def pause(case, shadow):
    """A pause holds the requests, a second pause has no effect, and the load continues after the end of the pause."""
    disk = Disk(case, shadow)
    for _ in range(3):
        disk.wait_for_progress()
        disk.pause()
        disk.check_stands()
        disk.pause()
        disk.check_stands()
        disk.resume()
        disk.resume()
    disk.wait_for_progress()
    disk.close()


def hanging_backend(case, shadow):
    """A pause waits for a hanging back-end. The command reports its time limit, and the pause takes effect later."""
    disk = Disk(case, shadow)
    disk.wait_for_progress()
    peer.suspend(disk.backend)
    disk.wait_for_requests()
    if shadow == 'on':  # the back-end gets no message, so request-timeout-ms (1000) does not matter
        disk.time_out(2500)
        check(ctl(case, disk.control, 'status')['back_end']['outages'] == 0, 'the back-end counts as lost')
    else:
        disk.time_out()
    disk.backend.send_signal(signal.SIGCONT)
    disk.wait(lambda s: s['pause'] == 'paused', 'the pause never takes effect')
    disk.check_stands()
    peer.suspend(disk.backend)
    disk.pause()  # nothing is outstanding, so no answer of the back-end is needed
    disk.backend.send_signal(signal.SIGCONT)
    disk.resume()
    disk.wait_for_progress()
    disk.close()


def lost_backend(case, shadow):
    """A back-end is lost before the pause is complete, and another one during the pause."""
    disk = Disk(case, shadow)
    disk.wait_for_progress()
    peer.suspend(disk.backend)
    disk.wait_for_requests()
    disk.time_out()
    disk.kill_backend()
    disk.start_backend()
    disk.wait(lambda s: s['pause'] == 'paused', 'the pause never takes effect')
    check(disk.executed(), 'the next back-end has not completed the requests')
    check(shadow == 'off' or disk.executed() <= DEPTH, 'the next back-end was given new requests')
    disk.check_stands()
    disk.kill_backend()
    disk.wait(lambda s: not s['back_end']['connected'], 'the loss is not noticed')
    disk.start_backend()
    status = disk.wait(lambda s: s['back_end']['connected'], 'the back-end is not found')
    check(status['pause'] == 'paused', str(status))
    disk.check_stands()
    disk.resume()
    disk.wait_for_progress()
    disk.close()


def another_vmm(case, shadow):
    """The pause outlives the VMM, so the requests of the next VMM also wait. It can be ended without a VMM."""
    disk = Disk(case, shadow)
    disk.wait_for_progress()
    disk.pause()
    disk.kill_load()
    disk.wait(lambda s: s['vmm'] is None, 'the VMM is still there')
    disk.start_load()
    disk.wait_for_requests()
    check(ctl(case, disk.control, 'status')['pause'] == 'paused', 'the pause is over')
    disk.check_stands()
    disk.resume()
    disk.wait_for_progress()
    disk.kill_load()
    disk.wait(lambda s: s['vmm'] is None, 'the VMM is still there')
    disk.pause()
    disk.resume()
    disk.start_load()
    disk.wait_for_progress()
    disk.close()


def arguments(case):
    child, control = start_device(case)
    for words in (['timeout-ms=0'], ['timeout-ms=x'], ['timeout-ms=-5'], ['x=1']):
        check(case.call([VUBLK, 'ctl', control, 'pause', *words]).code == 1, str(words))
    check(ctl(case, control, 'status')['pause'] == 'none', 'a wrong command has begun a pause')
    check(ctl(case, control, 'pause') == {'pause': 'paused'}, 'there is nothing to wait for')
    end(case, child)


CASES = [*in_both_modes(pause), *in_both_modes(hanging_backend), *in_both_modes(lost_backend), *in_both_modes(another_vmm),
         arguments]

if __name__ == '__main__':
    sys.exit(peer.main(CASES, sys.argv[2:]))
