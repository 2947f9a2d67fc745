/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_RELAY_MOCK_H
#define VUBLK_TESTS_RELAY_MOCK_H

/*
 * A relay whose back-end is a mock that runs on a thread of its own. A test may access the mock
 * only between relay_mock_stop() and relay_mock_continue(), or before relay_mock_open().
 */
#include "mock-backend.h"
#include "relay-rig.h"

struct relay_mock {
	struct mock mock;
	pthread_t thread;
	pthread_mutex_t lock;
	bool is_over;
};

/* Initializes the mock without running it. */
void relay_mock_init(struct relay_mock *mock);
/*
 * Starts the mock's thread, and a relay that uses the mock and listens. `properties` may be NULL.
 */
void relay_mock_open(struct relay_mock *mock, struct relay *relay,
		     const struct vublk_option *properties);
void relay_mock_stop(struct relay_mock *mock);
void relay_mock_continue(struct relay_mock *mock);
/* Closes the relay and ends the mock. */
void relay_mock_close(struct relay_mock *mock, struct relay *relay);

#endif
