// SPDX-License-Identifier: GPL-2.0-or-later
/* What probe.h says of things that the usual tools make. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

#include "block/probe.h"
#include "lib/cleanup.h"

static char dir[] = "/var/tmp/livechain-probe-XXXXXX";
static char file[128];

static int setup(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(file, sizeof(file), "%s/x", dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(file);
	return rmdir(dir);
}

/* A file of @mib MiB, treated with @cmd ("" none; the file's name is appended). */
static int make(int mib, const char *cmd)
{
	char line[512];
	int fd = open(file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)mib << 20), 0);
	snprintf(line, sizeof(line), "PATH=$PATH:/sbin:/usr/sbin; %s %s >/dev/null 2>&1", cmd,
		 file);
	if (*cmd && WEXITSTATUS(system(line)) == 127)
		skip();
	return fd;
}

static void put_le(unsigned char *p, uint64_t v, int bytes)
{
	for (; bytes--; v >>= 8)
		*p++ = v & 0xff;
}

static void expect_on(int fd, enum probe_kind kind, const char *type)
{
	struct probe_result res;
	struct err e = ERR_INIT;

	if (probe_signature(fd, file, &res, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(res.kind, kind);
	assert_string_equal(res.type, type);
}

/* Images are open for direct I/O when they are looked at. */
static void expect(int fd, enum probe_kind kind, const char *type)
{
	int direct = open(file, O_RDONLY | O_DIRECT | O_CLOEXEC);

	expect_on(fd, kind, type);
	assert_true(direct >= 0);
	expect_on(direct, kind, type);
	close(direct);
}

static void nothing(void **state)
{
	_cleanup_close_ int fd = make(4, "");

	(void)state;
	expect(fd, PROBE_NOTHING, "");
	assert_int_equal(probe_refuse_used(fd, file, NULL), 0);
}

static void an_empty_file(void **state)
{
	_cleanup_close_ int fd = make(0, "");

	(void)state;
	expect(fd, PROBE_NOTHING, "");
}

static void ext4_is_refused_by_name(void **state)
{
	_cleanup_close_ int fd = make(8, "mkfs.ext4 -q -F -L root-disk");
	struct err e = ERR_INIT;

	(void)state;
	expect(fd, PROBE_FILESYSTEM, "ext4");
	assert_int_equal(probe_refuse_used(fd, file, &e), -EEXIST);
	assert_non_null(strstr(e.msg, "a file system (ext4, label 'root-disk')"));
	assert_non_null(strstr(e.msg, file));
	assert_non_null(strstr(e.msg, "wipefs"));
}

/* An MBR with one partition of @type, made by hand: sfdisk need not be there. */
static void write_mbr(int fd, unsigned char type)
{
	unsigned char mbr[512] = { 0 };
	unsigned char *part = mbr + 446;

	part[4] = type;
	put_le(part + 8, 1, 4);		     /* first sector */
	put_le(part + 12, (8 << 11) - 1, 4); /* sectors */
	mbr[510] = 0x55;
	mbr[511] = 0xaa;
	assert_int_equal(pwrite(fd, mbr, sizeof(mbr), 0), sizeof(mbr));
}

static void dos_partitions(void **state)
{
	_cleanup_close_ int fd = make(8, "");

	(void)state;
	write_mbr(fd, 0x83);
	expect(fd, PROBE_PARTITIONS, "dos");
	assert_int_equal(probe_refuse_used(fd, file, NULL), -EEXIST);
}

static void gpt_partitions(void **state)
{
	_cleanup_close_ int fd = make(8, "");
	static unsigned char entries[128 * 128];
	unsigned char h[512] = "EFI PART";

	(void)state;
	write_mbr(fd, 0xee);
	memset(entries, 0x11, 32); /* type and partition GUID */
	put_le(entries + 32, 64, 8);
	put_le(entries + 40, 127, 8);
	put_le(h + 8, 0x10000, 4);
	put_le(h + 12, 92, 4);
	put_le(h + 24, 1, 8);		  /* this header */
	put_le(h + 32, (8 << 11) - 1, 8); /* the other */
	put_le(h + 40, 34, 8);		  /* usable sectors */
	put_le(h + 48, (8 << 11) - 34, 8);
	memset(h + 56, 0x22, 16);
	put_le(h + 72, 2, 8);
	put_le(h + 80, 128, 4);
	put_le(h + 84, 128, 4);
	put_le(h + 88, crc32(0, entries, sizeof(entries)), 4);
	put_le(h + 16, crc32(0, h, 92), 4);
	assert_int_equal(pwrite(fd, h, sizeof(h), 512), sizeof(h));
	assert_int_equal(pwrite(fd, entries, sizeof(entries), 1024), sizeof(entries));
	expect(fd, PROBE_PARTITIONS, "gpt");
}

static void swap(void **state)
{
	_cleanup_close_ int fd = make(4, "mkswap");

	(void)state;
	expect(fd, PROBE_OTHER, "swap");
}

/* pvcreate need not be there: the label by hand (LVM2's, sector 1). */
static void lvm_member(void **state)
{
	static const char uuid[] = "AAAAAAbbbbccccddddeeeeffffgggggg";
	_cleanup_close_ int fd = make(4, "");
	unsigned char label[512] = "LABELONE";

	(void)state;
	label[8] = 1;	/* sector */
	label[20] = 32; /* offset of the PV header */
	memcpy(label + 24, "LVM2 001", 8);
	memcpy(label + 32, uuid, 32);
	assert_int_equal(pwrite(fd, label, sizeof(label), 512), sizeof(label));
	expect(fd, PROBE_RAID, "LVM2_member");
}

static void qcow2(void **state)
{
	_cleanup_close_ int fd = make(1, "qemu-img create -f qcow2 -o size=4M");
	struct err e = ERR_INIT;
	char advice[300];

	(void)state;
	close(fd);
	fd = open(file, O_RDONLY | O_CLOEXEC);
	expect(fd, PROBE_IMAGE, "qcow2");
	assert_int_equal(probe_refuse_used(fd, file, &e), -EEXIST);
	err_clear(&e);
	/* what the sentence says helps; wipefs would not */
	snprintf(advice, sizeof(advice), "dd if=/dev/zero of='%s' bs=512 count=1 conv=notrunc 2>&1", file);
	assert_int_equal(system(advice), 0);
	assert_int_equal(probe_refuse_used(fd, file, &e), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing),
		cmocka_unit_test(an_empty_file),
		cmocka_unit_test(ext4_is_refused_by_name),
		cmocka_unit_test(gpt_partitions),
		cmocka_unit_test(dos_partitions),
		cmocka_unit_test(swap),
		cmocka_unit_test(lvm_member),
		cmocka_unit_test(qcow2),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
