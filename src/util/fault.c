/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes the process survive a peer that removes pages from shared memory; see fault.h.
 *
 * Key idea: the handler runs on the faulting thread, between any two instructions. So it takes no
 * lock, and reads the guarded ranges from a list that only grows. Each entry has a version, which
 * is odd while the entry changes. The handler skips such an entry. A skipped entry cannot be the
 * one for the faulting access, because the entry of a mapping does not change while a thread
 * accesses the mapping.
 *
 * A letter marks both accesses of a pair that must be ordered:
 *   F  a writer stores an entry's fields and then its even version, and initializes a new entry
 *      before it links the entry into the list; the handler loads the list and the version first.
 *      So a handler that sees the entry or the version also sees the fields.
 * The fields are themselves stored with release and loaded with acquire. So a handler that sees a
 * field of a later change also sees the later version, and discards its copy.
 */
#include "util/fault.h"

#include <vublk/sigbus.h>

#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifdef SYS_mmap
#define MAP_CALL SYS_mmap
#else
#define MAP_CALL SYS_mmap2
#endif

struct range {
	struct range *next; /* set once, before the entry is in the list */
	unsigned version;   /* odd while the entry is being changed */
	uintptr_t start;
	uintptr_t bytes; /* 0: the entry is unused */
	uintptr_t page_bytes;
	struct vublk_fault *fault;
	unsigned kind;
};

static struct range *ranges; /* atomic; entries are reused and never freed */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* held while an entry is changed */
static bool managed_elsewhere;
static bool installed;
static struct sigaction before; /* the previous handler, stored before this one is installed */

/* --- the ranges ------------------------------------------------------------- */

static void change(struct range *range, const struct range *to)
{
	vublk_store_relaxed(&range->version, range->version + 1);
	vublk_store_release(&range->start, to->start);
	vublk_store_release(&range->bytes, to->bytes);
	vublk_store_release(&range->page_bytes, to->page_bytes);
	vublk_store_release(&range->fault, to->fault);
	vublk_store_release(&range->kind, to->kind);
	vublk_store_release(&range->version, range->version + 1); /* F */
}

/* Copies an entry. Returns false if it changed during the copy. */
static bool copy(const struct range *range, struct range *to)
{
	to->version = vublk_load_acquire(&range->version); /* F */
	to->start = vublk_load_acquire(&range->start);
	to->bytes = vublk_load_acquire(&range->bytes);
	to->page_bytes = vublk_load_acquire(&range->page_bytes);
	to->fault = vublk_load_acquire(&range->fault);
	to->kind = vublk_load_acquire(&range->kind);
	return !(to->version % 2) && vublk_load_relaxed(&range->version) == to->version;
}

static bool find(uintptr_t address, struct range *found)
{
	for (const struct range *r = vublk_load_acquire(&ranges); r; r = r->next) /* F */
		if (copy(r, found) && address - found->start < found->bytes)
			return true;
	return false;
}

static int add(const struct range *range)
{
	struct range *entry = ranges;

	while (entry && entry->bytes)
		entry = entry->next;
	if (!entry) {
		entry = calloc(1, sizeof(*entry));
		if (!entry)
			return -ENOMEM;
		entry->next = ranges;
		vublk_store_release(&ranges, entry); /* F */
	}
	change(entry, range);
	return 0;
}

/* --- the signal ------------------------------------------------------------- */

static bool replace(uintptr_t address, uintptr_t bytes)
{
	return syscall(MAP_CALL, address, bytes, PROT_READ | PROT_WRITE,
		       MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) ==
	       (long)address;
}

static void record(const struct range *range, uintptr_t address)
{
	struct vublk_fault *fault = range->fault;
	uintptr_t none = 0;

	__atomic_compare_exchange_n(&fault->address, &none, address, false, __ATOMIC_RELAXED,
				    __ATOMIC_RELAXED);
	if (!__atomic_fetch_or(&fault->kinds, range->kind, __ATOMIC_RELEASE) && fault->fd >= 0)
		vublk_eventfd_write(fault->fd);
}

/*
 * Records the fault before it replaces the page, so that a thread that reads the empty page also
 * finds the record. Replacing one page splits the mapping. If the process has too many mappings for
 * a split, the handler replaces the whole mapping.
 */
bool vublk_sigbus_repair(int code, const void *fault_address)
{
	uintptr_t address = (uintptr_t)fault_address;
	int saved = errno;
	struct range range;
	bool repaired;

	if (code <= 0 || !find(address, &range)) /* a process sent the signal, or the address is
						    not guarded */
		return false;
	record(&range, address);
	repaired = replace(address & ~(range.page_bytes - 1), range.page_bytes) ||
		   replace(range.start, range.bytes);
	errno = saved;
	return repaired;
}

/*
 * Calls the previous handler. If there was none, restores the default action, which takes effect
 * when this handler returns and the access faults again. A signal that a process sent is raised
 * again or, if the program ignored SIGBUS, dropped.
 */
static void pass_on(int number, siginfo_t *info, void *context)
{
	struct sigaction fatal = { .sa_handler = SIG_DFL };

	if (before.sa_flags & SA_SIGINFO) {
		before.sa_sigaction(number, info, context);
		return;
	}
	if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
		before.sa_handler(number);
		return;
	}
	if (info->si_code <= 0 && before.sa_handler == SIG_IGN)
		return;
	sigaction(SIGBUS, &fatal, NULL);
	if (info->si_code <= 0)
		raise(SIGBUS);
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
	int saved = errno;

	if (!vublk_sigbus_repair(info->si_code, info->si_addr))
		pass_on(number, info, context);
	errno = saved;
}

static void install(void)
{
	struct sigaction action = {
		.sa_sigaction = on_sigbus,
		.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART,
	};

	if (installed || managed_elsewhere)
		return;
	installed = true;
	sigemptyset(&action.sa_mask);
	sigaction(SIGBUS, NULL, &before);
	sigaction(SIGBUS, &action, NULL);
}

void vublk_sigbus_manage_self(void)
{
	pthread_mutex_lock(&lock);
	managed_elsewhere = true;
	pthread_mutex_unlock(&lock);
}

/* --- the calls ----------------------------------------------------------- */

const char *vublk_fault_name(const struct vublk_fault *fault)
{
	unsigned kinds = vublk_load_relaxed(&fault->kinds);

	if (kinds & VUBLK_FAULT_MEMORY)
		return "the guest's memory";
	if (kinds & VUBLK_FAULT_INFLIGHT)
		return "the in-flight area";
	return kinds & VUBLK_FAULT_DIRTY_LOG ? "the dirty log" : "the mirror's state file";
}

/*
 * Returns the page size of the file. The handler replaces whole pages of this size, because part of
 * a huge page cannot be replaced.
 */
static uintptr_t page_bytes_of(int fd)
{
	struct statfs fs;

	if (!fstatfs(fd, &fs) && fs.f_type == HUGETLBFS_MAGIC)
		return (uintptr_t)fs.f_bsize;
	return (uintptr_t)sysconf(_SC_PAGESIZE);
}

int vublk_fault_guard(void *address, uint64_t bytes, int fd, struct vublk_fault *fault,
		      enum vublk_fault_kind kind, struct vublk_error *error)
{
	uintptr_t page = page_bytes_of(fd);
	const struct range range = {
		.start = (uintptr_t)address,
		.bytes = ((uintptr_t)bytes + page - 1) & ~(page - 1),
		.page_bytes = page,
		.fault = fault,
		.kind = kind,
	};
	int r;

	pthread_mutex_lock(&lock);
	install();
	r = add(&range);
	pthread_mutex_unlock(&lock);
	return r ? vublk_error_set(error, ENOMEM, "cannot allocate memory to guard a mapping") : 0;
}

void vublk_fault_unguard(const void *address)
{
	const struct range unused = { 0 };

	pthread_mutex_lock(&lock);
	for (struct range *r = ranges; r; r = r->next) {
		if (!r->bytes || r->start != (uintptr_t)address)
			continue;
		change(r, &unused);
		break;
	}
	pthread_mutex_unlock(&lock);
}
