/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_MOCK_BACKEND_H
#define VUBLK_TESTS_MOCK_BACKEND_H

/*
 * A back-end that does what a test tells it, faults included. It has no thread: it works when
 * mock_pump() is called, so each run is the same.
 *
 * A new mock behaves well: four queues, every protocol feature, a valid config. A test changes
 * the fields, and puts a fault on one answer.
 */
#include "proto/vhost-user/channel.h"

#include <stdbool.h>
#include <stdint.h>

#define MOCK_LOG 8192

enum mock_fault_kind {
	MOCK_NO_FAULT,
	MOCK_CUT,           /* end of file after `bytes` of the answer */
	MOCK_RESET,         /* closed with the request unread: the peer sees an error instead of end of file */
	MOCK_SILENCE,       /* no answer from this one on, but the connection stays */
	MOCK_WRONG_REQUEST, /* the answer to another request */
	MOCK_NO_REPLY_FLAG,
	MOCK_WRONG_VERSION,
	MOCK_SHORT,         /* a payload that is a byte too short */
	MOCK_HUGE,          /* a size in the header that no message has */
	MOCK_TWICE,         /* the answer comes twice */
	MOCK_WITH_FDS,      /* three descriptors come with the answer */
	MOCK_WITH_MANY_FDS, /* more descriptors than a message can have */
	MOCK_REFUSE,        /* the confirmation is a refusal */
	MOCK_EMPTY,         /* no payload at all */
	MOCK_VALUE,         /* the u64 `value` */
	MOCK_RANDOM,        /* now and then an answer has random bytes, from the seed `value` */
};

struct mock_fault {
	enum mock_fault_kind kind;
	uint32_t request;
	unsigned nth;  /* 0: the first answer to that request */
	unsigned bytes;
	uint64_t value;
};

struct mock {
	char path[200];
	int listen_fd;
	unsigned close_first; /* connections that are closed as soon as they are made */
	unsigned num_connections;
	struct vublk_channel channel;
	int back_channel; /* -1: it was given none */

	int inflight_fd; /* the area that the mock made; -1: none was requested */
	uint64_t inflight_inode; /* of the last area that the device sent */
	struct vublk_vu_inflight inflight; /* and the message that came with it */

	/*
	 * hangs up when the device sends an area of another size than the mock's own
	 * (yc-libvhost-server)
	 */
	bool insists_on_area;
	bool has_tight_areas; /* its area has no padding; false: regions are aligned to 64 bytes */

	int kick_fds[4], call_fds[4], err_fds[4]; /* of the first queues; -1: it was given none */

	uint64_t features, protocol_features;
	uint64_t accepted_features, accepted_protocol_features;
	uint64_t max_queues, memory_slots, status;
	bool echoes_log_size; /* answers SET_LOG_BASE with the size, not with 0 */
	uint8_t config[256];
	unsigned max_config_bytes; /* a longer config is refused with an empty answer */
	bool ignore_set_config;
	uint16_t base; /* the answer to GET_VRING_BASE */
	uint32_t base_asked_with; /* the number in the last GET_VRING_BASE, which has to be 0 */
	uint16_t given_bases[4]; /* of the first queues, by SET_VRING_BASE */
	struct vhost_vring_addr given_addrs[4]; /* the same, by SET_VRING_ADDR */

	struct vublk_vu_log dirty_log; /* the last one that it was given */
	uint64_t dirty_log_inode;      /* 0: it was given none */
	unsigned num_regions;

	uint32_t refused_request; /* refused each time it needs a confirmation; 0: no request */
	struct mock_fault fault;
	bool silent; /* since MOCK_SILENCE */
	unsigned answers[VUBLK_VU_REQUEST_END];
	uint32_t log[MOCK_LOG]; /* requests in the order in which they came */
	unsigned num_log;
	unsigned received[VUBLK_VU_REQUEST_END];
};

void mock_init(struct mock *mock);
void mock_deinit(struct mock *mock);
/* Closes the connection and keeps listening. */
void mock_hang_up(struct mock *mock);
/* Closes the connection and removes the socket; then makes a new socket. */
void mock_die(struct mock *mock);
void mock_live_again(struct mock *mock);
/* Hangs up, and connects to a device that listens. */
void mock_connect(struct mock *mock, const char *path);
/* Does the pending work. True: there was some. */
bool mock_pump(void *mock);
/* Answers one request. True: there was one. */
bool mock_pump_once(struct mock *mock);
/* Clears the counters and the log. */
void mock_forget(struct mock *mock);
/* Whether a request has an answer, given the features that were negotiated. */
bool mock_is_answered(const struct mock *mock, uint32_t request);

/* On the back channel: a valid request, and any bytes. */
void mock_send_config_change(struct mock *mock, bool need_reply);
void mock_send_on_back_channel(struct mock *mock, const void *bytes, unsigned num_bytes);
void mock_send_with_fds_on_back_channel(struct mock *mock, const void *bytes,
					   unsigned num_bytes, unsigned num_fds);
/* Reads the answers that have come on the back channel; returns their number. */
unsigned mock_take_backend_answers(struct mock *mock);

#endif
