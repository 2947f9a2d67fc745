/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_TRACE_H
#define VUBLK_PLANE_TRACE_H

/*
 * The trace of a plane: a ring of records, which the plane's thread writes and one other thread
 * reads.
 *
 * Key idea: the writer never waits. If the ring is full, it drops the record.
 */
#include "util/atomic.h"

#include <vublk/trace.h>

struct vublk_plane;
struct vublk_plane_slot;

/* The times of a slot's request. A time before the beginning of the trace is not valid. */
struct vublk_plane_times {
	uint64_t taken_ns, submitted_ns;
};

/* Fields that more than one thread uses are atomic. */
struct vublk_plane_trace {
	/* written by the plane's thread; the owner resets `dropped` when a trace begins */
	uint64_t head __attribute__((aligned(VUBLK_CACHE_LINE))); /* how many records were written */
	uint64_t dropped;

	/* written by the owner's thread */
	uint64_t begun_ns, number; /* of the current trace */
	bool is_on;

	/* written by the reader; the owner also sets `read_ns` when a trace begins */
	uint64_t tail __attribute__((aligned(VUBLK_CACHE_LINE))); /* how many records were read */
	uint64_t read_ns; /* when the reader last looked for records */

	struct vublk_trace_record records[VUBLK_TRACE_RECORDS]
		__attribute__((aligned(VUBLK_CACHE_LINE)));
};

/* Returns NULL if there is no memory. */
struct vublk_plane_trace *vublk_plane_trace_new(void);
void vublk_plane_trace_free(struct vublk_plane_trace *trace);

/* Begins a trace. No plane may write to the ring during this call. */
void vublk_plane_trace_begin(struct vublk_plane_trace *trace, uint64_t now_ns);
/* Ends the trace. No plane may write to the ring during this call. */
void vublk_plane_trace_end(struct vublk_plane_trace *trace);

/* --- the plane's thread -------------------------------------------------------------------- */

/* From this call on, the plane writes records to `trace`; NULL: it writes none. */
void vublk_plane_set_trace(struct vublk_plane *plane, struct vublk_plane_trace *trace);
/* Called while VUBLK_PLANE_HOOK_TRACE is set, when a request is taken, submitted, or completed. */
void vublk_plane_trace_take(struct vublk_plane *plane, const struct vublk_plane_slot *slot);
void vublk_plane_trace_submit(struct vublk_plane *plane, const struct vublk_plane_slot *slot);
void vublk_plane_trace_complete(struct vublk_plane *plane, const struct vublk_plane_slot *slot,
				uint8_t status);

/* --- the reader ---------------------------------------------------------------------------- */

/* Copies the next record of the current trace. Returns false if the trace has no further record. */
bool vublk_plane_trace_read(struct vublk_plane_trace *trace, uint64_t now_ns,
			    struct vublk_trace_record *record);

#endif
