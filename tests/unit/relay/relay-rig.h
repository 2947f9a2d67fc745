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
	pid_t pid; /* the back-end's; 0: no back-end runs */

	pthread_mutex_t lock;
	pthread_cond_t said;
	char log[1 << 18];
	size_t length, heard; /* relay_wait() has consumed the part before `heard` */
	char loud[1 << 16];   /* without the lines of level debug: what an operator sees */
	size_t loud_length;
};

/*
 * Starts a disk's back-end, and a relay in front of it that listens. `properties` may be NULL. The
 * relay has shadow rings if the environment variable VUBLK_TEST_SHADOW is set.
 */
void relay_open(struct relay *relay, const struct vublk_option *properties);
/* The same without a back-end. Does not wait for the relay to listen. */
void relay_open_alone(struct relay *relay, const struct vublk_option *properties);
/* Stops the relay, waits for its thread, ends the back-end, and frees everything. */
void relay_close(struct relay *relay);
/* Waits for the relay's thread to end by itself; relay->result has its result. */
void relay_join(struct relay *relay);

/* `option` is an argument of `vublk serve -o`; NULL: no option. */
void relay_start_backend(struct relay *relay, const char *option);
/* Kills the back-end with SIGKILL, and waits until the process has ended. */
void relay_kill_backend(struct relay *relay);
/* Kills the back-end, and waits until the relay has lost it. */
void relay_lose_backend(struct relay *relay);
/*
 * Waits for the end of the start. A completed request is no sign of that, because it may complete
 * before the back-end has answered the last message of the start.
 */
void relay_wait_for_start(struct relay *relay);
/* Stops the back-end's process, which stays but does nothing any more. */
void relay_freeze_backend(struct relay *relay);
/* Changes the size of the disk, and has the back-end check it. */
void relay_resize(struct relay *relay, uint64_t bytes);

/* Waits for a line with these words, after the line for which the previous call waited. */
void relay_wait(struct relay *relay, const char *words);
/* Whether the log has these words anywhere. */
bool relay_has_said(struct relay *relay, const char *words);

/* --- the VMM ----------------------------------------------------------------- */

/* Connects a VMM. */
void relay_connect(struct relay *relay, struct backend_rig *rig);
/* The same, then negotiates and sends the memory. */
void relay_set_up_vmm(struct relay *relay, struct backend_rig *rig);
/* The same, then starts the first `num_queues` queues, and waits until they run. */
void relay_start_vmm(struct relay *relay, struct backend_rig *rig, unsigned num_queues);
/* The same with an in-flight area, which the caller drops. */
void relay_start_vmm_with_area(struct relay *relay, struct backend_rig *rig,
			       struct rig_area *area, unsigned num_queues);
/* Sets DRIVER_OK, which ends the delay of the rings' start. */
void relay_driver_ok(struct backend_rig *rig);
/* Sends RESET_DEVICE, and waits for the acknowledgement. */
void relay_reset_device(struct backend_rig *rig);
/* Disconnects the VMM, and waits until the relay has seen this. */
void relay_close_vmm(struct relay *relay, struct backend_rig *rig);

/* Starts a relay with a back-end, and a VMM that starts `num_queues` queues. */
void relay_begin(struct relay *relay, struct backend_rig *rig, unsigned num_queues);
/* Calls relay_close_vmm(), then relay_close(). */
void relay_end(struct relay *relay, struct backend_rig *rig);

/* --- requests ---------------------------------------------------------------- */

/* Writes a block on each of the queues, each to a sector of its own, and reads it. */
void relay_write_and_read(struct backend_rig *rig, unsigned first, unsigned num_queues, char salt);
/* Adds RELAY_REQUESTS writes to the queue's ring, without a kick. */
void relay_add_requests(struct backend_rig *rig, unsigned queue);
/* The same with a kick. */
void relay_send_requests(struct backend_rig *rig, unsigned queue);
/* Waits until each of these requests is complete; checks that each completes once. */
void relay_take_requests(struct backend_rig *rig, unsigned queue);
/* Waits until an eventfd is signalled. */
void relay_expect_signal(int fd);

#endif
