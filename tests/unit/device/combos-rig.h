/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_COMBOS_RIG_H
#define VUBLK_TESTS_COMBOS_RIG_H

/*
 * A device with two back-ends that have the same storage, a third one to which the disk can be
 * mirrored, and a driver that always has requests outstanding and checks what it reads.
 */
#include "mock/device-rig.h"
#include "mock/executor.h"

#define COMBOS_BACKENDS 3
#define COMBOS_TARGET 2 /* the back-end to which the disk is mirrored */

extern struct device_rig combos_rig;
extern struct mock combos_mocks[COMBOS_BACKENDS];
extern struct executor combos_executors[COMBOS_BACKENDS];
extern uint64_t combos_seed;
extern char combos_run[400]; /* describes the present run, for messages */
extern bool combos_is_quiet; /* the driver sends no new requests */
extern bool combos_is_resetting; /* the driver has not started the device again after a reset */
extern bool combos_awaits_notifiers; /* cleared when notifiers_changed() or stopped() is called */

/* Returns a random number from 0 to `limit` - 1. */
unsigned combos_below(unsigned limit);

/* Starts a device with the property shadow=`shadow`. */
void combos_begin(const char *shadow);
void combos_end(void);

/*
 * Lets each back-end handle at most one message, and the device handle its events. The driver takes
 * completions, sends a request, and starts the device again after a reset. Waits only if there is
 * nothing to do.
 */
void combos_turn(void);
/* Makes turns until `is_done` returns true. Fails after 20 s; `why` says what did not happen. */
void combos_wait_until(bool (*is_done)(void), const char *why);

/* The driver has reset the device, and forgets its requests. */
void combos_forget_requests(void);
/* Returns whether the device runs, and the driver has no request outstanding. */
bool combos_is_idle(void);
/* Writes each of the driver's sectors, and reads it again. The driver must be quiet. */
void combos_check_disk(void);

/* Returns the back-end of the disk. */
struct executor *combos_active(void);
/* Makes all back-ends that died listen again. */
void combos_revive(void);

#endif
