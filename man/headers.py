#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Manual pages of section 3, made from the headers' comments.

    headers.py --list HEADER...          the files that are written, one per line
    headers.py --output FOLDER HEADER...

Each header becomes a page, libvublk-NAME.3, in the header's order: its sections, each declaration,
and under it the comment that stands before it. Each function is an alias of that page, so
`man vublk_blk_open` finds it.

Key idea: a comment ends with fields, such as "Errors:", each at the start of a line and in the order
of FIELDS. A field is a text or a table, whose rows begin with their key. The fields that a header
names after RULE are the defaults of its functions, so each function on a page has its fields.
"""
import pathlib
import re
import sys

FUNCTION = re.compile(r'^(?!typedef|static)\w[\w \t*]*?\b(vublk_\w+)\(', re.M)
SECTION = re.compile(r'/\* --- (.*?) -* ?\*/')
FIELDS = ('Returns', 'Errors', 'States', 'Threads', 'Specification')
FIELD = re.compile(rf'({"|".join(FIELDS)}):(?: (.*))?$')
RULE = 'Unless a function says otherwise:'
# A key and two spaces, such as "EINVAL  the fd is not a socket".
ROW = re.compile(r'  ((?:\d+|others|E[A-Z0-9]+(?:, E[A-Z0-9]+)*))  +(.*)$')
# A function that can fail: it returns an int, or fills an error.
FAILS = re.compile(r'^int |[(,]\s*struct vublk_error \*')
# What a compiler needs and a reader does not.
PLUMBING = re.compile(r'^#(?:ifndef|endif|include|pragma).*\n|^#define VUBLK_\w+_H\n|^#ifdef __cplusplus\n(?:.*\n)*?#endif\n', re.M)


def split(text):
    """Pairs of a comment and the code that follows it without an empty line; either may be ''."""
    comment, code, depth, inside = '', '', 0, False
    for line in PLUMBING.sub('', text).split('\n'):
        if inside or (not depth and not code and line.startswith('/*')):
            if not inside and comment:
                yield comment, ''
                comment = ''
            inside = not line.rstrip().endswith('*/')
            comment += line + '\n'
        elif not depth and (not line.strip() or line.startswith('/*')):
            if comment or code:
                yield comment, code
            comment, code = '', ''
            if line.startswith('/*'):
                inside = not line.rstrip().endswith('*/')
                comment = line + '\n'
        else:
            code += line + '\n'
            depth += line.count('{') - line.count('}')
    if comment or code:
        yield comment, code


def functions(text):
    return FUNCTION.findall(re.sub(r'/\*.*?\*/', '', text, flags=re.S))


def escape(line):
    line = line.replace('\\', '\\e').replace('-', '\\-')
    return '\\&' + line if line.startswith(('.', "'")) else line


def lines_of(comment):
    body = re.sub(r'^/\*+ ?\n?|\s*\*/\s*$', '', comment)
    return [re.sub(r'^ \* ?', '', line.expandtabs(8)).rstrip() for line in body.split('\n')]


class Field:
    """A text, and the rows of a table; either may be empty."""

    def __init__(self, text=''):
        self.text, self.rows = text, []

    def add(self, line):
        row = ROW.match(line)
        if row:
            self.rows.append([row[1], row[2]])
        elif self.rows:
            self.rows[-1][1] += ' ' + line.strip()
        else:
            self.text = (self.text + ' ' + line.strip()).strip()


def parts(comment):
    """The lines of a comment without its fields, and its fields by name. A field ends at an empty line."""
    text, fields, field = [], {}, None
    for line in lines_of(comment):
        start = FIELD.match(line)
        if start:
            field = fields[start[1]] = Field(start[2] or '')
        elif field and line:
            field.add(line)
        else:
            field = None
            text.append(line)
    return text, fields


def rule(about):
    """The fields that a header's first comment has for all functions."""
    return parts(about[about.index(RULE):])[1] if RULE in about else {}


def prose(lines):
    """Text for troff; lines that are indented are kept as they are."""
    out, verbatim = [], False
    for line in lines:
        indented = line.startswith('  ')
        if indented != verbatim and (indented or line):
            out.append('.nf' if indented else '.fi')
            verbatim = indented
        out.append(escape(line) if line or verbatim else '.PP')
    return out + (['.fi'] if verbatim else [])


def table(fields):
    """The fields for troff, in the order of FIELDS, without empty lines between them."""
    out = []
    for name in sorted(fields, key=FIELDS.index):
        field = fields[name]
        out += ['.TP 9', f'.B {name}:', escape(field.text)] if field.text else ['.PP', f'.B {name}:']
        out += ['.PD 0'] if '.PD 0' not in out else []
        if field.rows:
            out.append('.RS 4')
            for key, text in field.rows:
                out += ['.TP 12', '.B ' + escape(key), escape(text)]
            out.append('.RE')
    return out + ['.PD'] if out else out


def fields_of(comment, code, defaults):
    """The fields of the functions that `code` declares: their own, and the header's."""
    fields = {**defaults, **parts(comment)[1]}
    prototypes = re.findall(r'^(?!typedef|static)\w[^;{}]*\);', code, re.M)
    if not any(FAILS.search(prototype) for prototype in prototypes):
        fields.setdefault('Errors', Field('none.'))
    return fields


def declaration(code):
    lines = [escape(line.expandtabs(8)) for line in code.rstrip('\n').split('\n')]
    return ['.PP', '.nf', *('\\fB' + line + '\\fR' for line in lines), '.fi']


def summary(comment):
    """The first sentence of a header, for the list of pages."""
    text = ' '.join(re.sub(r'^/?[ ]?\*+/?', '', line).strip() for line in comment.split('\n')).strip()
    return re.split(r'[.:;] |[.:;]$', text)[0]


def page(name, text):
    pairs = list(split(text))
    licence = pairs and 'SPDX' in pairs[0][0]
    pairs = pairs[1:] if licence else pairs
    about = pairs[0][0] if pairs else ''
    names = functions(text) or [f'libvublk-{name}']
    defaults = rule(about)
    out = [f'.TH LIBVUBLK\\-{name.upper()} 3 "" "libvublk" "Library Functions"', '.nh', '.ad l', '.SH NAME',
           escape(', '.join(names)) + ' \\- ' + escape(summary(about)),
           '.SH SYNOPSIS', '.nf', f'.B #include <vublk/{name}.h>', '.fi', '.SH DESCRIPTION']
    for comment, code in pairs:
        section = SECTION.match(comment)
        if section:
            out.append('.SH ' + escape(section[1].upper()))
            comment = ''
        text, fields = parts(comment)
        if code:
            out += declaration(code)
        if functions(code):
            fields = fields_of(comment, code, defaults)
        out += ['.PP', *prose(text), *table(fields)] if comment or fields else []
    return '\n'.join(out) + '\n.SH SEE ALSO\n.BR vublk (1)\n'


def files(headers):
    for path in headers:
        text = path.read_text()
        name = path.stem
        yield f'libvublk-{name}.3', page(name, text)
        for function in functions(text):
            yield f'{function}.3', f'.so man3/libvublk-{name}.3\n'


def main():
    mode, arguments = sys.argv[1], sys.argv[2:]
    if mode == '--list':
        print('\n'.join(name for name, _ in files(map(pathlib.Path, arguments))))
    else:
        folder, pages = pathlib.Path(arguments[0]), dict(files(map(pathlib.Path, arguments[1:])))
        for name, text in pages.items():
            (folder / name).write_text(text)
        for old in set(folder.glob('*vublk*.3')) - {folder / name for name in pages}:
            old.unlink()


if __name__ == '__main__':
    main()
