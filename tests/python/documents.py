#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The Python package as its users see it: the programs in docs/python.md run as printed, and the types
are correct (with mypy).

    documents.py VUBLK SOURCE-ROOT [-l] [-k] [WORD...]    with the package in PYTHONPATH
"""
import os
import pathlib
import re
import sys

import rig
import vublk
from peer import check

import peer  # noqa: E402

TOOL, ROOT = sys.argv[1], pathlib.Path(sys.argv[2])
PACKAGE = pathlib.Path(vublk.__file__).parent


def programs():
    return re.findall(r'^```python\n(.*?)^```', (ROOT / 'docs/python.md').read_text(), re.M | re.S)


def examples(case):
    """The programs print what the page says, and have correct types."""
    backend = rig.Backend(case, peer.VublkServe(TOOL), image_bytes=1 << 20)
    printed = []
    for number, program in enumerate(programs()):
        case.path(f'example{number}.py').write_text(program)
        printed.append(case.run([sys.executable, '-W', 'error', case.path(f'example{number}.py'), backend.path]))
    check(printed[0] == '1048576 bytes\nhello, disk\n', f'{printed[0]}')
    check(printed[1] == '256 writes, then the back-end is flushed\n', f'{printed[1]}')
    check(len(printed) == 3 and printed[2] == '0 errors\n', f'{printed}')
    backend.stop()


def mypy(case, *arguments, **environment):
    peer.need('mypy')
    return case.run(['mypy', '--strict', '--cache-dir', case.path('mypy'), *arguments],
                    env={**os.environ, 'PYTHONPATH': '', **environment})


def types(case):
    """The package and the programs of the page pass mypy --strict."""
    peer.need('mypy')
    files = []
    for number, program in enumerate(programs()):
        files.append(case.path(f'example{number}.py'))
        files[-1].write_text(program)
    mypy(case, '-p', 'vublk', MYPYPATH=str(PACKAGE.parent))
    mypy(case, *files, MYPYPATH=str(PACKAGE.parent))
    wrong = case.path('wrong.py')
    wrong.write_text('import vublk\nprint(vublk.open("x").pread("0", 1))\n')
    result = case.call(['mypy', '--strict', '--cache-dir', case.path('mypy'), wrong],
                       env={**os.environ, 'MYPYPATH': str(PACKAGE.parent)})
    check(result.code == 1 and 'arg-type' in result.out, f'{result}')


def stub(case):
    """The stub of the extension module declares what the module has."""
    peer.need('mypy')
    with_mypy = '/usr/bin/python3'  # the Python for which the package mypy is installed
    case.run([with_mypy, '-m', 'mypy.stubtest', 'vublk._core'],
             env={**os.environ, 'MYPYPATH': str(PACKAGE.parent), 'PYTHONPATH': str(PACKAGE.parent)},
             cwd=case.folder)


if __name__ == '__main__':
    sys.exit(peer.main([examples, types, stub], sys.argv[3:]))
