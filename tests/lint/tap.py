# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a lint reports: TAP on standard output, one case per rule, one comment line per fault."""


def report(cases):
    """Prints the results of `cases`, which are pairs of a name and a list of faults. Returns the exit status."""
    cases = list(cases)
    print(f'1..{len(cases)}')
    for number, (name, faults) in enumerate(cases, 1):
        for fault in faults:
            print(f'# {fault}')
        print(f'{"not ok" if faults else "ok"} {number} - {name}')
    return any(faults for _, faults in cases)
