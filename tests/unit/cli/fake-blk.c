/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fake-blk.h"

#include "harness.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FLIPPED_BYTES 8
#define MAX_DISKS 4
#define MAX_REGIONS 8

struct region {
	unsigned char *address;
	size_t bytes;
	bool ours;
};

struct pending {
	struct vublk_blk_completion completion;
	uint64_t offset, bytes;
	bool write;
	bool flush;
	const void *data; /* the data to write; NULL: zeroes */
};

struct vublk_blk_queue {
	struct vublk_blk *blk;
	struct pending pending[VUBLK_MAX_QUEUE_SIZE];
	unsigned in_flight;
	unsigned random;
	int fd;
	bool flush_fails; /* the next flush fails, because writes were lost */
};

struct vublk_blk {
	struct fake_disk *disk;
	struct vublk_blk_handlers handlers;
	struct region regions[MAX_REGIONS];
	struct vublk_blk_queue queues[FAKE_MAX_QUEUES];
};

static struct fake_disk *disks[MAX_DISKS];

/* Fails the case on any thread. cmocka's functions work only on the case's own thread. */
__attribute__((noreturn))
static void broken(const char *what, uint64_t offset)
{
	fprintf(stderr, "# %s at offset %llu\n", what, (unsigned long long)offset);
	abort();
}

/* --- disks -------------------------------------------------------------------- */

static void make_socket(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_true(strlen(path) < sizeof(address.sun_path));
	strcpy(address.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
}

struct fake_disk *fake_disk_new(const char *name, uint64_t bytes, unsigned num_queues)
{
	struct fake_disk *disk = calloc(1, sizeof(*disk));
	unsigned i;

	assert_non_null(disk);
	snprintf(disk->path, sizeof(disk->path), "%s/%s", vublk_test_folder(), name);
	make_socket(disk->path);
	disk->content = malloc(bytes);
	assert_non_null(disk->content);
	disk->content_bytes = bytes;
	memset(disk->content, 0xdd, bytes);
	disk->info = (struct vublk_blk_info){
		.capacity_bytes = bytes, .block_size_bytes = 512, .physical_block_bytes = 4096,
		.max_segments = 126, .max_segment_bytes = 1 << 20, .max_discard_bytes = 1 << 30,
		.max_write_zeroes_bytes = 1 << 30, .flush = true, .write_cache = true,
		.num_queues = num_queues, .queue_size = VUBLK_DEFAULT_QUEUE_SIZE,
	};
	disk->serial = "fake\033[2Jdisk";
	disk->stable = malloc(bytes);
	disk->flushing = malloc(bytes);
	assert_true(disk->stable && disk->flushing);
	memset(disk->stable, 0xdd, bytes);
	pthread_mutex_init(&disk->lock, NULL);
	disk->fail_offset = disk->flip_offset = FAKE_NOWHERE;
	disk->lose_offset = disk->keep_offset = FAKE_NOWHERE;
	for (i = 0; i < MAX_DISKS && disks[i]; i++)
		;
	assert_true(i < MAX_DISKS);
	disks[i] = disk;
	return disk;
}

void fake_disk_free(struct fake_disk *disk)
{
	assert_int_equal(disk->open, 0);
	for (unsigned i = 0; i < MAX_DISKS; i++)
		if (disks[i] == disk)
			disks[i] = NULL;
	unlink(disk->path);
	free(disk->content);
	free(disk->stable);
	free(disk->flushing);
	pthread_mutex_destroy(&disk->lock);
	free(disk);
}

static int refuse(struct vublk_error *error, int code, const char *text)
{
	if (error) {
		error->code = code;
		snprintf(error->text, sizeof(error->text), "%s", text);
	}
	return -code;
}

int vublk_blk_open(const char *path, const struct vublk_option *options,
		   const struct vublk_blk_handlers *handlers, size_t handlers_bytes,
		   struct vublk_blk **blk, struct vublk_error *error)
{
	for (unsigned i = 0; i < MAX_DISKS; i++) {
		if (!disks[i] || strcmp(disks[i]->path, path))
			continue;
		*blk = calloc(1, sizeof(**blk));
		assert_non_null(*blk);
		(*blk)->disk = disks[i];
		if (handlers)
			(*blk)->handlers = *handlers;
		disks[i]->blk = *blk;
		for (unsigned q = 0; q < disks[i]->info.num_queues; q++) {
			(*blk)->queues[q].blk = *blk;
			(*blk)->queues[q].random = q + 1;
			(*blk)->queues[q].fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
		}
		disks[i]->open++;
		return 0;
	}
	return refuse(error, ECONNREFUSED, "no process listens there");
}

int vublk_blk_close(struct vublk_blk *blk, int wait_ms, struct vublk_error *error)
{
	if (!blk)
		return 0;
	for (unsigned i = 0; i < MAX_REGIONS; i++)
		if (blk->regions[i].ours)
			munmap(blk->regions[i].address, blk->regions[i].bytes);
	for (unsigned q = 0; q < blk->disk->info.num_queues; q++)
		close(blk->queues[q].fd);
	blk->disk->open--;
	free(blk);
	return 0;
}

void vublk_blk_get_info(struct vublk_blk *blk, struct vublk_blk_info *info, size_t info_bytes)
{
	memcpy(info, &blk->disk->info, VUBLK_MIN(info_bytes, sizeof(*info)));
}

void vublk_blk_get_device_info(struct vublk_blk *blk, struct vublk_device_info *info,
			       size_t info_bytes)
{
	memset(info, 0, info_bytes);
}

const struct vublk_property *vublk_blk_options(void)
{
	static const struct vublk_property none = { NULL };

	return &none;
}

const char *vublk_blk_default(const char *name)
{
	return NULL;
}

const struct vublk_property *vublk_device_properties(void)
{
	static const struct vublk_property none[] = { { NULL } };

	return none;
}

const char *vublk_feature_name(unsigned bit)
{
	return bit == 9 ? "VIRTIO_BLK_F_FLUSH" : NULL;
}

const char *vublk_protocol_feature_name(unsigned bit)
{
	return bit == 3 ? "REPLY_ACK" : NULL;
}

/* --- memory ------------------------------------------------------------------- */

static struct region *add_region(struct vublk_blk *blk, void *address, size_t bytes, bool ours)
{
	for (unsigned i = 0; i < MAX_REGIONS; i++)
		if (!blk->regions[i].address) {
			blk->regions[i] = (struct region){ address, bytes, ours };
			return &blk->regions[i];
		}
	return NULL;
}

void *vublk_blk_alloc(struct vublk_blk *blk, size_t bytes, struct vublk_error *error)
{
	void *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(address != MAP_FAILED);
	assert_non_null(add_region(blk, address, bytes, true));
	return address;
}

int vublk_blk_release(struct vublk_blk *blk, void *address, struct vublk_error *error)
{
	for (unsigned i = 0; i < MAX_REGIONS; i++)
		if (blk->regions[i].address == address && blk->regions[i].ours) {
			munmap(address, blk->regions[i].bytes);
			blk->regions[i] = (struct region){ 0 };
			return 0;
		}
	fail_msg("not allocated here");
	return -EINVAL;
}

int vublk_blk_register(struct vublk_blk *blk, void *address, size_t bytes, int fd,
		       uint64_t fd_offset, struct vublk_error *error)
{
	return add_region(blk, address, bytes, false) ? 0 : refuse(error, ENOSPC, "no slot left");
}

static bool in_memory(const struct vublk_blk *blk, const void *buffer, size_t bytes)
{
	for (unsigned i = 0; i < MAX_REGIONS; i++)
		if (blk->regions[i].address &&
		    vublk_range_within((uint64_t)((uintptr_t)buffer -
						  (uintptr_t)blk->regions[i].address),
				       bytes, blk->regions[i].bytes))
			return true;
	return false;
}

/* --- requests ----------------------------------------------------------------- */

struct vublk_blk_queue *vublk_blk_queue(struct vublk_blk *blk, unsigned index)
{
	return index < blk->disk->info.num_queues ? &blk->queues[index] : NULL;
}

static bool touches(uint64_t place, uint64_t offset, uint64_t bytes)
{
	return place >= offset && place - offset < bytes;
}

static void check_overlap(const struct vublk_blk_queue *queue, uint64_t offset, uint64_t bytes,
			  bool write)
{
	for (unsigned i = 0; i < queue->in_flight; i++) {
		const struct pending *other = &queue->pending[i];

		if ((write || other->write) &&
		    vublk_ranges_overlap(offset, bytes, other->offset, other->bytes))
			broken("a request overlaps another", offset);
	}
}

/* --- losses ------------------------------------------------------------------- */

static void execute(struct fake_disk *disk, const struct pending *pending)
{
	if (pending->write && pending->data)
		memcpy(disk->content + pending->offset, pending->data, pending->bytes);
	else if (pending->write)
		memset(disk->content + pending->offset, 0, pending->bytes);
}

/*
 * Loses the back-end. As in src/blk/recover.c, the next back-end executes the requests in flight
 * that had not completed.
 */
static void lose(struct fake_disk *disk)
{
	struct vublk_error error = { .code = EOWNERDEAD, .text = "the fake has lost writes" };
	struct vublk_blk *blk = disk->blk;

	disk->losses++;
	memcpy(disk->content, disk->stable, disk->content_bytes);
	for (unsigned q = 0; q < disk->info.num_queues; q++) {
		struct vublk_blk_queue *queue = &blk->queues[q];

		queue->flush_fails = true;
		for (unsigned i = 0; i < queue->in_flight; i++) {
			/*
			 * Requests that are not executed here had completed, but the program had
			 * not taken their completions.
			 */
			if (rand_r(&queue->random) % 2)
				execute(disk, &queue->pending[i]);
			if (!queue->pending[i].flush)
				continue;
			queue->pending[i].completion.result = -EOWNERDEAD;
			queue->flush_fails = false;
		}
	}
	if (blk->handlers.event)
		blk->handlers.event(blk->handlers.opaque, VUBLK_BLK_WRITES_LOST, &error);
}

static void lose_now_and_then(struct fake_disk *disk, unsigned number)
{
	if (disk->forget_every && number % disk->forget_every == 0 &&
	    (!disk->max_losses || disk->losses < disk->max_losses))
		lose(disk);
}

static void replace(struct fake_disk *disk)
{
	const struct vublk_blk_handlers *handlers = &disk->blk->handlers;
	struct vublk_error error = { .code = ENOTCONN, .text = "the fake has lost its back-end" };

	handlers->event(handlers->opaque, VUBLK_BLK_LOST, &error);
	if (disk->next_capacity_bytes)
		disk->info.capacity_bytes = disk->next_capacity_bytes;
	if (disk->next_serial)
		disk->serial = disk->next_serial;
	handlers->event(handlers->opaque, VUBLK_BLK_RECONNECTED, NULL);
}

/*
 * Checks a request as the library does, causes the faults that are due, and adds the request to the
 * queue. Returns 0 or a negative errno.
 */
static int add_as(struct vublk_blk_queue *queue, const struct pending *request, void *user_data,
		  struct vublk_error *error)
{
	struct fake_disk *disk = queue->blk->disk;
	uint64_t offset = request->offset, bytes = request->bytes;
	struct pending *pending;
	unsigned number;

	if (offset % disk->info.block_size_bytes ||
	    (bytes % disk->info.block_size_bytes && offset + bytes != disk->info.capacity_bytes) ||
	    !vublk_range_within(offset, bytes, disk->info.capacity_bytes))
		return refuse(error, EINVAL, "not aligned or past the end");
	number = atomic_fetch_add(&disk->requests, 1) + 1;
	if (queue->in_flight == disk->info.queue_size ||
	    (disk->full_every && number % disk->full_every == 0 && queue->in_flight)) {
		disk->refused++;
		return refuse(error, EAGAIN, "the queue is full");
	}
	if (disk->no_overlap)
		check_overlap(queue, offset, bytes, request->write);
	lose_now_and_then(disk, number);
	if (disk->replace_after && number == disk->replace_after)
		replace(disk);
	if (request->flush && queue->flush_fails) {
		queue->flush_fails = false;
		return refuse(error, EOWNERDEAD, "writes may be lost");
	}
	pending = &queue->pending[queue->in_flight++];
	*pending = *request;
	pending->completion.user_data = user_data;
	if (disk->die_after && number > disk->die_after)
		pending->completion.result = -ENOTCONN;
	else if (bytes && touches(disk->fail_offset, offset, bytes))
		pending->completion.result = -disk->fail_code;
	return 0;
}

/*
 * Adds a request while the disk is locked, so that a loss finds all requests in a consistent state.
 * At a flush, the present content is copied to `flushing`.
 */
static int add_locked(struct vublk_blk_queue *queue, const struct pending *request, void *user_data,
		      struct vublk_error *error)
{
	int ret;

	pthread_mutex_lock(&queue->blk->disk->lock);
	ret = add_as(queue, request, user_data, error);
	if (!ret && request->flush)
		memcpy(queue->blk->disk->flushing, queue->blk->disk->content,
		       queue->blk->disk->content_bytes);
	pthread_mutex_unlock(&queue->blk->disk->lock);
	return ret;
}

static int add(struct vublk_blk_queue *queue, uint64_t offset, uint64_t bytes, void *user_data,
	       struct vublk_error *error)
{
	const struct pending request = { .offset = offset, .bytes = bytes };

	return add_locked(queue, &request, user_data, error);
}

int vublk_blk_read(struct vublk_blk_queue *queue, uint64_t offset, void *buffer, size_t bytes,
		   uint32_t flags, void *user_data, struct vublk_error *error)
{
	struct fake_disk *disk = queue->blk->disk;
	int ret = in_memory(queue->blk, buffer, bytes) ? add(queue, offset, bytes, user_data, error)
							: refuse(error, EINVAL, "no such memory");

	if (ret)
		return ret;
	disk->reads++;
	pthread_mutex_lock(&disk->lock);
	memcpy(buffer, disk->content + offset,
	       offset == disk->keep_offset ? VUBLK_MIN(bytes, (size_t)disk->keep_after) : bytes);
	pthread_mutex_unlock(&disk->lock);
	/*
	 * Flips a bit in several bytes, because one changed byte might match other permitted
	 * content.
	 */
	for (uint64_t i = 0; i < FLIPPED_BYTES && disk->flip_offset != FAKE_NOWHERE; i++)
		if (touches(disk->flip_offset + i, offset, bytes))
			((unsigned char *)buffer)[disk->flip_offset + i - offset] ^= 1;
	return 0;
}

int vublk_blk_write(struct vublk_blk_queue *queue, uint64_t offset, const void *buffer,
		    size_t bytes, uint32_t flags, void *user_data, struct vublk_error *error)
{
	struct fake_disk *disk = queue->blk->disk;
	const struct pending request = {
		.offset = offset, .bytes = bytes, .write = true, .data = buffer,
	};
	int ret;

	if (!in_memory(queue->blk, buffer, bytes))
		return refuse(error, EINVAL, "no such memory");
	pthread_mutex_lock(&disk->lock);
	ret = add_as(queue, &request, user_data, error);
	if (!ret && !(offset == disk->lose_offset && disk->lost++ >= disk->lose_after))
		execute(disk, &request);
	pthread_mutex_unlock(&disk->lock);
	if (!ret && disk->info.read_only)
		broken("a write to a read-only disk", offset);
	disk->writes += !ret;
	return ret;
}

int vublk_blk_flush(struct vublk_blk_queue *queue, uint32_t flags, void *user_data,
		    struct vublk_error *error)
{
	const struct pending request = { .flush = true };

	queue->blk->disk->flushes++;
	return add_locked(queue, &request, user_data, error);
}

int vublk_blk_discard(struct vublk_blk_queue *queue, uint64_t offset, uint64_t bytes,
		      uint32_t flags, void *user_data, struct vublk_error *error)
{
	queue->blk->disk->discards++;
	return add(queue, offset, bytes, user_data, error);
}

int vublk_blk_write_zeroes(struct vublk_blk_queue *queue, uint64_t offset, uint64_t bytes,
			   uint32_t flags, void *user_data, struct vublk_error *error)
{
	struct fake_disk *disk = queue->blk->disk;
	const struct pending request = { .offset = offset, .bytes = bytes, .write = true };
	int ret;

	if (!disk->info.max_write_zeroes_bytes)
		return refuse(error, ENOTSUP, "no write zeroes");
	pthread_mutex_lock(&disk->lock);
	ret = add_as(queue, &request, user_data, error);
	if (!ret)
		execute(disk, &request);
	pthread_mutex_unlock(&disk->lock);
	disk->zeroes += !ret;
	return ret;
}

int vublk_blk_get_id(struct vublk_blk_queue *queue, char id[VUBLK_BLK_ID_SIZE], uint32_t flags,
		     void *user_data, struct vublk_error *error)
{
	snprintf(id, VUBLK_BLK_ID_SIZE, "%s", queue->blk->disk->serial);
	return add(queue, 0, 0, user_data, error);
}

void vublk_blk_submit(struct vublk_blk_queue *queue)
{
}

unsigned vublk_blk_in_flight(const struct vublk_blk_queue *queue)
{
	return queue->in_flight;
}

/* --- completions -------------------------------------------------------------- */

static bool stalled(const struct fake_disk *disk)
{
	return disk->stall_after && disk->requests > disk->stall_after;
}

static void complete_flush(struct fake_disk *disk, const struct pending *pending)
{
	if (pending->flush && !pending->completion.result)
		memcpy(disk->stable, disk->flushing, disk->content_bytes);
}

int vublk_blk_poll(struct vublk_blk_queue *queue, struct vublk_blk_completion *completions,
		   unsigned max)
{
	unsigned n = 0;

	if (!queue->in_flight || stalled(queue->blk->disk))
		return 0;
	/* Takes some of the completions, in random order. */
	max = 1 + rand_r(&queue->random) % max;
	pthread_mutex_lock(&queue->blk->disk->lock);
	for (; n < max && queue->in_flight; n++) {
		unsigned i = (unsigned)rand_r(&queue->random) % queue->in_flight;

		completions[n] = queue->pending[i].completion;
		complete_flush(queue->blk->disk, &queue->pending[i]);
		queue->pending[i] = queue->pending[--queue->in_flight];
	}
	pthread_mutex_unlock(&queue->blk->disk->lock);
	return (int)n;
}

int vublk_blk_wait(struct vublk_blk_queue *queue, struct vublk_blk_completion *completions,
		   unsigned min, unsigned max, int timeout_ms, struct vublk_error *error)
{
	return vublk_blk_poll(queue, completions, max);
}

int vublk_blk_queue_fd(const struct vublk_blk_queue *queue)
{
	return queue->fd;
}

bool vublk_blk_arm(struct vublk_blk_queue *queue)
{
	return queue->in_flight && !stalled(queue->blk->disk);
}
