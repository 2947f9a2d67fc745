#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Checks that documents agree with the tree: generated parts are up to date, links lead somewhere,
every source file that a document or a comment names exists, quoted lines of the log are in the
source, and C programs compile.

    docs.py [SOURCE-ROOT [BUILD-INCLUDES COMPILER...]]    TAP on standard output

language.py checks the wording, and man.py compares the manual pages with --help.
"""
import importlib.machinery
import importlib.util
import pathlib
import re
import subprocess
import sys

import tap
from language import C_TOKEN, PENDING, is_below
from style import files

LINK = re.compile(r'(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)|!\[[^\]\n]*\]\(([^)\s]+)\)')
HEADING = re.compile(r'^#+ (.*)$', re.M)
# A file name such as `ring.h`, src/virtio/ring.h or src/virtio/*.c, but not a glob of build results.
NAMED = re.compile(r'(?<![\w/.<$*~-])((?:[\w*-][\w.*-]*/)*[\w*-]+\.(?:c|h|py|md|scd))\b(?![(\w-])')

# A line of the log that a document quotes, without the name of the tool and the level.
QUOTED = re.compile(r'vublk [a-z]+: (?:(?:warning|error): )?(.+)')
LITERAL = r'"(?:[^"\\]|\\.)*"'
LITERALS = re.compile(rf'{LITERAL}(?:\s*(?:{LITERAL}|PRI\w+))*')
CONVERSION = re.compile(r'%[-+ #0]*(?:\*|\d+)?(?:\.(?:\*|\d+))?(?:hh?|ll?|[zjt])?[a-zA-Z]')
SHORTEST_MESSAGE = 7  # letters; a format with fewer matches too much

# Names that are not in the tree, and why.
ELSEWHERE = {
    'version.h': 'the build makes it', 'bench.md': '`make bench` writes it into the build folder',
    'fs/aio.c': 'Linux', 'block/file-posix.c': 'QEMU',
    'program.c': 'an example in a document', 'read.c': 'the same',
}


def program(path):
    loader = importlib.machinery.SourceFileLoader(re.sub(r'\W', '_', path.name), str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.dont_write_bytecode = True  # otherwise Python adds a folder to scripts/
    loader.exec_module(module)
    return module


def scripts_docs(root):
    return program(root / 'scripts/docs')


def generated_faults(root, texts):
    for name, text in scripts_docs(root).generated(root).items():
        if texts.get(name) != text:
            yield f'{name} is not what scripts/docs writes now: run scripts/docs'


def where_faults(root, texts):
    for _, term, path, symbol, _ in scripts_docs(root).rows(texts['docs/where.table']):
        if path not in texts:
            yield f'docs/where.table: "{term}": there is no file {path}: name the file that has it now'
        elif symbol not in texts[path]:
            yield f'docs/where.table: "{term}": {path} does not contain "{symbol}": name what does'


def program_faults(root, texts, includes, compiler):
    """Compiles the C programs in documents with the headers of the tree and of the build. Yields the faults."""
    for name, text in texts.items():
        for program in re.findall(r'^```c\n(.*?)^```', text, re.M | re.S) if name.endswith('.md') else []:
            if 'int main(' in program:
                done = subprocess.run([*compiler, '-xc', '-fsyntax-only', '-Wall', '-Wextra', '-Werror', f'-I{root}/include',
                                       f'-I{includes}', '-'], input=program, capture_output=True, text=True)
                yield from (f'{name}: its C program: {line}' for line in done.stderr.splitlines() if 'error' in line)


def anchors(text):
    """Yields the anchors of a document's headings, as GitHub makes them."""
    for heading in HEADING.findall(text):
        yield re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')


def link_faults(root, texts):
    for name, text in texts.items():
        if not name.endswith('.md'):
            continue
        for match in LINK.finditer(text):
            target = match[1] or match[2]
            if re.match(r'[a-z]+:', target):
                continue
            path, _, anchor = target.partition('#')
            file = pathlib.PurePosixPath(name).parent / path if path else pathlib.PurePosixPath(name)
            file = str(pathlib.PurePosixPath(*normal(file.parts)))
            if file not in texts and not any(other.startswith(file + '/') for other in texts):
                yield f'{name}: the link to {target} leads nowhere'
            elif anchor and anchor not in anchors(texts.get(file, '')):
                yield f'{name}: {file} has no heading for #{anchor}'


def packaged(root, texts):
    """The documents of the Debian package vublk, at their places below its folder of documents."""
    documents = (root / 'debian/vublk.docs').read_text().split()
    placed = {name: text for name, text in texts.items() if any(name == word or name.startswith(word + '/') for word in documents)}
    placed |= {f'examples/{name}': text for name, text in texts.items() if re.fullmatch(r'systemd/\w+\.conf', name)}
    rewrite = program(root / 'debian/package-links').rewrite
    return {name: rewrite(name, text, placed) if name.endswith('.md') else text for name, text in placed.items()}


def package_faults(root, texts):
    """The links of the packaged documents. Those to the examples of options must not become plain text."""
    placed = packaged(root, texts)
    yield from link_faults(root, placed)
    for name, text in placed.items():
        for target in LINK.findall(texts[name]) if name.endswith('.md') and name in texts else []:
            place = target[0].replace('../systemd/', '../examples/systemd/')
            if '../systemd/' in target[0] and f']({place})' not in text:
                yield f'{name}: the package has no {target[0]}: see debian/package-links'


def normal(parts):
    kept = []
    for part in parts:
        if part == '..' and kept:
            kept.pop()
        elif part != '.':
            kept.append(part)
    return kept


def comments(text):
    """Returns the text of a C file with only its comments, each on the same line as before."""
    kept, end = [], 0
    for token in C_TOKEN.finditer(text):
        if token[0][0] == '/':
            kept += ['\n' * text.count('\n', end, token.start()), token[0]]
            end = token.end()
    return ''.join(kept)


def is_there(word, name, texts):
    if word in ELSEWHERE:
        return True
    if '/' in word:
        candidates = [other for other in texts if other == word or other.endswith('/' + word)]
        candidates += [other for other in texts if '*' in word and pathlib.PurePosixPath(other).match(word)]
    else:
        candidates = [other for other in texts if pathlib.PurePosixPath(other).match(word)]
    return bool(candidates)


def name_faults(root, texts):
    for name, text in texts.items():
        is_source = name.endswith(('.c', '.h'))
        if not (is_source or name.endswith(('.md', '.scd', '.table'))) or is_below(name, PENDING):
            continue
        for number, line in enumerate((comments(text) if is_source else text).split('\n'), 1):
            if re.match(r'\s*#\s*include', line):
                continue
            for word in NAMED.findall(re.sub(r'\]\([^)]*\)', ']', line)):  # links have their own check
                if not is_there(word, name, texts):
                    yield f'{name}:{number}: there is no file {word}'


def message_patterns(texts):
    """Returns a pattern for each message of the program, and whether the message ends with a cause."""
    patterns = {}
    for name, text in texts.items():
        for match in LITERALS.finditer(text) if name.startswith('src/') and name.endswith(('.c', '.h')) else []:
            pieces = re.findall(rf'{LITERAL}|PRI\w+', match[0])
            message = ''.join(piece[1:-1] if piece[0] == '"' else 'd' for piece in pieces)
            message = re.sub(r'^vublk [a-z]+: ', '', message.removesuffix(r'\n').replace(r'\"', '"'))
            parts = [part.replace('%%', '%') for part in CONVERSION.split(message)]
            if sum(map(str.isalpha, ''.join(parts))) >= SHORTEST_MESSAGE:
                patterns['(.*)'.join(map(re.escape, parts))] = bool(re.search(r'(?:: |because )%s$', message))
    return [(re.compile(pattern), has_cause) for pattern, has_cause in patterns.items()]


def is_said(line, patterns):
    """Returns whether the program can write the line: a message, its cause, and text that was prepended to either."""
    for pattern, has_cause in patterns:
        match = pattern.fullmatch(line)
        if match and (not has_cause or is_said(match[match.lastindex], patterns)):
            return True
    return any(is_said(line[end.end():], patterns) and
               any(pattern.fullmatch(line[:end.start()]) for pattern, _ in patterns)
               for end in re.finditer(': ', line))


def quote_faults(root, texts):
    patterns = message_patterns(texts)
    for name, text in texts.items():
        for number, line in enumerate(text.split('\n') if name.endswith(('.md', '.scd')) else [], 1):
            quoted = QUOTED.fullmatch(line)
            if quoted and not is_said(quoted[1], patterns):
                yield f'{name}:{number}: the program does not write "{quoted[1]}": quote the words that it writes'


GOOD = {'docs/a.md': '# One thing\n', 'src/x/ring.c': 'int ring; f("the disk waits: %s", "no process " "listens");', 'docs/where.table': ''}
CHECKS = {
    'the generated documents are up to date': (generated_faults, None),
    'each link of the packaged documents leads to a packaged file':
        (package_faults, {**GOOD, 'docs/b.md': '[x](a.md#another-thing) [y](../systemd/none.conf)'}),
    'each file and name of docs/where.table exists':
        (where_faults, {**GOOD, 'docs/where.table': '== G\nterm | src/x/ring.c | chain | sentence'}),
    'each link leads to a file or a heading': (link_faults, {**GOOD, 'docs/b.md': '[x](a.md#another-thing)'}),
    'each file that a document or a comment names exists':
        (name_faults, {**GOOD, 'src/x/chain.c': '/* See gone.c. */'}),
    'each line of the log that a document quotes is in the source':
        (quote_faults, {**GOOD, 'docs/b.md': 'vublk device: warning: the disk waits: a process listens'}),
}


def self_faults(check, bad, root):
    if bad is None:
        return
    if not list(check(root, bad)):
        yield 'the check itself does not find a fault'
    good = {**GOOD, 'docs/where.table': '== G\nterm | src/x/ring.c | ring | sentence',
            'docs/b.md': '[x](a.md#one-thing) [y](../src/x/ring.c)\n\nvublk device: warning: the disk waits: no process listens', 'src/x/chain.c': '/* See ring.c, x/ring.c. */ f("gone.c", gone.c)'}
    yield from (f'the check itself finds what is right: {fault}' for fault in check(root, good))


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else '.').resolve()
    texts = {name: path.read_text(errors='replace') for name, path in files(root, r'\.(md|scd|table|svg|conf)$|^COPYING$')
             if 'corpus/' not in name}
    cases = [(title, [*check(root, texts), *self_faults(check, bad, root)]) for title, (check, bad) in CHECKS.items()]
    if sys.argv[2:]:
        cases.append(('each C program in a document compiles', list(program_faults(root, texts, sys.argv[2], sys.argv[3:]))))
    return tap.report(cases)


if __name__ == '__main__':
    sys.exit(main())
