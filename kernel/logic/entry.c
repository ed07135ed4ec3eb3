// SPDX-License-Identifier: GPL-2.0-only
#include "entry.h"

bool lc_record_value(const struct lc_record_format *f, u64 e, u64 offset, u64 *ret_value)
{
	u64 place = (lc_entry_sector(e) + offset) << f->shift;

	switch (lc_entry_type(e)) {
	case LC_DATA:
		*ret_value = place | f->data_mask;
		return true;
	case LC_ZERO:
		if (lc_entry_has_space(e)) {
			*ret_value = place | f->zero_mask;
			return f->has_zero_space;
		}
		*ret_value = f->plain_zero;
		return f->has_plain_zero;
	case LC_ABSENT:
	case LC_ERROR:
		break;
	}
	return false;
}
