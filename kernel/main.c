// SPDX-License-Identifier: GPL-2.0-only
/*
 * Module entry and exit.
 */
#include <linux/module.h>
#include "target.h"

static int __init lc_init(void)
{
	int r = dm_register_target(&lc_target);

	if (r)
		return r;
	r = dm_register_target(&lc_access_target);
	if (r)
		dm_unregister_target(&lc_target);
	return r;
}

static void __exit lc_exit(void)
{
	dm_unregister_target(&lc_access_target);
	dm_unregister_target(&lc_target);
}

module_init(lc_init);
module_exit(lc_exit);

MODULE_DESCRIPTION(DM_NAME " target for live operations on chains of disk images");
MODULE_AUTHOR("livechain developers");
MODULE_LICENSE("GPL");
