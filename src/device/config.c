/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The configuration space that the driver sees: a copy of the back-end's config, in which the
 * device sets its own number of queues, lowers the limit of segments if necessary, corrects I/O
 * sizes that make no sense, and zeroes the fields of features that are not offered. The messages
 * are in frontend/config.c.
 *
 * Key idea: the back-end's values are checked first. If the block size or the capacity is
 * impossible, the device refuses the config, and with it a new back-end. If the field of an
 * optional feature makes no sense, the device does not offer that feature.
 *
 * virtio 1.3, section 5.2.4; vhost-user "VHOST_USER_GET_CONFIG" and "_SET_CONFIG".
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <string.h>

#define MAX_BLOCK_BYTES (2u << 20)
#define MAX_CAPACITY_SECTORS (INT64_MAX >> VUBLK_SECTOR_SHIFT)
#define MAX_PHYSICAL_BLOCK_EXP 16
#define MAX_PHYSICAL_BLOCK_BYTES ((uint64_t)VUBLK_SECTOR_BYTES << MAX_PHYSICAL_BLOCK_EXP)

_Static_assert(offsetof(struct virtio_blk_config, wce) == VUBLK_BLK_WCE_OFFSET, "layout");

static bool offers(const struct vublk_device *device, unsigned bit)
{
	return device->features & VUBLK_BIT(bit);
}

/* --- checking the back-end's config --------------------------------------------------- */

static int check_capacity(const struct virtio_blk_config *config, struct vublk_error *error)
{
	uint64_t sectors = le64toh(config->capacity);

	if (sectors <= (uint64_t)MAX_CAPACITY_SECTORS)
		return 0;
	return vublk_error_set(error, EPROTO,
			       "the back-end reports a capacity of %" PRIu64 " sectors; the "
			       "maximum is %" PRIu64, sectors,
			       (uint64_t)MAX_CAPACITY_SECTORS);
}

static int check_block_size(const struct vublk_device *device,
			    const struct virtio_blk_config *config, struct vublk_error *error)
{
	uint32_t bytes = le32toh(config->blk_size);

	if (!offers(device, VIRTIO_BLK_F_BLK_SIZE) ||
	    (vublk_is_power_of_two(bytes) && bytes >= VUBLK_SECTOR_BYTES &&
	     bytes <= MAX_BLOCK_BYTES))
		return 0;
	return vublk_error_set(error, EPROTO,
			       "the back-end reports a block size of %u bytes; expected a power of "
			       "two from %u to %u", bytes, VUBLK_SECTOR_BYTES,
			       MAX_BLOCK_BYTES);
}

static uint32_t block_bytes_of(const struct vublk_device *device,
			       const struct virtio_blk_config *config)
{
	return offers(device, VIRTIO_BLK_F_BLK_SIZE) ? le32toh(config->blk_size) :
						       VUBLK_SECTOR_BYTES;
}

/*
 * Returns whether the size of a physical block is valid. Drivers store this size, in bytes, in
 * 32 bits.
 */
static bool is_physical_block_sensible(const struct vublk_device *device,
				       const struct virtio_blk_config *config)
{
	uint64_t block_bytes = block_bytes_of(device, config);

	return config->physical_block_exp <= MAX_PHYSICAL_BLOCK_EXP &&
	       block_bytes << config->physical_block_exp <= MAX_PHYSICAL_BLOCK_BYTES;
}

/*
 * Returns the offered features whose config fields make no sense. The disk can be used without
 * these features.
 */
static uint64_t senseless_features(const struct vublk_device *device,
				   const struct virtio_blk_config *config)
{
	uint64_t features = 0;

	if (!config->size_max)
		features |= VUBLK_BIT(VIRTIO_BLK_F_SIZE_MAX);
	if (!config->seg_max)
		features |= VUBLK_BIT(VIRTIO_BLK_F_SEG_MAX);
	if (!is_physical_block_sensible(device, config))
		features |= VUBLK_BIT(VIRTIO_BLK_F_TOPOLOGY);
	return features & device->features;
}

/*
 * Stops offering `features`. Error: EPROTO if the driver may rely on one of them. In REALIZING the
 * driver relies on no feature, in RECONNECTING on those that it has accepted, and in any other
 * state on all that were offered.
 */
static int withdraw_features(struct vublk_device *device, uint64_t features,
			     struct vublk_error *error)
{
	if (!features)
		return 0;
	if (features & (device->state == VUBLK_DEVICE_REALIZING ? 0 :
			device->state == VUBLK_DEVICE_RECONNECTING ? device->acked_features :
			UINT64_MAX))
		return vublk_error_set(error, EPROTO,
				       "the back-end reports no valid value for %s in its "
				       "configuration, but the driver may rely on this feature",
				       vublk_feature_name((unsigned)__builtin_ctzll(features)));
	vublk_log(&device->log, VUBLK_LOG_DEBUG,
		  "the back-end reports no valid value for %s in its configuration, so the device "
		  "does not offer this feature",
		  vublk_feature_name((unsigned)__builtin_ctzll(features)));
	device->features &= ~features;
	return 0;
}

static void limit_seg_max(uint64_t size, struct virtio_blk_config *config)
{
	uint32_t room = size > 2 ? (uint32_t)size - 2 : 1; /* 2 descriptors have the header and the
							      status */

	if (le32toh(config->seg_max) > room)
		config->seg_max = htole32(room);
}

/*
 * Returns whether requests cannot use indirect descriptors: the driver has not accepted the feature
 * or, if it has accepted no features yet, is not offered it.
 */
static bool lacks_indirect(const struct vublk_device *device)
{
	uint64_t features = device->has_acked_features ? device->acked_features : device->features;

	return !(features & VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC));
}

/*
 * Returns the number of entries of the driver's ring or of the shadow ring, whichever is smaller. A
 * request has to fit in both.
 */
static uint64_t smallest_ring(const struct vublk_device *device)
{
	const struct vublk_device_settings *settings = &device->settings;

	return settings->shadow == VUBLK_SHADOW_OFF ? settings->queue_size :
	       VUBLK_MIN(settings->queue_size, settings->shadow_queue_size);
}

/*
 * Corrects a preferred I/O size of `blocks` blocks: returns it, or 0 (unknown) in three cases. A
 * size that is not a multiple of the physical block would make requests slow. A size of one block
 * says nothing, and would make Windows split its requests. A size of 4 GiB or more exceeds the 32
 * bits in which drivers store it.
 */
static uint32_t io_blocks(uint32_t blocks, unsigned physical_block_exp, uint32_t block_bytes)
{
	bool is_multiple = !(blocks & ((UINT32_C(1) << physical_block_exp) - 1));

	return blocks > 1 && is_multiple && (uint64_t)blocks * block_bytes <= UINT32_MAX ? blocks :
											   0;
}

static void correct_topology(const struct vublk_device *device, struct virtio_blk_config *config)
{
	uint32_t block_bytes = block_bytes_of(device, config);
	unsigned exp = config->physical_block_exp;

	config->min_io_size = htole16((uint16_t)io_blocks(le16toh(config->min_io_size), exp,
							  block_bytes));
	config->opt_io_size = htole32(io_blocks(le32toh(config->opt_io_size), exp, block_bytes));
	/* The first aligned block must lie within the first physical block. */
	if (config->alignment_offset >> exp)
		config->alignment_offset = 0;
}

static void put_own_values(const struct vublk_device *device, struct virtio_blk_config *config)
{
	config->num_queues = htole16((uint16_t)device->num_queues);
	if (offers(device, VIRTIO_BLK_F_TOPOLOGY))
		correct_topology(device, config);
	if (device->settings.seg_max_adjust)
		limit_seg_max(device->settings.queue_size, config);
	vublk_device_shadow_limit(device, config);
}

int vublk_device_take_config(struct vublk_device *device, const uint8_t *config,
			     struct vublk_error *error)
{
	struct virtio_blk_config own;
	int r;

	memcpy(&own, config, sizeof(own));
	r = check_capacity(&own, error);
	if (!r)
		r = check_block_size(device, &own, error);
	if (!r)
		r = withdraw_features(device, senseless_features(device, &own), error);
	if (r < 0)
		return r;
	put_own_values(device, &own);
	memcpy(device->backend_config, config, sizeof(device->backend_config));
	memcpy(device->config, config, sizeof(device->config));
	memcpy(device->config, &own, sizeof(own));
	vublk_device_clear_fields(device, device->config);
	return 0;
}

void vublk_device_bump_config_generation(struct vublk_device *device)
{
	device->config_generation++;
}

/* --- reading it again ------------------------------------------------------------------ */

static void begin_read(struct vublk_device *device);

/*
 * Returns whether two configs differ in more than the byte `wce`. The driver wrote that byte
 * itself, so it needs no interrupt if only `wce` has changed.
 */
static bool differs_beyond_wce(const uint8_t *a, const uint8_t *b)
{
	return memcmp(a, b, VUBLK_BLK_WCE_OFFSET) ||
	       memcmp(a + VUBLK_BLK_WCE_OFFSET + 1, b + VUBLK_BLK_WCE_OFFSET + 1,
		      VUBLK_BLK_CONFIG_BYTES - VUBLK_BLK_WCE_OFFSET - 1);
}

static void report_write(struct vublk_device *device, const struct vublk_error *error)
{
	device->config_write = VUBLK_DEVICE_WRITE_NONE;
	if (device->ops->config_written)
		device->ops->config_written(device->bus, error);
}

/*
 * Ends a write to the config. The write has succeeded only if the value was read back, because a
 * back-end may confirm a write without adopting the value. `read_error` says why the config was not
 * read or was refused; NULL: the config was accepted.
 */
static void end_write(struct vublk_device *device, const struct vublk_error *read_error)
{
	struct vublk_error error;

	if (read_error) {
		report_write(device, read_error);
	} else if (device->config[VUBLK_BLK_WCE_OFFSET] != device->config_write_wce) {
		vublk_error_set(&error, EIO,
				"the back-end ignored the value %u that was written to the "
				"configuration field wce: it still reports %u",
				device->config_write_wce,
				device->config[VUBLK_BLK_WCE_OFFSET]);
		report_write(device, &error);
	} else {
		report_write(device, NULL);
	}
}

/*
 * Makes the driver's config from `config`, which was read from the back-end. *result is 0, or the
 * error if `config` is refused. Returns whether to call config_changed().
 */
static bool publish(struct vublk_device *device, const uint8_t *config,
		    struct vublk_error *error, int *result)
{
	uint8_t before[VUBLK_BLK_CONFIG_BYTES];
	bool changed;

	memcpy(before, device->config, sizeof(before));
	*result = vublk_device_take_config(device, config, error);
	if (*result < 0)
		return false;
	changed = memcmp(before, device->config, sizeof(before));
	if (changed)
		vublk_device_bump_config_generation(device);
	if (device->config_write == VUBLK_DEVICE_WRITE_CONFIRMING)
		return differs_beyond_wce(before, device->config);
	return changed;
}

static void on_config(void *opaque, const uint8_t *config, unsigned bytes,
		      const struct vublk_error *read_error)
{
	struct vublk_device *device = opaque;
	bool confirming = device->config_write == VUBLK_DEVICE_WRITE_CONFIRMING;
	uint64_t life = device->life;
	uint8_t whole[VUBLK_BLK_CONFIG_BYTES] = { 0 };
	struct vublk_error error;
	bool tell = false;
	int r;

	if (read_error) {
		error = *read_error;
		r = -error.code;
	} else {
		memcpy(whole, config, bytes);
		tell = publish(device, whole, &error, &r);
		if (r < 0)
			vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
				  "ignored a change of the back-end's configuration: %s",
				  error.text);
	}
	device->config_read = VUBLK_DEVICE_READ_NONE;
	if (device->config_read_again)
		begin_read(device);
	if (confirming)
		end_write(device, r < 0 ? &error : NULL);
	if (tell && device->life == life)
		vublk_device_notify_config(device);
	if (tell && device->life == life && device->ops->config_changed)
		device->ops->config_changed(device->bus);
}

static void begin_read(struct vublk_device *device)
{
	device->config_read = VUBLK_DEVICE_READ_UNDER_WAY;
	device->config_read_again = false;
	if (device->config_write == VUBLK_DEVICE_WRITE_ACCEPTED)
		device->config_write = VUBLK_DEVICE_WRITE_CONFIRMING;
	vublk_frontend_read_config(&device->frontend, on_config, device);
}

/*
 * Only one read is under way at a time. However often the config changes during a read, only one
 * more read follows.
 */
void vublk_device_refresh_config(struct vublk_device *device)
{
	if (device->config_read == VUBLK_DEVICE_READ_NONE && vublk_device_is_connected(device))
		begin_read(device);
	else
		device->config_read_again = true;
}

/*
 * Polling is necessary in STOPPED even if the back-end can report changes, because a back-end does
 * not report them while no ring is started.
 */
void vublk_device_watch_config(struct vublk_device *device)
{
	uint64_t interval_ns = device->settings.config_poll_ms * UINT64_C(1000000);
	bool is_reported = vublk_frontend_reports_config(&device->frontend) &&
		       device->state != VUBLK_DEVICE_STOPPED;

	if (interval_ns && !is_reported && vublk_device_is_connected(device))
		vublk_loop_timer_arm(&device->loop, &device->config_timer,
				     vublk_now_ns() + interval_ns);
}

void vublk_device_on_config_timer(void *opaque)
{
	struct vublk_device *device = opaque;

	if (vublk_device_is_connected(device) && device->config_read == VUBLK_DEVICE_READ_NONE)
		vublk_device_refresh_config(device);
	vublk_device_watch_config(device);
}

/* --- the bus reads and writes --------------------------------------------------------- */

/*
 * Lowers seg_max for a driver without indirect descriptors. Such a driver cannot send a request
 * with more segments than its ring has room for, and the Linux driver hangs if seg_max permits such
 * a request.
 */
void vublk_device_config_read(const struct vublk_device *device, unsigned offset, void *data,
			      unsigned bytes)
{
	uint8_t config[sizeof(device->config)], *to = data;

	memcpy(config, device->config, sizeof(config));
	if (lacks_indirect(device))
		limit_seg_max(smallest_ring(device), (struct virtio_blk_config *)config);
	for (unsigned i = 0; i < bytes; i++)
		to[i] = vublk_range_within(offset, i + 1, sizeof(config)) ? config[offset + i] : 0;
}

uint32_t vublk_device_config_generation(const struct vublk_device *device)
{
	return device->config_generation;
}

static void on_wce_written(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;

	if (error) {
		report_write(device, error);
		return;
	}
	device->config_write = VUBLK_DEVICE_WRITE_ACCEPTED;
	vublk_device_refresh_config(device);
}

static int check_write(const struct vublk_device *device, unsigned offset, const uint8_t *data,
		       unsigned bytes, struct vublk_error *error)
{
	if (offset != VUBLK_BLK_WCE_OFFSET || bytes != 1)
		return vublk_error_set(error, EINVAL,
				       "the driver wrote %u bytes at offset %u of the "
				       "configuration; only the byte at offset %u (wce) is "
				       "writable", bytes, offset,
				       VUBLK_BLK_WCE_OFFSET);
	if (*data > 1)
		return vublk_error_set(error, EINVAL,
				       "the driver wrote %u to the configuration field wce; "
				       "expected 0 or 1", *data);
	if (!(device->acked_features & VUBLK_BIT(VIRTIO_BLK_F_CONFIG_WCE)))
		return vublk_error_set(error, ENOTSUP,
				       "the driver wrote to the configuration field wce without "
				       "having negotiated VIRTIO_BLK_F_CONFIG_WCE");
	return 0;
}

int vublk_device_config_write(struct vublk_device *device, unsigned offset, const void *data,
			      unsigned bytes, struct vublk_error *error)
{
	int r = check_write(device, offset, data, bytes, error);

	if (r < 0)
		return r;
	if (!vublk_device_is_connected(device))
		return vublk_error_set(error, ENOTCONN,
				       "cannot write the configuration, because no back-end is "
				       "connected");
	if (device->config_write != VUBLK_DEVICE_WRITE_NONE)
		return vublk_error_set(error, EBUSY, "cannot write the configuration, because an "
				       "earlier write is still under way");
	device->config_write_wce = *(const uint8_t *)data;
	if (device->config_write_wce == device->config[VUBLK_BLK_WCE_OFFSET])
		return 0;
	device->config_write = VUBLK_DEVICE_WRITE_SENT;
	vublk_frontend_write_wce(&device->frontend, device->config_write_wce, on_wce_written,
				 device);
	return 1;
}
