/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Log to stderr: one line per event. Under systemd each line starts with
 * "<N>" (the journal's priority); elsewhere with "livechaind: ". Any thread.
 */
#ifndef LIVECHAIN_LOG_H
#define LIVECHAIN_LOG_H

#include <stdarg.h>

/* syslog's numbers, so that they can be printed as they are. */
enum log_level {
	LOG_LVL_ERROR = 3,
	LOG_LVL_WARN = 4,
	LOG_LVL_NOTICE = 5,
	LOG_LVL_INFO = 6,
	LOG_LVL_DEBUG = 7,
};

/* Before the first line: @ident is kept (a literal). Default level: notice. */
void log_init(const char *ident);
void log_set_level(enum log_level level);
/* "error", "warning", "notice", "info" or "debug" (or 3 to 7); -EINVAL for others. */
int log_level_parse(const char *s, enum log_level *ret);
int log_enabled(enum log_level level);

void log_msg(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)	log_msg(LOG_LVL_ERROR, __VA_ARGS__)
#define log_warn(...)	log_msg(LOG_LVL_WARN, __VA_ARGS__)
#define log_notice(...) log_msg(LOG_LVL_NOTICE, __VA_ARGS__)
#define log_info(...)	log_msg(LOG_LVL_INFO, __VA_ARGS__)
#define log_debug(...)                                       \
	do {                                                 \
		if (log_enabled(LOG_LVL_DEBUG))              \
			log_msg(LOG_LVL_DEBUG, __VA_ARGS__); \
	} while (0)

#endif
