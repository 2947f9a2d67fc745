/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_MOCK_BACKEND_H
#define VUBLK_TESTS_MOCK_BACKEND_H

/*
 * A back-end that a test controls, and that can have faults. It has no thread and works only in
 * mock_pump() and mock_pump_once(), so each run of a test is the same.
 *
 * A new mock behaves well: it has four queues, every protocol feature, and a valid config. A test
 * changes its fields, or sets a fault for one of its answers.
 */
#include "proto/vhost-user/channel.h"

#include <stdbool.h>
#include <stdint.h>

#define MOCK_LOG 8192

enum mock_fault_kind {
	MOCK_NO_FAULT,
	MOCK_CUT,           /* closes the connection after `bytes` of the answer */
	MOCK_RESET,         /* closes with the request unread, so the peer gets ECONNRESET */
	MOCK_SILENCE,       /* sends neither this answer nor later ones; the connection stays */
	MOCK_WRONG_REQUEST, /* the header names another request */
	MOCK_NO_REPLY_FLAG,
	MOCK_WRONG_VERSION,
	MOCK_SHORT,         /* the payload is one byte too short */
	MOCK_HUGE,          /* the header has a size that no message can have */
	MOCK_TWICE,         /* sends the answer twice */
	MOCK_WITH_FDS,      /* sends three descriptors with the answer */
	MOCK_WITH_MANY_FDS, /* sends more descriptors than a message can have */
	MOCK_REFUSE,        /* the payload is 1, which refuses the request */
	MOCK_EMPTY,         /* the answer has no payload */
	MOCK_VALUE,         /* the payload is the u64 `value` */
	MOCK_RANDOM,        /* changes bytes of some answers at random, with the seed `value` */
};

struct mock_fault {
	enum mock_fault_kind kind;
	uint32_t request;
	unsigned nth;  /* counted from 0, since mock_init() or mock_forget() */
	unsigned bytes;
	uint64_t value;
};

struct mock {
	char path[200];
	int listen_fd;
	unsigned close_first; /* how many of the next connections the mock closes immediately */
	unsigned num_connections;
	struct vublk_channel channel;
	int back_channel; /* -1: the device has sent none */

	int inflight_fd; /* the area that the mock made; -1: none */
	uint64_t inflight_inode; /* of the last area that the device sent */
	struct vublk_vu_inflight inflight; /* the message with that area */

	/*
	 * like yc-libvhost-server, the mock makes a new area for each GET_INFLIGHT_FD, and hangs up
	 * if the device sends an area of another size
	 */
	bool insists_on_area;
	bool has_tight_areas; /* no padding; false: regions have 64-byte alignment */

	int kick_fds[4], call_fds[4], err_fds[4]; /* of the first queues; -1: none was sent */

	uint64_t features, protocol_features;
	uint64_t accepted_features, accepted_protocol_features;
	uint64_t max_queues, memory_slots, status;
	bool echoes_log_size; /* answers SET_LOG_BASE with the size of the log, not with 0 */
	uint8_t config[256] __attribute__((aligned(8))); /* a struct virtio_blk_config */
	unsigned max_config_bytes; /* the mock refuses GET_CONFIG for more, with an empty answer */
	bool ignore_set_config;
	uint16_t base; /* the index in the answer to GET_VRING_BASE */
	bool keeps_base; /* SET_VRING_BASE of queue 0 changes `base` */
	uint32_t base_asked_with; /* `num` of the last GET_VRING_BASE; should be 0 */
	uint16_t given_bases[4]; /* from SET_VRING_BASE, of the first queues */
	struct vhost_vring_addr given_addrs[4]; /* from SET_VRING_ADDR, of the first queues */

	struct vublk_vu_log dirty_log; /* from the last SET_LOG_BASE */
	uint64_t dirty_log_inode;      /* 0: there was no SET_LOG_BASE */
	unsigned num_regions;

	uint32_t refused_request; /* refused if the message requests a reply; 0: none */
	struct mock_fault fault;
	bool silent; /* sends no answers; set by MOCK_SILENCE and by tests */
	unsigned answers[VUBLK_VU_REQUEST_END];
	uint32_t log[MOCK_LOG]; /* the requests in the order of arrival */
	unsigned num_log;
	unsigned received[VUBLK_VU_REQUEST_END];
};

void mock_init(struct mock *mock);
/* Like mock_init(), for a further mock of the process: `suffix` is added to the socket's path. */
void mock_init_with_suffix(struct mock *mock, const char *suffix);
void mock_deinit(struct mock *mock);
/* Closes the connection and its descriptors, but keeps listening. */
void mock_hang_up(struct mock *mock);
/*
 * mock_die() hangs up, stops listening and removes the socket's file. mock_live_again() listens
 * again.
 */
void mock_die(struct mock *mock);
void mock_live_again(struct mock *mock);
/* Hangs up, and connects to a device that listens at `path`. */
void mock_connect(struct mock *mock, const char *path);
/*
 * Accepts a connection and handles all pending requests. Returns whether there was anything to do.
 */
bool mock_pump(void *mock);
/* Handles one request. Returns whether there was one. */
bool mock_pump_once(struct mock *mock);
/* Clears `answers`, `received`, `num_connections` and `log`. */
void mock_forget(struct mock *mock);
/* Returns whether the mock has answered this request since mock_init() or mock_forget(). */
bool mock_is_answered(const struct mock *mock, uint32_t request);

/* These send on the back channel, which must exist: a valid request, or any bytes. */
void mock_send_config_change(struct mock *mock, bool need_reply);
void mock_send_on_back_channel(struct mock *mock, const void *bytes, unsigned num_bytes);
void mock_send_with_fds_on_back_channel(struct mock *mock, const void *bytes,
					   unsigned num_bytes, unsigned num_fds);
/* Reads the pending answers on the back channel. Returns their number. */
unsigned mock_take_backend_answers(struct mock *mock);

#endif
