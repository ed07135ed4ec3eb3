// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * libFuzzer: a whole qcow2 image, opened, mapped, checked and changed. From the top
 * of the tree, with a folder of small images (4 KiB clusters) as the corpus:
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -Iuserspace \
 *     -Itests/unit -o fuzz-qcow2 tests/fuzz/fuzz-qcow2.c tests/unit/qcow2-mem.c \
 *     userspace/qcow2/[!q]*.c userspace/lib/err.c
 *   ./fuzz-qcow2 -max_len=262144 -timeout=20 CORPUS
 *
 * Without -fsanitize=fuzzer and with -DSTANDALONE it runs the files that it is given.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "qcow2-mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qmem m;

	/* Large files cost time and tell nothing more. */
	if (size > 1 << 20)
		return 0;
	qmem_init(&m, data, size, size & 1 ? size : 0);
	qmem_exercise(&m);
	qmem_done(&m);
	return 0;
}

#ifdef STANDALONE
static int run_file(const char *name)
{
	FILE *f = fopen(name, "rb");
	uint8_t *data = malloc(1 << 20);
	size_t n;

	if (!f || !data) {
		perror(name);
		free(data);
		return 1;
	}
	n = fread(data, 1, 1 << 20, f);
	fclose(f);
	LLVMFuzzerTestOneInput(data, n);
	free(data);
	return 0;
}

int main(int argc, char **argv)
{
	int bad = 0;

	for (int i = 1; i < argc; i++)
		bad |= run_file(argv[i]);
	return bad;
}
#endif
