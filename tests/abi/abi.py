#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Compares the library's ABI with the dump of the last ABI that was accepted.

Key idea: libabigail reads functions and types from the debug information, and reports only
what the public headers declare. A struct that they declare but do not define is opaque, so its
members are left out. A removed or changed function or type breaks programs, so the
test fails. An addition breaks no program, but the test fails until the dump contains it, so
that the next release is compared with a complete dump.

    abi.py LIBVUBLK.SO DUMP HEADER-FOLDER...            TAP on standard output
    abi.py --write LIBVUBLK.SO DUMP HEADER-FOLDER...    writes a new dump if the ABI has changed
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'lint'))

import tap  # noqa: E402

SKIP = 77
# Exit status of abidiff: 1 and 2 are errors, 4: something differs, 8: incompatibly.
ERROR, CHANGED, INCOMPATIBLE = 1 | 2, 4, 8
# Leave out everything that depends on the compiler, the build folder or unrelated edits of a header.
DUMP_OPTIONS = ['--no-show-locs', '--no-corpus-path', '--no-comp-dir-path', '--no-elf-needed', '--no-architecture',
                '--no-parameter-names', '--type-id-style', 'hash', '--drop-private-types', '--exported-interfaces-only']
REFRESH = 'if it is meant, run `ninja -C BUILD abi-dump` and commit the file'


def headers_of(folders, flag):
    return [word for folder in folders for word in (flag, folder)]


def opaque_structs(folders):
    """The structs that the headers declare and do not define."""
    text = ''.join(path.read_text() for folder in folders for path in pathlib.Path(folder).rglob('*.h'))
    return set(re.findall(r'^struct (\w+);', text, re.M)) - set(re.findall(r'^struct (\w+) \{', text, re.M))


def hide_members(root, names):
    """Leaves only a declaration of each of these structs, and no type that nothing else uses."""
    for struct in root.iter('class-decl'):
        if struct.get('name') in names and struct.get('size-in-bits'):
            del struct.attrib['size-in-bits']
            struct.set('is-declaration-only', 'yes')
            struct[:] = []
            struct.text = None
    types = {}
    for unit in root.iter('abi-instr'):
        for one in unit:
            types.setdefault(one.get('id'), []).append(one)
    used, new = set(), {None}  # functions and variables have no id
    while new:
        used |= new
        new = {element.get(key) for name in new for one in types.get(name, []) for element in one.iter()
               for key in ('type-id', 'naming-typedef-id')} - used
    for unit in root.iter('abi-instr'):
        unit[:] = [one for one in unit if one.get('id') in used]


def dump(library, folders):
    text = subprocess.run(['abidw', *DUMP_OPTIONS, *headers_of(folders, '--headers-dir'), library],
                          capture_output=True, text=True, check=True).stdout
    root = xml.fromstring(text)
    hide_members(root, opaque_structs(folders))
    return xml.tostring(root, encoding='unicode') + '\n'


def has_debug_information(library):
    listed = subprocess.run(['readelf', '-S', '-W', library], capture_output=True, text=True, check=True)
    return '.debug_info' in listed.stdout


def compare(before, after):
    """Returns the exit status of abidiff, and the lines of its report."""
    result = subprocess.run(['abidiff', '--no-show-locs', '--no-unreferenced-symbols', before, after],
                            capture_output=True, text=True, check=False)
    return result.returncode, (result.stdout + result.stderr).splitlines()


def problems(status, report):
    """Returns two lists: the report if a change breaks programs, and the report if there are only additions."""
    shown = [line for line in report if line.strip()]
    broken = shown if status & (ERROR | INCOMPATIBLE) else []
    new = shown + [REFRESH] if status & CHANGED and not broken else []
    return broken, new


def main():
    arguments = sys.argv[1:]
    is_writing = arguments[:1] == ['--write']
    library, accepted, *folders = arguments[is_writing:]
    if not shutil.which('abidw') or not shutil.which('abidiff'):
        print('1..0 # SKIP abidw and abidiff are not installed (abigail-tools)')
        return SKIP
    if not has_debug_information(library):
        print('1..0 # SKIP the library was built without debug information')
        return SKIP
    found = dump(library, folders)
    with tempfile.NamedTemporaryFile('w', suffix='.abi') as current:
        current.write(found)
        current.flush()
        status, report = compare(accepted, current.name)
    if is_writing:
        # Dumps of the same ABI may differ in order, so a new one is only written if the ABI differs.
        if status:
            pathlib.Path(accepted).write_text(found)
        return 0
    broken, new = problems(status, report)
    return tap.report([('no program breaks', broken), ('additions are in the dump', new)])


if __name__ == '__main__':
    sys.exit(main())
