#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Checks that each exported function has a manual page in section 3, with its prototype as in the header, a
text, its threads, states and errors. Also checks that each page is about a function of the library.

    man3.py LIBVUBLK.SO PAGES HEADER-FOLDER...    TAP on standard output

Key idea: the fields are read by the program that makes the pages, so the lint and the pages agree on
what a comment says.
"""
import pathlib
import re
import sys

import symbols
import tap

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / 'man'))
import headers  # noqa: E402

# An error in the middle of a sentence, such as "EINVAL: the offset is too large".
INLINE = re.compile(r'(?<![A-Z_])-?E[A-Z0-9]{2,}:(?= |$)')
CODE = re.compile(r'\bE[A-Z0-9]{2,}\b')


def squeeze(text):
    return re.sub(r'\s+', '', text)


def plain(roff):
    """Returns the text of a page without its requests, fonts and escapes."""
    roff = re.sub(r'^\.(?!\\).*$', '', roff, flags=re.M)
    return re.sub(r'\\f[BRI]|\\&', '', roff).replace('\\-', '-').replace('\\e', '\\')


def public(folders):
    """Returns the name and the text of each header in the folders."""
    return {path.name: path.read_text() for folder in folders for path in sorted(pathlib.Path(folder).glob('*.h'))}


def prototypes(texts):
    """Yields the name and the declaration of each function, without comments."""
    for text in texts:
        text = re.sub(r'/\*.*?\*/', '', text, flags=re.S)
        for declaration, name in re.findall(r'^((?!typedef|\s|#).*?\b(vublk_\w+)\([^;{]*\);)', text, re.M):
            yield name, declaration


def read(pages, name):
    """Returns the text of the page `name`, or of the page of which this one is an alias."""
    text = (pages / f'{name}.3').read_text()
    alias = re.fullmatch(r'\.so man3/(\S+)\n', text)
    return (pages / alias[1]).read_text() if alias else text


def faults(library, pages, texts):
    known = dict(prototypes(texts.values()))
    for name in sorted(symbols.exported(library)):
        if not (pages / f'{name}.3').exists():
            yield f'{name} has no page'
        elif name not in known:
            yield f'{name}: no prototype was found in the headers'
        elif squeeze(known[name]) not in squeeze(plain(read(pages, name))):
            yield f'the page of {name} does not show: {" ".join(known[name].split())}'


def shown(page, name):
    """Returns the names of the fields that the page has under the prototype of the function `name`."""
    start = re.search(rf'^\\fB\w[^()\n]*\b{name}\(', page, re.M)
    rest = page[start.start():] if start else ''
    text = rest[:rest.index('\n.fi')] + re.split(r'^\.nf\n\\fB', rest[rest.index('\n.fi'):], flags=re.M)[0] if rest else ''
    return set(re.findall(r'^\.B (\w+):$', text, re.M))


def not_shown(library, pages, texts):
    """Yields the functions whose page does not name the permitted threads or the errors."""
    known = dict(prototypes(texts.values()))
    for name in sorted(symbols.exported(library) & set(known)):
        for field in {'Threads', 'Errors'} - shown(read(pages, name), name):
            yield f'the page of {name} has no field "{field}"'


def unstated(header, text):
    """Yields the fields of functions that neither the function's comment nor the header's rule has."""
    pairs = list(headers.split(text))
    defaults = next((rule for comment, _ in pairs if (rule := headers.rule(comment))), {})
    wanted = ['Errors', 'Threads'] + (['States'] if re.search(r'^struct vublk_\w+;', text, re.M) else [])
    for comment, code in pairs:
        names = headers.functions(code)
        fields = headers.fields_of(comment, code, defaults) if names else {}
        for field in [field for field in wanted if names and field not in fields]:
            yield f'{header}: {names[0]}() says nothing about "{field}:"'
        if names and not ''.join(headers.parts(comment)[0]).strip():
            yield f'{header}: {names[0]}() does not say what it does'


def form_faults(header, text):
    """Yields errors that are not in a row of the field Errors, and fields that are in the wrong order."""
    for comment, code in headers.split(text):
        lines, fields = headers.parts(comment)
        names = headers.functions(code)
        prose = lines + [field.text for field in fields.values()] + [row for field in fields.values() for _, row in field.rows]
        for line in prose if names else []:
            if found := INLINE.search(line):
                yield f'{header}: {names[0]}(): "{found[0]}" belongs into a row of the field "Errors:"'
        given = [name for name in fields if name in headers.FIELDS]
        if given != sorted(given, key=headers.FIELDS.index):
            yield f'{header}: {names[0] if names else "a comment"}: the order of the fields is {", ".join(headers.FIELDS)}'


def unknown_codes(texts):
    known = set(CODE.findall(texts.get('error.h', '')))
    for header, text in texts.items():
        for comment, code in headers.split(text):
            field = headers.parts(comment)[1].get('Errors')
            for key in [key for key, _ in field.rows] if field else []:
                for unknown in sorted(set(CODE.findall(key)) - known):
                    yield f'{header}: {(headers.functions(code) or ["a comment"])[0]}: error.h does not have {unknown}'


# The checks of one header, each with a header in which it has to find a fault.
RULED = '/*\n * A thing.\n *\n * Unless a function says otherwise:\n * Threads: one.\n */\n\nstruct vublk_x;\n\n'
CHECKS = {
    'each prototype says what it does, its errors, threads and states': (unstated, [
        '/* Does.\n * Threads: any.\n */\nint vublk_x(void);\n',
        '/* Does.\n * Errors: none.\n */\nint vublk_x(void);\n',
        RULED + '/* Does.\n * States: any.\n */\nvoid vublk_x(struct vublk_error *error);\n',
        RULED + '/* Does. */\nvoid vublk_x(void);\n',
        '/*\n * Threads: any.\n */\nvoid vublk_x(void);\n']),
    'errors have their own lines, and fields their order': (form_faults, [
        '/* Does. EINVAL: never.\n * Threads: any.\n */\nvoid vublk_x(void);\n',
        '/* Does.\n * Threads: any.\n * Errors: none.\n */\nvoid vublk_x(void);\n']),
}


def leftovers(library, pages):
    functions = symbols.exported(library)
    for path in sorted(pages.glob('vublk_*.3')):
        if path.stem not in functions:
            yield f'{path.name} is about no function of the library'


def checked(check, bad, texts):
    yield from (fault for header, text in texts.items() for fault in check(header, text))
    yield from (f'the check itself does not find a fault in: {text}' for text in bad if not list(check('bad.h', text)))


def main():
    library, pages, *folders = sys.argv[1:]
    pages, texts = pathlib.Path(pages), public(folders)
    cases = [('each function has a page with its prototype', list(faults(library, pages, texts))),
             ('each page has a function', list(leftovers(library, pages))),
             ('each page shows the threads and errors of its functions', list(not_shown(library, pages, texts))),
             ('error.h has each error', list(unknown_codes(texts)))]
    cases += [(title, list(checked(check, bad, texts))) for title, (check, bad) in CHECKS.items()]
    return tap.report(cases)


if __name__ == '__main__':
    sys.exit(main())
