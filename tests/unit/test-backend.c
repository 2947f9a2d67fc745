/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The back-end as a front-end meets it: the messages, and requests of every kind. */
#include "backend-rig.h"

#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void fill(char *p, size_t bytes, unsigned seed)
{
	for (size_t i = 0; i < bytes; i++)
		p[i] = (char)((i + seed) * 2654435761u >> 24);
}

static void test_write_and_read_back(void **state)
{
	struct rig rig;
	char *data;

	rig_open_memory(&rig);
	rig_start(&rig);
	data = rig_data(&rig, 0);
	fill(data, 8192, 1);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_OUT, 7, 0, 8192), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_IN, 7, 8192, 8192), VIRTIO_BLK_S_OK);
	assert_memory_equal(data, data + 8192, 8192);
	assert_int_equal(rig_io(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	rig_close(&rig);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_write_and_read_back),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
