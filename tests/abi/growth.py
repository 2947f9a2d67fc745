#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A program and a library of different versions, which disagree on the size of each struct that can grow.

Key idea: a copy of the headers in which each such struct has one more member stands for the
next version of the library. A program of the next version runs with this library, and one
of this version with the next library.

    growth.py BUILD-FOLDER [-l] [-k] [WORD...]
"""
import pathlib
import re
import shutil
import sys

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(SOURCE / 'tests/harness'))

import peer  # noqa: E402
from peer import check  # noqa: E402

BUILD = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCE / 'build'
# The structs whose size never changes; <vublk/version.h> also lists them.
FIXED = {'vublk_error', 'vublk_option', 'vublk_property', 'vublk_log', 'vublk_memory_region', 'vublk_blk_completion',
         'vublk_engine', 'vublk_engine_io', 'vublk_engine_geometry', 'vublk_engine_params', 'vublk_engine_queue',
         'vublk_engine_ops', 'vublk_engine_queue_ops', 'vublk_engine_module'}
STRUCT = re.compile(r'^struct (vublk_\w+) \{$(.*?)^\};$', re.M | re.S)
DISK_BYTES = 1 << 20


def grow(folder):
    """Adds a member to each struct that may grow, in the headers in `folder`. Returns the structs' names."""
    grown = set()

    def grow_one(match):
        name, members = match.groups()
        if name in FIXED:
            return match[0]
        grown.add(name)
        return f'struct {name} {{{members}\tuint64_t test_growth;\n}};'

    for path in sorted(folder.glob('*.h')):
        path.write_text(STRUCT.sub(grow_one, path.read_text()))
    return grown


def headers(case, name):
    """Copies all public headers, including the generated one. Returns the folder."""
    folder = case.path(name) / 'vublk'
    folder.mkdir(parents=True)
    for path in [*(SOURCE / 'include/vublk').glob('*.h'), BUILD / 'include/vublk/version.h']:
        shutil.copy(path, folder)
    return folder


def build(case, include, library, *flags):
    program = case.path('growth')
    case.run(['gcc', '-std=gnu11', '-D_GNU_SOURCE', '-Wall', '-Werror', *flags, f'-I{include}',
              SOURCE / 'tests/abi/growth.c', f'-L{library}', '-lvublk', f'-Wl,-rpath,{library}', '-o', program])
    return program


def run(case, program):
    image = case.path('image')
    image.write_bytes(bytes(DISK_BYTES))
    backend = peer.VublkServe(BUILD / 'src/cli/vublk')
    child, path = backend.start(case, image)
    case.run([program, path])
    backend.stop(case, child)


def each_struct_is_known(case):
    """Each struct either is in FIXED, or each function that gets or fills it also gets its size."""
    folder = headers(case, 'include')
    text = '\n'.join(re.sub(r'/\*.*?\*/', '', path.read_text(), flags=re.S) for path in folder.glob('*.h'))
    grown = grow(folder)
    check(grown, 'no struct was found')
    passed = set(re.findall(r'struct (vublk_\w+) \*\w+,\s*size_t \w+_bytes', text))
    check(grown <= passed, f'never passed with a size: {", ".join(sorted(grown - passed))}')
    without = set(re.findall(r'struct (vublk_\w+) \*\w+(?=\)|,(?!\s*size_t))', text)) & grown
    check(not without, f'passed without a size: {", ".join(sorted(without))}')
    embedded = {name for _, members in STRUCT.findall(text) for name in re.findall(r'struct (vublk_\w+) \w+[;\[]', members)}
    check(not embedded & grown, f'embedded in another struct: {", ".join(sorted(embedded & grown))}')


def newer_program(case):
    folder = headers(case, 'include')
    grow(folder)
    run(case, build(case, folder.parent, BUILD / 'src', '-DGROWN'))


def without_builds(folder, names):
    """For copytree(): leaves out the folders that are not part of the source."""
    return [name for name in names
            if name in ('.git', 'build-check') or pathlib.Path(folder, name, 'meson-private').exists()]


def newer_library(case):
    tree = case.path('tree')
    shutil.copytree(SOURCE, tree, ignore=without_builds)
    grow(tree / 'include/vublk')
    library = case.path('build')
    case.run(['meson', 'setup', library, tree, '-Dtests=disabled'], limit_s=300)
    case.run(['ninja', '-C', library, 'product'], limit_s=900)
    run(case, build(case, headers(case, 'plain').parent, library / 'src'))


CASES = [each_struct_is_known, newer_program, newer_library]

if __name__ == '__main__':
    sys.exit(peer.main(CASES, sys.argv[2:]))
