#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Back-ends that are killed while many asyncio tasks read and write. A model of the disk says what
each block has to contain. Prints how many requests were in flight when a back-end was killed.

    outage.py VUBLK [-l] [-k] [WORD...]    with the package in PYTHONPATH
"""
import asyncio
import random
import sys

import rig
import vublk
from peer import check
from rig import DISK_BYTES, Backend

TASKS, KILLS, CHUNK = 48, 12, 4096
BETWEEN_KILLS = 300  # requests


class Model:
    """What the disk has to contain, and how far the load is."""

    def __init__(self, content):
        self.content, self.completed, self.in_flight, self.ended = content, 0, 0, False
        self.progress = asyncio.Condition()

    async def request(self, awaitable):
        self.in_flight += 1
        await awaitable
        self.in_flight -= 1
        async with self.progress:
            self.completed += 1
            self.progress.notify_all()

    async def advance(self, count):
        """Waits for `count` more requests."""
        wanted = self.completed + count
        async with self.progress:
            await self.progress.wait_for(lambda: self.completed >= wanted)


async def load(disk, model, memory, number):
    """Writes, reads, clears and flushes at random in the chunks that belong to this task, and checks each read."""
    choice = random.Random(number)
    chunks = range(number, DISK_BYTES // CHUNK, TASKS)
    while not model.ended:
        offset = choice.choice(chunks) * CHUNK
        part = slice(offset, offset + CHUNK)
        kind = choice.randrange(10)
        if kind < 4:
            memory[:] = choice.randbytes(CHUNK)
            model.content[part] = memory
            await model.request(disk.write(offset, memory, fua=kind == 0))
        elif kind == 4:
            await model.request(disk.write_zeroes(offset, CHUNK))
            model.content[part] = bytes(CHUNK)
        elif kind == 5:
            await model.request(disk.flush())
        else:
            await model.request(disk.read(offset, memory))
            check(memory == model.content[part], f'lost: the chunk at {offset} has other data')


async def kill(backend, model, seen):
    """Kills and restarts the back-end. Returns how many requests were in flight."""
    affected = 0
    for _ in range(KILLS):
        await model.advance(BETWEEN_KILLS)
        backend.kill()
        affected += model.in_flight
        check((await seen.get()).kind == vublk.EventKind.LOST, 'another event')
        backend.restart()
        check((await seen.get()).kind == vublk.EventKind.RECONNECTED, 'another event')
    await model.advance(BETWEEN_KILLS)
    model.ended = True
    return affected


async def follow(disk, seen):
    async for event in disk.events():
        seen.put_nowait(event)


async def killed_under_load(case, kind):
    """No request is lost, repeated or left, and the disk has the content of the model."""
    backend = Backend(case, kind, queues=1)
    seen = asyncio.Queue()
    # The data that a killed process has written is in the kernel, so it is not lost.
    async with vublk.open_async(backend.path, reconnect_ms=50, unflushed='trust', statistics=True) as disk:
        model = Model(backend.content)
        memory = (await disk.alloc(TASKS * CHUNK)).view()
        following = asyncio.create_task(follow(disk, seen))
        tasks = [asyncio.create_task(load(disk, model, memory[i * CHUNK:(i + 1) * CHUNK], i)) for i in range(TASKS)]
        killing = asyncio.create_task(kill(backend, model, seen))
        done, _ = await asyncio.wait([killing, *tasks], return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        await disk.drain()
        await disk.flush()
        check(await disk.pread(0, DISK_BYTES) == model.content, 'lost: the disk differs from the model')
        counted = disk.statistics()
        check(counted.errors == 0 and counted.in_flight == 0, f'{counted}')
        check(killing.result() >= KILLS, 'no request was in flight when a back-end was killed')
        print(f'# {kind.name}: {KILLS} kills, {model.completed} requests, {killing.result()} in flight; 0 lost')
    await following
    backend.stop()
    check(backend.image.read_bytes() == model.content, 'lost: the image differs from the model')


if __name__ == '__main__':
    sys.exit(rig.main([killed_under_load]))
