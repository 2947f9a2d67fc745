/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_RELAY_MOCK_H
#define VUBLK_TESTS_RELAY_MOCK_H

/*
 * A relay with the mock back-end behind it, which runs on a thread of its own. A test may
 * inspect or change the mock between relay_mock_stop() and relay_mock_continue().
 */
#include "mock-backend.h"
#include "relay-rig.h"

struct relay_mock {
	struct mock mock;
	pthread_t thread;
	pthread_mutex_t lock;
	bool is_over;
};

/* Prepares the mock without running it. */
void relay_mock_init(struct relay_mock *mock);
/* Runs the mock, and a relay in front of it that listens. `properties` may be NULL. */
void relay_mock_open(struct relay_mock *mock, struct relay *relay,
		     const struct vublk_option *properties);
void relay_mock_stop(struct relay_mock *mock);
void relay_mock_continue(struct relay_mock *mock);
/* Closes the relay and ends the mock. */
void relay_mock_close(struct relay_mock *mock, struct relay *relay);

#endif
