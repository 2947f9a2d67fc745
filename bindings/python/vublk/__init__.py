# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Disks behind vhost-user sockets. open() returns a Disk, whose calls block; open_async() returns an
AsyncDisk for asyncio. docs/python.md explains both.

    with vublk.open('/run/disk.sock') as disk:
        print(disk.pread(0, 512))
"""
from ._aio import AsyncDisk, open_async
from ._common import Event, EventKind, Info, Statistics, library_version
from ._core import Buffer, Error
from ._disk import Completion, Disk, Queue, open

__all__ = ['AsyncDisk', 'Buffer', 'Completion', 'Disk', 'Error', 'Event', 'EventKind', 'Info', 'Queue', 'Statistics',
           'library_version', 'open', 'open_async']
