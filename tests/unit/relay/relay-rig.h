/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_RELAY_RIG_H
#define VUBLK_TESTS_RELAY_RIG_H

/*
 * A relay on a thread of its own, with `vublk serve` in a process behind it, which can be
 * killed and started again. The VMM in front of it is the front-end of backend-rig.h.
 *
 * What the relay does by itself is waited for by the words that it says of it.
 */
#include "backend-rig.h"

#include <vublk/bus.h>

#include <sys/types.h>

#define RELAY_DISK_BYTES (8 << 20)

struct relay {
	char socket[160], backend[160], disk[160];
	struct vublk_bus *bus;
	pthread_t thread;
	int result;
	struct vublk_error error;
	pid_t pid; /* of the back-end; 0: there is none */

	pthread_mutex_t lock;
	pthread_cond_t said;
	char log[1 << 18];
	size_t length, heard; /* what relay_wait() has gone past */
	char loud[1 << 16];   /* what an operator sees of it: not the debug level */
	size_t loud_length;
};

/* A disk and its back-end, and a relay in front of it that listens. `properties` may be NULL. */
void relay_open(struct relay *relay, const struct vublk_option *properties);
/* The same without a back-end, and without waiting for the relay to listen. */
void relay_open_alone(struct relay *relay, const struct vublk_option *properties);
/* Stops it, waits for its thread, ends the back-end, and frees everything. */
void relay_close(struct relay *relay);
/* Waits for its thread to end by itself; its result stays in `relay`. */
void relay_join(struct relay *relay);

/* `option` (may be NULL) is one of `vublk serve -o`. */
void relay_start_backend(struct relay *relay, const char *option);
/* At once, and waits until it is gone. */
void relay_kill_backend(struct relay *relay);
/* It does nothing any more, and is not gone. */
void relay_freeze_backend(struct relay *relay);
/* Other bytes, and the back-end looks. */
void relay_resize(struct relay *relay, uint64_t bytes);

/* Waits until it says something with these words, after what was waited for before. */
void relay_wait(struct relay *relay, const char *words);
/* Whether it has said so at any time. */
bool relay_has_said(struct relay *relay, const char *words);

/* A VMM connects. */
void relay_connect(struct relay *relay, struct backend_rig *rig);
/* ... negotiates, and starts the queues up to this one; waits until they run. */
void relay_start_vmm(struct relay *relay, struct backend_rig *rig, unsigned num_queues);
/* DRIVER_OK: what is held starts. */
void relay_driver_ok(struct backend_rig *rig);
/* The VMM goes, and the relay has seen it. */
void relay_close_vmm(struct relay *relay, struct backend_rig *rig);

#endif
