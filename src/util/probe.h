/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_PROBE_H
#define VUBLK_UTIL_PROBE_H

/*
 * Static probes (USDT) of the provider `vublk`, for bpftrace, perf and SystemTap; docs/probes.md
 * lists them.
 *
 * Key idea: a probe is one nop, and a note in the ELF file that says where the nop is, and in which
 * registers or memory the arguments are. So a probe on the path of a request must have only
 * arguments that need not be computed for it. In a build without <sys/sdt.h> a probe is a no-op.
 */
#ifdef VUBLK_HAS_PROBES
#include <sys/sdt.h>
#define VUBLK_PROBE1(name, a) DTRACE_PROBE1(vublk, name, a)
#define VUBLK_PROBE2(name, a, b) DTRACE_PROBE2(vublk, name, a, b)
#define VUBLK_PROBE3(name, a, b, c) DTRACE_PROBE3(vublk, name, a, b, c)
#define VUBLK_PROBE4(name, a, b, c, d) DTRACE_PROBE4(vublk, name, a, b, c, d)
#define VUBLK_PROBE5(name, a, b, c, d, e) DTRACE_PROBE5(vublk, name, a, b, c, d, e)
#else
#define VUBLK_PROBE1(name, a) ((void)0)
#define VUBLK_PROBE2(name, a, b) ((void)0)
#define VUBLK_PROBE3(name, a, b, c) ((void)0)
#define VUBLK_PROBE4(name, a, b, c, d) ((void)0)
#define VUBLK_PROBE5(name, a, b, c, d, e) ((void)0)
#endif

#endif
