#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Manual pages of section 3, made from the headers' comments.

    headers.py --list HEADER...          the files that are written, one per line
    headers.py --output FOLDER HEADER...

Each header becomes a page, libvublk-NAME.3, in the header's order: its sections, each declaration,
and under it the comment that stands before it. Each function is an alias of that page, so
`man vublk_blk_open` finds it.
"""
import pathlib
import re
import sys

FUNCTION = re.compile(r'^(?!typedef|static)\w[\w \t*]*?\b(vublk_\w+)\(', re.M)
SECTION = re.compile(r'/\* --- (.*?) -* ?\*/')
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


def prose(comment):
    """The lines of a comment; those that are indented are kept as they are."""
    body = re.sub(r'^/\*+ ?\n?|\s*\*/\s*$', '', comment)
    out, verbatim = [], False
    for line in body.split('\n'):
        line = re.sub(r'^ \* ?', '', line.expandtabs(8)).rstrip()
        indented = line.startswith('  ')
        if indented != verbatim and (indented or line):
            out.append('.nf' if indented else '.fi')
            verbatim = indented
        out.append(escape(line) if line or verbatim else '.PP')
    return out + (['.fi'] if verbatim else [])


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
    out = [f'.TH LIBVUBLK\\-{name.upper()} 3 "" "libvublk" "Library Functions"', '.SH NAME',
           escape(', '.join(names)) + ' \\- ' + escape(summary(about)),
           '.SH SYNOPSIS', '.nf', f'.B #include <vublk/{name}.h>', '.fi', '.SH DESCRIPTION']
    for comment, code in pairs:
        section = SECTION.match(comment)
        if section:
            out.append('.SH ' + escape(section[1].upper()))
            comment = ''
        if code:
            out += declaration(code)
        if comment:
            out += ['.PP', *prose(comment)]
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
