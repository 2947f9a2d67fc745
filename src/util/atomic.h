/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_UTIL_ATOMIC_H
#define VUBLK_UTIL_ATOMIC_H

/*
 * Loads and stores of fields that another thread or process also accesses. Where a release and an
 * acquire form a pair, a comment marks both of them with the same letter.
 */
#define vublk_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define vublk_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define vublk_store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define vublk_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define vublk_exchange_acquire(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQUIRE)

/*
 * Use these for two sides that each store and then load: one stores A and then loads B, the other
 * stores B and then loads A, and at least one side must see the other's store. Acquire and release
 * do not guarantee that, but sequential consistency of all four accesses does, also between
 * processes and kernels that share the memory. TSan understands these accesses, but not a bare
 * fence.
 */
#define vublk_store_seq(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define vublk_load_seq(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)

static inline void vublk_cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

#define VUBLK_CACHE_LINE 64

/* Defined in builds with the thread sanitizer, which makes the code about ten times slower. */
#if defined(__SANITIZE_THREAD__)
#define VUBLK_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define VUBLK_TSAN 1
#endif
#endif

#endif
