#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Checks that the library and the tool have the hardening that the build has requested.

Key idea: a flag on the command line proves nothing, so each case looks for its effect in the
binaries: segments, dynamic flags, called functions, instructions.

    hardening.py [--expect NAME,...] [--wraps FOLDER] BINARY...    TAP on standard output

NAME is a case of the table EXPECTED; the cases of ALWAYS apply to every build. With --wraps, the
library may not call the fortified variant of a function that a test in FOLDER replaces only under
its plain name, because the test would not see the call.
"""
import argparse
import pathlib
import re
import subprocess
import sys

import tap

# Instructions that touch each page of a large stack frame: gcc uses `or`; clang uses `mov`, or `xor` in a
# function that aligns its frame.
PROBE = re.compile(r'\bx?or[lq] +\$0x0,\(%rsp\)|sub +\$0x1000,%rsp\n.*\bmov[lq] +\$0x0,\(%rsp\)')


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Binary:
    def __init__(self, path):
        self.name = pathlib.Path(path).name
        self.is_library = '.so' in self.name
        self.segments = output('readelf', '-lW', path)
        self.dynamic = output('readelf', '-dW', path)
        self.calls = self.names('-u', path)
        self.code = output('objdump', '-d', '--no-show-raw-insn', path)

    def names(self, option, path):
        listed = output('nm', '-D', option, path)
        return {line.split()[-1].split('@')[0] for line in listed.splitlines()}

    def has_flag(self, flag):
        return bool(re.search(rf'\(FLAGS_1\).*\b{flag}\b', self.dynamic))


ALWAYS = {
    'relro': lambda binary: 'GNU_RELRO' in binary.segments and 'TEXTREL' not in binary.dynamic,
    'bind-now': lambda binary: binary.has_flag('NOW'),
    'no-executable-stack': lambda binary: bool(re.search(r'GNU_STACK .* RW ', binary.segments)),
}
EXPECTED = {
    'pie': lambda binary: binary.is_library or binary.has_flag('PIE'),
    'stack-protector': lambda binary: '__stack_chk_fail' in binary.calls,
    'stack-clash': lambda binary: bool(PROBE.search(binary.code)),
    'fortify': lambda binary: '__snprintf_chk' in binary.calls,
}


def missed_wraps(binaries, folder):
    """
    Returns the calls that a test would miss. For example, a test that replaces pread64() misses calls of
    __pread64_chk().
    """
    wrapped = {name for path in pathlib.Path(folder).rglob('meson.build')
               for name in re.findall(r'--wrap=(\w+)', path.read_text())}
    return [f'{binary.name} calls __{name}_chk(), and a test only replaces {name}()'
            for binary in binaries if binary.is_library for name in sorted(wrapped)
            if f'__{name}_chk' in binary.calls - wrapped]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--expect', default='')
    parser.add_argument('--wraps', required=True)
    parser.add_argument('binaries', nargs='+')
    options = parser.parse_args()
    binaries = [Binary(path) for path in options.binaries]
    checks = {**ALWAYS, **{name: EXPECTED[name] for name in options.expect.split(',') if name}}
    cases = [(name, [f'{binary.name} lacks it' for binary in binaries if not has(binary)])
             for name, has in checks.items()]
    cases.append(('tests see fortified calls', missed_wraps(binaries, options.wraps)))
    return tap.report(cases)


if __name__ == '__main__':
    sys.exit(main())
