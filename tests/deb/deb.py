#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The Debian packages: `make deb` in a bare Debian 12 and a bare Debian 13, lintian, and the installed packages in other
bare roots, without a network. Needs root, and what `scripts/setup check` has fetched.

    deb.py [-l] [-k] [WORD...]

Each root is an overlay in memory, in a mount namespace of its own, so nothing of it is left when its program ends.
"""
import functools
import os
import pathlib
import re
import shutil
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / 'tests/harness'))

import peer  # noqa: E402
from peer import check  # noqa: E402

RELEASES = ('bookworm', 'trixie')
CACHE = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache') / 'vublk/packaging'
CONTROL = (ROOT / 'debian/control').read_text()
PACKAGES = re.findall(r'^Package: (.*)$', CONTROL, re.M)
VERSION = re.search(r'\((.*?)\)', (ROOT / 'debian/changelog').read_text())[1]
LIMIT_S = 3600

# $1: the folder of the release, $2: a folder, $3: a script for the root. The root is /run/vublk-deb, its packages come from
# /pool, and it shares the folder with the outside, as /case.
ENTER = '''
set -eu
mount -t tmpfs tmpfs /run
mkdir -p /run/vublk-deb /run/upper /run/work
mount -t overlay -o lowerdir="$1/root",upperdir=/run/upper,workdir=/run/work overlay /run/vublk-deb
cd /run/vublk-deb
mkdir pool case
mount --bind "$1/pool" pool
mount --bind "$2" case
mount -t proc proc proc
mount -t tmpfs tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
rm -f etc/apt/sources.list.d/*
echo 'deb [trusted=yes] file:/pool ./' >etc/apt/sources.list
echo 'APT::Install-Recommends "false";' >etc/apt/apt.conf.d/test
echo force-unsafe-io >etc/dpkg/dpkg.cfg.d/test
chroot . apt-get -qq update
'''
INSIDE = ENTER + 'exec chroot . sh -euc "$3"\n'

BUILD = '''
apt-get -qq -y install git make >/dev/null
cd /case/source
apt-get -qq -y build-dep . >/dev/null
git init -q
git add -A
make deb SETUP=no
echo "left in the source: $(git ls-files --others | grep -v '^build/' | tr '\\n' ' ')"
echo "changed in the source: $(git diff --name-only | tr '\\n' ' ')"
mv build/deb/*.* /case
'''

# The Standards-Version is the newest that Debian 12's lintian knows.
LINT = '''
apt-get -qq -y install lintian >/dev/null
lintian --info --display-info --allow-root --suppress-tags out-of-date-standards-version /case/*.changes
'''

INSTALL = '''
apt-get -qq -y install $(ls /case/*.deb | grep -v dbgsym) >/dev/null
dpkg --verify $PACKAGES
echo "version: $(dpkg-query -W -f '${Version} ' $PACKAGES)"
vublk --version
'''

# On the outside: autopkgtest calls chroot itself.
AUTOPKGTEST = '''
autopkgtest --no-built-binaries $(ls "$2"/*.deb | grep -v dbgsym) "$2/source" -- chroot "$PWD"
'''

SERVE = INSTALL + '''
cd /tmp
head -c 4M /dev/urandom >disk.img
vublk serve --socket-path back.sock --blk-file disk.img 2>serve.log &
until [ -S back.sock ]; do kill -0 $!; sleep 0.1; done
vublk copy --quiet back.sock copy.img
cmp disk.img copy.img
vublk bench back.sock --rw randrw --number_ios 1000 --verify
kill $!
wait $!
'''

REMOVE = INSTALL + '''
apt-get -qq -y purge $PACKAGES >/dev/null
find / -xdev -path '*vublk*' -not -path '/case/*' -not -path '/proc/*' -not -path '/tmp/*' -not -path '/var/log/*' |
	sed 's/^/left: /'
'''


@functools.cache
def cached(release):
    """Returns the folder with the bare root and the packages of a release."""
    if os.geteuid():
        raise peer.Skip('needs root: it mounts file systems and calls chroot')
    peer.need('unshare', 'git')
    folder = CACHE / release
    if not (folder / 'recipe').exists():
        raise peer.Skip(f'{folder} is missing: `scripts/setup check` fetches it')
    return folder


def inside(case, folder, release, script, enter=INSIDE):
    """Runs a script in a new root, where `folder` is /case, and returns its output."""
    command = ['unshare', '--mount', '--net', '--pid', '--fork', '--kill-child', '--mount-proc', 'sh', '-c', enter, 'sh',
               cached(release), folder, script]
    result = case.call(command, limit_s=LIMIT_S, env={
        'PATH': '/usr/sbin:/usr/bin:/sbin:/bin', 'LC_ALL': 'C.UTF-8', 'HOME': '/root', 'PACKAGES': ' '.join(PACKAGES),
        'DEBIAN_FRONTEND': 'noninteractive'})
    check(result.code == 0, f'exit {result.code}\n{result.err}{result.out}')
    return result.out


def copy_source(case, folder):
    """Copies the files that git knows, as they are now."""
    if not (ROOT / '.git').exists():
        raise peer.Skip(f'{ROOT} is no git checkout')
    for name in case.run(['git', '-C', ROOT, 'ls-files', '-z']).split('\0'):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


class Built:
    """The packages of one release. They are built once, for all cases."""
    scratch = None
    told = ''

    def __init__(self, release):
        self.release = release

    def folder(self, case):
        if not self.scratch:
            cached(self.release)
            self.scratch = tempfile.TemporaryDirectory(prefix='vublk-deb-')
            copy_source(case, pathlib.Path(self.scratch.name, 'source'))
            self.told = inside(case, self.scratch.name, self.release, BUILD)
        path = pathlib.Path(self.scratch.name)
        check(list(path.glob('*.changes')), 'the packages were not built')
        return path


def builds(case, built):
    """`make deb` builds all packages, with nothing but what Build-Depends names, and leaves the source as it was."""
    folder = built.folder(case)
    for name in PACKAGES:
        check(list(folder.glob(f'{name}_{VERSION}_*.deb')), f'there is no package {name}: {built.told}')
    for what in ('left', 'changed'):
        check(f'{what} in the source: \n' in built.told, built.told)


def lintian(case, built):
    """lintian has nothing to say, at the level of information."""
    told = inside(case, built.folder(case), built.release, LINT)
    check(not told.strip(), told)


def serves(case, built):
    """The packages install into a bare root, and the tool serves a disk there, which its client copies and verifies."""
    told = inside(case, built.folder(case), built.release, SERVE)
    check(f'version: {" ".join([VERSION] * len(PACKAGES))} \nvublk {VERSION}' in told, told)


def removed(case, built):
    """Purged packages leave nothing behind."""
    told = inside(case, built.folder(case), built.release, REMOVE)
    check('left:' not in told, told)


def autopkgtest(case, built):
    """The tests in debian/tests pass in a bare root, with nothing but what they depend on."""
    peer.need('autopkgtest')
    folder = built.folder(case)
    told = inside(case, folder, built.release, '', enter=ENTER + AUTOPKGTEST)
    names = re.findall(r'^Tests: *(.*)$', (ROOT / 'debian/tests/control').read_text(), re.M)
    for name in names:
        check(re.search(f'^{name} +PASS$', told, re.M), told)


CASES = [(f'{function.__name__}_{built.release}', functools.partial(function, built=built))
         for built in map(Built, RELEASES) for function in (builds, lintian, serves, removed, autopkgtest)]

if __name__ == '__main__':
    sys.exit(peer.main(CASES, sys.argv[1:]))
