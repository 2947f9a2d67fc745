/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads the disk's configuration, from its beginning and in one piece, and writes its only writable
 * byte. device/config.c interprets the fields.
 *
 * Key idea: a back-end refuses a size with an empty answer. Some back-ends refuse even 60 bytes,
 * nearly all refuse 96, and some ignore the offset. So the first request is for 60 bytes. If it is
 * refused, requests for smaller sizes follow. If it succeeds and the back-end offers a feature
 * whose fields lie beyond 60 bytes, a request for 96 bytes follows.
 *
 * Specification: "VHOST_USER_GET_CONFIG", "VHOST_USER_SET_CONFIG".
 */
#include "frontend/frontend.h"

#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <string.h>

#define LONG_CONFIG_FEATURES (VUBLK_BIT(VUBLK_BLK_F_SECURE_ERASE) | VUBLK_BIT(VUBLK_BLK_F_ZONED))

/*
 * The sizes to request. The handshake begins with sizes[1]. If the back-end refuses this size, the
 * smaller ones follow. If it accepts this size, and offers one of LONG_CONFIG_FEATURES, sizes[0]
 * follows.
 */
static const unsigned sizes[] = {
	VUBLK_BLK_CONFIG_BYTES,
	VUBLK_BLK_CONFIG_OLD_BYTES,                          /* up to write_zeroes_may_unmap */
	offsetof(struct virtio_blk_config, max_discard_sectors),
	offsetof(struct virtio_blk_config, size_max),        /* the capacity alone */
};

static void on_config_reply(void *opaque, unsigned tag, struct vublk_vu_message *reply);

static void ask(struct vublk_frontend *frontend, unsigned size_index)
{
	struct vublk_vu_message message;

	frontend->config_read.size_index = size_index;
	vublk_vu_message_init(&message, VUBLK_VU_GET_CONFIG);
	message.header.size = VUBLK_VU_CONFIG_HEADER_BYTES + sizes[size_index];
	message.payload.config.size_bytes = sizes[size_index];
	vublk_frontend_ask(frontend, &message, 0, on_config_reply, frontend, size_index);
}

static void finish(struct vublk_frontend *frontend, const struct vublk_error *error)
{
	struct vublk_frontend_config_read *read = &frontend->config_read;
	vublk_frontend_config_fn *done = read->done;

	read->done = NULL;
	if (!error)
		frontend->info.config_bytes = read->num_bytes;
	done(read->opaque, read->data, read->num_bytes, error);
}

/*
 * Returns `asked` if the answer has that many config bytes, 0 if the back-end refuses this size,
 * and -EPROTO if the answer has any other size.
 */
static int check_size(const struct vublk_vu_message *reply, unsigned asked,
		      struct vublk_error *error)
{
	uint32_t bytes = reply->header.size;

	if (bytes <= VUBLK_VU_CONFIG_HEADER_BYTES || !reply->payload.config.size_bytes)
		return 0;
	if (bytes != VUBLK_VU_CONFIG_HEADER_BYTES + asked)
		return vublk_error_set(error, EPROTO,
				       "the answer to GET_CONFIG has a payload of %u bytes; "
				       "expected %u or 0", bytes,
				       VUBLK_VU_CONFIG_HEADER_BYTES + asked);
	return (int)asked;
}

static void on_refused_size(struct vublk_frontend *frontend, unsigned size_index)
{
	struct vublk_frontend_config_read *read = &frontend->config_read;
	struct vublk_error error;

	if (read->num_bytes) {
		finish(frontend, NULL);
	} else if (size_index + 1 < VUBLK_ARRAY_SIZE(sizes)) {
		ask(frontend, size_index + 1);
	} else {
		vublk_error_set(&error, EPROTO,
				"the back-end answers each GET_CONFIG with an empty configuration, "
				"even if only the capacity is requested");
		finish(frontend, &error);
	}
}

static void on_config_reply(void *opaque, unsigned size_index, struct vublk_vu_message *reply)
{
	struct vublk_frontend *frontend = opaque;
	struct vublk_frontend_config_read *read = &frontend->config_read;
	struct vublk_error error;
	int bytes = check_size(reply, sizes[size_index], &error);

	if (bytes < 0) {
		vublk_frontend_fail(frontend, &error);
		return;
	}
	if (!bytes) {
		on_refused_size(frontend, size_index);
		return;
	}
	memcpy(read->data, reply->payload.config.data, (size_t)bytes);
	read->num_bytes = (unsigned)bytes;
	if (size_index == 1 && !frontend->info.config_bytes &&
	    frontend->info.features & LONG_CONFIG_FEATURES)
		ask(frontend, 0);
	else
		finish(frontend, NULL);
}

/*
 * Returns the index of the size to request first: the size that this back-end has accepted before
 * or, in the handshake, VUBLK_BLK_CONFIG_OLD_BYTES.
 */
static unsigned first_size(const struct vublk_frontend *frontend)
{
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(sizes); i++)
		if (sizes[i] == frontend->info.config_bytes)
			return i;
	return 1;
}

void vublk_frontend_read_config(struct vublk_frontend *frontend, vublk_frontend_config_fn *done,
				void *opaque)
{
	struct vublk_frontend_config_read *read = &frontend->config_read;

	read->num_bytes = 0;
	read->done = done;
	read->opaque = opaque;
	ask(frontend, first_size(frontend));
}

/* --- the write cache -------------------------------------------------------------- */

static void send_wce(void *owner, unsigned index)
{
	struct vublk_frontend *frontend = owner;
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_SET_CONFIG);
	message.header.size = VUBLK_VU_CONFIG_HEADER_BYTES + 1;
	message.payload.config.offset = VUBLK_BLK_WCE_OFFSET;
	message.payload.config.size_bytes = 1;
	message.payload.config.flags = VUBLK_VU_CONFIG_WRITABLE;
	message.payload.config.data[0] = frontend->config_write_wce;
	vublk_frontend_batch_send_confirmed(&frontend->config_write, &message);
}

void vublk_frontend_write_wce(struct vublk_frontend *frontend, uint8_t wce,
			      void (*done)(void *opaque, const struct vublk_error *error),
			      void *opaque)
{
	struct vublk_frontend_batch *batch = &frontend->config_write;

	frontend->config_write_wce = wce;
	batch->owner = frontend;
	batch->send_piece = send_wce;
	vublk_frontend_batch_begin(frontend, batch, 1, done, opaque);
}
