/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_BACKEND_RIG_H
#define VUBLK_TESTS_BACKEND_RIG_H

/*
 * Runs a back-end on a thread of its own, and acts as a small blocking front-end, with which a test
 * can break any rule of vhost-user. If a function fails, the case fails.
 */
#include "harness.h"

#include "proto/vhost-user/channel.h"
#include "proto/vhost-user/inflight.h"
#include "virtio/blk-format.h"
#include "virtio/driver-ring.h"
#include "virtio/ring.h"

#include <vublk/backend.h>

#include <pthread.h>

#define RIG_QUEUES 4
#define RIG_SIZE 128 /* default number of entries of a queue */
#define RIG_MEMORY (UINT64_C(16) << 20)
#define RIG_GUEST UINT64_C(0x100000000)   /* the guest address of the memory */
#define RIG_USER UINT64_C(0x7f0000000000) /* the user address of the memory */
#define RIG_QUEUE_BYTES (RIG_MEMORY / RIG_QUEUES)
#define RIG_PATH_BYTES 128
#define RIG_DATA_OFFSET 0x40000 /* where the data begins in a queue's part of the memory, after the
				   ring and the slots */

struct rig_queue {
	struct vublk_split_ring ring; /* pointers to the three parts of the ring */
	struct vublk_driver_ring driver;
	unsigned size;
	int kick_fd, call_fd, err_fd;
};

struct rig_log {
	pthread_mutex_t lock;
	pthread_cond_t said;
	unsigned lines; /* of all levels */
	char last[VUBLK_ERROR_TEXT_BYTES + 256]; /* the last warning or error */
};

struct backend_rig {
	struct vublk_backend *backend; /* NULL: the rig does not run the back-end */
	pthread_t thread;
	int result; /* of vublk_backend_run() */
	struct rig_log log;
	struct vublk_channel channel;
	uint64_t features, protocol_features; /* the features that the rig has accepted */
	int memory_fd;
	char *memory;
	struct rig_queue queues[RIG_QUEUES];
};

/* --- the back-end ----------------------------------------------------------- */

/*
 * Opens a back-end, runs it on a new thread, and connects the front-end to it. `options` must end
 * with a NULL name, and must not name a socket.
 */
void rig_open(struct backend_rig *rig, const struct vublk_option *options);
/* Like rig_open(), with a memory disk of 8 MiB and RIG_QUEUES queues. */
void rig_open_memory(struct backend_rig *rig);
/*
 * Makes the guest's memory a memfd without seals, so that a test can truncate the memfd. Must be
 * called before the memory is used.
 */
void rig_use_unsealed_memory(struct backend_rig *rig);
/* Makes a memfd of `bytes` bytes without seals, and returns its descriptor. */
int rig_unsealed_memfd(uint64_t bytes);
/*
 * Makes an image of zeroes, named `image`, in the case's folder. Stores the image's path in `path`
 * and returns a descriptor of the image.
 */
int rig_make_image(char path[RIG_PATH_BYTES], uint64_t bytes);
/*
 * Initialises only the front-end, on the connected socket `fd`, which the rig owns afterwards. The
 * caller provides the back-end at the other end of the socket.
 */
void rig_attach(struct backend_rig *rig, int fd);
/*
 * Closes the rig's connection, and continues on the socket `fd`, which leads to the next back-end.
 * Memory, rings and eventfds stay.
 */
void rig_attach_again(struct backend_rig *rig, int fd);
/* Disconnects, waits until the back-end's thread has ended, and frees everything. */
void rig_close(struct backend_rig *rig);
/* Waits until the back-end has closed the connection and its thread has ended. Frees everything. */
void rig_close_expecting_end(struct backend_rig *rig);
/* Waits until the back-end has closed the connection. Discards the messages that still arrive. */
void rig_wait_for_end(struct backend_rig *rig);
/* Returns whether the last warning or error in the log contains `words`. Prints the line if not. */
bool rig_log_has(struct backend_rig *rig, const char *words);
/* Waits until the last warning or error in the log contains `words`. */
void rig_wait_for_log(struct backend_rig *rig, const char *words);
/* Returns the number of log lines so far, of all levels. */
unsigned rig_log_lines(struct backend_rig *rig);

/* --- a back-end that listens -------------------------------------------------- */

/*
 * A back-end that listens. It outlives its front-ends, so each front-end shows whether an earlier
 * one has done damage.
 */
struct backend_server {
	struct vublk_backend *backend;
	pthread_t thread;
	char path[100]; /* of the back-end's socket */
};

/*
 * Opens a back-end with a memory disk of 8 MiB and RIG_QUEUES queues, and runs it on a new thread.
 * `options` are further options, and may be NULL.
 */
void backend_server_start(struct backend_server *server, const struct vublk_option *options);
/* Runs `server->backend`, which the case must have opened, on a new thread. */
void backend_server_run(struct backend_server *server);
/* Stops and frees the back-end, and checks that it has removed its socket. */
void backend_server_stop(struct backend_server *server);

/* --- messages ---------------------------------------------------------------- */

void rig_send(struct backend_rig *rig, const struct vublk_vu_message *message);
/* Waits for a message and stores it in `reply`. The caller deinits `reply`. */
void rig_receive(struct backend_rig *rig, struct vublk_vu_message *reply);
/* Sends `message`, waits for the reply, and checks its header. The caller deinits `reply`. */
void rig_ask(struct backend_rig *rig, struct vublk_vu_message *message,
	     struct vublk_vu_message *reply);
/* Sends `message` with NEED_REPLY. Returns the number in the acknowledgement; 0: success. */
uint64_t rig_send_acked(struct backend_rig *rig, struct vublk_vu_message *message);
/* Sends the message `request` without a payload. Returns the number in the reply. */
uint64_t rig_get_u64(struct backend_rig *rig, uint32_t request);
/*
 * The following functions return the result of rig_send_acked(), except rig_get_base() and
 * rig_get_config(). If a function has the parameter `request`, it is the type of the message.
 */
uint64_t rig_set_u64(struct backend_rig *rig, uint32_t request, uint64_t value);
uint64_t rig_set_state(struct backend_rig *rig, uint32_t request, unsigned index, unsigned num);
/*
 * `request` is SET_VRING_KICK, _CALL or _ERR. If `fd` is -1, the message says that there is no
 * descriptor.
 */
uint64_t rig_set_vring_fd(struct backend_rig *rig, uint32_t request, unsigned index, int fd);
uint64_t rig_set_addr(struct backend_rig *rig, unsigned index, uint64_t desc, uint64_t avail,
		      uint64_t used);
/* Sends GET_VRING_BASE, which stops the queue. Returns the base in the reply. */
unsigned rig_get_base(struct backend_rig *rig, unsigned index);
void rig_get_config(struct backend_rig *rig, struct virtio_blk_config *config);
/* Sends SET_CONFIG for the field `wce`, the switch of the write cache. */
uint64_t rig_set_wce(struct backend_rig *rig, uint8_t value);

/* --- the whole sequence ------------------------------------------------------ */

/* Sends SET_OWNER, and accepts all features and protocol features that are offered. */
void rig_negotiate(struct backend_rig *rig);
/* Makes the memory if it does not exist yet, and sends it as the only region. */
uint64_t rig_set_mem_table(struct backend_rig *rig);
uint64_t rig_add_mem_reg(struct backend_rig *rig, int fd, uint64_t guest, uint64_t user,
			 uint64_t bytes, uint64_t offset);
/*
 * Sends invalid regions, and files that cannot be mapped as memory, and checks that the back-end
 * refuses each. The rig must have sent its own region, which some of the invalid regions overlap.
 */
void rig_expect_regions_refused(struct backend_rig *rig);
/*
 * Initialises the driver's end of queue `index`, with `size` entries and the first index `base`.
 * Sends no message.
 */
void rig_make_ring(struct backend_rig *rig, unsigned index, unsigned size, uint16_t base);
/*
 * Sends NUM, BASE, ADDR, CALL, ERR and KICK for queue `index`. Returns the acknowledgement of KICK.
 * The back-end must accept the other messages.
 */
uint64_t rig_describe_queue(struct backend_rig *rig, unsigned index, uint16_t base);
/* Calls rig_describe_queue() and sends ENABLE. Returns 0 if the back-end accepts both. */
uint64_t rig_tell_queue(struct backend_rig *rig, unsigned index, uint16_t base);
/* Calls rig_make_ring() and rig_tell_queue(). The back-end must accept the queue. */
void rig_start_queue(struct backend_rig *rig, unsigned index, unsigned size, uint16_t base);
/* Negotiates, sends the memory table, and starts queue 0 with RIG_SIZE entries. */
void rig_start(struct backend_rig *rig);

/* --- the in-flight area ------------------------------------------------------ */

struct rig_area {
	int fd;
	uint64_t bytes;
	struct vublk_inflight_split *region; /* the region of queue 0 */
};

/* Sends GET_INFLIGHT_FD for RIG_QUEUES queues of RIG_SIZE entries, and maps the area. */
void rig_get_area(struct backend_rig *rig, struct rig_area *area);
/* Sends SET_INFLIGHT_FD with the numbers of rig_get_area(). Returns the acknowledgement. */
uint64_t rig_set_area(struct backend_rig *rig, const struct rig_area *area);
/* Sends SET_INFLIGHT_FD with the given numbers. Returns the acknowledgement. */
uint64_t rig_set_area_as(struct backend_rig *rig, const struct rig_area *area, uint64_t size,
			 uint64_t offset, unsigned num_queues, unsigned queue_size);
/* Unmaps the area and closes its descriptor. */
void rig_drop_area(struct rig_area *area);
/* Returns the region of queue `index`. */
struct vublk_inflight_split *rig_area_region(const struct rig_area *area, unsigned index);
/* Returns how many entries of the region of queue `index` are marked as in flight. */
unsigned rig_count_inflight(const struct rig_area *area, unsigned index);

/* --- requests ----------------------------------------------------------------- */

/* Returns a pointer to the data area of queue `index`. */
char *rig_data(struct backend_rig *rig, unsigned index);
/* Returns the guest address of the data area of queue `index`. */
uint64_t rig_data_addr(unsigned index);
/*
 * Adds a request to queue `index`, but does not publish it. No other request of the queue may be
 * using `token`. The `bytes` bytes of data are at `data_offset` in the queue's data area; 0: no
 * data.
 */
void rig_add(struct backend_rig *rig, unsigned index, uint16_t token, uint32_t type,
	     uint64_t sector, uint64_t data_offset, uint32_t bytes);
/* Publishes the added requests, and kicks if the back-end wants a kick. */
void rig_kick(struct backend_rig *rig, unsigned index);
/*
 * Waits for one completion. Stores in `bytes`, unless it is NULL, how many bytes the back-end has
 * written. Returns the token of the request.
 */
uint16_t rig_take(struct backend_rig *rig, unsigned index, uint32_t *bytes);
/* Returns the status byte of the request with this token. */
uint8_t rig_status(struct backend_rig *rig, unsigned index, uint16_t token);
/*
 * Executes one request with the token 0, and returns its status. No other request may be in flight.
 */
uint8_t rig_io(struct backend_rig *rig, unsigned index, uint32_t type, uint64_t sector,
	       uint64_t data_offset, uint32_t bytes);

#endif
