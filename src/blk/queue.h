/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BLK_QUEUE_H
#define VUBLK_BLK_QUEUE_H

/*
 * One queue of a disk: its requests, their pieces on the ring, and the completions. request.c
 * checks the arguments of requests, and src/virtio implements the ring.
 *
 * Key idea: a request of the application is cut into one or more pieces, and each piece is one
 * chain on the ring. A piece occupies a slot, and the slot's number is its token on the ring. There
 * are as many requests, and as many slots, as the ring has entries.
 *
 * The owner of a queue is the thread that uses it. Everything here belongs to the owner, except
 * where a comment says otherwise. When a back-end is lost, for example, the disk's thread closes
 * the queue's gate (gate.h) and uses the queue for a moment.
 */

#include "blk/gate.h"
#include "virtio/blk-overlap.h"
#include "blk/split.h"
#include "blk/statistics.h"
#include "blk/unflushed.h"
#include "inproc/inproc.h"
#include "util/atomic.h"
#include "util/log.h"
#include "virtio/blk-format.h"
#include "virtio/driver-ring.h"
#include "virtio/write-log.h"

#include <vublk/blk.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A chain has a header before its data and a status after it. */
#define VUBLK_BLK_CHAIN_OVERHEAD 2
/*
 * The largest number of descriptors in a chain: an indirect table of one page (4 KiB) has room for
 * this many.
 */
#define VUBLK_BLK_MAX_CHAIN 256

/* The largest number of descriptors in a table that fits into a slot: header, data, status. */
#define VUBLK_BLK_SLOT_TABLE 3

/*
 * The part of a slot that the driver shares with the back-end: two cache lines. The first has the
 * descriptors, which the driver does not write again if the next request uses the same buffer. The
 * second has the request's header and segment, which the driver writes, and the answer, which the
 * back-end writes.
 */
struct vublk_blk_shared_slot {
	struct vring_desc table[VUBLK_BLK_SLOT_TABLE];
	uint8_t unused[16];
	struct virtio_blk_outhdr header;
	uint8_t status; /* written by the back-end */
	uint8_t id[VUBLK_BLK_ID_BYTES];
	uint8_t unused2[11];
	struct virtio_blk_discard_write_zeroes segment;
};
_Static_assert(offsetof(struct vublk_blk_shared_slot, header) == VUBLK_CACHE_LINE,
	       "a line for the fields that rarely change");
_Static_assert(sizeof(struct vublk_blk_shared_slot) == 128, "two cache lines");

enum vublk_blk_request_state {
	VUBLK_BLK_REQUEST_FREE,
	VUBLK_BLK_REQUEST_CUTTING, /* in the list `cutting`, because it is not completely cut yet */
	VUBLK_BLK_REQUEST_ISSUED,  /* completely cut; its last pieces are on the ring */
	VUBLK_BLK_REQUEST_FUA_ISSUED, /* like ISSUED, for a request with `fua` */
	VUBLK_BLK_REQUEST_AWAITS_OWN, /* a flush in the list `awaiting`; the back-end has completed
					 it */
	VUBLK_BLK_REQUEST_OWN,     /* the queue's own flush (own-flush.c) */
	VUBLK_BLK_REQUEST_DONE,    /* in the list `done`, so its completion can be taken */
};

/* The progress of a request with VUBLK_BLK_FUA, which is a write followed by a flush; see fua.c. */
enum vublk_blk_fua {
	VUBLK_BLK_FUA_NONE, /* no VUBLK_BLK_FUA, or FLUSH was not negotiated */
	VUBLK_BLK_FUA_WRITE,
	VUBLK_BLK_FUA_WRITE_PARTLY_DONE, /* at least one piece has completed */
	VUBLK_BLK_FUA_FLUSH,
};

struct vublk_blk_request {
	struct vublk_blk_request *next; /* in `cutting`, `awaiting`, `done` or `free` */
	enum vublk_blk_request_state state;
	enum vublk_blk_fua fua;         /* NONE in a free request */
	uint32_t type;                  /* VIRTIO_BLK_T_... */
	int result;                     /* the negative errno of the first piece that failed; 0: no
					   failure so far */
	unsigned pieces;                /* how many pieces of the request are on the ring */
	uint32_t flags;                 /* the segment's flags, for a write zeroes */
	uint64_t offset;                /* the next piece's place on the disk, in bytes */
	uint64_t left;                  /* bytes that are not cut into pieces yet */
	struct vublk_blk_cursor cursor;
	struct iovec single;            /* the only buffer of a request that has no array of
					   iovecs */
	union {
		char *id;           /* the buffer of a get-id */
		uint64_t flush_number;
	};
	uint64_t log_mark;              /* of a flush: the mark of the log of writes when the flush
					   was put on the ring */
	uint64_t failures_before;       /* of a request with `fua`, and of own_flush:
					   unseen_failures (unflushed.h) when the request was
					   made */
	uint64_t awaited_flush;         /* in `awaiting`: the request waits for the disk's own
					   flushes up to this number (unflushed.h) */
	void *user_data;
};

/*
 * A slot: a piece on the ring, with everything that is needed to issue the piece again. After a
 * loss, the disk's thread fills new rings from the slots, in the order of `sequence`. It never
 * fills them from shared memory, which the lost back-end may have changed.
 */
struct vublk_blk_slot {
	struct vublk_blk_request *request; /* NULL: the slot is free */
	uint64_t sequence;
	uint64_t offset;
	uint64_t bytes;
	struct vublk_blk_cursor cursor;
	/*
	 * A copy of the data descriptor that plain.h last wrote to the slot's table in shared
	 * memory. If the next request in the slot needs the same descriptor, plain.h does not write
	 * it again. table_bytes 0: the content of the table is unknown.
	 */
	uint64_t table_addr;
	uint32_t table_bytes;
	bool table_writes; /* the descriptor was for a write to the disk */
};

struct vublk_blk_list {
	struct vublk_blk_request *first;
	struct vublk_blk_request *last;
};

static inline void vublk_blk_list_append(struct vublk_blk_list *list,
					 struct vublk_blk_request *request)
{
	request->next = NULL;
	if (list->last)
		list->last->next = request;
	else
		list->first = request;
	list->last = request;
}

enum vublk_blk_queue_state {
	/* The queue accepts requests and adds them to the ring, even during an outage. */
	VUBLK_BLK_QUEUE_WORKS,
	/*
	 * The next back-end must first execute the log of completed writes (replay.c), on the ring
	 * of queue 0. New requests are accepted, but wait.
	 */
	VUBLK_BLK_QUEUE_REPLAYS,
	/*
	 * The back-end wrote an invalid index or entry into the ring. New requests fail. The
	 * requests in flight fail when the device has the rings back.
	 */
	VUBLK_BLK_QUEUE_BROKEN,
	/*
	 * The requests that were in flight have failed. New ones fail until a back-end is connected
	 * again.
	 */
	VUBLK_BLK_QUEUE_FAILS,
	VUBLK_BLK_QUEUE_DEAD, /* like FAILS, but permanent */
};

/*
 * Whether the application or the blocking calls add requests to the queue. The first user that
 * claims the queue keeps it.
 */
enum vublk_blk_queue_user {
	VUBLK_BLK_QUEUE_UNUSED,
	VUBLK_BLK_QUEUE_OF_APPLICATION,
	VUBLK_BLK_QUEUE_OF_BLOCKING_CALLS,
};

struct vublk_blk_queue {
	/* used by any thread, atomically */
	enum vublk_blk_queue_user user;

	/* constant after init */
	void (*on_broken_ring)(void *opaque, const struct vublk_error *error);
	void *opaque;
	unsigned index;
	unsigned size;
	bool has_indirect;
	bool may_unmap;
	struct vublk_blk_limits limits;
	uint32_t max_plain_bytes; /* the longest request that plain.h accepts */
	uint64_t features;
	const struct vublk_inproc_queue *inproc; /* the bus's part of the queue; its pointers
						    change when the rings are replaced */
	const struct vublk_inproc_regions *regions;
	const uint64_t *capacity_bytes; /* written by the disk's thread, loaded atomically */
	struct vublk_blk_flushes *flushes; /* of the disk */
	const struct vublk_log *log;
	const char *serial; /* the property serial, zero-padded to VUBLK_BLK_ID_BYTES; empty: the
			       back-end's serial is used */
	unsigned table_entries;
	struct vublk_blk_statistics *statistics; /* NULL: statistics are off */

	struct vublk_blk_gate gate;

	/* used by the owner inside the gate, or by the disk's thread while the gate is closed */
	struct vublk_driver_ring ring __attribute__((aligned(VUBLK_CACHE_LINE)));
	struct vublk_blk_shared_slot *shared;
	uint64_t shared_addr;
	struct vring_desc *tables; /* indirect tables that do not fit into a slot, `table_entries`
				      per slot */
	uint64_t tables_addr;
	struct vublk_inproc_region_cache cache;
	struct vublk_ring_buffer *buffers; /* header, data and status of the piece that is being
					      made */
	struct vublk_blk_slot *slots;
	uint16_t *free_slots; /* a stack */
	unsigned num_free_slots;
	struct vublk_blk_request *requests;
	struct vublk_blk_request *free; /* a stack */
	struct vublk_blk_list cutting; /* only its first request may have pieces on the ring */
	struct vublk_blk_list awaiting; /* flushes that the back-end has completed, but that wait
					   for the disk's own flushes (unflushed.h); only with
					   unflushed=replay */
	struct vublk_blk_list done;
	unsigned num_done;
	unsigned in_flight;   /* how many requests are not free */
	uint64_t sequence;
	uint64_t covering_flush; /* the number of the first flush that covers all completed writes
				    of this queue (unflushed.h); 0: no write has completed, or none
				    since writes were last reported lost */
	bool flush_fails;     /* the next flush has to fail, because completed writes may be lost */
	bool unpublished;     /* the ring has chains that are not published yet */
	bool calls_enabled;
	enum vublk_blk_queue_state state;
	struct vublk_error failure; /* why the queue last stopped working; code 0: it never
				       stopped */
	struct vublk_log_limit log_limit;
	/* used by deadline.c: how many pieces had been published at each of the latest checks */
	uint64_t published_notes[VUBLK_INPROC_LOOKS_PER_DEADLINE];
	unsigned next_note;
	struct vublk_blk_overlap overlap; /* a filter that contains all writes on the ring */

	/* used with unflushed=replay only */
	struct vublk_write_log *write_log; /* of the disk */
	struct vublk_write_log_stream *stream; /* this queue's stream of the log */
	struct vublk_blk_request own_flush;
	bool wants_flush;      /* own_flush has to be issued */
	bool own_flush_failed; /* own_flush has failed, and is not issued again until the disk's
				  thread clears this */
	uint64_t told_failures; /* how many of flushes->unseen_failures this queue has reported to
				   the application */
	uint64_t own_in_flight; /* the flush number of own_flush while it is in flight; otherwise 0.
				   Loaded by the owners of all queues, and by the disk's thread
				   without closing the gates */
	bool awaits_own;       /* `awaiting` is not empty; loaded by the owners of all queues */
	bool replay_fails;     /* the last replay failed, so flushes fail until a replay succeeds */
} __attribute__((aligned(VUBLK_CACHE_LINE)));

/*
 * Returns how many bytes of shared memory a queue of `size` entries needs in addition to the ring.
 */
uint64_t vublk_blk_queue_shared_bytes(unsigned size, bool has_indirect);

/* The arguments of vublk_blk_queue_init(). */
struct vublk_blk_queue_setup {
	/*
	 * Called when the back-end has broken the ring, on the thread that noticed it: the owner's
	 * or the disk's.
	 */
	void (*on_broken_ring)(void *opaque, const struct vublk_error *error);
	void *opaque;
	unsigned index;
	unsigned size;
	uint64_t features;
	bool may_unmap; /* a write zeroes may deallocate blocks */
	struct vublk_blk_limits limits;
	const struct vublk_inproc_queue *inproc;
	const struct vublk_inproc_regions *regions;
	const uint64_t *capacity_bytes;
	struct vublk_blk_flushes *flushes;
	bool statistics;
	const struct vublk_log *log;
	const char *serial;
	struct vublk_write_log *write_log; /* has one stream per queue; NULL: there is no log */
};

/* Initializes a queue, which the caller must have zeroed. Frees everything if it fails. */
int vublk_blk_queue_init(struct vublk_blk_queue *queue, const struct vublk_blk_queue_setup *setup,
			 struct vublk_error *error);
void vublk_blk_queue_deinit(struct vublk_blk_queue *queue);

/*
 * The functions from here to vublk_blk_queue_give_up() are in recover.c, and the disk's thread
 * calls them.
 */

/*
 * Called when the back-end is lost. Takes the completions, and keeps the owner outside the gate
 * until vublk_blk_queue_after_loss(). Does not replace the rings.
 */
void vublk_blk_queue_lost(struct vublk_blk_queue *queue);
/*
 * Lets the owner pass the gate again. `writes_lost`: completed writes of at least one of the disk's
 * queues may be lost. In that case, each flush of this queue that is in flight completes with
 * EOWNERDEAD. If there is none, the queue's next flush fails. A write with FUA fails, too, if one
 * of its pieces had completed.
 */
void vublk_blk_queue_after_loss(struct vublk_blk_queue *queue, bool writes_lost);
/*
 * Called when the rings are about to be replaced. Takes all completions, and keeps the owner
 * outside the gate until vublk_blk_queue_resume() or vublk_blk_queue_hold().
 */
void vublk_blk_queue_suspend(struct vublk_blk_queue *queue);
/*
 * Called when empty rings have replaced the old ones. Lets the owner pass the gate again. `error`
 * NULL: the pieces in flight are issued again, in their original order. Otherwise the requests in
 * flight fail, and new ones fail until vublk_blk_queue_revive().
 */
void vublk_blk_queue_resume(struct vublk_blk_queue *queue, const struct vublk_error *error);
/*
 * These two functions replace vublk_blk_queue_resume() if the next back-end must first execute the
 * log (replay.h). hold() adopts the empty ring and keeps all requests. release() issues the
 * requests after the replay.
 */
void vublk_blk_queue_hold(struct vublk_blk_queue *queue);
void vublk_blk_queue_release(struct vublk_blk_queue *queue);
/* Makes a queue in state FAILS accept new requests, which wait until the replay has ended. */
void vublk_blk_queue_hold_failed(struct vublk_blk_queue *queue);
/* Called when the rings run again. A queue in state FAILS works again. */
void vublk_blk_queue_revive(struct vublk_blk_queue *queue);
/*
 * Called when the loss of the back-end is permanent. Takes all completions, and fails all other
 * requests.
 */
void vublk_blk_queue_give_up(struct vublk_blk_queue *queue, const struct vublk_error *error);

/*
 * Returns whether a piece has been in flight for longer than the deadline. The disk's thread must
 * call this VUBLK_INPROC_LOOKS_PER_DEADLINE times per deadline. In deadline.c.
 */
bool vublk_blk_queue_is_overdue(struct vublk_blk_queue *queue);

/*
 * The functions from here to vublk_blk_queue_pump_for_owner() are in queue.c, and must be called
 * inside the gate, or on the disk's thread while the gate is closed.
 */

/* Stores the current addresses of the memory that the queue shares with the back-end. */
void vublk_blk_queue_bind(struct vublk_blk_queue *queue);
/*
 * Takes all completions that the ring has. Requests in `cutting` may fit on the ring afterwards, so
 * the caller must pump the queue, or signal call_fd so that the owner pumps it.
 */
void vublk_blk_queue_take_all(struct vublk_blk_queue *queue);
/*
 * Fails each request in flight with queue->failure. `state` is the new state of the queue: FAILS or
 * DEAD.
 */
void vublk_blk_queue_fail_all(struct vublk_blk_queue *queue, enum vublk_blk_queue_state state);
/* Returns whether a request of the application (not own_flush) is neither free nor done. */
bool vublk_blk_queue_is_in_flight(const struct vublk_blk_request *request);
/*
 * Called when a piece of the request has left the ring without a completion. Completes the request
 * if no other piece is left.
 */
void vublk_blk_queue_piece_ended(struct vublk_blk_queue *queue, struct vublk_blk_request *request);
/*
 * Completes the flushes in `awaiting` that no longer have to wait, and issues own_flush if
 * wants_flush is set. Then issues pieces of the requests in `cutting`, as far as the ring has room,
 * publishes the new chains, and kicks the back-end if it wants a kick.
 */
void vublk_blk_queue_pump(struct vublk_blk_queue *queue);
/*
 * Like vublk_blk_queue_pump(), for the disk's thread. Its kick never blocks, because no other
 * thread would unblock the disk's thread.
 */
void vublk_blk_queue_pump_for_owner(struct vublk_blk_queue *queue);

/*
 * Returns a free request, zeroed, or NULL if no request is free. The caller passes the request to
 * vublk_blk_queue_start() or vublk_blk_queue_finish(). When the request's completion has been
 * taken, the caller frees the request with vublk_blk_queue_put_request().
 */
struct vublk_blk_request *vublk_blk_queue_get_request(struct vublk_blk_queue *queue);
void vublk_blk_queue_put_request(struct vublk_blk_queue *queue, struct vublk_blk_request *request);

/*
 * Adds as many pieces of the request to the ring as fit. vublk_blk_queue_pump() adds the others
 * later.
 */
void vublk_blk_queue_start(struct vublk_blk_queue *queue, struct vublk_blk_request *request);
/* Completes a request that has no piece on the ring. */
void vublk_blk_queue_finish(struct vublk_blk_queue *queue, struct vublk_blk_request *request,
			    int result);

/*
 * Claims the queue for `user`, unless another user has claimed it. Returns whether the queue
 * belongs to `user` now. Any thread may call this.
 */
static inline bool vublk_blk_queue_claim(struct vublk_blk_queue *queue,
					 enum vublk_blk_queue_user user)
{
	enum vublk_blk_queue_user before = VUBLK_BLK_QUEUE_UNUSED;

	return __atomic_compare_exchange_n(&queue->user, &before, user, false, __ATOMIC_RELAXED,
					   __ATOMIC_RELAXED) || before == user;
}

/*
 * Returns whether `result` is the error with which the library, not the back-end, completes
 * requests. Called by the owner, outside the gate.
 */
bool vublk_blk_queue_gave_up(struct vublk_blk_queue *queue, int result);

/*
 * Fills `error` with one sentence that says why a request has this result. Called by the owner,
 * outside the gate.
 */
void vublk_blk_queue_explain(struct vublk_blk_queue *queue, int result, struct vublk_error *error);

/*
 * Returns the milliseconds until `deadline_ns`, rounded up, as a timeout for poll(); -1 if
 * `deadline_ns` is UINT64_MAX (no deadline).
 */
int vublk_blk_left_ms(uint64_t deadline_ns);

#endif
