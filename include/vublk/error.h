/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_ERROR_H
#define VUBLK_ERROR_H

/*
 * How a call of this library fails, and how the library logs.
 *
 * A call returns 0 (or a count) when it succeeds and a negative errno value when it fails. A call
 * whose failure may be shown to a person also takes a `struct vublk_error *`, which may be NULL. On
 * failure the struct receives one sentence that says what failed, why, and what to do about it; on
 * success the struct is untouched. No call allocates memory to report a failure.
 *
 * Each function lists its codes; `others` stands for the codes of a system call that failed. "Those
 * of vublk_blk_read()" means the same codes under the same conditions. These are the codes that the
 * library itself returns, and the most frequent codes of system calls:
 *
 *   EINVAL        an argument of the call is wrong
 *   EBUSY         the object's state does not permit the call, or the call was made on the disk's
 *                 own thread, or another program uses the image
 *   EAGAIN        a queue is full (take completions and try again), the opening of a disk or a
 *                 change of its memory has not ended, too many clients already wait at a socket, or
 *                 no thread can be created
 *   ENOTSUP       the peer does not offer the feature, or the feature was not negotiated, or the
 *                 module of an engine does not fit this library
 *   EPROTO        the peer (back-end, front-end, driver) broke a rule; `text` names the rule
 *   ENOTCONN      the peer is not connected
 *   ENOBUFS       the peer does not read the messages that are sent to it
 *   ETIMEDOUT     the peer did not answer before the deadline, or requests waited for a
 *                 back-end for longer than fail-after-ms
 *   ETIME         a request did not complete within request-deadline-ms
 *   EOWNERDEAD    a back-end was lost after it had completed writes that no flush had made stable
 *   ECANCELED     the device or the bus itself closed the connection, or ended an operation early
 *   EIO           the back-end reports an I/O error or refuses a message, or a file was truncated
 *   EROFS         the disk is read-only
 *   EFAULT        the memory of a request was unregistered while the request was in flight
 *   ENOSPC        no memory slot is left, or the target of a mirror is too small
 *   ENOMEM, EMFILE         no memory, no descriptor
 *   EBADF         an argument is not a descriptor
 *   ENOENT, ECONNREFUSED, ENOTSOCK, EPROTOTYPE, EADDRINUSE, EEXIST, ENOTDIR, EISDIR, ENAMETOOLONG,
 *   EACCES        the path of a socket or an image cannot be used; ENOENT also means that there
 *                 is no such object
 *   EPERM         the process may not set the group of the socket (socket-group), or the other
 *                 process of an upgrade belongs to another user
 *   ENOTBLK       the image is neither a file nor a block device
 *   EMEDIUMTYPE   a disk cannot have the size of the image
 *   ESTALE        the disk is out of date (property mirror-state), or in an upgrade the path of the
 *                 image leads to another image
 */

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VUBLK_ERROR_TEXT_BYTES 512

/* The struct never changes. */
struct vublk_error {
	int code;                          /* positive errno value; 0: no error */
	char text[VUBLK_ERROR_TEXT_BYTES]; /* one sentence, NUL-terminated, no final full stop */
};

/*
 * The levels of log lines, the most severe first. A struct vublk_log receives the lines of its own
 * level and of all more severe levels.
 */
enum vublk_log_level {
	VUBLK_LOG_ERROR = 0,   /* data was lost, or an operation failed */
	VUBLK_LOG_WARNING = 1, /* something is wrong, but work continues */
	VUBLK_LOG_INFO = 2,    /* a change that concerns an operator */
	VUBLK_LOG_DEBUG = 3,   /* state changes, protocol messages */
};

/*
 * Receives one line, without a newline, from the object (device, disk, bus, back-end) that logs.
 * The library itself never prints. The function may be called on several threads at the same time,
 * each time on the thread that has something to log. `text` is valid during the call only. The
 * function must not call functions of that object.
 */
typedef void vublk_log_fn(void *opaque, enum vublk_log_level level, const char *text);

/*
 * Says where an object sends its log lines; `fn` NULL: the lines are dropped. The object copies the
 * struct. The struct's size never changes.
 */
struct vublk_log {
	vublk_log_fn *fn;
	void *opaque;
	enum vublk_log_level level;
	uint32_t reserved[5]; /* 0 */
};

/*
 * A name and its value. Options and properties are passed as an array of these structs. An element
 * whose name is NULL ends the array. Both strings are borrowed during the call. The struct never
 * changes.
 */
struct vublk_option {
	const char *name;
	const char *value;
};

/*
 * Describes one option or property, for programs that list them. The library has static arrays of
 * these structs, each ended by an element whose name is NULL. The struct's size never changes.
 */
struct vublk_property {
	const char *name;
	const char *type;          /* "string", "number", "size" (k, M, G, T allowed), "bool"
				      ("on" or "off"), "choice", "auto" (a number or "auto") */
	const char *default_value; /* NULL: none */
	const char *description;   /* one sentence, no final full stop */
	const char *const *words;  /* all values that are accepted, ended by NULL; NULL: the values
				      are not a list of words */
	const void *reserved[3];   /* NULL */
};

#ifdef __cplusplus
}
#endif

#endif
