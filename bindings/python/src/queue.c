/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests on the disk's queues. No call waits for the back-end. Each call keeps the GIL, so two
 * threads cannot use a queue at the same time. See core.h.
 *
 * Key idea: a request holds a Py_buffer of its memory until its completion. So the memory stays
 * valid while the request is in flight, even if the caller drops all references to the memory.
 */
#include "core.h"

#include <vublk/statistics.h>

#include <errno.h>
#include <stdlib.h>

#define POLL_MAX 256 /* completions per call; a limit, so that other tasks of an event loop run */

/*
 * Returns the queue, and reserves it, so that the blocking calls do not use it. On failure sets an
 * exception and returns NULL.
 */
static struct vublk_blk_queue *queue_of(struct core_disk *disk, unsigned index)
{
	struct vublk_blk_queue *queue = vublk_blk_queue(disk->blk, index);

	if (queue && index < VUBLK_MAX_QUEUES) {
		disk->queues[index] = queue;
		return queue;
	}
	core_raise_text(disk, EBUSY,
			"the disk has no free queue with this number: it is not open, has fewer "
			"queues, or blocking calls use the queue");
	return NULL;
}

/*
 * Parses the only argument of a method, the number of a queue, and calls core_enter(). On success
 * the caller must call core_leave().
 */
static struct vublk_blk_queue *enter_queue(struct core_disk *disk, PyObject *args)
{
	struct vublk_blk_queue *queue;
	unsigned index;

	if (!PyArg_ParseTuple(args, "I", &index) || !core_enter(disk))
		return NULL;
	queue = queue_of(disk, index);
	if (!queue)
		core_leave(disk);
	return queue;
}

/* --- requests ------------------------------------------------------------------------ */

static void link_request(struct core_disk *disk, struct core_request *request)
{
	request->next = disk->requests;
	if (request->next)
		request->next->previous = request;
	disk->requests = request;
}

static void unlink_request(struct core_disk *disk, struct core_request *request)
{
	if (request->next)
		request->next->previous = request->previous;
	if (request->previous)
		request->previous->next = request->next;
	else
		disk->requests = request->next;
}

/* Frees a request that is not in the disk's list. Other Python code may run during this call. */
static void free_request(struct core_request *request)
{
	if (request->view.obj)
		PyBuffer_Release(&request->view);
	Py_XDECREF(request->token);
	free(request);
}

void core_drop_requests(struct core_disk *disk)
{
	while (disk->requests) {
		struct core_request *request = disk->requests;

		unlink_request(disk, request);
		free_request(request);
	}
}

int core_visit_requests(struct core_disk *disk, visitproc visit, void *arg)
{
	for (struct core_request *request = disk->requests; request; request = request->next) {
		Py_VISIT(request->token);
		Py_VISIT(request->view.obj);
	}
	return 0;
}

static int send_request(struct vublk_blk_queue *queue, int kind, uint64_t offset, uint64_t bytes,
			unsigned flags, struct core_request *request, struct vublk_error *error)
{
	void *memory = request->view.buf;

	switch (kind) {
	case VUBLK_REQUEST_READ:
		return vublk_blk_read(queue, offset, memory, bytes, flags, request, error);
	case VUBLK_REQUEST_WRITE:
		return vublk_blk_write(queue, offset, memory, bytes, flags, request, error);
	case VUBLK_REQUEST_FLUSH:
		return vublk_blk_flush(queue, flags, request, error);
	case VUBLK_REQUEST_DISCARD:
		return vublk_blk_discard(queue, offset, bytes, flags, request, error);
	case VUBLK_REQUEST_WRITE_ZEROES:
		return vublk_blk_write_zeroes(queue, offset, bytes, flags, request, error);
	}
	*error = (struct vublk_error){ EINVAL, "there is no such kind of request" };
	return -EINVAL;
}

/* Parses `range`: the memory of a read or write, or the length of any other request. */
static bool take_range(struct core_request *request, int kind, PyObject *range, uint64_t *bytes)
{
	int flags = kind == VUBLK_REQUEST_READ ? PyBUF_WRITABLE : PyBUF_SIMPLE;

	if (kind != VUBLK_REQUEST_READ && kind != VUBLK_REQUEST_WRITE)
		return core_to_u64(range, bytes);
	if (PyObject_GetBuffer(range, &request->view, flags))
		return false;
	*bytes = (uint64_t)request->view.len;
	return true;
}

PyObject *core_add(PyObject *self, PyObject *args)
{
	struct core_disk *disk = (struct core_disk *)self;
	struct vublk_error error = { 0 };
	struct vublk_blk_queue *queue = NULL;
	struct core_request *request;
	uint64_t offset, bytes = 0;
	PyObject *range, *token;
	unsigned index, flags;
	int kind, r = -1;

	if (!PyArg_ParseTuple(args, "IiO&OIO:add", &index, &kind, core_to_u64, &offset, &range,
			      &flags, &token))
		return NULL;
	request = calloc(1, sizeof(*request));
	if (!request)
		return PyErr_NoMemory();
	if (!take_range(request, kind, range, &bytes)) {
		free_request(request);
		return NULL;
	}
	Py_INCREF(token);
	request->token = token;
	if (core_enter(disk)) {
		queue = queue_of(disk, index);
		if (queue)
			r = send_request(queue, kind, offset, bytes, flags, request, &error);
		if (r >= 0)
			link_request(disk, request);
		core_leave(disk);
	}
	if (r >= 0)
		Py_RETURN_NONE;
	free_request(request);
	return queue ? core_raise(disk, &error) : NULL;
}

PyObject *core_submit(PyObject *self, PyObject *args)
{
	struct core_disk *disk = (struct core_disk *)self;
	struct vublk_blk_queue *queue = enter_queue(disk, args);

	if (!queue)
		return NULL;
	vublk_blk_submit(queue);
	core_leave(disk);
	Py_RETURN_NONE;
}

/* --- completions ------------------------------------------------------------------------ */

/* Returns (token, None), (token, error), or NULL with an exception. Always frees the request. */
static PyObject *complete(struct core_disk *disk, struct vublk_blk_queue *queue,
			  const struct vublk_blk_completion *completion)
{
	struct core_request *request = completion->user_data;
	struct vublk_error error = { 0 };
	PyObject *reason = Py_None, *pair = NULL;

	unlink_request(disk, request);
	if (vublk_blk_completion_error(queue, completion, &error))
		reason = core_make_error(disk, &error);
	else
		Py_INCREF(reason);
	if (reason)
		pair = Py_BuildValue("ON", request->token, reason);
	free_request(request);
	return pair;
}

PyObject *core_poll(PyObject *self, PyObject *args)
{
	struct core_disk *disk = (struct core_disk *)self;
	struct vublk_blk_queue *queue = enter_queue(disk, args);
	struct vublk_blk_completion completion;
	PyObject *list;

	if (!queue)
		return NULL;
	list = PyList_New(0);
	for (int i = 0; list && i < POLL_MAX && vublk_blk_poll(queue, &completion, 1) == 1; i++) {
		PyObject *pair = complete(disk, queue, &completion);

		if (!pair || PyList_Append(list, pair))
			Py_CLEAR(list);
		Py_XDECREF(pair);
	}
	core_leave(disk);
	return list;
}

PyObject *core_arm(PyObject *self, PyObject *args)
{
	struct core_disk *disk = (struct core_disk *)self;
	struct vublk_blk_queue *queue = enter_queue(disk, args);
	bool ready;

	if (!queue)
		return NULL;
	ready = vublk_blk_arm(queue);
	core_leave(disk);
	return PyBool_FromLong(ready);
}

PyObject *core_queue_fd(PyObject *self, PyObject *args)
{
	struct core_disk *disk = (struct core_disk *)self;
	struct vublk_blk_queue *queue = enter_queue(disk, args);
	int fd;

	if (!queue)
		return NULL;
	fd = vublk_blk_queue_fd(queue);
	core_leave(disk);
	return PyLong_FromLong(fd);
}

PyObject *core_in_flight(PyObject *self, PyObject *args)
{
	struct core_disk *disk = (struct core_disk *)self;
	struct vublk_blk_queue *queue = enter_queue(disk, args);
	unsigned count;

	if (!queue)
		return NULL;
	count = vublk_blk_in_flight(queue);
	core_leave(disk);
	return PyLong_FromUnsignedLong(count);
}

/* --- statistics --------------------------------------------------------------------------- */

static PyObject *latency_of(const struct vublk_blk_stats *stats)
{
	PyObject *list = PyList_New(0);

	for (int i = 0; list && i < VUBLK_BLK_LATENCY_BUCKETS; i++) {
		PyObject *count = PyLong_FromUnsignedLongLong(stats->latency[i]);

		if (!count || PyList_Append(list, count))
			Py_CLEAR(list);
		Py_XDECREF(count);
	}
	return list;
}

static int append_stats(PyObject *list, const struct vublk_blk_stats *stats)
{
	PyObject *latency = latency_of(stats);
	PyObject *item = !latency ? NULL : Py_BuildValue("{s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:N}",
		"in_flight", (unsigned long long)stats->in_flight,
		"reads", (unsigned long long)stats->reads,
		"writes", (unsigned long long)stats->writes,
		"flushes", (unsigned long long)stats->flushes,
		"others", (unsigned long long)stats->others,
		"errors", (unsigned long long)stats->errors,
		"read_bytes", (unsigned long long)stats->read_bytes,
		"written_bytes", (unsigned long long)stats->written_bytes,
		"latency", latency);
	int r = item ? PyList_Append(list, item) : -1;

	Py_XDECREF(item);
	return r;
}

/* Returns a list: the counters of the blocking calls, then those of each queue that was used. */
PyObject *core_statistics(PyObject *self, PyObject *args)
{
	struct core_disk *disk = (struct core_disk *)self;
	struct vublk_blk_stats stats;
	PyObject *list;
	int r;

	if (!core_enter(disk))
		return NULL;
	list = PyList_New(0);
	r = vublk_blk_get_blocking_stats(disk->blk, &stats, sizeof(stats));
	if (list && !r && append_stats(list, &stats))
		Py_CLEAR(list);
	for (unsigned i = 0; list && !r && i < VUBLK_MAX_QUEUES; i++) {
		if (!disk->queues[i])
			continue;
		r = vublk_blk_queue_get_stats(disk->queues[i], &stats, sizeof(stats));
		if (!r && append_stats(list, &stats))
			Py_CLEAR(list);
	}
	core_leave(disk);
	if (!r || !list)
		return list;
	Py_DECREF(list);
	return core_raise_text(disk, -r, r == -ENOTSUP ?
			       "the disk has no statistics: open it with statistics=True" :
			       "the disk has no statistics: it is not open");
}
