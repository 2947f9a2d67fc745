/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_SIGBUS_H
#define VUBLK_SIGBUS_H

/*
 * The library's SIGBUS handler, for applications that handle SIGBUS themselves.
 *
 * A back-end and a device access memory that a peer shares, and the peer can truncate that memory
 * at any time. The library installs a SIGBUS handler when it first maps such memory, so that a
 * truncation ends only the peer's session and not the process. The handler repairs faults in these
 * mappings only. It passes every other SIGBUS to the handler that was installed before it, or to
 * the default action (a core dump).
 *
 * An application that has its own handler has two choices:
 *  - It installs its handler before the library does. Nothing else is necessary, because the
 *    library's handler calls the application's handler.
 *  - It calls vublk_sigbus_manage_self() before it opens a back-end or a device, and its handler
 *    begins with a call to vublk_sigbus_repair(). This is necessary if the application installs its
 *    handler later, or if the library must not install one.
 *
 * SIGBUS must not be blocked in a thread that calls into the library: the kernel ends a process
 * whose thread faults while the signal is blocked. The library's own threads leave it unblocked.
 */

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/*
 * After this call the library installs no handler. Call it before the first back-end, device or
 * disk is created, because a handler that is already installed stays.
 * Threads: any.
 */
void vublk_sigbus_manage_self(void);

/*
 * Repairs a fault in memory that a peer shares. The application's own SIGBUS handler (SA_SIGINFO)
 * must call this function first; `code` and `address` are si_code and si_addr of the handler's
 * siginfo_t. Async-signal-safe; preserves errno.
 * Returns: true: the fault was in memory that a peer shares and is repaired, so the application's
 * handler must return; false: the fault has another cause, or cannot be repaired.
 * Threads: any.
 */
bool vublk_sigbus_repair(int code, const void *address);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
