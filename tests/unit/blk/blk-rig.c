/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "blk-rig.h"

#include "util/checked.h"

#include <vublk/blocking.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>

struct vublk_error error;

/* --- what the handlers have reported ------------------------------------------------------ */

struct told told = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER };

static void on_event(void *opaque, enum vublk_blk_event event, const struct vublk_error *why)
{
	struct vublk_blk_info info;
	char text[16];

	pthread_mutex_lock(&told.lock);
	vublk_blk_get_info(told.blk, &info, sizeof(info));
	told.capacity_bytes = info.capacity_bytes;
	told.close_result = vublk_blk_close(told.blk, 0, NULL);
	assert_int_equal(vublk_blk_set_write_cache(told.blk, false, NULL), -EBUSY);
	assert_null(vublk_blk_alloc(told.blk, 4096, NULL));
	assert_int_equal(vublk_blk_pread(told.blk, 0, text, sizeof(text), 0, NULL), -EBUSY);
	if (why)
		snprintf(told.text, sizeof(told.text), "%s", why->text);
	told.events[event]++;
	pthread_cond_signal(&told.changed);
	pthread_mutex_unlock(&told.lock);
}

void wait_for_event(enum vublk_blk_event event)
{
	pthread_mutex_lock(&told.lock);
	while (!told.events[event])
		pthread_cond_wait(&told.changed, &told.lock);
	told.events[event] = 0;
	pthread_mutex_unlock(&told.lock);
}

static const struct vublk_blk_handlers handlers = { .event = on_event };

const struct vublk_option blk_fails_at_once[] = { { "reconnect-ms", "0" }, { NULL } };

struct vublk_blk *open_disk_with(const struct vublk_option *options)
{
	struct vublk_blk *blk = NULL;

	pthread_mutex_lock(&told.lock);
	assert_int_equal(vublk_blk_open("socket", options, &handlers, sizeof(handlers), &blk,
					&error), 0);
	told.blk = blk;
	pthread_mutex_unlock(&told.lock);
	return blk;
}

struct vublk_blk *open_disk(void)
{
	return open_disk_with(blk_fails_at_once);
}

struct vublk_blk *set_up(void)
{
	fake_init(DISK_BYTES);
	return open_disk();
}

void tear_down(struct vublk_blk *blk)
{
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	fake_deinit();
}

struct vublk_blk *begin(unsigned num_queues, const struct vublk_option *options)
{
	fake_init(DISK_BYTES);
	fake_plan.num_queues = num_queues;
	return open_disk_with(options);
}

void lose(void)
{
	fake_disconnect("the back-end hung up");
	wait_for_event(VUBLK_BLK_LOST);
}

void find(void)
{
	fake_reconnect();
	wait_for_event(VUBLK_BLK_RECONNECTED);
}

void read_many(struct vublk_blk *blk, unsigned queue, unsigned count)
{
	char *buffer = vublk_blk_alloc(blk, 4096, &error);

	for (unsigned i = 0; i < count; i++)
		assert_int_equal(vublk_blk_read(vublk_blk_queue(blk, queue), 0, buffer, 4096, 0,
						&told, &error), 0);
	vublk_blk_submit(vublk_blk_queue(blk, queue));
}
