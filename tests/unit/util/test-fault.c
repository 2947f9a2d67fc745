/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The library's SIGBUS handler: which faults it repairs, what it records, and to which handler it
 * passes other faults.
 */
#include "harness.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/fault.h"
#include "util/fd.h"
#include "util/memfd.h"

#include <vublk/sigbus.h>

#include <errno.h>
#include <linux/memfd.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES 16u
#define HUGE (UINT64_C(2) << 20)

static sigjmp_buf leave;
static volatile sig_atomic_t given_to_application; /* the number of the signal; 0: none */

static int make_file(void)
{
	int fd = memfd_create("truncated", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, PAGES * PAGE), 0);
	return fd;
}

static char load(const volatile char *at)
{
	return *at;
}

static void store(volatile char *at, char value)
{
	*at = value;
}

static char *map(int fd, struct vublk_fault *fault, enum vublk_fault_kind kind)
{
	char *mapped = vublk_map_guarded(fd, 0, PAGES * PAGE, fault, kind, NULL);

	assert_non_null(mapped);
	return mapped;
}

/* --- repairing --------------------------------------------------------------- */

/*
 * A file is truncated. The handler replaces each lost page at its first access. The other pages
 * stay intact.
 */
static void test_pages(void **state)
{
	struct vublk_fault fault = { .fd = vublk_eventfd_new() };
	int fd = make_file();
	char *mapped = map(fd, &fault, VUBLK_FAULT_INFLIGHT);

	memset(mapped, 0x55, PAGES * PAGE);
	assert_false(vublk_fault_happened(&fault));
	assert_int_equal(ftruncate(fd, 4 * PAGE), 0);
	for (unsigned i = 4; i < PAGES; i++) {
		assert_int_equal(load(mapped + i * PAGE + 17), 0);
		store(mapped + i * PAGE, 1);
		assert_int_equal(load(mapped + i * PAGE), 1);
	}
	assert_int_equal(load(mapped + 4 * PAGE - 1), 0x55);
	assert_int_equal(fault.kinds, VUBLK_FAULT_INFLIGHT);
	assert_int_equal(fault.address, (uintptr_t)mapped + 4 * PAGE + 17);
	assert_string_equal(vublk_fault_name(&fault), "the in-flight area");
	assert_int_equal(vublk_eventfd_clear(fault.fd), 1);
	vublk_unmap(mapped, PAGES * PAGE);
	vublk_fd_close(&fault.fd);
	vublk_fd_close(&fd);
}

/*
 * Each owner gets only the faults of its own mappings. The entries of the handler's list are
 * reused.
 */
static void test_owners(void **state)
{
	struct vublk_fault faults[3] = { { .fd = -1 }, { .fd = -1 }, { .fd = -1 } };
	char *mapped[3];
	int fd = make_file();

	for (unsigned round = 0; round < 100; round++) {
		for (unsigned i = 0; i < 3; i++)
			mapped[i] = map(fd, &faults[i], 1u << i);
		assert_int_equal(ftruncate(fd, 0), 0);
		assert_int_equal(load(mapped[round % 3]), 0);
		for (unsigned i = 0; i < 3; i++) {
			assert_int_equal(faults[i].kinds, i == round % 3 ? 1u << i : 0);
			faults[i] = (struct vublk_fault){ .fd = -1 };
			vublk_unmap(mapped[i], PAGES * PAGE);
		}
		assert_int_equal(ftruncate(fd, PAGES * PAGE), 0);
	}
	vublk_fd_close(&fd);
}

/*
 * If no huge page is free, an access to a mapping without reservation raises SIGBUS. The handler
 * then replaces the whole huge page.
 */
static void test_huge_pages(void **state)
{
	struct vublk_fault fault = { .fd = -1 };
	int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
	char *mapped;

	if (fd < 0)
		vublk_test_skip("the kernel has no huge pages");
	assert_int_equal(ftruncate(fd, 2 * HUGE), 0);
	mapped = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	assert_ptr_not_equal(mapped, MAP_FAILED);
	assert_int_equal(vublk_fault_guard(mapped, 2 * HUGE, fd, &fault, VUBLK_FAULT_MEMORY, NULL),
			 0);
	/* the host may have free huge pages, so the test truncates the file instead */
	assert_int_equal(ftruncate(fd, 0), 0);
	store(mapped + HUGE + 5 * PAGE, 7);
	store(mapped + 2 * HUGE - 1, 8);
	assert_int_equal(load(mapped + HUGE + 5 * PAGE), 7);
	assert_int_equal(fault.kinds, VUBLK_FAULT_MEMORY);
	vublk_fault_unguard(mapped);
	munmap(mapped, 2 * HUGE);
	vublk_fd_close(&fd);
}

struct churn {
	int fd;
	bool stop; /* atomic; set to end the threads */
};

static void *churn(void *opaque)
{
	struct churn *churn = opaque;
	struct vublk_fault fault = { .fd = -1 };

	while (!vublk_load_relaxed(&churn->stop))
		vublk_unmap(map(churn->fd, &fault, VUBLK_FAULT_MEMORY), PAGES * PAGE);
	assert_false(vublk_fault_happened(&fault));
	return NULL;
}

/*
 * Other threads map and unmap, so the handler's list of mappings changes while the handler searches
 * it.
 */
static void test_while_others_map(void **state)
{
	struct churn other = { .fd = make_file() };
	struct vublk_fault fault = { .fd = -1 };
	int fd = make_file();
	pthread_t threads[2];

	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, churn, &other), 0);
	assert_int_equal(ftruncate(fd, 0), 0);
	for (unsigned round = 0; round < 300; round++) {
		char *mapped = map(fd, &fault, VUBLK_FAULT_MEMORY);

		for (unsigned i = 0; i < PAGES; i++)
			assert_int_equal(load(mapped + i * PAGE), 0);
		vublk_unmap(mapped, PAGES * PAGE);
	}
	vublk_store_relaxed(&other.stop, true);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	vublk_fd_close(&other.fd);
	vublk_fd_close(&fd);
}

/* --- other faults ---------------------------------------------------------- */

static void on_application(int number, siginfo_t *info, void *context)
{
	given_to_application = number;
	if (info->si_code > 0)
		siglongjmp(leave, 1);
}

static void handle(void (*handler)(int number, siginfo_t *info, void *context))
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER };

	assert_int_equal(sigaction(SIGBUS, &action, NULL), 0);
}

/*
 * A fault in the application's own mapping, and a SIGBUS that was sent, reach the application's
 * handler.
 */
static void test_application_with_a_handler(void **state)
{
	struct vublk_fault fault = { .fd = -1 };
	int fd = make_file();
	char *guarded, *own;

	handle(on_application);
	guarded = map(fd, &fault, VUBLK_FAULT_MEMORY);
	own = vublk_map_shared(fd, 0, PAGES * PAGE, NULL);
	assert_int_equal(ftruncate(fd, 0), 0);
	if (!sigsetjmp(leave, 1)) {
		load(own);
		fail_msg("an access to a missing page succeeded");
	}
	assert_int_equal(given_to_application, SIGBUS);
	given_to_application = 0;
	raise(SIGBUS);
	assert_int_equal(given_to_application, SIGBUS);
	given_to_application = 0;
	assert_false(vublk_fault_happened(&fault));
	load(guarded);
	assert_int_equal(given_to_application, 0);
	assert_true(vublk_fault_happened(&fault));
	vublk_unmap(guarded, PAGES * PAGE);
	vublk_unmap(own, PAGES * PAGE);
	vublk_fd_close(&fd);
}

/* If the application has no handler, SIGBUS ends the process as it would without the library. */
static void test_application_without_a_handler(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		pid_t child = fork();
		int status;

		if (!child) {
			struct vublk_fault fault = { .fd = -1 };
			int fd = make_file();

			prctl(PR_SET_DUMPABLE, 0);
			signal(SIGBUS, SIG_DFL);
			map(fd, &fault, VUBLK_FAULT_MEMORY);
			if (i)
				raise(SIGBUS);
			if (ftruncate(fd, 0))
				_exit(1);
			load(vublk_map_shared(fd, 0, PAGES * PAGE, NULL));
			_exit(0);
		}
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), SIGBUS);
	}
}

static void on_managed(int number, siginfo_t *info, void *context)
{
	if (!vublk_sigbus_repair(info->si_code, info->si_addr))
		on_application(number, info, context);
}

static void test_application_that_manages(void **state)
{
	struct vublk_fault fault = { .fd = -1 };
	struct sigaction now;
	int fd = make_file();
	char *guarded;

	vublk_sigbus_manage_self();
	handle(on_managed);
	guarded = map(fd, &fault, VUBLK_FAULT_MEMORY);
	sigaction(SIGBUS, NULL, &now);
	assert_ptr_equal(now.sa_sigaction, on_managed);
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(load(guarded), 0);
	assert_true(vublk_fault_happened(&fault));
	assert_int_equal(given_to_application, 0);
	raise(SIGBUS);
	assert_int_equal(given_to_application, SIGBUS);
	vublk_unmap(guarded, PAGES * PAGE);
	vublk_fd_close(&fd);
}

int main(int argc, char **argv)
{
	const struct vublk_test tests[] = {
		VUBLK_TEST(test_pages),
		VUBLK_TEST(test_owners),
		VUBLK_TEST(test_huge_pages),
		VUBLK_TEST(test_while_others_map),
		VUBLK_TEST(test_application_with_a_handler),
		VUBLK_TEST(test_application_without_a_handler),
		VUBLK_TEST(test_application_that_manages),
	};

	return vublk_test_main(tests, VUBLK_ARRAY_SIZE(tests), argc, argv);
}
