#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The XML in docs/vmm-snippets.md is valid by libvirt's own schema, and so is what its script for KubeVirt makes.

    snippets.py VUBLK [-l] [-k] [WORD...]
"""
import pathlib
import re
import sys
import textwrap
import xml.etree.ElementTree as ET

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / 'tests/harness')]

import peer  # noqa: E402
from peer import check  # noqa: E402

SCHEMA = pathlib.Path('/usr/share/libvirt/schemas/domain.rng')


def page():
    return (ROOT / 'docs/vmm-snippets.md').read_text()


def domain_xml():
    text, = re.findall(r'^```xml\n(.*?)^```', page(), re.M | re.S)
    return text


def hook():
    """Returns the script in the ConfigMap."""
    text, = re.findall(r'^  onDefineDomain: \|\n(.*?)^```', page(), re.M | re.S)
    return textwrap.dedent(text)


def validate(case, text):
    """Returns what xmllint says, or nothing if the XML is valid."""
    peer.need('xmllint')
    if not SCHEMA.exists():
        raise peer.Skip(f'no {SCHEMA} here (package libvirt0)')
    path = case.path('domain.xml')
    path.write_text(text)
    result = case.call(['xmllint', '--noout', '--relaxng', SCHEMA, path])
    return '' if result.code == 0 else str(result)


def libvirt_domain(case):
    """libvirt's schema accepts the VM, and refuses it with a mistake."""
    told = validate(case, domain_xml())
    check(not told, told)
    for good, bad in (("enabled='yes' timeout", "enabled='yes' interval"), ("type='unix'", "type='socket'"), ("mode='shared'", "mode='both'")):
        check(good in domain_xml() and validate(case, domain_xml().replace(good, bad)), f'{bad} is accepted')


def kubevirt_hook(case):
    """The script adds one disk and shared memory, also to a VM whose memory is set differently."""
    script = case.path('onDefineDomain')
    script.write_text(hook())
    script.chmod(0o755)
    backing = re.search(r' *<memoryBacking>.*</memoryBacking>\n', domain_xml(), re.S)[0]
    for before in ('', backing, backing.replace('memfd', 'anonymous').replace('shared', 'private')):
        given = domain_xml().replace(backing, before)
        made = case.run([script, '--vmi', '{}', '--domain', given])
        told = validate(case, made)
        check(not told, told)
        domain = ET.fromstring(made)
        check([disk.find('target').get('dev') for disk in domain.findall('devices/disk')] == ['vda', 'vdz'], made)
        check([source.get('type') for source in domain.findall('memoryBacking/source')] == ['memfd'], made)
        check([access.get('mode') for access in domain.findall('memoryBacking/access')] == ['shared'], made)


if __name__ == '__main__':
    sys.exit(peer.main([libvirt_domain, kubevirt_hook], sys.argv[2:]))
