/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One job of a bench: a thread with a queue of its own, which keeps `depth` requests in flight
 * until the load is complete or the phase tells it to stop. run.c allocates the buffers and
 * switches the phases.
 *
 * Key idea: this file is the data path. So it allocates no memory, and reads the clock only once
 * per request that it starts and once per batch of completions. After the first error, which is
 * kept in job->error, the job starts no more requests and waits for those in flight.
 *
 * With a rate (pacer.h), the job also waits while no request is in flight, and reads the clock more
 * often.
 */
#include "cli/bench/job.h"

#include "cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

#define WAIT_MS 100          /* the longest sleep before the job checks the phase again */
#define PACED_WAIT_NS 10000000 /* like WAIT_MS, for a job with a rate. Short, because a job that
				  sleeps at the end of the run makes the measured run longer by up
				  to this time. */
/*
 * The byte that fills a buffer before a verified read. Otherwise the buffer might still contain the
 * block to read, and the check would accept a read that transfers no data.
 */
#define NOT_READ 0xa5
#define POLLS_PER_LOOK 4096  /* with --mode=poll: how many polls without a completion before the job
				checks the phase again */

static unsigned current_phase(const struct vublk_bench_job *job)
{
	return __atomic_load_n(job->phase, __ATOMIC_RELAXED);
}

/* --- starting requests ----------------------------------------------------------- */

static enum vublk_bench_direction choose_direction(struct vublk_bench_job *job)
{
	const struct vublk_bench_config *config = job->config;

	if (!config->mixed)
		return config->direction;
	return vublk_random_next(&job->random) % 100 < config->read_percent ? VUBLK_BENCH_READ
									     : VUBLK_BENCH_WRITE;
}

static bool wants_sync(const struct vublk_bench_job *job)
{
	return job->config->fsync_every && job->unsynced >= job->config->fsync_every;
}

/*
 * Chooses the next request and stores it in `slot`. Returns false if another request has to
 * complete first.
 */
static bool prepare(struct vublk_bench_job *job, struct vublk_bench_slot *slot)
{
	const struct vublk_bench_config *config = job->config;

	if (wants_sync(job)) {
		slot->direction = VUBLK_BENCH_SYNC;
		job->unsynced = 0;
		return true;
	}
	slot->direction = choose_direction(job);
	if (config->verify) {
		if (!vublk_bench_verify_pick(job, slot))
			return false;
	} else {
		slot->block = vublk_bench_block_at(job, job->next);
		job->next = job->next + 1 == job->num_blocks ? 0 : job->next + 1;
	}
	job->unsynced += slot->direction == VUBLK_BENCH_WRITE;
	job->started++;
	slot->due_ns = vublk_pacer_take(&job->pacer);
	return true;
}

/*
 * Returns whether to start another request. A held request is always started, because it has been
 * counted already.
 */
static bool wants_more(struct vublk_bench_job *job)
{
	const struct vublk_bench_config *config = job->config;
	unsigned phase = current_phase(job);

	if (job->held || phase == VUBLK_BENCH_RAMP)
		return true;
	if (phase >= VUBLK_BENCH_STOP)
		return false;
	if (config->number_ios && job->started >= config->number_ios)
		return false;
	return config->time_based || config->number_ios || job->started < job->num_blocks;
}

/* Returns whether the next request may start now. If not, job->wake_ns says when it may. */
static bool is_due(struct vublk_bench_job *job)
{
	uint64_t due_ns;

	if (!job->pacer.rate || job->held || wants_sync(job))
		return true;
	due_ns = vublk_pacer_due_ns(&job->pacer);
	if (vublk_cli_now_ns() >= due_ns)
		return true;
	job->wake_ns = due_ns;
	return false;
}

static bool wants_read_back(struct vublk_bench_job *job)
{
	return job->held || current_phase(job) != VUBLK_BENCH_ABORT;
}

static int add_request(struct vublk_bench_job *job, struct vublk_bench_slot *slot)
{
	uint32_t bytes = job->config->block_bytes;
	uint64_t offset = vublk_bench_offset_of(job, slot);

	switch (slot->direction) {
	case VUBLK_BENCH_READ:
		if (job->config->verify)
			memset(slot->buffer, NOT_READ, bytes);
		return vublk_blk_read(job->queue, offset, slot->buffer, bytes, 0, slot, &job->error);
	case VUBLK_BENCH_WRITE:
		return vublk_blk_write(job->queue, offset, slot->buffer, bytes, 0, slot, &job->error);
	case VUBLK_BENCH_TRIM:
		return vublk_blk_discard(job->queue, offset, bytes, 0, slot, &job->error);
	default:
		return vublk_blk_flush(job->queue, 0, slot, &job->error);
	}
}

typedef bool prepare_fn(struct vublk_bench_job *job, struct vublk_bench_slot *slot);

/*
 * Starts one request: the held request, or a request that `prepare_slot` chooses. Returns false if
 * no request could be started.
 */
static bool start(struct vublk_bench_job *job, prepare_fn *prepare_slot)
{
	struct vublk_bench_slot *slot = job->held;
	uint64_t now;
	int ret;

	if (!slot) {
		slot = job->free[job->num_free - 1];
		slot->due_ns = 0;
		if (!prepare_slot(job, slot))
			return false;
		job->num_free--;
	}
	now = vublk_cli_now_ns();
	slot->start_ns = slot->due_ns ? slot->due_ns : now;
	if (!vublk_blk_in_flight(job->queue))
		job->moved_ns = now;
	ret = add_request(job, slot);
	job->held = ret == -EAGAIN ? slot : NULL;
	if (ret == -EAGAIN && vublk_blk_in_flight(job->queue))
		job->error.code = 0; /* a full queue is not an error while requests are in flight */
	return !ret;
}

/* --- completions ------------------------------------------------------------------ */

static void count(struct vublk_bench_job *job, const struct vublk_bench_slot *slot, uint64_t now)
{
	enum vublk_bench_direction d = slot->direction;
	struct vublk_bench_stats *stats = &job->result->stats[d];

	stats->requests++;
	if (d != VUBLK_BENCH_SYNC)
		stats->bytes += job->config->block_bytes;
	vublk_histogram_add(&stats->latency_ns, now - slot->start_ns);
	__atomic_store_n(&job->live_requests[d], stats->requests, __ATOMIC_RELAXED);
	__atomic_store_n(&job->live_bytes[d], stats->bytes, __ATOMIC_RELAXED);
}

static void fail_for_lost_writes(struct vublk_bench_job *job)
{
	vublk_cli_error(&job->error, EOWNERDEAD, "the connection to the back-end was lost before "
			"completed writes were flushed; these writes may be lost, so the load "
			"cannot be verified (set -o unflushed=trust if the back-end keeps "
			"completed writes)");
}

static void fail_request(struct vublk_bench_job *job, const struct vublk_bench_slot *slot,
			 int result)
{
	const char *reason = strerrordesc_np(-result);

	if (job->error.code)
		return; /* only the first error is reported */
	if (result == -ENOTCONN)
		vublk_cli_error(&job->error, -result, "the back-end disconnected while requests "
				"were in flight");
	else if (result == -EOWNERDEAD)
		fail_for_lost_writes(job);
	else if (slot->direction == VUBLK_BENCH_SYNC)
		vublk_cli_error(&job->error, -result, "flush failed: %s", reason);
	else
		vublk_cli_error(&job->error, -result, "%s of %" PRIu32 " bytes at offset %" PRIu64
				" failed: %s", vublk_bench_direction_name(slot->direction),
				job->config->block_bytes, vublk_bench_offset_of(job, slot), reason);
}

static void complete(struct vublk_bench_job *job, const struct vublk_blk_completion *completion,
		     uint64_t now)
{
	struct vublk_bench_slot *slot = completion->user_data;

	if (completion->user_data == job->watch) {
		vublk_disk_watch_take(job->watch, completion);
		return;
	}
	job->free[job->num_free++] = slot;
	if (completion->result) {
		fail_request(job, slot, completion->result);
		return;
	}
	if (!job->verifying)
		count(job, slot, now);
	if (!job->config->verify || slot->direction == VUBLK_BENCH_SYNC || job->error.code)
		return;
	/*
	 * The watch learns of lost writes before the next back-end can complete a read, so the old
	 * content of a block whose write was lost is never reported as wrong.
	 */
	if (vublk_disk_watch_has_lost_writes(job->config->watch))
		fail_for_lost_writes(job);
	else
		vublk_bench_verify_complete(job, slot, &job->error);
}

/* Begins the measured run, and discards everything that was counted during the ramp time. */
static void begin_run(struct vublk_bench_job *job, uint64_t now)
{
	job->seen_phase = VUBLK_BENCH_RUN;
	job->start_ns = now;
	job->started = 0;
	vublk_pacer_start(&job->pacer, job->config->rate_iops, now);
	memset(job->result, 0, sizeof(*job->result));
	for (unsigned d = 0; d < VUBLK_BENCH_NUM_DIRECTIONS; d++) {
		__atomic_store_n(&job->live_requests[d], 0, __ATOMIC_RELAXED);
		__atomic_store_n(&job->live_bytes[d], 0, __ATOMIC_RELAXED);
	}
	getrusage(RUSAGE_THREAD, &job->usage);
}

/* Sleeps until a completion arrives or the time `until_ns` has come. */
static int sleep_until(struct vublk_bench_job *job, uint64_t until_ns)
{
	struct pollfd pollfd = { .fd = vublk_blk_queue_fd(job->queue), .events = POLLIN };
	uint64_t now = vublk_cli_now_ns();
	struct timespec left = { .tv_nsec = until_ns > now ? (long)(until_ns - now) : 0 };

	if (vublk_blk_arm(job->queue) || ppoll(&pollfd, 1, &left, NULL) >= 0 || errno == EINTR)
		return 0;
	return vublk_cli_error_errno(&job->error, errno, "cannot wait for the queue");
}

/*
 * Waits like collect(), but no longer than until job->wake_ns. Also works while no request is in
 * flight.
 */
static int collect_paced(struct vublk_bench_job *job)
{
	uint64_t until_ns = vublk_cli_now_ns() + PACED_WAIT_NS;
	int n, ret;

	if (job->wake_ns)
		until_ns = VUBLK_CLI_MIN(until_ns, job->wake_ns);
	vublk_blk_submit(job->queue);
	for (;;) {
		n = vublk_blk_poll(job->queue, job->completions, job->config->depth);
		if (n || vublk_cli_now_ns() >= until_ns)
			return n;
		if (job->config->poll)
			continue;
		ret = sleep_until(job, until_ns);
		if (ret)
			return ret;
	}
}

static int collect(struct vublk_bench_job *job, unsigned *idle_polls)
{
	if (job->pacer.rate)
		return collect_paced(job);
	if (!job->config->poll)
		return vublk_blk_wait(job->queue, job->completions, 1, job->config->depth, WAIT_MS,
				      &job->error);
	vublk_blk_submit(job->queue);
	for (*idle_polls = 0; *idle_polls < POLLS_PER_LOOK; ++*idle_polls) {
		int n = vublk_blk_poll(job->queue, job->completions, job->config->depth);

		if (n)
			return n;
	}
	return 0;
}

/*
 * Returns whether to abandon the requests in flight. A run that stops during an outage counts and
 * abandons its requests, because waiting for them would delay its end. A verifying run waits for
 * them, because it needs their completions. An aborted run never waits.
 */
static bool abandons(struct vublk_bench_job *job)
{
	unsigned phase = current_phase(job);

	if (phase != VUBLK_BENCH_STOP || job->config->verify ||
	    !vublk_disk_watch_has_outage(job->config->watch))
		return phase == VUBLK_BENCH_ABORT;
	job->result->abandoned = vublk_blk_in_flight(job->queue);
	return true;
}

/*
 * Waits for completions and processes them. Returns false if the job must not wait for more
 * completions.
 */
static bool take_completions(struct vublk_bench_job *job)
{
	char text[VUBLK_CLI_TEXT_BYTES];
	unsigned idle_polls;
	int n = collect(job, &idle_polls);
	uint64_t now = vublk_cli_now_ns();

	if (n < 0) {
		job->error.code = -n;
		return false;
	}
	if (job->seen_phase == VUBLK_BENCH_RAMP && current_phase(job) != VUBLK_BENCH_RAMP)
		begin_run(job, now);
	for (int i = 0; i < n; i++)
		complete(job, &job->completions[i], now);
	if (n || !vublk_blk_in_flight(job->queue))
		job->moved_ns = now;
	vublk_disk_watch_poll(job->watch, job->queue);
	if (abandons(job))
		return false;
	if (now - job->moved_ns <= (uint64_t)job->config->stall_ms * 1000000)
		return true;
	if (!job->error.code)
		vublk_cli_error(&job->error, ETIMEDOUT, "the back-end completed no request within "
				"%s; requests in flight: %u",
				vublk_cli_format_ns(text, job->config->stall_ms * 1e6),
				vublk_blk_in_flight(job->queue));
	return false;
}

/* --- the job ---------------------------------------------------------------------- */

/*
 * Keeps requests in flight, as far as the rate permits, until `wants` returns false or a request
 * fails. Then waits for the requests that are still in flight.
 */
static void run_load(struct vublk_bench_job *job, bool (*wants)(struct vublk_bench_job *job),
		     prepare_fn *prepare_slot)
{
	for (;;) {
		job->wake_ns = 0;
		while (!job->error.code && (job->held || job->num_free) && wants(job))
			if (!is_due(job) || !start(job, prepare_slot))
				break;
		if (!vublk_blk_in_flight(job->queue) && !job->wake_ns)
			return;
		if (!take_completions(job))
			return;
	}
}

static bool prepare_flush(struct vublk_bench_job *job, struct vublk_bench_slot *slot)
{
	slot->direction = VUBLK_BENCH_SYNC;
	job->unsynced = 0;
	return true;
}

static bool wants_flush(struct vublk_bench_job *job)
{
	return job->unsynced || job->held;
}

/* Flushes, then reads back every block that was written. */
static void verify_written(struct vublk_bench_job *job)
{
	__atomic_store_n(&job->verifying, 1, __ATOMIC_RELAXED);
	job->pacer.rate = 0; /* reads back as fast as possible */
	job->unsynced = 1;
	run_load(job, wants_flush, prepare_flush);
	run_load(job, wants_read_back, vublk_bench_verify_pick_back);
}

static uint64_t microseconds(const struct timeval *after, const struct timeval *before)
{
	return (uint64_t)(after->tv_sec - before->tv_sec) * 1000000 +
	       (uint64_t)after->tv_usec - (uint64_t)before->tv_usec;
}

static void end_run(struct vublk_bench_job *job)
{
	struct vublk_bench_result *result = job->result;
	const struct rusage *before = &job->usage;
	struct rusage after;

	getrusage(RUSAGE_THREAD, &after);
	result->runtime_ns = vublk_cli_now_ns() - job->start_ns;
	result->user_us = microseconds(&after.ru_utime, &before->ru_utime);
	result->system_us = microseconds(&after.ru_stime, &before->ru_stime);
	result->context_switches = (uint64_t)(after.ru_nvcsw - before->ru_nvcsw +
					      after.ru_nivcsw - before->ru_nivcsw);
	result->major_faults = (uint64_t)(after.ru_majflt - before->ru_majflt);
	result->minor_faults = (uint64_t)(after.ru_minflt - before->ru_minflt);
}

void vublk_bench_job_run(void *member)
{
	struct vublk_bench_job *job = member;
	struct vublk_error cause;

	if (job->config->rate_iops)
		prctl(PR_SET_TIMERSLACK, 1); /* wakes up when a request is due, not up to 50 us later */
	begin_run(job, vublk_cli_now_ns());
	if (current_phase(job) == VUBLK_BENCH_RAMP)
		job->seen_phase = VUBLK_BENCH_RAMP; /* until take_completions() sees the next
						       phase */
	run_load(job, wants_more, prepare);
	end_run(job);
	if (!job->error.code && job->verify.generations)
		verify_written(job);
	if (!job->error.code)
		return;
	cause = job->error;
	vublk_cli_error(&job->error, cause.code, "job %u: %s", job->number, cause.text);
	__atomic_store_n(job->phase, VUBLK_BENCH_ABORT, __ATOMIC_RELAXED); /* ends all jobs */
}
