/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The HTTP server for metrics, on libmicrohttpd; see metrics.h.
 *
 * Key idea: libmicrohttpd handles all connections on one thread of its own, with limits on the
 * number, memory and idle time of connections. A request waits for the thread of the served object
 * as a command of the control socket does, but for a limited time. So a slow client cannot delay
 * the disk.
 */
#include "cli/control/metrics.h"

#include "cli/cli.h"
#include "cli/control/socket.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_CONNECTIONS 16
#define CONNECTION_BYTES 16384 /* memory per connection, for the request and the head of the
				  answer */
#define IDLE_S 10              /* a connection that is idle for this time is closed */
#define ANSWER_MS 5000         /* how long an HTTP request waits for the disk's thread */
#define BACKLOG 16

struct vublk_metrics {
	struct vublk_control *control;
	struct vublk_control_socket file; /* fd -1: the socket is not a Unix socket */
	int fd; /* a TCP socket; -1: none */
	struct MHD_Daemon *daemon;
};

/* --- answers ---------------------------------------------------------------------------- */

static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status, const char *type,
			      const char *text)
{
	struct MHD_Response *response = MHD_create_response_from_buffer(strlen(text), (void *)text,
									MHD_RESPMEM_MUST_COPY);
	enum MHD_Result r;

	if (!response)
		return MHD_NO; /* closes the connection */
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, MHD_HTTP_METHOD_GET);
	r = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return r;
}

static enum MHD_Result refuse(struct MHD_Connection *connection, unsigned status, const char *text)
{
	return answer(connection, status, "text/plain; charset=utf-8", text);
}

static enum MHD_Result answer_metrics(const struct vublk_metrics *metrics,
				      struct MHD_Connection *connection)
{
	struct json_object *result, *type, *text;
	struct vublk_error error = { 0 };
	char line[VUBLK_ERROR_TEXT_BYTES + 1];
	enum MHD_Result r;

	result = vublk_control_ask(metrics->control, "metrics", ANSWER_MS, &error);
	if (!result || !json_object_object_get_ex(result, "content_type", &type) ||
	    !json_object_object_get_ex(result, "text", &text)) {
		json_object_put(result);
		snprintf(line, sizeof(line), "%s\n", error.text);
		return refuse(connection, MHD_HTTP_SERVICE_UNAVAILABLE, line);
	}
	r = answer(connection, MHD_HTTP_OK, json_object_get_string(type),
		   json_object_get_string(text));
	json_object_put(result);
	return r;
}

static enum MHD_Result on_request(void *opaque, struct MHD_Connection *connection, const char *url,
				  const char *method, const char *version, const char *upload,
				  size_t *upload_bytes, void **state)
{
	if (strcmp(url, "/metrics"))
		return refuse(connection, MHD_HTTP_NOT_FOUND, "not found; the only page is "
			      "/metrics\n");
	if (strcmp(method, MHD_HTTP_METHOD_GET))
		return refuse(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "use GET\n");
	return answer_metrics(opaque, connection);
}

/* --- the address ------------------------------------------------------------------------ */

static int malformed(const char *address, struct vublk_error *error)
{
	return vublk_cli_error(error, EINVAL, "--metrics-listen must be a port, such as 9100, a "
			       "host and a port, such as 0.0.0.0:9100 or [::1]:9100, or the path "
			       "of a Unix socket, with a slash in it, not '%s'", address);
}

/* Divides "PORT", "HOST:PORT" or "[HOST]:PORT" into its parts. */
static int split(const char *address, char *host, size_t host_bytes, const char **port,
		 struct vublk_error *error)
{
	const char *colon = strrchr(address, ':');
	const char *start = address, *end = colon;

	*port = colon ? colon + 1 : address;
	if (!**port || strspn(*port, "0123456789") != strlen(*port) || strlen(*port) > 5 ||
	    strtoul(*port, NULL, 10) > 65535)
		return malformed(address, error);
	if (!colon) {
		snprintf(host, host_bytes, "127.0.0.1");
		return 0;
	}
	if (*start == '[' && end[-1] == ']') {
		start++;
		end--;
	} else if (memchr(start, ':', (size_t)(end - start))) {
		return malformed(address, error);
	}
	if (end <= start || (size_t)(end - start) >= host_bytes)
		return malformed(address, error);
	snprintf(host, host_bytes, "%.*s", (int)(end - start), start);
	return 0;
}

static int listen_at(const struct addrinfo *info, const char *address, struct vublk_error *error)
{
	int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int on = 1, code;

	if (fd >= 0 && !setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) &&
	    !bind(fd, info->ai_addr, info->ai_addrlen) && !listen(fd, BACKLOG))
		return fd;
	code = errno;
	if (fd >= 0)
		close(fd);
	if (code == EADDRINUSE)
		return vublk_cli_error(error, code, "another process listens on %s; choose another "
				       "address for --metrics-listen", address);
	return vublk_cli_error_errno(error, code, "cannot listen on %s (--metrics-listen)",
				     address);
}

static int listen_tcp(const char *address, struct vublk_error *error)
{
	const struct addrinfo hints = {
		.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV,
	};
	struct addrinfo *info;
	const char *port;
	char host[256];
	int fd, r = split(address, host, sizeof(host), &port, error);

	if (r < 0)
		return r;
	r = getaddrinfo(host, port, &hints, &info);
	if (r)
		return vublk_cli_error(error, EINVAL, "cannot resolve the host of --metrics-listen "
				       "%s: %s",
				       address, gai_strerror(r));
	fd = listen_at(info, address, error);
	freeaddrinfo(info);
	return fd;
}

static int open_socket(struct vublk_metrics *metrics, const char *address, mode_t mode,
		       struct vublk_error *error)
{
	if (strchr(address, '/'))
		return vublk_control_socket_listen(address, mode, &metrics->file, error);
	metrics->fd = listen_tcp(address, error);
	return metrics->fd < 0 ? metrics->fd : 0;
}

/* --- life -------------------------------------------------------------------------------- */

/*
 * Starts the server. Signals are blocked on the server's thread, so that the thread of the served
 * object handles them.
 */
static int start(struct vublk_metrics *metrics, const char *address, struct vublk_error *error)
{
	int fd = metrics->fd >= 0 ? metrics->fd : metrics->file.fd;
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	metrics->daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO, 0, NULL, NULL,
					   on_request, metrics, MHD_OPTION_LISTEN_SOCKET, fd,
					   MHD_OPTION_CONNECTION_LIMIT, (unsigned)MAX_CONNECTIONS,
					   MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES,
					   MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S,
					   MHD_OPTION_END);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (metrics->daemon)
		return 0;
	return vublk_cli_error(error, ENOMEM, "cannot start the metrics server at %s", address);
}

int vublk_metrics_open(const char *address, mode_t mode, struct vublk_control *control,
		       struct vublk_metrics **result, struct vublk_error *error)
{
	struct vublk_metrics *metrics = calloc(1, sizeof(*metrics));
	int r;

	if (!metrics)
		return vublk_cli_error(error, ENOMEM, "cannot allocate memory for the metrics "
				       "server");
	metrics->control = control;
	metrics->fd = metrics->file.fd = -1;
	r = open_socket(metrics, address, mode, error);
	if (!r)
		r = start(metrics, address, error);
	if (r < 0) {
		vublk_metrics_close(metrics);
		return r;
	}
	*result = metrics;
	return 0;
}

void vublk_metrics_close(struct vublk_metrics *metrics)
{
	if (!metrics)
		return;
	if (metrics->daemon) {
		MHD_quiesce_daemon(metrics->daemon); /* leaves the listening socket open for the
							close below */
		MHD_stop_daemon(metrics->daemon);
	}
	vublk_control_socket_close(&metrics->file);
	if (metrics->fd >= 0)
		close(metrics->fd);
	free(metrics);
}
