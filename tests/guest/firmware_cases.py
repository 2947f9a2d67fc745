# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Firmware boots a machine from the disk: SeaBIOS boots a boot sector, and OVMF boots a file in a FAT file system.
Unlike Linux, both use a single queue without interrupts, and do not reset the device when they stop using it.
"""
import pathlib
import shutil

import doors
import groups
import peer
import qemu
from peer import check

HERE = pathlib.Path(__file__).resolve().parent
LIMIT_S = 120
RESETS = 10
DISK_BYTES = 16 << 20
SECTOR_BYTES = 512


def assemble(case, name):
    """Assembles a file of this folder. Returns its machine code as it will be in memory."""
    peer.need('as', 'objcopy')
    case.run(['as', '-o', case.path(f'{name}.o'), HERE / f'{name}.S'])
    case.run(['objcopy', '-O', 'binary', '-j', '.text', case.path(f'{name}.o'), case.path(name)])
    return case.path(name).read_bytes()


def make_boot_disk(case, name, text):
    """Makes an image. The program in its boot sector prints `text`, which is in the second sector."""
    image = case.path(name)
    image.write_bytes(assemble(case, 'boot') + text.encode() + b'\n\0')
    with open(image, 'r+b') as file:
        file.truncate(DISK_BYTES)
    return image


def make_efi_disk(case):
    peer.need('mformat', 'mmd', 'mcopy')
    image = case.path('efi-disk')
    with open(image, 'wb') as file:
        file.truncate(DISK_BYTES)
    assemble(case, 'efi')
    case.run(['mformat', '-i', image, '-T', DISK_BYTES // SECTOR_BYTES, '-h', 16, '-s', 32, '::'])
    case.run(['mmd', '-i', image, '::/EFI', '::/EFI/BOOT'])
    case.run(['mcopy', '-i', image, case.path('efi'), '::/EFI/BOOT/BOOTX64.EFI'])
    return image


class Bare(qemu.Process):
    """A machine that runs only its firmware. The output of its console is kept as text."""

    def __init__(self, case, which, arguments, **memory):
        self.console = ''
        super().__init__(case, which, ['-smp', 1, *arguments], LIMIT_S, **memory)

    def hear_console(self, piece):
        self.console += piece.decode(errors='replace')

    def remarks(self):
        return f'{super().remarks()}\nIts console: {self.console[-2000:]}'

    def listen(self, text):
        self.until(lambda: text in self.console, f'the console says "{text}"')
        self.console = self.console.partition(text)[2]


class SeaBios(groups.Group):
    cases = [
        ('SeaBIOS boots from the disk', 'boot'),
        (f'reset while its boot sector reads, {RESETS} times', 'reset'),
        ('SeaBIOS honours bootindex', 'order'),
    ]

    def open(self):
        self.disks = {name: doors.Disk(self.case, self.way, make_boot_disk(self.case, name, f'{name} disk'), name=name)
                      for name in ('first', 'second')}
        self.machine = None

    def start(self, **bootindex):
        if self.machine:
            self.machine.kill()
        self.machine = Bare(self.case, self.way.qemu, [
            argument for name, disk in self.disks.items() for argument in disk.arguments(
                self.way.qemu, **({'bootindex': bootindex[name]} if name in bootindex else {}))])

    def boot(self):
        self.start()
        self.machine.listen('first disk')

    def reset(self):
        self.start()
        for _ in range(RESETS):
            self.machine.listen('first disk')
            self.machine.qmp('system_reset')
        self.machine.listen('first disk')

    def order(self):
        self.start(first=1, second=0)
        self.machine.listen('second disk')
        check('first disk' not in self.machine.console, 'the first disk was booted from, too')
        self.machine.kill()
        for disk in self.disks.values():
            disk.stop()


class NotShared(groups.Group):
    """The guest's memory is not shared, so the firmware's first read never ends. A log must give the reason."""
    cases = [
        ('memory that is a private copy is named', 'private'),
        ('memory without a descriptor is named', 'anonymous'),
    ]

    @classmethod
    def cases_for(cls, way):
        """Returns the cases. The list is empty if neither the door nor the back-end logs the reason."""
        return cls.cases if way.door.has_process or way.backend.says_unshared else []

    def expect(self, words, **memory):
        disk = doors.Disk(self.case, self.way, make_boot_disk(self.case, 'disk', 'never seen'))
        machine = Bare(self.case, self.way.qemu, disk.arguments(self.way.qemu, bootindex=0),
                       memory=',share=off', **memory)
        peer.wait_until(lambda: any(word in self.case.output(disk.door or disk.child) for word in words),
                        f'no log says {words} of the memory', LIMIT_S)
        check('share=on' in self.case.output(disk.door or disk.child), 'the log has no advice')
        machine.kill()
        disk.stop()

    def private(self):
        """Expects either of two reasons, because newer QEMUs do not share such memory at all."""
        self.expect(['probably not shared', 'shares no memory'])

    def anonymous(self):
        self.expect(['shares no memory', "cannot map any of the guest's memory"], memory_kind='ram')


class Ovmf(groups.Group):
    cases = [
        ('OVMF boots a program from the disk', 'boot_modern'),
        ('OVMF boots a program from the disk by its legacy driver', 'boot_legacy'),
    ]

    @classmethod
    def cases_for(cls, way):
        return cls.cases if way.has_legacy() else cls.cases[:1]

    def boot(self, *arguments, **device):
        code, variables = self.way.qemu.ovmf()
        shutil.copy(variables, self.case.path('variables'))
        disk = doors.Disk(self.case, self.way, make_efi_disk(self.case))
        machine = Bare(self.case, self.way.qemu, [
            '-drive', f'if=pflash,unit=0,format=raw,readonly=on,file={code}',
            '-drive', f'if=pflash,unit=1,format=raw,file={self.case.path("variables")}',
            *arguments, *disk.arguments(self.way.qemu, bootindex=0, **device)])
        machine.listen('vublk: EFI program')
        machine.kill()
        disk.stop()

    def boot_modern(self):
        """Boots from a device behind a PCIe port. Such a device has no legacy interface."""
        self.boot('-device', 'pcie-root-port,id=slot-disk,chassis=1', bus='slot-disk')

    def boot_legacy(self):
        """Boots from a device on the root bus. Such a device is transitional, and OVMF prefers its legacy interface."""
        self.boot()
