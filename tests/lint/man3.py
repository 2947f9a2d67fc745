#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Each exported function has a manual page in section 3, which shows its prototype as the header has it and
some text about it. Pages that no header has are left over.

    man3.py LIBVUBLK.SO PAGES HEADER-FOLDER...    TAP on standard output
"""
import pathlib
import re
import sys

import symbols
import tap


def squeeze(text):
    return re.sub(r'\s+', '', text)


def plain(roff):
    """The text of a page without its requests, fonts and escapes."""
    roff = re.sub(r'^\.(?!\\).*$', '', roff, flags=re.M)
    return re.sub(r'\\f[BRI]|\\&', '', roff).replace('\\-', '-').replace('\\e', '\\')


def prototypes(folders):
    """The declaration of each function, comments left out."""
    for folder in folders:
        for path in pathlib.Path(folder).glob('*.h'):
            text = re.sub(r'/\*.*?\*/', '', path.read_text(), flags=re.S)
            for declaration, name in re.findall(r'^((?!typedef|\s|#).*?\b(vublk_\w+)\([^;{]*\);)', text, re.M):
                yield name, declaration


def read(pages, name):
    """A page, or the one that it is an alias of."""
    text = (pages / f'{name}.3').read_text()
    alias = re.fullmatch(r'\.so man3/(\S+)\n', text)
    return (pages / alias[1]).read_text() if alias else text


def faults(library, pages, folders):
    known = dict(prototypes(folders))
    for name in sorted(symbols.exported(library)):
        if not (pages / f'{name}.3').exists():
            yield f'{name} has no page'
        elif name not in known:
            yield f'{name}: no prototype was found in the headers'
        elif squeeze(known[name]) not in squeeze(plain(read(pages, name))):
            yield f'the page of {name} does not show: {" ".join(known[name].split())}'


def leftovers(library, pages):
    functions = symbols.exported(library)
    for path in sorted(pages.glob('vublk_*.3')):
        if path.stem not in functions:
            yield f'{path.name} is about no function of the library'


def main():
    library, pages, *folders = sys.argv[1:]
    pages = pathlib.Path(pages)
    return tap.report([('each function has a page with its prototype', list(faults(library, pages, folders))),
                       ('each page has a function', list(leftovers(library, pages)))])


if __name__ == '__main__':
    sys.exit(main())
