/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changes of a disk's memory in steps, over the stand-in device: how a change begins and ends, and
 * how it is undone when it is canceled, the back-end is lost, or the disk is closed.
 *
 * Key idea: the stand-in device answers a change when the case calls fake_answer_memory(). So a
 * case can examine a change that is in progress. The harness finds descriptors and mappings that an
 * undone change has left behind.
 */
#include "blk-rig.h"

#include "util/fd.h"
#include "util/memfd.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define BYTES 8192

static bool is_ready(const struct vublk_blk_change *change, int timeout_ms)
{
	struct pollfd pollfd = { .fd = vublk_blk_change_fd(change), .events = POLLIN };

	return poll(&pollfd, 1, timeout_ms) == 1;
}

static struct vublk_blk_change *start_alloc(struct vublk_blk *blk)
{
	struct vublk_blk_change *change;

	assert_int_equal(vublk_blk_alloc_start(blk, BYTES, &change, &error), 0);
	return change;
}

static struct vublk_blk_change *start_release(struct vublk_blk *blk, void *address)
{
	struct vublk_blk_change *change;

	assert_int_equal(vublk_blk_release_start(blk, address, &change, &error), 0);
	return change;
}

/* Memory that the application itself has mapped. */
struct own {
	int fd;
	char *address;
};

static struct own make_own(void)
{
	struct own own = { .fd = vublk_memfd_new("own", BYTES, &error) };

	own.address = vublk_map_shared(own.fd, 0, BYTES, &error);
	assert_non_null(own.address);
	return own;
}

static void free_own(struct own *own)
{
	vublk_unmap(own->address, BYTES);
	vublk_fd_close(&own->fd);
}

static struct vublk_blk_change *start_register(struct vublk_blk *blk, const struct own *own)
{
	struct vublk_blk_change *change;

	assert_int_equal(vublk_blk_register_start(blk, own->address, BYTES, own->fd, 0, &change,
						  &error), 0);
	return change;
}

static int finish(struct vublk_blk_change *change, void **address)
{
	assert_true(is_ready(change, -1));
	return vublk_blk_change_finish(change, address, &error);
}

static void *finish_add(struct vublk_blk_change *change)
{
	void *address = NULL;

	assert_int_equal(finish(change, &address), 0);
	assert_non_null(address);
	return address;
}

static void finish_removal(struct vublk_blk_change *change)
{
	void *address = change;

	assert_int_equal(finish(change, &address), 0);
	assert_null(address);
}

/* Opens a disk whose device does not answer the next change before fake_answer_memory(). */
static struct vublk_blk *begin_and_hold(const struct vublk_option *options)
{
	struct vublk_blk *blk = begin(1, options);

	fake_plan.memory_asks_backend = true;
	fake_plan.holds_memory = true;
	return blk;
}

static int add_write(struct vublk_blk *blk, const void *buffer)
{
	return vublk_blk_write(vublk_blk_queue(blk, 0), 0, buffer, 512, 0, NULL, &error);
}

static void expect_usable(struct vublk_blk *blk, void *buffer)
{
	struct vublk_blk_completion c;

	memset(buffer, 7, 512);
	fake_disk()[0] = 0;
	assert_int_equal(add_write(blk, buffer), 0);
	vublk_blk_submit(vublk_blk_queue(blk, 0));
	assert_int_equal(fake_serve(0, 1), 1);
	assert_int_equal(vublk_blk_wait(vublk_blk_queue(blk, 0), &c, 1, 1, -1, &error), 1);
	assert_int_equal(c.result, 0);
	assert_int_equal(fake_disk()[0], 7);
}

/* --- the steps ------------------------------------------------------------------------------ */

static void expect_in_progress(struct vublk_blk_change *change)
{
	void *address = change;

	assert_false(is_ready(change, 0));
	assert_int_equal(vublk_blk_change_finish(change, &address, &error), -EAGAIN);
	assert_non_null(strstr(error.text, "has not ended"));
	assert_null(address);
}

static void test_alloc_and_release_in_steps(void **state)
{
	struct vublk_blk *blk = begin_and_hold(NULL);
	struct vublk_blk_change *change = start_alloc(blk), *again;
	char *buffer;

	fake_await_memory();
	expect_in_progress(change);
	fake_answer_memory();
	buffer = finish_add(change);
	for (unsigned i = 0; i < BYTES; i++)
		assert_int_equal(buffer[i], 0);
	expect_usable(blk, buffer);
	fake_plan.holds_memory = true;
	change = start_release(blk, buffer);
	fake_await_memory();
	expect_in_progress(change);
	assert_int_equal(vublk_blk_release_start(blk, buffer, &again, &error), -EINVAL);
	assert_null(again);
	fake_answer_memory();
	finish_removal(change);
	tear_down(blk);
}

static void test_register_and_unregister_in_steps(void **state)
{
	struct vublk_blk *blk = begin_and_hold(NULL);
	struct own own = make_own();
	struct vublk_blk_change *change = start_register(blk, &own);

	expect_in_progress(change);
	assert_int_equal(add_write(blk, own.address), -EINVAL);
	vublk_fd_close(&own.fd); /* the disk has duplicated it */
	fake_answer_memory();
	assert_ptr_equal(finish_add(change), own.address);
	expect_usable(blk, own.address);
	assert_int_equal(vublk_blk_unregister_start(blk, own.address, &change, &error), 0);
	finish_removal(change);
	assert_int_equal(add_write(blk, own.address), -EINVAL);
	tear_down(blk);
	free_own(&own);
}

/* Changes, including that of a blocking call, end in the order in which they were started. */
static void test_several_in_progress(void **state)
{
	struct vublk_blk *blk = begin_and_hold(NULL);
	struct vublk_blk_change *changes[3];
	struct own own = make_own();
	void *buffers[3];

	changes[0] = start_alloc(blk);
	changes[1] = start_register(blk, &own);
	assert_int_equal(vublk_blk_unregister_start(blk, own.address, &changes[2], &error), 0);
	for (unsigned i = 0; i < 3; i++)
		expect_in_progress(changes[i]);
	fake_answer_memory();
	assert_non_null(buffers[2] = vublk_blk_alloc(blk, BYTES, &error));
	for (unsigned i = 0; i < 3; i++)
		assert_true(is_ready(changes[i], 0)); /* the blocking call's change ended last */
	finish_removal(changes[2]);
	assert_ptr_equal(finish_add(changes[1]), own.address);
	buffers[0] = finish_add(changes[0]);
	expect_usable(blk, buffers[0]);
	expect_usable(blk, buffers[2]);
	assert_int_equal(vublk_blk_release(blk, buffers[0], &error), 0);
	tear_down(blk);
	free_own(&own);
}

/* --- refusals -------------------------------------------------------------------------------- */

static void test_start_refuses(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_change *change = (void *)&error;
	int fd = vublk_memfd_new("a", BYTES, &error), unsealed;

	assert_int_equal(vublk_blk_alloc_start(blk, 0, &change, &error), -EINVAL);
	assert_null(change);
	assert_int_equal(vublk_blk_register_start(blk, (void *)0x100001, 4096, fd, 0, &change,
						  &error), -EINVAL);
	assert_string_equal(error.text, "cannot register 4096 bytes at 0x100001 from offset 0 of "
			    "their file: expected multiples of the page size (4096 bytes) for all "
			    "three, and at least one page");
	assert_int_equal(vublk_blk_register_start(blk, (void *)0x100000, 4096, -1, 0, &change,
						  &error), -EBADF);
	unsealed = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(vublk_blk_register_start(blk, (void *)0x100000, 4096, unsealed, 0, &change,
						  &error), -EINVAL);
	assert_non_null(strstr(error.text, "use a memfd that is sealed against shrinking"));
	assert_int_equal(vublk_blk_release_start(blk, NULL, &change, &error), -EINVAL);
	assert_int_equal(vublk_blk_release_start(blk, &error, &change, &error), -EINVAL);
	assert_null(change);
	vublk_blk_change_cancel(NULL);
	vublk_fd_close(&unsealed);
	vublk_fd_close(&fd);
	tear_down(blk);
}

static void expect_failure(struct vublk_blk_change *change, int code, const char *text)
{
	void *address = change;

	error.text[0] = '\0';
	assert_int_equal(finish(change, &address), -code);
	assert_null(address);
	assert_non_null(strstr(error.text, text));
}

static void test_finish_refuses(void **state)
{
	struct vublk_blk *blk = set_up();
	struct vublk_blk_change *changes[8];
	struct own own = make_own();

	fake_plan.memory_asks_backend = true;
	finish_add(start_register(blk, &own));
	expect_failure(start_register(blk, &own), EINVAL,
		       "they overlap memory that is already registered");
	assert_int_equal(vublk_blk_unregister_start(blk, own.address + 4096, &changes[0], &error), 0);
	expect_failure(changes[0], EINVAL, "no registered memory starts at");
	for (unsigned i = 0; i < 8; i++)
		changes[i] = start_alloc(blk);
	for (unsigned i = 0; i < 6; i++) /* 8 with the rings and the registered memory */
		finish_add(changes[i]);
	expect_failure(changes[6], ENOSPC, "all 8 memory slots of the back-end are in use");
	expect_failure(changes[7], ENOSPC, "all 8 memory slots of the back-end are in use");
	assert_int_equal(vublk_blk_unregister(blk, own.address, &error), 0);
	fake_plan.memory_error = EIO;
	expect_failure(start_alloc(blk), EIO, "no memory");
	fake_plan.memory_error = EINVAL;
	expect_failure(start_register(blk, &own), EINVAL, "does not like the memory");
	tear_down(blk);
	free_own(&own);
}

/* Opens descriptors until only `spare` more can be opened. Returns how many it leaves open. */
static unsigned use_up_descriptors(int *fds, unsigned max, unsigned spare)
{
	unsigned n = 0;

	while (n < max && (fds[n] = dup(STDIN_FILENO)) >= 0)
		n++;
	assert_true(n < max && n >= spare);
	while (spare--)
		close(fds[--n]);
	return n;
}

/* A change that cannot be started has no effect. A blocking release needs no descriptor. */
static void test_out_of_descriptors(void **state)
{
	struct vublk_blk *blk = set_up();
	char *buffer = vublk_blk_alloc(blk, BYTES, &error);
	struct vublk_blk_change *change;
	struct rlimit limit = { 100, 100 };
	int fds[100];

	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	for (unsigned spare = 3; spare--;) { /* for an eventfd, the memory, and its duplicate */
		unsigned n = use_up_descriptors(fds, 100, spare);

		assert_int_equal(vublk_blk_alloc_start(blk, BYTES, &change, &error), -EMFILE);
		assert_null(change);
		if (!spare) {
			assert_int_equal(vublk_blk_release_start(blk, buffer, &change, &error),
					 -EMFILE);
			assert_int_equal(vublk_blk_release(blk, buffer, &error), 0);
		}
		while (n)
			close(fds[--n]);
	}
	finish_add(start_alloc(blk));
	tear_down(blk);
}

/* --- the back-end is lost --------------------------------------------------------------------- */

static void test_outage(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	char *old = vublk_blk_alloc(blk, BYTES, &error), *buffer;

	fake_plan.memory_asks_backend = true;
	lose();
	buffer = finish_add(start_alloc(blk));
	finish_removal(start_release(blk, old));
	assert_int_equal(add_write(blk, buffer), 0); /* waits for the next back-end */
	vublk_blk_submit(vublk_blk_queue(blk, 0));
	find();
	assert_int_equal(fake_serve(0, 1), 1);
	tear_down(blk);
}

/*
 * The back-end is lost during a change. The next back-end gets all regions, so the change succeeds.
 */
static void test_lost_in_the_middle(void **state)
{
	struct vublk_blk *blk = begin_and_hold(NULL);
	struct vublk_blk_change *first = start_alloc(blk), *second = start_alloc(blk);
	char *buffer;

	fake_await_memory();
	expect_in_progress(first);
	lose();
	buffer = finish_add(first);
	finish_removal(start_release(blk, finish_add(second)));
	find();
	expect_usable(blk, buffer);
	tear_down(blk);
}

static void test_lost_for_good_in_the_middle(void **state)
{
	struct vublk_blk *blk = begin_and_hold(blk_fails_at_once);
	struct own own = make_own();
	struct vublk_blk_change *change = start_register(blk, &own);

	fake_await_memory();
	expect_in_progress(change);
	fake_disconnect("the back-end hung up");
	expect_failure(change, ENOTCONN, "the back-end hung up");
	/* The change that failed has left nothing behind. */
	finish_add(start_register(blk, &own));
	tear_down(blk);
	free_own(&own);
}

static void test_removal_when_lost_for_good(void **state)
{
	struct vublk_blk *blk = begin_and_hold(blk_fails_at_once);
	struct vublk_blk_change *change = start_alloc(blk);
	char *buffer;

	fake_answer_memory();
	buffer = finish_add(change);
	fake_plan.holds_memory = true;
	change = start_release(blk, buffer);
	fake_await_memory();
	expect_in_progress(change);
	fake_disconnect("the back-end hung up");
	finish_removal(change);
	tear_down(blk);
}

/* --- cancel ----------------------------------------------------------------------------------- */

static void test_cancel_before_it_began(void **state)
{
	struct vublk_blk *blk = begin_and_hold(NULL);
	struct vublk_blk_change *first = start_alloc(blk), *second;
	struct own own = make_own();

	fake_await_memory();
	second = start_register(blk, &own);
	vublk_blk_change_cancel(start_alloc(blk));
	vublk_blk_change_cancel(second);
	fake_answer_memory();
	finish_add(first);
	finish_add(start_register(blk, &own));
	assert_int_equal(fake_num_changes, 2); /* the canceled changes were never sent */
	tear_down(blk);
	free_own(&own);
}

/*
 * A change is canceled after its region was sent, and before the back-end confirms it. The next
 * change adds memory at the same address, as if the application had mapped other memory there in
 * between.
 */
static void test_cancel_in_the_middle(void **state)
{
	struct vublk_blk *blk = begin_and_hold(NULL);
	struct own own = make_own();
	struct vublk_blk_change *change = start_register(blk, &own);

	fake_await_memory();
	expect_in_progress(change);
	vublk_blk_change_cancel(change);
	change = start_register(blk, &own);
	fake_answer_memory();
	finish_add(change);
	expect_usable(blk, own.address);
	finish_removal(start_release(blk, finish_add(start_alloc(blk))));
	tear_down(blk);
	free_own(&own);
}

/* A canceled alloc leaves no memory slot occupied, whether it had ended or not. */
static void test_cancel_leaves_no_region(void **state)
{
	struct vublk_blk *blk = begin(1, NULL);
	struct vublk_blk_change *change;

	fake_plan.memory_asks_backend = true;
	for (unsigned i = 0; i < 40; i++) {
		change = start_alloc(blk);
		if (i & 1)
			assert_true(is_ready(change, -1));
		vublk_blk_change_cancel(change);
	}
	for (unsigned i = 0; i < 7; i++)
		finish_add(start_alloc(blk));
	tear_down(blk);
}

/* A canceled removal is still carried out. */
static void test_cancel_of_a_release(void **state)
{
	struct vublk_blk *blk = set_up();

	fake_plan.memory_asks_backend = true;
	for (unsigned i = 0; i < 40; i++)
		vublk_blk_change_cancel(start_release(blk, vublk_blk_alloc(blk, BYTES, &error)));
	for (unsigned i = 0; i < 7; i++)
		finish_add(start_alloc(blk));
	tear_down(blk);
}

static void test_cancel_in_an_outage(void **state)
{
	struct vublk_blk *blk = begin_and_hold(NULL);
	struct vublk_blk_change *change = start_alloc(blk);

	fake_await_memory();
	expect_in_progress(change);
	vublk_blk_change_cancel(change);
	lose();
	vublk_blk_change_cancel(start_alloc(blk));
	fake_answer_memory(); /* no effect: the back-end that was asked is lost */
	find();
	for (unsigned i = 0; i < 7; i++)
		finish_add(start_alloc(blk));
	tear_down(blk);
}

/* --- close ------------------------------------------------------------------------------------ */

/*
 * The disk is closed at various points of the work that its thread does on several changes. Some
 * changes have ended, and some are canceled.
 */
static void test_close_at_any_moment(void **state)
{
	struct own own = make_own();

	fake_init(DISK_BYTES);
	fake_plan.memory_asks_backend = true;
	for (unsigned i = 0; i < 200; i++) {
		struct vublk_blk *blk = open_disk();
		char *buffer = vublk_blk_alloc(blk, BYTES, &error);
		struct vublk_blk_change *first = start_alloc(blk), *canceled = start_alloc(blk);

		start_register(blk, &own);
		start_release(blk, buffer);
		if (i % 3)
			vublk_blk_change_cancel(canceled);
		for (unsigned j = 0; j < i % 50; j++)
			is_ready(first, 0);
		if (i % 2)
			fake_disconnect("the back-end hung up");
		assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	}
	fake_deinit();
	free_own(&own);
}

/* The disk is closed while the back-end has the first change, which it never answers. */
static void test_close_with_a_change_in_the_middle(void **state)
{
	struct vublk_blk *blk = begin_and_hold(NULL);
	struct own own = make_own();

	start_register(blk, &own);
	fake_await_memory();
	start_alloc(blk);
	vublk_blk_change_cancel(start_alloc(blk));
	fake_disconnect("the back-end did not answer");
	assert_int_equal(vublk_blk_close(blk, 0, NULL), 0);
	fake_deinit();
	free_own(&own);
}

/* --- threads ---------------------------------------------------------------------------------- */

static struct in_handler {
	struct vublk_blk *blk;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct vublk_blk_change *change;
} in_handler = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* Starts changes. They cannot end before the handler returns. */
static void start_in_handler(void *opaque, enum vublk_blk_event event, const struct vublk_error *why)
{
	pthread_mutex_lock(&in_handler.lock);
	vublk_blk_change_cancel(start_alloc(in_handler.blk));
	in_handler.change = start_alloc(in_handler.blk);
	expect_in_progress(in_handler.change);
	pthread_cond_signal(&in_handler.changed);
	pthread_mutex_unlock(&in_handler.lock);
}

static void test_start_in_a_handler(void **state)
{
	const struct vublk_blk_handlers handlers = { .event = start_in_handler };
	struct vublk_blk *blk;

	fake_init(DISK_BYTES);
	assert_int_equal(vublk_blk_open("socket", NULL, &handlers, sizeof(handlers), &blk, &error), 0);
	pthread_mutex_lock(&in_handler.lock);
	in_handler.blk = blk;
	fake_resize(DISK_BYTES / 2);
	while (!in_handler.change)
		pthread_cond_wait(&in_handler.changed, &in_handler.lock);
	pthread_mutex_unlock(&in_handler.lock);
	expect_usable(blk, finish_add(in_handler.change));
	tear_down(blk);
}

static void *change_often(void *opaque)
{
	struct vublk_blk *blk = opaque;

	for (unsigned i = 0; i < 50; i++) {
		struct vublk_blk_change *one, *other;
		struct vublk_error why;
		void *buffer = NULL;

		assert_int_equal(vublk_blk_alloc_start(blk, BYTES, &one, &why), 0);
		assert_int_equal(vublk_blk_alloc_start(blk, BYTES, &other, &why), 0);
		vublk_blk_change_cancel(other);
		assert_true(is_ready(one, -1));
		if (!vublk_blk_change_finish(one, &buffer, &why) && i & 1)
			assert_int_equal(vublk_blk_release(blk, buffer, &why), 0);
		else if (buffer && !vublk_blk_release_start(blk, buffer, &one, &why))
			vublk_blk_change_cancel(one);
	}
	return NULL;
}

static void test_threads(void **state)
{
	pthread_t threads[4];
	struct vublk_blk *blk = begin(1, NULL);

	fake_plan.memory_asks_backend = true;
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, change_often, blk), 0);
	for (unsigned i = 0; i < 5; i++) {
		lose();
		find();
	}
	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < 7; i++)
		finish_add(start_alloc(blk));
	tear_down(blk);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_alloc_and_release_in_steps),
		VUBLK_TEST(test_register_and_unregister_in_steps),
		VUBLK_TEST(test_several_in_progress),
		VUBLK_TEST(test_start_refuses),
		VUBLK_TEST(test_finish_refuses),
		VUBLK_TEST(test_out_of_descriptors),
		VUBLK_TEST(test_outage),
		VUBLK_TEST(test_lost_in_the_middle),
		VUBLK_TEST(test_lost_for_good_in_the_middle),
		VUBLK_TEST(test_removal_when_lost_for_good),
		VUBLK_TEST(test_cancel_before_it_began),
		VUBLK_TEST(test_cancel_in_the_middle),
		VUBLK_TEST(test_cancel_leaves_no_region),
		VUBLK_TEST(test_cancel_of_a_release),
		VUBLK_TEST(test_cancel_in_an_outage),
		VUBLK_TEST(test_close_at_any_moment),
		VUBLK_TEST(test_close_with_a_change_in_the_middle),
		VUBLK_TEST(test_start_in_a_handler),
		VUBLK_TEST(test_threads),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
