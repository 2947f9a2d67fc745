# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stops a thread of a child, as if its storage hung."""
import ctypes
import os

import peer
from peer import check

SEIZE, INTERRUPT, DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000


class Frozen:
    def __init__(self, thread):
        self.thread = thread
        self.trace(SEIZE)
        self.trace(INTERRUPT)
        os.waitpid(thread, WALL)

    def trace(self, request):
        check(ctypes.CDLL(None, use_errno=True).ptrace(request, self.thread, None, None) == 0,
              f'ptrace: {os.strerror(ctypes.get_errno())}')

    def thaw(self):
        self.trace(DETACH)

    def has_ended(self):
        pid, status = os.waitpid(self.thread, WALL | os.WNOHANG)
        return pid and not os.WIFSTOPPED(status)

    def wait_for_end(self):
        peer.wait_until(self.has_ended, 'the thread does not end')
