#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Checks those language rules (HACKING.md, "Words") that a program can check. It finds phrases over
which a reader stumbles, in comments, strings, documents and manual pages.

    language.py [SOURCE-ROOT]            TAP on standard output
    language.py SOURCE-ROOT PATH...      the faults in these files and folders only

It is not a grammar checker: it has a list of phrases, each with the words to write instead.

Key idea: a file is reduced to its prose, that is, the text that a person reads. A separator
replaces code, so that no phrase matches across code. A phrase may be wrapped over lines.
"""
import io
import pathlib
import re
import sys
import tokenize

import tap
from style import files

SEPARATOR = '\0'

# Folders and files whose wording must still be corrected, each with the reason. Remove an entry
# as soon as its files pass.
PENDING = {}

# Never read: they contain the phrases on purpose.
SKIPPED = {'tests/lint/language.py'}

PART = r'(?:back-end|front-end|driver|device|guest|VMM|VM|bus|relay|client|server|peer|worker|thread|' \
       r'process|program|kernel|engine|caller|daemon|application|library|function|disk|queue|test)s?'
COUNTED = r'(?:thread|message|kick|call|system call|eventfd|process|line|byte|instruction|switch|store|row|flag|' \
          r'element|entry|descriptor|folder|wake-up|word|test|file|branch|vector|watch|server|connection|lookup)'
PER = r'(?:request|queue|message|kick|ring|poll|batch|cycle|lane|case|call|core|processor|device|disk|chain|' \
      r'connection|region|group|read|write|flush)'
VERB = r"(?:is|are|was|were|has|have|had|does|do|may|can|cannot|could|would|will|must|needs?|takes?|costs?|" \
       r"comes?|stays?|makes?|knows?|ends?)"

# Phrase: (words to write instead, a line that the phrase must match, a line that it must not match).
RULES = {
    r'\bin vain\b': ('without success', 'it looks in vain', 'it looks without success'),
    r'\bbesides?\b': ('next to, in addition to', 'what it needs besides', 'next to it'),
    r'\b(?:whoever|nobody|somebody|whom)\b':
        ('the caller, the driver, no process', 'nobody listens', 'no process listens'),
    rf'\b{PART},? who\b': ('that, which', 'the driver, who kicks', 'the driver, which kicks'),
    r'(?:^|(?<=[.;:] )|(?<=\0))Who [a-z]+s\b(?![^.]*\?)':
        ('name the actor: the caller, a program that', 'Who polls uses more.', 'Who calls this?'),
    r'\bfor who\b|\bhe who\b|\bthose who\b': ('because the ..., programs that', 'for who looks longer', 'users that'),
    r'(?<!there )\b(?:is|are|was) none\b(?! of)(?! other)': ('name what it lacks, or why it is invalid',
                                            'an iovec of 3 elements is none', 'if there is none'),
    r'(?<!there )\b(?:is|are|was) nothing\b(?! but| else| more| less)':
        ('is a no-op, is allowed, has no effect', 'NULL is nothing', 'there is nothing to do'),
    r'(?<!what )(?<!is )(?<!are )\b(?:go|goes|going|went|gone) on\b(?! (?:between|the|a|an|its|their|to|this|that|which|one|each|disk)\b)':
        ('continues, resumes', 'the rings go on from there', 'the next one goes on the ring'),
    r'\b(?:take|takes|taken|taking|took) back\b': ('reclaims, undoes', 'the rings are taken back', 'reclaims the rings'),
    r'\b(?:is|are|was|were|be|been|being) given up\b|\b(?:give|gives|gave|giving) up (?:the|a|an|its|their|it)\b':
        ('abandons, closes', 'the ring is given up', 'a Linux guest does not give up'),
    r'\b(?:comes? and goes?|goes? and comes?)\b': ('disconnects and reconnects', 'it comes and goes', 'it comes first'),
    r'\b(?:is|are|was|were) gone\b': ('disconnected, closed, freed', 'the back-end is gone', 'it has disconnected'),
    r'\bsave (?:for|that|by|where|when)\b': ('except', 'all save that one', 'save the state'),
    rf'\b(?:an?|one|two|three|no|\d+) (?:[a-z-]+ )?{COUNTED} an? {PER}\b(?! (?:has|needs|takes|is|of)\b)':
        ('per: one thread per queue', 'a system call a request', 'gives a file to a queue'),
    rf'\b(?:system calls|messages|threads|instructions|switches|bytes|entries|descriptors|wakes) an? {PER}\b'
    r'(?=\s*(?:[.,;:)\0]|$|at\b|and\b|or\b|more\b|less\b))':
        ('per: messages per request', '30 instructions a request', 'instructions of a request'),
    r'\bonce an? (?:request|queue|message|ring|batch|poll)\b': ('once per', 'once a request', 'once per request'),
    rf', for (?:it|they|there|he|we|then|neither|none) (?:\w+ ){{0,3}}?{VERB}\b':
        ('because, since', 'it waits, for it has no ring', 'a list, for example'),
    rf', for (?:the|an?|its|their|such|all|no|what|only|this|these) (?:(?!(?:that|which|whose|who|where|if|when|to|as|it|they|we|you)\b)'
    rf'[\w-]+ ){{1,5}}?{VERB}\b': ('because, since', 'shared, for the back-end has it', 'a way, for a guest that is idle'),
    r'\bWhat (?:is|was|are|were) [^.?!:;\0]{1,60} (?:is|are|was|were|has|belongs|goes)\b':
        ('name the thing as the subject', 'What is shared is read once', 'What is shared?'),
    r'\bonly the like\b|\bits like\b': ('a similar one', 'the kernel or its like', 'it is like that'),
    r'\b(?:does|do|did) (?:it|so) yet\b': ('still does it', 'not dead and does it yet', 'has not done it yet'),
}
# "At once" is correct only if it means "at the same time".
AT_ONCE = re.compile(r'\bat once\b')
TOGETHER = re.compile(r'\b(?:all|many|several|both|two|three|four|eight|every|threads|requests|queues|devices|disks|'
                      r'more|most|few|them|\d+)\b[^.;\0]{0,40}$')

# Words that, as a part of a name in C, have no meaning for a newcomer.
NAME = re.compile(r'\b\w*?(?<![a-z])(?:luck|loans?|wish|wishes|liars?|patience|promise)(?![a-z])\w*')

COMPILED = [(re.compile(pattern, 0 if 'W' in pattern or ' none' in pattern else re.I), text)
            for pattern, (text, _, _) in RULES.items()]

C_TOKEN = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.S)


class Prose:
    """The text of a file that a person reads, and the line of each of its characters."""

    def __init__(self):
        self.pieces, self.lines = [], []

    def add(self, text, line):
        for part in text.split('\n'):
            if part := part.strip():
                self.pieces.append(part + ' ')
                self.lines += [line] * (len(part) + 1)
            line += 1

    def cut(self):
        self.pieces.append(SEPARATOR)
        self.lines.append(self.lines[-1] if self.lines else 1)

    def faults(self):
        text = ''.join(self.pieces)
        for pattern, instead in COMPILED:
            for match in pattern.finditer(text):
                yield self.lines[match.start()], match[0].strip(SEPARATOR), instead
        for match in AT_ONCE.finditer(text):
            if not TOGETHER.search(text[max(0, match.start() - 60):match.start()]):
                yield self.lines[match.start()], match[0], 'immediately; at the same time'


def c_prose(text):
    """Returns the comments and string literals. Literals with only white space in between are joined."""
    prose, end = Prose(), 0
    for token in C_TOKEN.finditer(text):
        between, word = text[end:token.start()], token[0]
        line, end = text.count('\n', 0, token.start()) + 1, token.end()
        if between.strip() or word[0] != '"':
            prose.cut()
        if word[0] == '"':
            prose.add(word[1:-1].replace('\\n', '. '), line)
        elif word[0] == '/':
            prose.add(re.sub(r'(?m)^\s*(?:/\*+|\*(?!\w)|//)', '', word.removesuffix('*/')), line)
    return prose


def python_prose(text):
    prose, last = Prose(), 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1:
                prose.cut()
            prose.add(token.string.lstrip('#'), token.start[0])
            last = token.start[0]
        elif token.type == tokenize.STRING or tokenize.tok_name[token.type] == 'FSTRING_MIDDLE':
            prose.cut()
            prose.add(token.string, token.start[0])
    return prose


def text_prose(text):
    """Returns a document without code blocks and inline code. A blank line separates."""
    prose, is_code = Prose(), False
    for number, line in enumerate(text.split('\n'), 1):
        if line.lstrip().startswith('```'):
            is_code = not is_code
        if is_code or not line.strip():
            prose.cut()
        else:
            cells = re.split(r'`[^`]*`|(?<=\s)\|(?=\s)|^\|', line)
            for cell in cells:
                prose.add(cell, number)
                if cell is not cells[-1]:
                    prose.cut()
    return prose


def hash_prose(text):
    """Returns the comments and strings of a shell script or a meson.build."""
    prose, last = Prose(), 0
    for number, line in enumerate(text.split('\n'), 1):
        found = re.match(r'\s*#+(.*)', line)
        if not found or last != number - 1:
            prose.cut()
        if found:
            prose.add(found[1], number)
            last = number
        else:
            for quoted in re.finditer(r'"([^"]*)"|\'([^\']*)\'', line):
                prose.cut()
                prose.add(quoted[1] or quoted[2] or '', number)
    return prose


def prose_of(name, text):
    if re.search(r'\.(c|h|h\.in|S)$', name):
        return c_prose(text)
    if name.endswith('.py') or text.startswith('#!/usr/bin/env python3'):
        return python_prose(text)
    if name.endswith(('.md', '.scd')):
        return text_prose(text)
    return hash_prose(text)


def faults(name, text):
    for line, phrase, instead in sorted(prose_of(name, text).faults()):
        yield f'{name}:{line}: "{phrase}"; write: {instead}'


def name_faults(name, text):
    """Yields the names in C code that contain a word of NAME, each once."""
    if name.endswith(('.c', '.h')):
        code = C_TOKEN.sub(' ', text)
        for word in sorted(set(NAME.findall(code))):
            yield f'{name}: the name "{word}"; use the field\'s word: hit rate, grant, request, pending, ...'


def is_below(name, folders):
    return any(name == folder or name.startswith(folder.rstrip('/') + '/') for folder in folders)


def scan(root, wanted=()):
    """Yields pairs of a file's name and the file's faults."""
    for name, path in files(root, r'\.(md|scd)$'):
        if name not in SKIPPED and 'corpus/' not in name and (not wanted or is_below(name, wanted)):
            text = path.read_text()
            yield name, [*faults(name, text), *name_faults(name, text)]


def wrap_as(kind, line):
    """Returns the line as prose of a file of this kind, wrapped at each space."""
    broken = line.split(' ')
    return {'c': '/*\n * ' + '\n * '.join(broken) + '\n */\n',
            'py': '# ' + '\n# '.join(broken) + '\n',
            'md': '\n'.join(broken) + '\n',
            'sh': '# ' + '\n# '.join(broken) + '\n'}[kind]


def self_faults():
    """Yields each rule that misses its bad line in some kind of file, or matches its good line."""
    examples = [(bad, good) for _, bad, good in RULES.values()]
    examples += [('it ends at once', 'different threads use them at once')]
    for bad, good in examples:
        for kind in ('c', 'py', 'md', 'sh'):
            if not list(faults(f'x.{kind}', wrap_as(kind, bad))):
                yield f'the check does not find in .{kind}: {bad}'
            for fault in faults(f'x.{kind}', wrap_as(kind, good)):
                yield f'the check finds in .{kind}, wrongly: {good}: {fault}'
    if len(list(name_faults('x.c', 'int good_luck; struct vublk_loan *l; bool unlucky, wishbone; /* luck */'))) != 2:
        yield 'the check of names finds others than good_luck and vublk_loan'
    for name, text in (('x.c', 'nobody = 1; f("x " y " in vain");'), ('x.md', 'the user `nobody` is\n\n```\nin vain\n```\n')):
        for fault in list(faults(name, text))[1 if name == 'x.c' else 0:]:
            yield f'the check reads code: {fault}'


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else '.').resolve()
    if len(sys.argv) > 2:
        found = [fault for _, some in scan(root, sys.argv[2:]) for fault in some]
        print('\n'.join(found + [f'{len(found)} found']))
        return bool(found)
    results = dict(scan(root))
    for folder in PENDING:
        if not any(some for name, some in results.items() if is_below(name, [folder])):
            print(f'# {folder} passes: remove its entry from PENDING')
    found = [fault for name, some in results.items() if not is_below(name, PENDING) for fault in some]
    return tap.report((
        ('each phrase is found, and only where it is prose', list(self_faults())),
        ('comments, messages and documents are plain English', found)))


if __name__ == '__main__':
    sys.exit(main())
