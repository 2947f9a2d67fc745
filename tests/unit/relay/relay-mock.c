/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "relay-mock.h"

#include <poll.h>

#define TURN_MS 1 /* the longest pause between two calls of mock_pump() */

/* Holds the lock except during poll(). A test takes the lock during that time. */
static void *run(void *opaque)
{
	struct relay_mock *mock = opaque;
	bool is_over, was_busy;

	do {
		pthread_mutex_lock(&mock->lock);
		was_busy = mock_pump(&mock->mock);
		is_over = mock->is_over;
		pthread_mutex_unlock(&mock->lock);
		poll(NULL, 0, was_busy ? 0 : TURN_MS);
	} while (!is_over);
	return NULL;
}

void relay_mock_init(struct relay_mock *mock)
{
	mock_init(&mock->mock);
	mock->is_over = false;
	pthread_mutex_init(&mock->lock, NULL);
}

void relay_mock_open(struct relay_mock *mock, struct relay *relay,
		     const struct vublk_option *properties)
{
	struct vublk_option all[8] = { { "chardev", mock->mock.path } };

	for (unsigned n = 1; properties && properties->name; n++)
		all[n] = *properties++;
	assert_int_equal(pthread_create(&mock->thread, NULL, run, mock), 0);
	relay_open_alone(relay, all);
	relay_wait(relay, "listening on");
}

void relay_mock_stop(struct relay_mock *mock)
{
	pthread_mutex_lock(&mock->lock);
}

void relay_mock_continue(struct relay_mock *mock)
{
	pthread_mutex_unlock(&mock->lock);
}

void relay_mock_close(struct relay_mock *mock, struct relay *relay)
{
	relay_close(relay);
	relay_mock_stop(mock);
	mock->is_over = true;
	relay_mock_continue(mock);
	assert_int_equal(pthread_join(mock->thread, NULL), 0);
	pthread_mutex_destroy(&mock->lock);
	mock_deinit(&mock->mock);
}
