/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_BACKEND_RIG_H
#define VUBLK_TESTS_BACKEND_RIG_H

/*
 * A back-end on its own thread, and a small blocking front-end for it, which can break any rule
 * that a test wants to break. A step that fails ends the case.
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
#define RIG_GUEST UINT64_C(0x100000000)   /* guest address of the memory */
#define RIG_USER UINT64_C(0x7f0000000000) /* user address */
#define RIG_QUEUE_BYTES (RIG_MEMORY / RIG_QUEUES)
#define RIG_PATH_BYTES 128
#define RIG_DATA_OFFSET 0x40000 /* in a queue's part of the memory, after its ring */

struct rig_queue {
	struct vublk_split_ring ring; /* the memory of the ring */
	struct vublk_driver_ring driver;
	unsigned size;
	int kick_fd, call_fd, err_fd;
};

struct rig_log {
	pthread_mutex_t lock;
	pthread_cond_t said;
	unsigned lines;
	char last[VUBLK_ERROR_TEXT_BYTES + 256]; /* the last warning or error */
};

struct backend_rig {
	struct vublk_backend *backend; /* NULL: in another process */
	pthread_t thread;
	int result;
	struct rig_log log;
	struct vublk_channel channel;
	uint64_t features, protocol_features; /* accepted by the rig */
	int memory_fd;
	char *memory;
	struct rig_queue queues[RIG_QUEUES];
};

/* --- the back-end ----------------------------------------------------------- */

/* Opens and runs a back-end; `options` end with a NULL name and have no socket. */
void rig_open(struct backend_rig *rig, const struct vublk_option *options);
/* A memory disk of 8 MiB with RIG_QUEUES queues. */
void rig_open_memory(struct backend_rig *rig);
/* Makes the guest's memory a memfd without seals, so that a test can truncate it. */
void rig_use_unsealed_memory(struct backend_rig *rig);
int rig_unsealed_memfd(uint64_t bytes);
/* An image of zeroes, named `image` in the case's folder; its path, and a descriptor. */
int rig_make_image(char path[RIG_PATH_BYTES], uint64_t bytes);
/*
 * Makes only the front-end, on the socket `fd`, which the rig takes over; the back-end has the
 * other end.
 */
void rig_attach(struct backend_rig *rig, int fd);
/* Connects the rig to the next back-end; memory, rings and notifiers stay. */
void rig_attach_again(struct backend_rig *rig, int fd);
/* Disconnects, waits for the back-end's thread, and frees everything. */
void rig_close(struct backend_rig *rig);
/* The same after the back-end has closed the connection. */
void rig_close_expecting_end(struct backend_rig *rig);
/* Waits until the back-end has closed the connection. */
void rig_wait_for_end(struct backend_rig *rig);
/* Whether the last warning or error of the log has these words. */
bool rig_log_has(struct backend_rig *rig, const char *words);
/* Waits until rig_log_has() is true. */
void rig_wait_for_log(struct backend_rig *rig, const char *words);
/* The number of log lines of all levels. */
unsigned rig_log_lines(struct backend_rig *rig);

/* --- a back-end that listens -------------------------------------------------- */

/* Outlives its front-ends, so that the next one shows whether the last one did harm. */
struct backend_server {
	struct vublk_backend *backend;
	pthread_t thread;
	char path[100]; /* of its socket */
};

/* A memory disk of 8 MiB with RIG_QUEUES queues, and these further options; NULL: none. */
void backend_server_start(struct backend_server *server, const struct vublk_option *options);
/* Starts the thread of a back-end that the case opened itself. */
void backend_server_run(struct backend_server *server);
/* Stops the back-end, and expects that it removes its socket. */
void backend_server_stop(struct backend_server *server);

/* --- messages ---------------------------------------------------------------- */

void rig_send(struct backend_rig *rig, const struct vublk_vu_message *message);
/* Waits for a message; the caller deinits it. */
void rig_receive(struct backend_rig *rig, struct vublk_vu_message *reply);
/* Sends a message and waits for its reply; the caller deinits the reply. */
void rig_ask(struct backend_rig *rig, struct vublk_vu_message *message,
	     struct vublk_vu_message *reply);
/* Sends with NEED_REPLY and returns the value of the acknowledgement. */
uint64_t rig_send_acked(struct backend_rig *rig, struct vublk_vu_message *message);
uint64_t rig_get_u64(struct backend_rig *rig, uint32_t request);
uint64_t rig_set_u64(struct backend_rig *rig, uint32_t request, uint64_t value);
uint64_t rig_set_state(struct backend_rig *rig, uint32_t request, unsigned index, unsigned num);
/* KICK, CALL, ERR; fd -1: sends the flag for "no descriptor". */
uint64_t rig_set_vring_fd(struct backend_rig *rig, uint32_t request, unsigned index, int fd);
uint64_t rig_set_addr(struct backend_rig *rig, unsigned index, uint64_t desc, uint64_t avail,
		      uint64_t used);
unsigned rig_get_base(struct backend_rig *rig, unsigned index);
void rig_get_config(struct backend_rig *rig, struct virtio_blk_config *config);
uint64_t rig_set_wce(struct backend_rig *rig, uint8_t value);

/* --- the whole sequence ------------------------------------------------------ */

/* Sends SET_OWNER, and accepts all features and protocol features that are offered. */
void rig_negotiate(struct backend_rig *rig);
uint64_t rig_set_mem_table(struct backend_rig *rig);
uint64_t rig_add_mem_reg(struct backend_rig *rig, int fd, uint64_t guest, uint64_t user,
			 uint64_t bytes, uint64_t offset);
/* Sends regions and files that no memory may have; each is refused. Needs the rig's own region. */
void rig_expect_regions_refused(struct backend_rig *rig);
/* Creates the driver end of a ring that continues at `base`; sends no message. */
void rig_make_ring(struct backend_rig *rig, unsigned index, unsigned size, uint16_t base);
/* Sends NUM, BASE, ADDR, CALL, ERR, KICK; returns the answer to KICK. */
uint64_t rig_describe_queue(struct backend_rig *rig, unsigned index, uint16_t base);
/* The same, then ENABLE; 0: the queue runs. */
uint64_t rig_tell_queue(struct backend_rig *rig, unsigned index, uint16_t base);
/* Makes the ring and tells the back-end, which must accept it. */
void rig_start_queue(struct backend_rig *rig, unsigned index, unsigned size, uint16_t base);
/* Negotiates, sends the memory table, and starts queue 0. */
void rig_start(struct backend_rig *rig);

/* --- the in-flight area ------------------------------------------------------ */

struct rig_area {
	int fd;
	uint64_t bytes;
	struct vublk_inflight_split *region; /* of queue 0 */
};

/* Sends GET_INFLIGHT_FD for RIG_QUEUES queues of RIG_SIZE entries; maps the area. */
void rig_get_area(struct backend_rig *rig, struct rig_area *area);
/* Sends SET_INFLIGHT_FD with the same numbers, or with others. */
uint64_t rig_set_area(struct backend_rig *rig, const struct rig_area *area);
uint64_t rig_set_area_as(struct backend_rig *rig, const struct rig_area *area, uint64_t size,
			 uint64_t offset, unsigned num_queues, unsigned queue_size);
void rig_drop_area(struct rig_area *area);
struct vublk_inflight_split *rig_area_region(const struct rig_area *area, unsigned index);
/* Entries of a queue's region that are in flight. */
unsigned rig_count_inflight(const struct rig_area *area, unsigned index);

/* --- requests ----------------------------------------------------------------- */

/* The queue's data area: host pointer and guest address. */
char *rig_data(struct backend_rig *rig, unsigned index);
uint64_t rig_data_addr(unsigned index);
/* Adds a request whose data is at `data_offset` of the queue's data area; not kicked. */
void rig_add(struct backend_rig *rig, unsigned index, uint16_t token, uint32_t type,
	     uint64_t sector, uint64_t data_offset, uint32_t bytes);
/* Publishes, and kicks if the device wants a kick. */
void rig_kick(struct backend_rig *rig, unsigned index);
/* Waits for one completion. */
uint16_t rig_take(struct backend_rig *rig, unsigned index, uint32_t *bytes);
/* The status byte of the request with this token. */
uint8_t rig_status(struct backend_rig *rig, unsigned index, uint16_t token);
/* Executes one request and returns its status. */
uint8_t rig_io(struct backend_rig *rig, unsigned index, uint32_t type, uint64_t sector,
	       uint64_t data_offset, uint32_t bytes);

#endif
