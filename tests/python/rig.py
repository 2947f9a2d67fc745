# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of the Python package share: back-ends, and cases for each kind of them."""
import asyncio
import contextlib
import faulthandler
import functools
import os
import pathlib
import random
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import peer  # noqa: E402
import vublk  # noqa: E402
from peer import check  # noqa: E402

# The runtime of a sanitizer, which the interpreter lacks. Programs that are built with the sanitizer have their own.
RUNTIME = os.environ.pop('LD_PRELOAD', None)

MIB = 1 << 20
DISK_BYTES = 8 * MIB
BLOCK = 512


class Backend:
    """A back-end of a case, on an image with random content."""

    def __init__(self, case, kind, queues=2, image_bytes=DISK_BYTES, **options):
        self.case, self.kind, self.queues, self.options = case, kind, queues, options
        self.image = case.path('image')
        self.content = bytearray(random.Random(1).randbytes(image_bytes))
        self.image.write_bytes(self.content)
        self.child, self.path = kind.start(case, self.image, queues, **options)

    def stop(self):
        self.kind.stop(self.case, self.child)

    def suspend(self):
        """Stops the process, so that no request completes until resume()."""
        peer.suspend(self.child)

    def resume(self):
        self.child.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def suspended(self):
        self.suspend()
        try:
            yield
        finally:
            self.resume()

    def kill(self):
        self.child.kill()
        self.child.wait()

    def restart(self):
        """Starts the next back-end at the same path."""
        pathlib.Path(self.path).unlink(missing_ok=True)
        self.child, _ = self.kind.start(self.case, self.image, self.queues, path=self.path, **self.options)


def interpreter():
    """Returns the environment for a further interpreter that imports the package."""
    return {**os.environ, 'LD_PRELOAD': RUNTIME} if RUNTIME else dict(os.environ)


def raises(function, *arguments, code=None, kind=vublk.Error):
    """Checks that a call fails with an exception of class `kind`, and with the errno `code`. Returns the exception."""
    try:
        function(*arguments)
    except kind as error:
        check(code is None or error.errno == code, f'{error!r} has another code than {code}')
        return error
    raise peer.Failure(f'{function.__qualname__}{arguments} raised no {kind.__name__}')


async def raises_async(awaitable, code=None, kind=vublk.Error):
    try:
        await awaitable
    except kind as error:
        check(code is None or error.errno == code, f'{error!r} has another code than {code}')
        return error
    raise peer.Failure(f'{awaitable} raised no {kind.__name__}')


def cases_of(tool, functions, kinds=None):
    """One case per function and kind of back-end. A coroutine function is run by asyncio."""
    kinds = kinds or [peer.VublkServe(tool), peer.StorageDaemon()]

    def run(function, kind, case):
        if asyncio.iscoroutinefunction(function):
            asyncio.run(function(case, kind))
        else:
            function(case, kind)
    return [(f'{function.__name__}, {kind.name}', functools.partial(run, function, kind))
            for function in functions for kind in kinds]


def main(functions, kinds=None):
    # A call that does not release the GIL blocks every thread that could end it.
    faulthandler.dump_traceback_later(300, exit=True)
    return peer.main(cases_of(sys.argv[1], functions, kinds), sys.argv[2:])
