/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_RELAY_RIG_H
#define VUBLK_TESTS_RELAY_RIG_H

/*
 * A relay on a thread of its own, with `vublk serve` in a process behind it, which can be
 * killed and started again. The VMM in front of it is the front-end of backend-rig.h.
 *
 * Key idea: a test waits for things that the relay does by itself by waiting for a line in the
 * relay's log.
 */
#include "backend-rig.h"

#include <vublk/bus.h>

#include <sys/types.h>

#define RELAY_DISK_BYTES (8 << 20)
#define RELAY_BLOCK 4096
#define RELAY_REQUESTS 16

struct relay {
	char socket[160], backend[160], disk[160];
	struct vublk_bus *bus;
	pthread_t thread;
	int result;
	struct vublk_error error;
	pid_t pid; /* of the back-end; 0: no back-end runs */

	pthread_mutex_t lock;
	pthread_cond_t said;
	char log[1 << 18];
	size_t length, heard; /* the part before `heard` has been waited for */
	char loud[1 << 16];   /* without the lines of level debug: what an operator sees */
	size_t loud_length;
};

/*
 * A disk and its back-end, and a relay in front of it that listens. `properties` may be NULL. The
 * relay has shadow rings if the environment variable VUBLK_TEST_SHADOW is set.
 */
void relay_open(struct relay *relay, const struct vublk_option *properties);
/* The same without a back-end. Does not wait for the relay to listen. */
void relay_open_alone(struct relay *relay, const struct vublk_option *properties);
/* Stops the relay, waits for its thread, ends the back-end, and frees everything. */
void relay_close(struct relay *relay);
/* Waits for the relay's thread to end by itself; relay->result has its result. */
void relay_join(struct relay *relay);

/* `option` is an argument of `vublk serve -o`; NULL: none. */
void relay_start_backend(struct relay *relay, const char *option);
/* With SIGKILL; waits until the process has ended. */
void relay_kill_backend(struct relay *relay);
/* The relay has lost the back-end, which is killed. */
void relay_lose_backend(struct relay *relay);
/*
 * A request may be complete before the back-end has answered the last message of the start, so
 * this waits for the start itself.
 */
void relay_wait_for_start(struct relay *relay);
/* The process stays, and does nothing any more. */
void relay_freeze_backend(struct relay *relay);
/* Changes the size of the disk, and has the back-end check it. */
void relay_resize(struct relay *relay, uint64_t bytes);

/* Waits for a line with these words, after the line that was waited for before. */
void relay_wait(struct relay *relay, const char *words);
/* Whether the log has these words anywhere. */
bool relay_has_said(struct relay *relay, const char *words);

/* --- the VMM ----------------------------------------------------------------- */

/* A VMM connects. */
void relay_connect(struct relay *relay, struct backend_rig *rig);
/* ... negotiates, and sends its memory. */
void relay_set_up_vmm(struct relay *relay, struct backend_rig *rig);
/* ... and starts the first `num_queues` queues; waits until they run. */
void relay_start_vmm(struct relay *relay, struct backend_rig *rig, unsigned num_queues);
/* The same with an in-flight area, which the caller drops. */
void relay_start_vmm_with_area(struct relay *relay, struct backend_rig *rig,
			       struct rig_area *area, unsigned num_queues);
/* DRIVER_OK: ends the hold that delays the start of rings. */
void relay_driver_ok(struct backend_rig *rig);
/* RESET_DEVICE, acknowledged. */
void relay_reset_device(struct backend_rig *rig);
/* The VMM disconnects, and the relay has seen it. */
void relay_close_vmm(struct relay *relay, struct backend_rig *rig);

/* A relay with a back-end, and a VMM that has started `num_queues` queues. */
void relay_begin(struct relay *relay, struct backend_rig *rig, unsigned num_queues);
/* The end of both, in the order of relay_close_vmm() and relay_close(). */
void relay_end(struct relay *relay, struct backend_rig *rig);

/* --- requests ---------------------------------------------------------------- */

/* Writes a block on each of the queues, each to a sector of its own, and reads it. */
void relay_write_and_read(struct backend_rig *rig, unsigned first, unsigned num_queues, char salt);
/* RELAY_REQUESTS writes that wait in the queue's ring; no kick. */
void relay_add_requests(struct backend_rig *rig, unsigned queue);
/* The same with a kick. */
void relay_send_requests(struct backend_rig *rig, unsigned queue);
/* Waits until each of them is complete, once. */
void relay_take_requests(struct backend_rig *rig, unsigned queue);
/* Waits until an eventfd is signalled. */
void relay_expect_signal(int fd);

#endif
