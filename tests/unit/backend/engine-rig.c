/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine-rig.h"

#include "harness.h"

#include "util/checked.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

void engine_complete(struct vublk_engine_queue *queue, unsigned count)
{
	const struct vublk_engine_queue_ops *ops = queue->ops;
	struct vublk_engine_io *ios[16];
	struct pollfd wait = { .fd = queue->fd, .events = POLLIN };

	if (ops->commit)
		ops->commit(queue);
	while (count) {
		unsigned n = ops->poll(queue, ios, VUBLK_ARRAY_SIZE(ios));

		assert_true(n <= count);
		count -= n;
		if (!count || n)
			continue;
		assert_true(queue->fd >= 0);
		assert_int_equal(poll(&wait, 1, -1), 1);
		if (ops->woken)
			ops->woken(queue);
	}
}

int engine_io(struct vublk_engine_queue *queue, enum vublk_engine_op op, unsigned flags,
	      uint64_t offset, uint64_t bytes, struct iovec *iov, unsigned num_iov)
{
	struct iovec copy[64];
	struct vublk_engine_io io = {
		.op = op, .flags = flags, .offset = offset, .bytes = bytes,
		.iov = copy, .num_iov = num_iov, .result = 1,
	};

	if (num_iov)
		memcpy(copy, iov, num_iov * sizeof(*iov));
	queue->ops->submit(queue, &io);
	engine_complete(queue, 1);
	return io.result;
}

void engine_fill(char *p, size_t bytes, unsigned seed)
{
	for (size_t i = 0; i < bytes; i++)
		p[i] = (char)(((i + seed) * 2654435761u) >> 24);
}

void engine_log_keep(void *opaque, enum vublk_log_level level, const char *text)
{
	struct engine_log *line = opaque;

	if (level <= VUBLK_LOG_WARNING)
		snprintf(line->text, sizeof(line->text), "%s", text);
}
