// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "err.h"

static const char *const class_names[] = {
	[ERR_GENERIC] = "GenericError",
	[ERR_COMMAND_NOT_FOUND] = "CommandNotFound",
	[ERR_DEVICE_NOT_ACTIVE] = "DeviceNotActive",
	[ERR_DEVICE_NOT_FOUND] = "DeviceNotFound",
	[ERR_KVM_MISSING_CAP] = "KVMMissingCap",
};

int err_vset(struct err *e, enum err_class cls, int code, const char *fmt, va_list ap)
{
	if (code <= 0)
		code = EIO;
	if (!e || e->code)
		return -code;
	e->code = code;
	e->cls = cls;
	vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	return -code;
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
	va_list ap;
	int r;

	va_start(ap, fmt);
	r = err_vset(e, ERR_GENERIC, code, fmt, ap);
	va_end(ap);
	return r;
}

int err_set_class(struct err *e, enum err_class cls, int code, const char *fmt, ...)
{
	va_list ap;
	int r;

	va_start(ap, fmt);
	r = err_vset(e, cls, code, fmt, ap);
	va_end(ap);
	return r;
}

void err_prefix(struct err *e, const char *fmt, ...)
{
	char old[ERR_MSG_MAX];
	va_list ap;
	int n;

	if (!e || !e->code)
		return;
	memcpy(old, e->msg, sizeof(old));
	va_start(ap, fmt);
	n = vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n < sizeof(e->msg))
		snprintf(e->msg + n, sizeof(e->msg) - n, ": %.*s", (int)sizeof(old) - 1, old);
}

void err_clear(struct err *e)
{
	if (!e)
		return;
	e->code = 0;
	e->cls = ERR_GENERIC;
	e->msg[0] = '\0';
}

const char *err_class_name(enum err_class cls)
{
	return class_names[cls];
}
