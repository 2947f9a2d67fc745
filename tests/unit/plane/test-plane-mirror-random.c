/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Random requests while the disk is mirrored, with random losses of the source and of the target,
 * and failing requests. The driver changes the buffers of its writes while they are outstanding.
 *
 * At any time, a sector of a synced region is the same on both disks, unless a write to it is
 * outstanding. In the end, all regions are synced, and both disks are the same. Each request
 * completes once, and reads see what test-plane-random.c permits.
 *
 * In some runs the source has a cache, which is lost with it. Reads may then return old content,
 * but the disks must become the same.
 *
 * In some runs there is a state file, and the process is killed or the power fails at random steps.
 * The next process finds the file and both disks in a state that a kill or a loss of power can
 * leave, and resumes the mirror. The disks must be the same in all regions that are not marked. The
 * syncs of the file end after random delays. After a loss of power, the file has what the last
 * completed sync made stable.
 */
#include "harness.h"
#include "plane-rig.h"

#include "plane/mirror-state.h"
#include "util/atomic.h"
#include "util/checked.h"
#include "virtio/blk-format.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_WRITES 20000
#define MAX_TAKEN 4096
#define REGION_SECTORS 8
#define DISK_BYTES (RIG_SECTORS * VUBLK_SECTOR_BYTES)

/* A sector: the number of its last write, and a word that changes while the write is outstanding. */
struct sector {
	uint64_t id, noise;
};

/* A write or a discard, as the model knows it. A time is the number of a step of the test. */
struct write {
	uint64_t submitted, completed; /* completed 0: the write is outstanding */
	uint64_t sector;
	unsigned num_sectors;
	bool has_failed;
};

/* The requests that a back-end has taken and not completed. */
struct taken {
	struct rig_chain *chains[RIG_MAX_QUEUES][MAX_TAKEN];
	unsigned count[RIG_MAX_QUEUES];
};

static struct plane_rig rig;
static struct sector source[RIG_SECTORS], stable[RIG_SECTORS], target[RIG_SECTORS];
static struct sector stable_target[RIG_SECTORS];
static struct write writes[MAX_WRITES];
static struct taken by_source, by_target;
static uint64_t num_writes, now, state;
static unsigned num_mirrors;
static bool has_cache, sleeps, fails;
static bool is_ending; /* no request fails any more */
static bool forgets; /* what the source completed may be lost with its cache */
static unsigned target_size;

/* The state file. */
#define FILE_BYTES (8192 + 4096)
static char file_path[100];
static struct vublk_mirror_state *marks; /* NULL: the run has no file */
static bool is_recording; /* writes are marked until the mirror is resumed */
static unsigned num_deaths, num_unmarked;
static uint64_t hot_sector; /* writes go to sectors near it, so that other regions become
			       unmarked */
static char durable[FILE_BYTES]; /* what the last sync has made stable */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static sem_t may_end; /* each post lets one sync end */
static bool syncs_end; /* atomic: all syncs may end */
static pthread_t owner;
static const struct rig_chain *stuck; /* a request that its back-end does not execute for a long
					 time */
static bool never_flushes; /* the driver submits no flushes */

static unsigned below(unsigned bound)
{
	state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (unsigned)(state >> 33) % bound;
}

/* --- the model ----------------------------------------------------------------- */

static bool covers(const struct write *write, uint64_t sector)
{
	return sector - write->sector < write->num_sectors;
}

/* See test-plane-random.c. A write that has failed may or may not have been executed. */
static void check_sector(uint64_t sector, uint64_t id, uint64_t since)
{
	if (id)
		assert_true(id <= num_writes && covers(&writes[id], sector));
	for (uint64_t i = 1; i <= num_writes; i++) {
		const struct write *other = &writes[i];

		if (i == id || !covers(other, sector) || !other->completed || other->has_failed ||
		    other->completed >= since)
			continue;
		if (!id || (writes[id].completed && other->submitted > writes[id].completed))
			fail_msg("sector %u has write %u again, which write %u had replaced",
				 (unsigned)sector, (unsigned)id, (unsigned)i);
	}
}

static bool is_being_written(uint64_t sector)
{
	for (uint64_t i = 1; i <= num_writes; i++)
		if (covers(&writes[i], sector) && !writes[i].completed)
			return true;
	return false;
}

/* Compares the synced regions of both disks. */
static void check_synced(void)
{
	const struct vublk_plane_mirror *mirror = rig.plane.mirror;

	if (!rig.side || !rig.target.side || !vublk_plane_mirror_is_active(mirror) ||
	    mirror->failure.code)
		return;
	for (unsigned i = 0; i < RIG_SECTORS; i++)
		if (mirror->states[i / REGION_SECTORS] == VUBLK_PLANE_MIRROR_SYNCED &&
		    memcmp(&source[i], &target[i], sizeof(source[i])) && !is_being_written(i))
			fail_msg("sector %u has write %u (%u), and write %u (%u) at the target", i,
				 (unsigned)source[i].id, (unsigned)source[i].noise,
				 (unsigned)target[i].id, (unsigned)target[i].noise);
}

/* --- the driver ------------------------------------------------------------------- */

static uint64_t *data_of(unsigned queue, uint16_t token, unsigned sector)
{
	return (uint64_t *)((char *)rig_host(&rig, rig_data(&rig, queue, token)) +
			    sector * VUBLK_SECTOR_BYTES);
}

static uint32_t choose_type(void)
{
	switch (below(12)) {
	case 0:
		return never_flushes ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_FLUSH;
	case 1:
		return below(2) ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES;
	case 2:
	case 3:
	case 4:
		return VIRTIO_BLK_T_IN;
	default:
		return VIRTIO_BLK_T_OUT;
	}
}

/*
 * A discard has one range. Its flags store the number of the write, and the plane passes them on.
 */
static void fill_discard(unsigned queue, uint16_t token, uint64_t sector, unsigned num_sectors)
{
	struct virtio_blk_discard_write_zeroes *ranges = (void *)data_of(queue, token, 0);

	memset(ranges, 0, VUBLK_SECTOR_BYTES);
	ranges[0].sector = sector;
	ranges[0].num_sectors = num_sectors;
	ranges[0].flags = (uint32_t)num_writes;
}

static void submit(unsigned queue)
{
	struct rig_request request = { .submitted = ++now, .type = choose_type() };
	uint16_t token = (uint16_t)below(rig.size);
	unsigned num_sectors = 1 + below(6);
	bool is_discard = request.type == VIRTIO_BLK_T_DISCARD ||
			  request.type == VIRTIO_BLK_T_WRITE_ZEROES;

	if (rig.requests[queue][token].is_used || num_writes + 1 >= MAX_WRITES)
		return;
	if (request.type != VIRTIO_BLK_T_FLUSH) {
		request.num_sectors = is_discard ? 1 : num_sectors;
		request.sector = marks ? hot_sector + below(8) : below(RIG_SECTORS - 6);
	}
	request.id = num_writes + 1;
	if (rig_add(&rig, queue, token, &request) == -ENOSPC ||
	    (request.type != VIRTIO_BLK_T_OUT && !is_discard))
		return;
	writes[++num_writes] = (struct write){ now, 0, request.sector, num_sectors, false };
	if (is_discard)
		fill_discard(queue, token, request.sector, num_sectors);
}

/* Changes the buffer of a write that is outstanding. */
static void scribble(unsigned queue)
{
	uint16_t token = (uint16_t)below(rig.size);
	const struct rig_request *request = &rig.requests[queue][token];

	if (!request->is_used || request->type != VIRTIO_BLK_T_OUT)
		return;
	for (unsigned i = 0; i < request->num_sectors; i++)
		data_of(queue, token, i)[1] = below(1000000);
}

static void take(unsigned queue)
{
	uint16_t token;
	uint32_t bytes;

	while (rig_take(&rig, queue, &token, &bytes)) {
		const struct rig_request *request = &rig.requests[queue][token];
		uint8_t status = *(uint8_t *)rig_host(&rig, rig_status(&rig, queue, token));

		now++;
		if (status != VIRTIO_BLK_S_OK)
			assert_true(fails && status == VIRTIO_BLK_S_IOERR);
		if (request->type != VIRTIO_BLK_T_IN && request->type != VIRTIO_BLK_T_FLUSH) {
			writes[request->id].completed = now;
			writes[request->id].has_failed = status != VIRTIO_BLK_S_OK;
		}
		for (unsigned i = 0; request->type == VIRTIO_BLK_T_IN && !forgets && !status &&
		     i < request->num_sectors; i++)
			check_sector(request->sector + i, *data_of(queue, token, i),
				     request->submitted);
	}
}

/* --- the back-ends ------------------------------------------------------------------ */

static void take_chain(struct taken *taken, unsigned queue)
{
	struct rig_chain *chain = malloc(sizeof(*chain));
	bool took = taken == &by_source ? rig_backend_take(&rig, queue, chain) :
					  rig_target_take(&rig, queue, chain);

	if (!took) {
		free(chain);
		return;
	}
	assert_true(taken->count[queue] < MAX_TAKEN);
	taken->chains[queue][taken->count[queue]++] = chain;
}

static void discard(const struct rig_chain *chain, struct sector *disk)
{
	const struct virtio_blk_discard_write_zeroes *range = chain->iov[1].iov_base;

	for (unsigned i = 0; i < range->num_sectors; i++)
		disk[range->sector + i] = (struct sector){ range->flags, UINT64_MAX };
}

static void execute(const struct rig_chain *chain, struct sector *disk)
{
	uint64_t sector = chain->header.sector;

	if (chain->header.type == VIRTIO_BLK_T_FLUSH) {
		memcpy(disk == source ? stable : stable_target, disk, sizeof(source));
		return;
	}
	if (chain->header.type != VIRTIO_BLK_T_IN && chain->header.type != VIRTIO_BLK_T_OUT) {
		assert_ptr_equal(disk, source);
		discard(chain, disk);
		return;
	}
	for (unsigned i = 1; i < chain->chain.num_out + chain->chain.num_in; i++) {
		struct iovec iov = chain->iov[i];

		for (size_t at = 0; iov.iov_base != chain->status && at < iov.iov_len;
		     at += VUBLK_SECTOR_BYTES) {
			struct sector *data = (struct sector *)((char *)iov.iov_base + at);

			assert_true(sector < RIG_SECTORS);
			if (chain->header.type == VIRTIO_BLK_T_IN)
				*data = disk[sector++];
			else
				disk[sector++] = *data;
		}
	}
}

/* Executes one of the taken requests, unless it is stuck or fails, and usually completes it. */
static void execute_any(struct taken *taken, unsigned queue)
{
	bool is_source = taken == &by_source;
	uint8_t status = VIRTIO_BLK_S_OK;
	struct rig_chain *chain;
	unsigned i;

	if (!taken->count[queue])
		return;
	i = below(taken->count[queue]);
	chain = taken->chains[queue][i];
	if (chain == stuck)
		return;
	if (fails && !is_ending && !below(is_source ? 100 : 1000))
		status = VIRTIO_BLK_S_IOERR;
	if (status == VIRTIO_BLK_S_OK || below(2))
		execute(chain, is_source ? source : target);
	if (!below(4))
		return;
	if (is_source)
		rig_backend_push(&rig, queue, chain, status);
	else
		rig_target_push(&rig, queue, chain, status);
	free(chain);
	taken->chains[queue][i] = taken->chains[queue][--taken->count[queue]];
}

/* Chooses another request that is stuck, or none. */
static void choose_stuck(void)
{
	const struct taken *taken = below(2) ? &by_source : &by_target;
	unsigned queue = below(rig.num_queues);

	stuck = taken->count[queue] ? taken->chains[queue][below(taken->count[queue])] : NULL;
}

static void forget_taken(struct taken *taken)
{
	stuck = NULL;
	for (unsigned queue = 0; queue < RIG_MAX_QUEUES; queue++)
		while (taken->count[queue])
			free(taken->chains[queue][--taken->count[queue]]);
}

static void lose_source(void)
{
	vublk_plane_mirror_note_loss(&rig.plane);
	rig_lose(&rig);
	forget_taken(&by_source);
	for (unsigned i = 0; has_cache && i < RIG_SECTORS; i++)
		if (below(2))
			source[i] = stable[i];
	memcpy(stable, source, sizeof(source));
}

static void end_in_file(void)
{
	if (!marks)
		return;
	vublk_store_release(&syncs_end, true);
	sem_post(&may_end);
	assert_int_equal(vublk_mirror_state_end(marks, NULL), 0);
	vublk_store_release(&syncs_end, false);
	vublk_plane_mirror_release(&rig.plane);
	rig.is_notified = true;
}

static void lose_target(void)
{
	rig_end_mirror(&rig);
	forget_taken(&by_target);
	end_in_file();
}

/* Begins a mirror in the file, if there is a file. Returns whether it resumes the last mirror. */
static bool begin_in_file(void)
{
	struct vublk_mirror_state_disk disks[2];
	bool resumed = false;

	if (!marks)
		return false;
	assert_int_equal(vublk_mirror_state_disk_init(&disks[0], "/a", NULL, DISK_BYTES, NULL), 0);
	assert_int_equal(vublk_mirror_state_disk_init(&disks[1], "/b", NULL, DISK_BYTES, NULL), 0);
	assert_int_equal(vublk_mirror_state_begin(marks, &disks[0], &disks[1],
						  REGION_SECTORS * VUBLK_SECTOR_BYTES, &resumed,
						  NULL), 0);
	return resumed;
}

static void suspend_in_file(void)
{
	vublk_store_release(&syncs_end, true);
	sem_post(&may_end);
	vublk_mirror_state_suspend(marks);
	vublk_store_release(&syncs_end, false);
}

static void begin_mirror(void)
{
	bool was_recording = is_recording, resumed;

	if (marks && rig.plane.mirror && !is_recording)
		return; /* the previous mirror has not ended completely */
	if (is_recording) {
		vublk_plane_mirror_close(&rig.plane);
		suspend_in_file();
		is_recording = false;
	}
	resumed = begin_in_file();
	assert_int_equal(resumed, was_recording);
	for (unsigned i = 0; i < RIG_SECTORS && !resumed; i++)
		stable_target[i] = target[i] = (struct sector){ 0, below(1000000) };
	if (rig_mirror(&rig, DISK_BYTES, REGION_SECTORS * VUBLK_SECTOR_BYTES, target_size, 0))
		return;
	num_mirrors++;
	rig.plane.mirror->max_behind = 1 + below(4);
}

/* --- the run ------------------------------------------------------------------------ */

static void work(void)
{
	if (sleeps && !rig.is_notified && !marks)
		return;
	if (sleeps)
		vublk_plane_disable_notifications(&rig.plane);
	rig.is_notified = false;
	sleeps = !vublk_plane_work(&rig.plane) && vublk_plane_enable_notifications(&rig.plane);
}

static void step_of_target(unsigned queue)
{
	if (!rig.target.side || !vublk_plane_mirror_is_active(rig.plane.mirror))
		return;
	switch (below(3)) {
	case 0:
		take_chain(&by_target, queue);
		break;
	case 1:
		execute_any(&by_target, queue);
		break;
	case 2:
		rig_target_publish(&rig, queue);
		break;
	}
}

static void step_of_source(unsigned queue)
{
	if (!rig.side)
		return;
	switch (below(3)) {
	case 0:
		take_chain(&by_source, queue);
		break;
	case 1:
		execute_any(&by_source, queue);
		break;
	case 2:
		rig_backend_publish(&rig, queue);
		break;
	}
}

static void step(bool submits)
{
	unsigned queue = below(rig.num_queues);

	switch (below(10)) {
	case 0:
	case 1:
		if (submits)
			submit(queue);
		break;
	case 2:
		scribble(queue);
		break;
	case 3:
	case 4:
		step_of_source(queue);
		break;
	case 5:
	case 6:
		step_of_target(queue);
		break;
	case 7:
		work();
		break;
	case 8:
		take(queue);
		break;
	case 9:
		if (!below(8))
			check_synced();
		break;
	}
}

static void maybe_lose(void)
{
	if (rig.side && !below(600)) {
		lose_source();
	} else if (!rig.side && !below(40)) {
		rig_connect(&rig);
	}
	if (rig.target.side && (rig.mirror_failed || !below(3000))) {
		rig.mirror_failed = 0;
		lose_target();
	} else if (!rig.target.side && !below(100)) {
		begin_mirror();
	}
}

/* --- the end of the process ------------------------------------------------------------ */

int __wrap_fdatasync(int fd);

/* Makes stable what the file contains when the call begins. */
int __wrap_fdatasync(int fd)
{
	static __thread char now_there[FILE_BYTES];

	assert_true(pread(fd, now_there, FILE_BYTES, 0) >= 0);
	if (!pthread_equal(pthread_self(), owner) && !vublk_load_acquire(&syncs_end))
		sem_wait(&may_end);
	pthread_mutex_lock(&lock);
	memcpy(durable, now_there, FILE_BYTES);
	pthread_mutex_unlock(&lock);
	return 0;
}

static uint64_t fake_now(void)
{
	static uint64_t ns;

	return ns += UINT64_C(20000000); /* the clock does not go back when the next process
					    begins */
}

/* A back-end survives the process, and executes some more of the requests that it has taken. */
static void execute_some(struct taken *taken, struct sector *disk)
{
	for (unsigned queue = 0; queue < RIG_MAX_QUEUES; queue++)
		for (unsigned i = 0; i < taken->count[queue]; i++)
			if (below(2))
				execute(taken->chains[queue][i], disk);
	forget_taken(taken);
}

static void lose_caches(void)
{
	for (unsigned i = 0; i < RIG_SECTORS; i++) {
		source[i] = below(2) ? stable[i] : source[i];
		target[i] = below(2) ? stable_target[i] : target[i];
	}
}

/* Ends the process like a kill or a power loss: undoes what the clean-up writes to the file. */
static void end_process(bool power_fails)
{
	char left[FILE_BYTES];
	int fd = open(file_path, O_RDWR);

	assert_true(fd >= 0 && pread(fd, left, FILE_BYTES, 0) >= 0);
	pthread_mutex_lock(&lock);
	if (power_fails)
		memcpy(left, durable, FILE_BYTES);
	pthread_mutex_unlock(&lock);
	execute_some(&by_source, source);
	execute_some(&by_target, target);
	rig_end_mirror(&rig);
	vublk_plane_mirror_close(&rig.plane);
	suspend_in_file();
	vublk_mirror_state_close(marks);
	rig_deinit(&rig);
	assert_int_equal(pwrite(fd, left, FILE_BYTES, 0), FILE_BYTES);
	close(fd);
	if (power_fails)
		lose_caches();
	memcpy(stable, source, sizeof(source));
	memcpy(stable_target, target, sizeof(target));
	for (uint64_t i = 1; i <= num_writes; i++)
		if (!writes[i].completed)
			writes[i] = (struct write){ 0, ++now, writes[i].sector,
						    writes[i].num_sectors, true };
}

static void check_unmarked(void)
{
	for (unsigned i = 0; i < RIG_SECTORS; i++) {
		if (vublk_mirror_state_is_marked(marks, i / REGION_SECTORS))
			continue;
		num_unmarked++;
		if (memcmp(&source[i], &target[i], sizeof(source[i])))
			fail_msg("sector %u differs, and is not marked", i);
	}
}

static void open_file(void)
{
	struct vublk_error error;

	if (vublk_mirror_state_open(file_path, &marks, &error) < 0)
		fail_msg("%s", error.text);
	rig.mirror_state = marks;
	rig.plane.now_ns = fake_now;
	hot_sector = below(RIG_SECTORS - 14);
}

static void die_and_live_again(uint64_t features)
{
	unsigned num_queues = rig.num_queues, size = rig.size;
	struct vublk_mirror_state_info info;

	end_process(below(2));
	num_deaths++;
	is_recording = sleeps = false;
	rig_init(&rig, num_queues, size, 0, features);
	open_file();
	vublk_mirror_state_get_info(marks, &info);
	if (info.phase != VUBLK_MIRROR_STATE_MIRRORING)
		return;
	assert_true(begin_in_file());
	check_unmarked();
	assert_int_equal(vublk_plane_mirror_record(&rig.plane, marks, NULL), 0);
	is_recording = true;
}

static bool is_synced(void)
{
	struct vublk_plane_mirror_info info;

	vublk_plane_mirror_get_info(&rig.plane, &info);
	return info.is_active && info.synced_bytes == DISK_BYTES && !info.behind_bytes;
}

/* Waits for the thread that syncs, which a busy machine may not run for a long time. */
static void wait_for_sync(void)
{
	if (marks && rig.plane.mirror && rig.plane.mirror->state)
		assert_int_equal(vublk_mirror_state_sync(marks, NULL), 0);
}

static void finish(void)
{
	is_ending = true;
	stuck = NULL;
	vublk_store_release(&syncs_end, true);
	sem_post(&may_end);
	if (!rig.side)
		rig_connect(&rig);
	for (unsigned i = 0; i < 2000000 && (rig.outstanding || !is_synced()); i++) {
		if (rig.mirror_failed)
			lose_target();
		rig.mirror_failed = 0;
		if (!rig.target.side)
			begin_mirror();
		if (!(i % 10000))
			wait_for_sync();
		step(false);
	}
	assert_int_equal(rig.outstanding, 0);
	assert_int_equal(vublk_plane_outstanding(&rig.plane), 0);
	assert_true(is_synced());
	vublk_plane_stop(&rig.plane);
	rig.is_notified = true;
	for (unsigned i = 0; i < 1000000 && !vublk_plane_is_settled(&rig.plane); i++)
		step(false);
	assert_true(vublk_plane_is_settled(&rig.plane));
	assert_memory_equal(source, target, sizeof(source));
}

static void run_any(uint64_t seed, unsigned num_queues, unsigned size, uint64_t features,
		    bool with_cache, bool with_failures, uint64_t log_bytes, bool with_file)
{
	state = seed;
	now = num_writes = 0;
	num_mirrors = 0;
	sleeps = is_ending = false;
	has_cache = with_cache;
	forgets = (with_cache && !log_bytes) || with_file;
	fails = with_failures;
	target_size = size >> seed % 2;
	memset(source, 0, sizeof(source));
	memset(stable, 0, sizeof(stable));
	rig_init(&rig, num_queues, size, (uint16_t)seed, features);
	if (log_bytes)
		rig_keep_writes(&rig, log_bytes);
	if (with_file)
		open_file();
	for (unsigned i = 0; i < 60000; i++) {
		step(true);
		maybe_lose();
		if (!marks)
			continue;
		if (!below(30))
			sem_post(&may_end);
		if (!below(3000))
			choose_stuck();
		if (!below(800))
			hot_sector = below(RIG_SECTORS - 14);
		if (!below(4000))
			die_and_live_again(features);
	}
	finish();
	assert_int_equal(rig.side_broke, 0);
	assert_int_equal(rig.queue_broke, 0);
	assert_true(num_mirrors > 1);
	now++;
	for (unsigned i = 0; i < RIG_SECTORS && !forgets; i++)
		check_sector(i, source[i].id, now);
	forget_taken(&by_source);
	forget_taken(&by_target);
	rig_deinit(&rig);
	vublk_mirror_state_close(marks);
	marks = NULL;
	vublk_store_release(&syncs_end, false);
}

static void run(uint64_t seed, unsigned num_queues, unsigned size, uint64_t features,
		bool with_cache, bool with_failures, uint64_t log_bytes)
{
	run_any(seed, num_queues, size, features, with_cache, with_failures, log_bytes, false);
}

#define INDIRECT VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC)
#define EVENT_IDX VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX)
#define FLUSH VUBLK_BIT(VIRTIO_BLK_F_FLUSH)

static void test_indirect(void **unused)
{
	for (uint64_t seed = 1; seed <= 10; seed++)
		run(seed, 1 + seed % 4, 32, INDIRECT | EVENT_IDX, false, false, 0);
}

static void test_direct(void **unused)
{
	for (uint64_t seed = 1; seed <= 10; seed++)
		run(seed, 1 + seed % 4, 32, seed % 2 ? EVENT_IDX : 0, false, false, 0);
}

static void test_small_rings(void **unused)
{
	for (uint64_t seed = 1; seed <= 10; seed++)
		run(seed, 1 + seed % 2, 4, INDIRECT, false, false, 0);
}

static void test_failures(void **unused)
{
	for (uint64_t seed = 1; seed <= 10; seed++)
		run(seed, 1 + seed % 4, 32, INDIRECT | EVENT_IDX, false, true, 0);
}

static void test_cache(void **unused)
{
	for (uint64_t seed = 1; seed <= 10; seed++)
		run(seed, 1 + seed % 4, 32, INDIRECT | EVENT_IDX | FLUSH, true, false, 0);
}

static void test_replay(void **unused)
{
	for (uint64_t seed = 1; seed <= 40; seed++)
		run(seed, 1 + seed % 4, 32, INDIRECT | EVENT_IDX | FLUSH, true, false,
		    seed % 2 ? 65536 : 8192);
}

static void test_resume(void **unused)
{
	sem_init(&may_end, 0, 0);
	owner = pthread_self();
	snprintf(file_path, sizeof(file_path), "%s/state", vublk_test_folder());
	num_deaths = num_unmarked = 0;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		never_flushes = seed % 2;
		run_any(seed, 1 + seed % 4, 32, INDIRECT | EVENT_IDX | FLUSH, true, false, 0, true);
		assert_int_equal(unlink(file_path), 0);
	}
	assert_true(num_deaths > 20);
	assert_true(num_unmarked > 20 * REGION_SECTORS);
	sem_destroy(&may_end);
	never_flushes = false;
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_indirect),
		VUBLK_TEST(test_direct),
		VUBLK_TEST(test_small_rings),
		VUBLK_TEST(test_failures),
		VUBLK_TEST(test_cache),
		VUBLK_TEST(test_replay),
		VUBLK_TEST(test_resume),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
