#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Guests in QEMU use a disk of a vhost-user-blk back-end through one of vublk's doors. QEMU emulates the
processor, so no /dev/kvm is needed; a boot takes a few seconds.

    guest.py --load LOAD [--door D] [--backend B|--start SCRIPT] [--qemu Q] VUBLK [-l] [WORD...]

Words select the cases whose names contain one of them; -l lists the cases. To find out which program
causes a failure, try another door, back-end or QEMU.
"""
import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import disk_cases  # noqa: E402
import doors  # noqa: E402
import engine_cases  # noqa: E402
import firmware_cases  # noqa: E402
import groups  # noqa: E402
import memory_cases  # noqa: E402
import migration_cases  # noqa: E402
import operator_cases  # noqa: E402
import outage_cases  # noqa: E402
import qemu  # noqa: E402

GROUPS = [disk_cases.FourQueues, disk_cases.PluggedIn, disk_cases.OneQueue, disk_cases.DefaultQueues, disk_cases.SmallQueue,
          disk_cases.ReadOnly, disk_cases.PresentedReadOnly,
          firmware_cases.SeaBios, firmware_cases.NotShared, firmware_cases.Ovmf,
          outage_cases.BackendKilled, outage_cases.HugePages, outage_cases.BackendKilledIdle,
          outage_cases.BackendLost, engine_cases.StorageKilled, outage_cases.RelayRestarted, outage_cases.QemuKilled,
          migration_cases.Moved, memory_cases.Changing, operator_cases.Operated]

doors.BACKENDS.update(engine_cases.BACKENDS)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('vublk', help='the tool, such as build/src/cli/vublk')
    parser.add_argument('words', nargs='*', help='only cases that have one of these words')
    parser.add_argument('--load', required=True, help="the guest's load, such as build/tests/guest/guest-load")
    parser.add_argument('--door', choices=doors.DOORS, default='direct', help='how the disk reaches QEMU (direct)')
    parser.add_argument('--backend', choices=doors.BACKENDS, default='vublk-serve', help='(vublk-serve)')
    parser.add_argument('--start', metavar='SCRIPT',
                        help='a back-end of your own: SCRIPT SOCKET IMAGE QUEUES becomes it')
    parser.add_argument('--has', nargs='+', choices=doors.Own.WORDS, default=[], metavar='WORD',
                        help=f'what that back-end can do ({", ".join(doors.Own.WORDS)}): adds cases')
    parser.add_argument('--qemu', choices=qemu.QEMUS, default='system',
                        help="the distribution's, or that which scripts/setup fetched (system)")
    parser.add_argument('-l', '--list', action='store_true', help='list the cases')
    return parser.parse_intermixed_args()


def main():
    options = parse()
    backend = doors.Own(pathlib.Path(options.start).absolute(), options.has) if options.start else options.backend
    way = doors.Way(options.vublk, options.door, backend, qemu.QEMUS[options.qemu]())
    return groups.main(GROUPS, way, options.load, options.words, options.list)


if __name__ == '__main__':
    sys.exit(main())
