/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One job of a chaos run: a thread that keeps a queue of its own busy with requests to its part of
 * the disk. verify.c checks the content.
 *
 * Key idea: most requests go to a few hot blocks, so that the back-end often dies while several
 * writes of the same block are in flight. A job does not react to outages: it only sees that
 * completions are late. But the time limit of a request runs only while the back-end is up, and
 * starts again whenever a back-end comes up.
 */
#include "cli/chaos/load.h"

#include "cli/cli.h"
#include "cli/pattern.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define WAIT_MS 100        /* the longest sleep before the job checks the phase again */
#define HOT_BLOCKS 32
#define HOT_REQUESTS 500   /* other blocks become hot after this many requests */
#define HOT_PERCENT 80     /* the share of requests that go to hot blocks, in percent */

/* --- shared with the other jobs ---------------------------------------------------- */

void vublk_chaos_load_advance(struct vublk_chaos_load *load, enum vublk_chaos_phase phase)
{
	unsigned before = __atomic_load_n(&load->phase, __ATOMIC_RELAXED);

	while (before < phase && !__atomic_compare_exchange_n(&load->phase, &before, phase, false,
							      __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

void vublk_chaos_load_signal_done(struct vublk_chaos_load *load)
{
	eventfd_write(load->done_fd, 1);
}

static unsigned current_phase(const struct vublk_chaos_job *job)
{
	return __atomic_load_n(&job->load->phase, __ATOMIC_RELAXED);
}

static uint64_t random_below(struct vublk_chaos_job *job, uint64_t limit)
{
	job->random += UINT64_C(0x9e3779b97f4a7c15);
	return vublk_mix(job->random) % limit;
}

/* --- choosing requests --------------------------------------------------------- */

typedef bool choose_fn(struct vublk_chaos_job *job, struct vublk_chaos_request *request);

static enum vublk_chaos_op choose_op(struct vublk_chaos_job *job)
{
	const struct vublk_blk_info *info = &job->load->info;
	uint64_t dice = random_below(job, 100);

	if (dice < 3)
		return VUBLK_CHAOS_FLUSH;
	if (dice < 38)
		return VUBLK_CHAOS_READ;
	if (dice < 45 && info->max_write_zeroes_bytes >= VUBLK_CHAOS_BLOCK_BYTES)
		return VUBLK_CHAOS_ZEROES;
	if (dice < 50 && info->max_discard_bytes >= VUBLK_CHAOS_BLOCK_BYTES &&
	    info->discard_alignment_bytes <= VUBLK_CHAOS_BLOCK_BYTES)
		return VUBLK_CHAOS_DISCARD;
	return VUBLK_CHAOS_WRITE;
}

static void choose_hot_blocks(struct vublk_chaos_job *job)
{
	if (job->hot_left--)
		return;
	job->hot = random_below(job, job->verifier.num_blocks - HOT_BLOCKS + 1);
	job->hot_left = HOT_REQUESTS;
}

static bool choose(struct vublk_chaos_job *job, struct vublk_chaos_request *request)
{
	uint64_t first = 0, blocks = job->verifier.num_blocks;

	if (current_phase(job) != VUBLK_CHAOS_RUN)
		return false;
	request->op = choose_op(job);
	request->count = 0;
	if (request->op == VUBLK_CHAOS_FLUSH)
		return true;
	choose_hot_blocks(job);
	if (random_below(job, 100) < HOT_PERCENT) {
		first = job->hot;
		blocks = HOT_BLOCKS;
	}
	request->count = 1 + (uint32_t)random_below(job, VUBLK_CHAOS_MAX_BLOCKS);
	request->block = job->verifier.first_block + first +
			 random_below(job, blocks - request->count + 1);
	return true;
}

/*
 * Chooses the next blocks of a pass over the job's part of the disk. Returns false at the end of
 * the pass, or if the phase is VUBLK_CHAOS_ABORT.
 */
static bool choose_next(struct vublk_chaos_job *job, struct vublk_chaos_request *request,
			enum vublk_chaos_op op)
{
	uint64_t left = job->verifier.num_blocks - job->next;

	if (!left || current_phase(job) == VUBLK_CHAOS_ABORT)
		return false;
	request->op = op;
	request->block = job->verifier.first_block + job->next;
	request->count = (uint32_t)VUBLK_CLI_MIN(left, (uint64_t)VUBLK_CHAOS_MAX_BLOCKS);
	job->next += request->count;
	return true;
}

/*
 * Chooses the next write of zeroes for the initial content. add_request() makes it an ordinary
 * write, because not every disk has WRITE ZEROES.
 */
static bool choose_zeroes(struct vublk_chaos_job *job, struct vublk_chaos_request *request)
{
	return choose_next(job, request, VUBLK_CHAOS_ZEROES);
}

static bool choose_read(struct vublk_chaos_job *job, struct vublk_chaos_request *request)
{
	return choose_next(job, request, VUBLK_CHAOS_READ);
}

/* --- starting requests -------------------------------------------------------- */

static int add_request(struct vublk_chaos_job *job, struct vublk_chaos_slot *slot, bool written)
{
	const struct vublk_chaos_request *request = &slot->request;
	uint64_t offset = request->block * VUBLK_CHAOS_BLOCK_BYTES;
	size_t bytes = request->count * VUBLK_CHAOS_BLOCK_BYTES;
	uint32_t flags = request->generations[0] % 2 ? 0 : VUBLK_BLK_NO_UNMAP; /* tests both values
										  of the flag */

	switch (request->op) {
	case VUBLK_CHAOS_READ:
		return vublk_blk_read(job->queue, offset, slot->buffer, bytes, 0, slot, &job->error);
	case VUBLK_CHAOS_ZEROES:
		if (!written)
			return vublk_blk_write_zeroes(job->queue, offset, bytes, flags, slot,
						      &job->error);
		/* fall through */
	case VUBLK_CHAOS_WRITE:
		return vublk_blk_write(job->queue, offset, slot->buffer, bytes, 0, slot, &job->error);
	case VUBLK_CHAOS_DISCARD:
		return vublk_blk_discard(job->queue, offset, bytes, 0, slot, &job->error);
	default:
		return vublk_blk_flush(job->queue, 0, slot, &job->error);
	}
}

/*
 * Reports a request to the verifier and fills its buffer. Must be called in the order in which
 * requests are added to the queue. `written` says that zeroes are written as data.
 */
static void prepare(struct vublk_chaos_job *job, struct vublk_chaos_slot *slot, bool written)
{
	vublk_chaos_verify_begin(&job->verifier, &slot->request);
	vublk_chaos_verify_fill(&job->verifier, &slot->request, slot->buffer);
	if (written && slot->request.op == VUBLK_CHAOS_ZEROES)
		memset(slot->buffer, 0, slot->request.count * VUBLK_CHAOS_BLOCK_BYTES);
}

/*
 * Starts one request: the held request, or a request that `choose_request` chooses. Returns false
 * if no request could be started.
 */
static bool start(struct vublk_chaos_job *job, choose_fn *choose_request)
{
	bool written = choose_request == choose_zeroes;
	struct vublk_chaos_slot *slot = job->held;
	int ret;

	if (!slot) {
		slot = job->free[job->num_free - 1];
		if (!choose_request(job, &slot->request))
			return false;
		job->num_free--;
		prepare(job, slot, written);
	}
	slot->start_ns = vublk_cli_now_ns();
	ret = add_request(job, slot, written);
	slot->in_flight = !ret;
	job->held = ret == -EAGAIN ? slot : NULL;
	if (ret == -EAGAIN && vublk_blk_in_flight(job->queue))
		job->error.code = 0; /* a full queue is not an error while requests are in flight */
	return !ret;
}

/* --- completions -------------------------------------------------------------- */

/* Describes a request in `text`: "write of 2 blocks at offset 8192". */
static void describe(const struct vublk_chaos_request *request, char *text, size_t text_bytes)
{
	const char *name = vublk_chaos_op_name(request->op);

	if (request->count)
		snprintf(text, text_bytes, "%s of %" PRIu32 " block%s at offset %" PRIu64, name,
			 request->count, request->count == 1 ? "" : "s",
			 request->block * VUBLK_CHAOS_BLOCK_BYTES);
	else
		snprintf(text, text_bytes, "%s", name);
}

static void fail_request(struct vublk_chaos_job *job, const struct vublk_chaos_request *request,
			 int result)
{
	char text[80];

	if (job->error.code)
		return; /* only the first error is reported */
	describe(request, text, sizeof(text));
	vublk_cli_error(&job->error, -result, "%s failed: %s", text, strerrordesc_np(-result));
}

static void complete(struct vublk_chaos_job *job, const struct vublk_blk_completion *completion)
{
	struct vublk_chaos_slot *slot = completion->user_data;
	uint64_t *count = &job->requests[slot->request.op];

	slot->in_flight = false;
	job->free[job->num_free++] = slot;
	if (completion->result) {
		fail_request(job, &slot->request, completion->result);
		return;
	}
	vublk_chaos_verify_complete(&job->verifier, &slot->request, slot->buffer);
	__atomic_store_n(count, *count + 1, __ATOMIC_RELAXED);
	if (job->is_beginning && slot->request.op != VUBLK_CHAOS_READ &&
	    slot->request.op != VUBLK_CHAOS_FLUSH) {
		job->is_beginning = false;
		if (!__atomic_sub_fetch(&job->load->beginning, 1, __ATOMIC_RELAXED))
			eventfd_write(job->load->begun_fd, 1);
	}
}

/* Records the time of the first completion of any job after the latest start of the back-end. */
static void note_first(struct vublk_chaos_load *load, uint64_t now)
{
	uint64_t none = 0;

	if (!__atomic_load_n(&load->first_ns, __ATOMIC_RELAXED))
		__atomic_compare_exchange_n(&load->first_ns, &none, now, false, __ATOMIC_RELAXED,
					    __ATOMIC_RELAXED);
}

/*
 * Returns whether any request exceeds the time limit. Counts such requests, and describes the
 * oldest one in job->error.
 */
static bool is_stuck(struct vublk_chaos_job *job, uint64_t now)
{
	uint64_t limit_ns = (uint64_t)job->load->config->stuck_ms * 1000000;
	uint64_t up_ns = __atomic_load_n(&job->load->up_since_ns, __ATOMIC_RELAXED);
	const struct vublk_chaos_slot *oldest = NULL;
	char text[80];

	if (!up_ns || now - VUBLK_CLI_MIN(up_ns, now) <= limit_ns)
		return false;
	for (unsigned i = 0; i < job->load->config->depth; i++) {
		const struct vublk_chaos_slot *slot = &job->slots[i];

		if (!slot->in_flight || now - slot->start_ns <= limit_ns)
			continue;
		job->stuck++;
		if (!oldest || slot->start_ns < oldest->start_ns)
			oldest = slot;
	}
	if (!oldest || job->error.code)
		return oldest;
	describe(&oldest->request, text, sizeof(text));
	vublk_cli_error(&job->error, ETIMEDOUT, "stuck: %u of %u requests in flight did not complete "
			"within %u ms although the back-end is running; the oldest is a %s",
			job->stuck, vublk_blk_in_flight(job->queue), job->load->config->stuck_ms,
			text);
	return true;
}

/*
 * Waits for completions and processes them. Returns false if the job must not wait for more
 * completions.
 */
static bool take_completions(struct vublk_chaos_job *job)
{
	uint64_t now;
	int n;

	__atomic_store_n(&job->in_flight, vublk_blk_in_flight(job->queue), __ATOMIC_RELAXED);
	n = vublk_blk_wait(job->queue, job->completions, 1, job->load->config->depth, WAIT_MS,
			   &job->error);
	now = vublk_cli_now_ns();
	if (n < 0) {
		job->error.code = -n;
		return false;
	}
	vublk_chaos_verify_set_life(&job->verifier,
				    __atomic_load_n(&job->load->life, __ATOMIC_RELAXED));
	for (int i = 0; i < n; i++)
		complete(job, &job->completions[i]);
	if (n)
		note_first(job->load, now);
	return !is_stuck(job, now) && current_phase(job) != VUBLK_CHAOS_ABORT;
}

/* --- the job ------------------------------------------------------------------ */

/*
 * Keeps requests in flight until `choose_request` chooses no more or a request fails, and then waits
 * for the rest. Does not wait if the run is aborted or a request is stuck.
 */
static void run_requests(struct vublk_chaos_job *job, choose_fn *choose_request)
{
	for (;;) {
		while (!job->error.code && (job->held || job->num_free))
			if (!start(job, choose_request))
				break;
		if (!vublk_blk_in_flight(job->queue) || !take_completions(job))
			return;
	}
}

void vublk_chaos_job_run(void *member)
{
	struct vublk_chaos_job *job = member;
	struct vublk_chaos_load *load = job->load;
	struct vublk_error cause;

	job->next = 0;
	if (!job->only_read_back) {
		run_requests(job, choose_zeroes);
		job->is_beginning = true;
		run_requests(job, choose);
		job->is_beginning = false;
		job->next = 0;
	}
	if (!job->error.code)
		run_requests(job, choose_read);
	if (job->error.code) {
		cause = job->error;
		vublk_cli_error(&job->error, cause.code, "queue %u: %s", job->number, cause.text);
		vublk_chaos_load_advance(load, VUBLK_CHAOS_ABORT);
	}
	if (!__atomic_sub_fetch(&load->working, 1, __ATOMIC_RELAXED) || job->error.code)
		vublk_chaos_load_signal_done(load);
}
