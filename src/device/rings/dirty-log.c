/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The device's dirty log: owns the bitmap, switches logging on and off, and reads the bitmap. The
 * messages to the back-end are in frontend/dirty-log.c.
 *
 * Key idea: the log belongs to the VM, not to the driver or the back-end. So the log outlives
 * resets, pauses and losses. Each start hands the log to the back-end together with the rings, so
 * separate messages about the log are needed only while the rings run. A change of the log waits
 * for the end of a start or a stop that is under way. A stop, in turn, waits for the end of a
 * change. If the back-end is lost during a change, no mark is lost, because the next back-end logs
 * from its first write.
 *
 * Specification: "Migration" (the bitmap, and which side marks which pages).
 */
#include "device/device.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/struct.h"
#include "util/fd.h"
#include "util/memfd.h"
#include "util/memory-file.h"
#include "virtio/ring.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#define PAGES_PER_WORD 64
#define WORD_BYTES sizeof(uint64_t)

/* --- the bitmap ----------------------------------------------------------------------------- */

/* Returns the size of a bitmap for all pages from address 0 to the end of the last region. */
static uint64_t needed_bytes(const struct vublk_frontend_memory *memory)
{
	uint64_t last = 0;

	for (unsigned i = 0; i < memory->num_regions; i++) {
		const struct vublk_memory_region *region = &memory->regions[i].region;

		last = VUBLK_MAX(last, region->guest_addr + region->size_bytes - 1);
	}
	return (last / VUBLK_DIRTY_PAGE_BYTES / PAGES_PER_WORD + 1) * WORD_BYTES;
}

int vublk_device_dirty_log_check(const struct vublk_device *device,
				 const struct vublk_frontend_memory *memory,
				 struct vublk_error *error)
{
	const struct vublk_device_dirty *dirty = &device->dirty;

	if (dirty->phase == VUBLK_DEVICE_DIRTY_OFF ||
	    needed_bytes(memory) <= dirty->log.size_bytes)
		return 0;
	return vublk_error_set(error, EINVAL,
			       "the dirty log has %" PRIu64 " bytes, but the new memory needs "
			       "%" PRIu64 "; stop the dirty log and start it again after the "
			       "change",
			       dirty->log.size_bytes, needed_bytes(memory));
}

void vublk_device_dirty_log_drop(struct vublk_device *device)
{
	struct vublk_device_dirty *dirty = &device->dirty;

	vublk_device_shadow_log(device, NULL, 0);
	vublk_unmap(dirty->bitmap, dirty->log.size_bytes);
	dirty->bitmap = NULL;
	dirty->fault = (struct vublk_fault){ .fd = -1 };
	vublk_fd_close(&dirty->log.fd);
	dirty->phase = VUBLK_DEVICE_DIRTY_OFF;
}

void vublk_device_dirty_log_init(struct vublk_device *device)
{
	device->dirty.log.fd = -1;
	device->dirty.fault.fd = -1;
}

static int check_bitmap(const struct vublk_device *device,
			const struct vublk_device_dirty_log *given, struct vublk_error *error)
{
	uint64_t needed = needed_bytes(&device->memory);
	struct vublk_memory_file file;
	int r;

	if (given->offset % (uint64_t)sysconf(_SC_PAGESIZE) || given->size_bytes % WORD_BYTES)
		return vublk_error_set(error, EINVAL,
				       "the dirty log's offset is %" PRIu64 " and its size is "
				       "%" PRIu64 " bytes; expected multiples of the page size for "
				       "the offset and of %zu bytes for the size", given->offset,
				       given->size_bytes, WORD_BYTES);
	if (given->size_bytes < needed)
		return vublk_error_set(error, EINVAL,
				       "the dirty log has %" PRIu64 " bytes, but the memory needs "
				       "%" PRIu64,
				       given->size_bytes, needed);
	r = vublk_memory_file_check(given->fd, given->offset, given->size_bytes, &file, error);
	if (r < 0)
		vublk_error_prepend(error, "the dirty log");
	return r;
}

static int take_given(struct vublk_device *device, const struct vublk_device_dirty_log *given,
		      struct vublk_error *error)
{
	int r = check_bitmap(device, given, error);

	if (r < 0)
		return r;
	device->dirty.log.fd = fcntl(given->fd, F_DUPFD_CLOEXEC, 0);
	if (device->dirty.log.fd < 0)
		return vublk_error_set_errno(error, errno, "cannot duplicate the dirty log's "
					     "descriptor");
	device->dirty.log.size_bytes = given->size_bytes;
	device->dirty.log.offset = given->offset;
	return 0;
}

static int make_own(struct vublk_device *device, struct vublk_error *error)
{
	uint64_t bytes = vublk_round_up(needed_bytes(&device->memory), VUBLK_DIRTY_PAGE_BYTES);
	int fd = vublk_memfd_new("vublk-dirty-log", bytes, error);

	if (fd < 0)
		return fd;
	device->dirty.log = (struct vublk_device_dirty_log){ .fd = fd, .size_bytes = bytes };
	return 0;
}

/* --- on and off ------------------------------------------------------------------------ */

const struct vublk_device_dirty_log *vublk_device_dirty_log_of_start(
	const struct vublk_device *device)
{
	bool is_on = device->dirty.phase == VUBLK_DEVICE_DIRTY_ON ||
		     device->dirty.phase == VUBLK_DEVICE_DIRTY_TO_STOP;

	return is_on ? &device->dirty.log : NULL;
}

bool vublk_device_dirty_log_is_changing(const struct vublk_device *device)
{
	return device->dirty.phase == VUBLK_DEVICE_DIRTY_STARTING ||
	       device->dirty.phase == VUBLK_DEVICE_DIRTY_STOPPING ||
	       device->dirty.phase == VUBLK_DEVICE_DIRTY_UNDOING;
}

/*
 * Ends a change: from now on the log is on, or it is off and freed. Calls dirty_log_changed(),
 * which may unrealize the device.
 */
static void end_change(struct vublk_device *device, bool is_on, const struct vublk_error *error)
{
	if (is_on)
		device->dirty.phase = VUBLK_DEVICE_DIRTY_ON;
	else
		vublk_device_dirty_log_drop(device);
	vublk_device_reconsider_path(device);
	if (device->ops->dirty_log_changed)
		device->ops->dirty_log_changed(device->bus, error);
}

static void tell_backend(struct vublk_device *device, enum vublk_device_dirty_phase phase);

static void on_told(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;

	if (error && device->dirty.phase == VUBLK_DEVICE_DIRTY_STARTING) {
		device->dirty.refusal = *error;
		tell_backend(device, VUBLK_DEVICE_DIRTY_UNDOING);
		return;
	}
	vublk_device_post_update(device); /* a stop may wait for the end of this change */
	switch (device->dirty.phase) {
	case VUBLK_DEVICE_DIRTY_STARTING:
		end_change(device, true, NULL);
		break;
	case VUBLK_DEVICE_DIRTY_UNDOING:
		end_change(device, false, &device->dirty.refusal);
		break;
	default:
		end_change(device, false, error);
		break;
	}
}

static void tell_backend(struct vublk_device *device, enum vublk_device_dirty_phase phase)
{
	bool on = phase == VUBLK_DEVICE_DIRTY_STARTING;

	device->dirty.phase = phase;
	vublk_frontend_set_dirty_log(&device->frontend, on ? &device->dirty.log : NULL,
				     vublk_device_session_features(device), device->rings,
				     device->num_rings, on_told, device);
}

void vublk_device_dirty_log_settle(struct vublk_device *device)
{
	bool is_refused = device->exchange.phase == VUBLK_DEVICE_EXCHANGE_REFUSED;

	if (vublk_device_is_shadowed(device))
		vublk_device_dirty_log_stopped(device); /* the plane needs no messages for a
							   change */
	else if (device->dirty.phase == VUBLK_DEVICE_DIRTY_TO_START && is_refused &&
		 device->shadow.side)
		end_change(device, false, &device->exchange.refusal);
}

void vublk_device_dirty_log_started(struct vublk_device *device)
{
	/*
	 * A back-end that has the plane's region in its memory table cannot log. The update moves
	 * the requests to the plane, which logs instead.
	 */
	if (vublk_device_is_shadowed(device) ||
	    (device->dirty.phase == VUBLK_DEVICE_DIRTY_TO_START && device->shadow.side))
		vublk_device_post_update(device);
	else if (device->dirty.phase == VUBLK_DEVICE_DIRTY_TO_START)
		tell_backend(device, VUBLK_DEVICE_DIRTY_STARTING);
	else if (device->dirty.phase == VUBLK_DEVICE_DIRTY_TO_STOP)
		tell_backend(device, VUBLK_DEVICE_DIRTY_STOPPING);
}

void vublk_device_dirty_log_stopped(struct vublk_device *device)
{
	switch (device->dirty.phase) {
	case VUBLK_DEVICE_DIRTY_TO_START:
	case VUBLK_DEVICE_DIRTY_STARTING:
		end_change(device, true, NULL);
		break;
	case VUBLK_DEVICE_DIRTY_TO_STOP:
	case VUBLK_DEVICE_DIRTY_STOPPING:
		end_change(device, false, NULL);
		break;
	case VUBLK_DEVICE_DIRTY_UNDOING:
		end_change(device, false, &device->dirty.refusal);
		break;
	default:
		break;
	}
}

int vublk_device_dirty_log_check_backend(const struct vublk_device *device,
					 struct vublk_error *error)
{
	bool shared = vublk_frontend_has(&device->frontend, VUBLK_VU_F_LOG_SHMFD);
	bool logs = device->frontend.info.features & VUBLK_BIT(VHOST_F_LOG_ALL);

	if ((shared && logs) || vublk_device_is_shadowed(device))
		return 0;
	return vublk_error_set(error, ENOTSUP,
			       "the back-end cannot log which pages it writes, because it does not "
			       "offer %s%s%s",
			       shared ? "" : "the protocol feature LOG_SHMFD (bit 1)",
			       shared || logs ? "" : " or ",
			       logs ? "" : "VHOST_F_LOG_ALL (feature bit 26)");
}

/*
 * Switches the log on or off. Returns 0 if the change is complete. Returns 1 if the back-end has to
 * be told first; dirty_log_changed() follows in this case. Error: ENOMEM.
 */
static int begin_change(struct vublk_device *device, bool on, struct vublk_error *error)
{
	int r;

	if (!vublk_device_has_rings_out(device) || vublk_device_is_shadowed(device)) {
		if (on)
			device->dirty.phase = VUBLK_DEVICE_DIRTY_ON;
		else
			vublk_device_dirty_log_drop(device);
		r = vublk_device_dirty_log_give(device, error);
		if (r < 0)
			vublk_device_dirty_log_drop(device);
		vublk_device_reconsider_path(device);
		return r;
	}
	device->dirty.phase = on ? VUBLK_DEVICE_DIRTY_TO_START : VUBLK_DEVICE_DIRTY_TO_STOP;
	if (device->state == VUBLK_DEVICE_RUNNING)
		vublk_device_dirty_log_started(device);
	return 1;
}

/* --- reading and marking --------------------------------------------------------------- */

static int map_bitmap(struct vublk_device_dirty *dirty, struct vublk_error *error)
{
	if (!dirty->bitmap)
		dirty->bitmap = vublk_map_guarded(dirty->log.fd, dirty->log.offset,
						  dirty->log.size_bytes, &dirty->fault,
						  VUBLK_FAULT_DIRTY_LOG, error);
	return dirty->bitmap ? 0 : -ENOMEM;
}

/*
 * Checks that the bitmap's file was not truncated. Error: EIO. Only a bitmap that the bus gave can
 * be truncated, by the owner of its file.
 */
static int check_fault(const struct vublk_device_dirty *dirty, struct vublk_error *error)
{
	if (!vublk_fault_happened(&dirty->fault))
		return 0;
	return vublk_error_set(error, EIO, "a page of the dirty log cannot be accessed, because "
			       "the log's file was truncated; stop the dirty log and start it "
			       "again with another file");
}

/*
 * Marks the pages of one part of a ring. No bounds check is needed, because the bitmap was checked
 * against the guest's memory, and the ring lies in that memory.
 */
static void mark(struct vublk_device_dirty *dirty, uint64_t addr, uint64_t bytes)
{
	uint8_t *bits = (uint8_t *)dirty->bitmap;
	uint64_t last = (addr + bytes - 1) / VUBLK_DIRTY_PAGE_BYTES;

	for (uint64_t page = addr / VUBLK_DIRTY_PAGE_BYTES; page <= last; page++)
		__atomic_fetch_or(&bits[page / 8], (uint8_t)(1 << page % 8), __ATOMIC_RELEASE);
}

static void warn_not_marked(struct vublk_device *device, const struct vublk_error *error)
{
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
			  "cannot mark the rings of the previous back-end in the dirty log: %s",
			  error->text);
}

/*
 * A back-end that died may have published a completion without marking the page of the used ring.
 * The next back-end does not repeat that request. So all pages of the used rings are marked. The
 * other writes of the dead back-end belong to requests that the next back-end executes again,
 * marking their pages.
 */
void vublk_device_dirty_log_mark_rings(struct vublk_device *device)
{
	struct vublk_error error;

	if (device->dirty.phase == VUBLK_DEVICE_DIRTY_OFF || !device->num_rings)
		return;
	if (map_bitmap(&device->dirty, &error) < 0) {
		warn_not_marked(device, &error);
		return;
	}
	for (unsigned i = 0; i < device->num_rings; i++)
		mark(&device->dirty, device->rings[i].used_addr,
		     vublk_split_used_bytes(device->rings[i].size));
	if (check_fault(&device->dirty, &error) < 0)
		warn_not_marked(device, &error);
}

int vublk_device_dirty_log_give(struct vublk_device *device, struct vublk_error *error)
{
	int r;

	if (!vublk_device_is_shadowed(device) || device->dirty.phase == VUBLK_DEVICE_DIRTY_OFF)
		return 0;
	r = map_bitmap(&device->dirty, error);
	if (!r)
		vublk_device_shadow_log(device, device->dirty.bitmap, device->dirty.log.size_bytes);
	return r;
}

/* --- the calls -------------------------------------------------------------------------------- */

static int check_start(const struct vublk_device *device, struct vublk_error *error)
{
	int r;

	if (!device->num_queues)
		return vublk_device_require(device, VUBLK_DEVICE_STOPPED, "starting the dirty log",
					    error);
	if (device->dirty.phase != VUBLK_DEVICE_DIRTY_OFF)
		return vublk_error_set(error, EBUSY,
				       "the dirty log is already on or is being switched off");
	if (device->mirror.phase != VUBLK_DEVICE_MIRROR_NONE)
		return vublk_error_set(error, EBUSY, "the VM cannot be migrated while its disk is "
				       "mirrored to '%s': switch to the mirror or end it, then migrate",
				       device->mirror.target);
	if (!device->memory.num_regions)
		return vublk_error_set(error, EINVAL,
				       "the dirty log needs the guest's memory, which has not been "
				       "set");
	if (!vublk_device_is_connected(device))
		return 0;
	r = vublk_device_dirty_log_check_backend(device, error);
	if (r < 0)
		vublk_error_prepend(error, "back-end '%s'", vublk_device_path(device));
	return r;
}

int vublk_device_dirty_log_start(struct vublk_device *device,
				 const struct vublk_device_dirty_log *log, size_t log_bytes,
				 struct vublk_error *error)
{
	struct vublk_device_dirty_log given;
	int r = check_start(device, error);

	if (!r)
		r = vublk_struct_needs(struct vublk_device_dirty_log, fd, log, log_bytes, error);
	if (!r)
		r = vublk_struct_in(&given, sizeof(given), log, log_bytes,
				    "vublk_device_dirty_log", error);
	if (!r)
		r = log ? take_given(device, &given, error) : make_own(device, error);
	return r < 0 ? r : begin_change(device, true, error);
}

int vublk_device_dirty_log_stop(struct vublk_device *device, struct vublk_error *error)
{
	if (device->dirty.phase == VUBLK_DEVICE_DIRTY_OFF)
		return 0;
	if (device->dirty.phase != VUBLK_DEVICE_DIRTY_ON)
		return vublk_error_set(error, EBUSY,
				       "another change of the dirty log is under way; wait for "
				       "dirty_log_changed()");
	return begin_change(device, false, error);
}

int vublk_device_dirty_log_get(const struct vublk_device *device,
			       struct vublk_device_dirty_log *log, size_t log_bytes)
{
	const struct vublk_device_dirty_log own = {
		.fd = device->dirty.log.fd,
		.offset = device->dirty.log.offset,
		.size_bytes = device->dirty.log.size_bytes,
	};

	if (device->dirty.phase == VUBLK_DEVICE_DIRTY_OFF)
		return -ENOENT;
	vublk_struct_out(log, log_bytes, &own, sizeof(own));
	return 0;
}

/*
 * Reads and clears one word of the bitmap. Barrier pair L: the back-end writes to a page before it
 * sets the page's bit, and this atomic exchange clears the bit before the bus copies the page. So
 * the copy contains every write whose bit was cleared. A later write sets the bit again.
 */
static uint64_t take_word(uint64_t *word)
{
	if (!vublk_load_relaxed(word))
		return 0;
	return le64toh(vublk_exchange_acquire(word, 0));
}

int vublk_device_dirty_log_take(struct vublk_device *device, uint64_t first_page,
				uint64_t num_pages, uint64_t *bits, struct vublk_error *error)
{
	struct vublk_device_dirty *dirty = &device->dirty;
	uint64_t first = first_page / PAGES_PER_WORD, words = num_pages / PAGES_PER_WORD;

	if (dirty->phase == VUBLK_DEVICE_DIRTY_OFF)
		return vublk_error_set(error, EBUSY, "cannot read the dirty log, because it is off");
	if (first_page % PAGES_PER_WORD || num_pages % PAGES_PER_WORD)
		return vublk_error_set(error, EINVAL,
				       "cannot read the bits of %" PRIu64 " pages starting at page "
				       "%" PRIu64 "; expected multiples of %u for both numbers",
				       num_pages, first_page, PAGES_PER_WORD);
	if (!vublk_range_within(first, words, dirty->log.size_bytes / WORD_BYTES))
		return vublk_error_set(error, EINVAL,
				       "cannot read the bits of %" PRIu64 " pages starting at page "
				       "%" PRIu64 "; the dirty log has bits for only %" PRIu64
				       " pages", num_pages,
				       first_page, dirty->log.size_bytes * 8);
	if (map_bitmap(dirty, error) < 0)
		return -ENOMEM;
	for (uint64_t i = 0; i < words; i++)
		bits[i] = take_word(&dirty->bitmap[first + i]);
	return check_fault(dirty, error);
}
