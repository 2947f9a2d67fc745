/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_RELAY_RIG_H
#define VUBLK_TESTS_RELAY_RIG_H

/*
 * A relay on its own thread. Its back-end is `vublk serve` in another process, which the test can
 * kill and start again. The VMM is the front-end of backend-rig.h.
 *
 * Key idea: a test waits for a line in the relay's log to know that the relay has done something.
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
	void (*hook)(struct relay *relay); /* called on the bus's thread before each step */
	int result;
	struct vublk_error error;
	pid_t pid; /* the back-end's process; 0 if it does not run */

	pthread_mutex_t lock;
	pthread_cond_t said;
	char log[1 << 18];
	size_t length, heard; /* relay_wait() searches from `heard` on */
	char loud[1 << 16];   /* the log without debug lines, as an operator sees it */
	size_t loud_length;
};

/*
 * Starts a back-end with a disk, then a relay that uses this back-end, and waits until the relay
 * listens. `properties` may be NULL. If the environment variable VUBLK_TEST_SHADOW is set, the
 * relay has shadow rings.
 */
void relay_open(struct relay *relay, const struct vublk_option *properties);
/* Like relay_open(), but without a back-end. Does not wait until the relay listens. */
void relay_open_alone(struct relay *relay, const struct vublk_option *properties);
/* Stops the relay, waits for its thread, ends the back-end, and frees everything. */
void relay_close(struct relay *relay);
/* Waits until the relay's thread has ended. The result of the bus is then in relay->result. */
void relay_join(struct relay *relay);

/*
 * Starts the back-end. `option` is the argument of `vublk serve -o`; NULL: "inflight=on". If the
 * environment variable VUBLK_TEST_PEER names a qemu-storage-daemon, that program is the back-end
 * instead.
 */
void relay_start_backend(struct relay *relay, const char *option);
/* Kills the back-end with SIGKILL, and waits until the process has ended. */
void relay_kill_backend(struct relay *relay);
/* Kills the back-end, and waits until the relay has noticed the loss. */
void relay_lose_backend(struct relay *relay);
/*
 * Waits until the rings have started. A completed request is no proof of that, because it can
 * complete before the back-end has answered the last message of the start.
 */
void relay_wait_for_start(struct relay *relay);
/* Suspends the back-end's process with SIGSTOP, and waits until it is suspended. */
void relay_freeze_backend(struct relay *relay);
/* Changes the size of the disk, and makes the back-end read the size again. */
void relay_resize(struct relay *relay, uint64_t bytes);

/*
 * Waits until `words` appear in the log, after the words that the previous call has found. Fails
 * after 20 s.
 */
void relay_wait(struct relay *relay, const char *words);
/* Returns whether `words` are anywhere in the log. */
bool relay_has_said(struct relay *relay, const char *words);

/* --- the VMM ----------------------------------------------------------------- */

/* Connects a VMM to the relay's socket. */
void relay_connect(struct relay *relay, struct backend_rig *rig);
/* Like relay_connect(), then negotiates features and sends the memory table. */
void relay_set_up_vmm(struct relay *relay, struct backend_rig *rig);
/* Like relay_set_up_vmm(), then starts the first `num_queues` queues and sets DRIVER_OK. */
void relay_start_vmm(struct relay *relay, struct backend_rig *rig, unsigned num_queues);
/* Like relay_start_vmm(), with an in-flight area. The caller frees `area` with rig_drop_area(). */
void relay_start_vmm_with_area(struct relay *relay, struct backend_rig *rig,
			       struct rig_area *area, unsigned num_queues);
/* Sets DRIVER_OK, so that the relay no longer delays the start of the rings. */
void relay_driver_ok(struct backend_rig *rig);
/* Sends RESET_DEVICE, and waits for the acknowledgement. */
void relay_reset_device(struct backend_rig *rig);
/* Disconnects the VMM, and waits until the relay has noticed the disconnection. */
void relay_close_vmm(struct relay *relay, struct backend_rig *rig);

/* Calls relay_open() without properties, then relay_start_vmm(). */
void relay_begin(struct relay *relay, struct backend_rig *rig, unsigned num_queues);
/* Calls relay_close_vmm(), then relay_close(). */
void relay_end(struct relay *relay, struct backend_rig *rig);

/* --- requests ---------------------------------------------------------------- */

/*
 * For each of `num_queues` queues from `first` on, writes a block to a sector that only this queue
 * uses, and reads it back. The data depends on `salt` and the queue.
 */
void relay_write_and_read(struct backend_rig *rig, unsigned first, unsigned num_queues, char salt);
/* Adds RELAY_REQUESTS writes to the ring of `queue`, without a kick. */
void relay_add_requests(struct backend_rig *rig, unsigned queue);
/* Like relay_add_requests(), then kicks. */
void relay_send_requests(struct backend_rig *rig, unsigned queue);
/*
 * Waits for the requests of relay_add_requests(), and checks that each succeeds and completes once.
 */
void relay_take_requests(struct backend_rig *rig, unsigned queue);
/* Waits until the eventfd `fd` is signalled. Fails after 20 s. */
void relay_expect_signal(int fd);

#endif
