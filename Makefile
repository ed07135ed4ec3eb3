# SPDX-License-Identifier: GPL-2.0-or-later
#
# The index of what can be done in this tree; `make help` prints it.
#
# Everything goes to $(O) (default: build); the source folders stay clean. The
# module is built in $(O)/<kernel version>, so that several kernels lie side by
# side. The build targets hold a lock: two makes in one tree wait for each other.

O		?= build
CC		?= gcc
PKG_CONFIG	?= pkg-config
PREFIX		?= /usr/local
JOBS		?= 2

V		?= 0
ifeq ($(V),0)
Q		:= @
say		= @printf '  %-8s%s\n' $(1) '$(2)'
else
Q		:=
say		= @:
endif

# --- user space ---------------------------------------------------------------

# B is where this variant's objects go: the plain one, the sanitizers', or the one
# that dies where a test wants it to (userspace/lib/fault.h).
ifeq ($(FAULTS),1)
B		:= $(O)/faults
SANITIZE	:=
FAULT_CPPFLAGS	:= -DLIVECHAIN_FAULTS
else ifeq ($(ASAN),1)
B		:= $(O)/asan
SANITIZE	:= -fsanitize=address,undefined -fno-sanitize-recover=undefined \
		   -fno-omit-frame-pointer
else
B		:= $(O)
SANITIZE	:=
endif

LIBS		:= json-c devmapper blkid libkmod
LIBDIRS		?= lib qcow2 image block
VERSION		:= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

WARNINGS	:= -Wall -Wextra -Wmissing-prototypes -Wstrict-prototypes -Wvla \
		   -Wpointer-arith -Wwrite-strings -Wundef -Wno-format-truncation
ifeq ($(WERROR),1)
WARNINGS	+= -Werror
endif

CFLAGS		?= -O2 -g
LC_CPPFLAGS	= -Iuserspace -Iinclude -D_GNU_SOURCE -DLIVECHAIN_VERSION='"$(VERSION)"' \
		  $(FAULT_CPPFLAGS) $(CPPFLAGS)
LC_CFLAGS	= -std=gnu11 -pthread $(WARNINGS) $(SANITIZE) $(CFLAGS) \
		  $(shell $(PKG_CONFIG) --cflags $(LIBS) 2>/dev/null)
LC_LIBS		= $(shell $(PKG_CONFIG) --libs $(LIBS)) -pthread

LIB_SRC		:= $(foreach d,$(LIBDIRS),$(wildcard userspace/$(d)/*.c))
DAEMON_SRC	:= $(wildcard userspace/daemon/*.c)
TOOL_SRC	:= $(wildcard userspace/tool/*.c)
objs		= $(patsubst %.c,$(B)/%.o,$(1))
LIB_OBJ		:= $(call objs,$(LIB_SRC))
# Without main.o, so that unit tests can link the rest.
DAEMON_OBJ	:= $(call objs,$(filter-out %/main.c,$(DAEMON_SRC)))
TOOL_OBJ	:= $(call objs,$(filter-out %/main.c,$(TOOL_SRC)))
MAIN_OBJ	:= $(call objs,$(wildcard userspace/daemon/main.c userspace/tool/main.c))

# A program is built once its main.c exists.
DAEMON		:= $(if $(wildcard userspace/daemon/main.c),$(B)/livechaind)
TOOL		:= $(if $(wildcard userspace/tool/main.c),$(B)/livechain)

# --- tests ----------------------------------------------------------------------

# T picks test programs and cases by name: make check-unit T=qcow2
UNIT_SRC	:= $(wildcard tests/unit/test-*$(T)*.c)
UNIT_HELP	:= $(call objs,$(filter-out tests/unit/test-%,$(wildcard tests/unit/*.c)))
UNIT		:= $(patsubst tests/unit/%.c,$(B)/tests/unit/%,$(UNIT_SRC))
LOGIC_SRC	:= $(wildcard tests/logic/test-*$(T)*.c)
LOGIC_OBJ	:= $(patsubst %.c,$(B)/logic/%.o,$(wildcard kernel/logic/*.c) \
		   $(filter-out tests/logic/test-%,$(wildcard tests/logic/*.c)))
LOGIC		:= $(patsubst tests/logic/%.c,$(B)/tests/logic/%,$(LOGIC_SRC))
LOGIC_CPPFLAGS	:= -Itests/logic/shim -Iinclude -Iinclude/uapi -Ikernel -D_GNU_SOURCE

# Programs of the power cuts (tests/crash): run in the VM and outside of it.
CRASH		:= $(B)/tests/crash/disks $(B)/tests/crash/point
# Exercises a file of a file system on the device (tests/cases/daemon-fs.sh).
FSX		:= $(B)/tests/fsx

# --- module ---------------------------------------------------------------------

# KDIR picks the kernel by its build folder, KERNEL by a version (6.1, 6.12,
# 7.3, debug) that scripts/kernels knows how to get. Default: newest headers here.
ifneq ($(KERNEL),)
override KDIR	:= $(shell scripts/kernels kdir $(KERNEL))
endif
KDIR		?= $(shell scripts/kernels installed)

.PHONY: all module tools daemon tool unit-tests logic-tests help setup check \
	check-unit check-logic check-vm check-style crash lint style demo bench install \
	uninstall clean kernels _module _tools _unit _logic
.DELETE_ON_ERROR:
.SECONDARY:

LOCKED		= mkdir -p $(O) && flock $(O)/.lock $(MAKE) --no-print-directory

all: ## build module, daemon and tool (the default)
	+@$(LOCKED) _module _tools

module: ## build the module only (KERNEL=7.3 or KDIR=... pick the kernel)
	+@$(LOCKED) _module

tools daemon tool: ## build daemon and tool only
	+@$(LOCKED) _tools

unit-tests:
	+@$(LOCKED) ASAN=1 _unit

logic-tests:
	+@$(LOCKED) ASAN=1 _logic

_tools: $(B)/liblivechain.a $(DAEMON) $(TOOL) $(CRASH) $(FSX)
	@:
_unit: $(UNIT)
	@:
_logic: $(LOGIC)
	@:

$(B)/liblivechain.a: $(LIB_OBJ)
$(B)/libdaemon.a: $(DAEMON_OBJ)
$(B)/libtool.a: $(TOOL_OBJ)
$(B)/%.a:
	$(call say,AR,$@)
	@mkdir -p $(@D)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(B)/livechaind: $(B)/userspace/daemon/main.o $(B)/libdaemon.a $(B)/liblivechain.a
$(B)/livechain: $(B)/userspace/tool/main.o $(B)/libtool.a $(B)/liblivechain.a
$(B)/livechaind $(B)/livechain:
	$(call say,LD,$@)
	$(Q)$(CC) $(LC_CFLAGS) $(LDFLAGS) -o $@ $^ $(LC_LIBS)

# The flags of a variant are remembered: other flags rebuild its objects.
FLAGS_NOW	= $(CC) $(LC_CPPFLAGS) $(LC_CFLAGS)
$(B)/.flags: FORCE
	@mkdir -p $(@D)
	@echo '$(subst ','\'',$(filter-out -DLIVECHAIN_VERSION=% -Werror,$(FLAGS_NOW)))' | \
		cmp -s - $@ || echo '$(subst ','\'',$(filter-out -DLIVECHAIN_VERSION=% -Werror,$(FLAGS_NOW)))' > $@
FORCE:

$(B)/%.o: %.c $(B)/.flags
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LC_CPPFLAGS) $(LC_CFLAGS) -MMD -MP -c -o $@ $<

# A line "LDFLAGS: ..." in a unit test's head is added to its link (for --wrap).
$(B)/tests/unit/%: $(B)/tests/unit/%.o $(UNIT_HELP) $(B)/libdaemon.a $(B)/libtool.a $(B)/liblivechain.a
	$(call say,LD,$@)
	$(Q)$(CC) $(LC_CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) \
		$$(sed -n 's,^[ /*]*LDFLAGS: \([^*]*\).*,\1,p' tests/unit/$*.c) \
		$(filter %.a,$^) $(LC_LIBS) -lcmocka -lz

$(CRASH): $(B)/tests/crash/%: $(B)/tests/crash/%.o $(B)/libdaemon.a $(B)/liblivechain.a
	$(call say,LD,$@)
	$(Q)$(CC) $(LC_CFLAGS) $(LDFLAGS) -o $@ $^ $(LC_LIBS)

$(FSX): $(B)/tests/fsx.o
	$(call say,LD,$@)
	$(Q)$(CC) $(LC_CFLAGS) $(LDFLAGS) -o $@ $^

# The logic sources and their tests see the shims before any system header.
$(B)/logic/%.o: %.c $(B)/.flags
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LOGIC_CPPFLAGS) $(LC_CFLAGS) -MMD -MP -c -o $@ $<

$(B)/tests/logic/%: $(B)/logic/tests/logic/%.o $(LOGIC_OBJ)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LC_CFLAGS) $(LDFLAGS) -o $@ $^ -pthread -lcmocka

# A kernel that this host's compiler is too old for is built in a root of its own.
root		= $(if $(findstring /buildroot/,$(KDIR)),$(firstword $(subst /buildroot/,/buildroot ,$(KDIR))))
in_root		= $(if $(root),scripts/in-buildroot '$(root)' '$(CURDIR)')

# Kbuild writes beside the sources it is given: give it a farm of links.
_module:
	@case '$(KDIR)' in '') \
	echo 'No kernel headers found: run scripts/setup, or name a build folder with KDIR=.' >&2; \
	exit 1;; esac
	@set -e; test -n '$(wildcard kernel/*.c)' || { echo '  SKIP    module: kernel/ has no sources'; exit 0; }; \
	ver=$$(scripts/kernels release '$(KDIR)'); d='$(abspath $(O))'/$$ver; \
	printf '  %-8s%s\n' KBUILD "$(O)/$$ver/dm-livechain.ko"; \
	scripts/link-farm '$(CURDIR)' "$$d" Kbuild kernel include; \
	env -u O -u MAKEFLAGS $(in_root) make -j$(JOBS) -C '$(KDIR:$(root)%=%)' M="$$d" V=$(V) -s $(if $(filter 1,$(WERROR)),KCFLAGS=-Werror) \
		$(if $(C),C=$(C)) $(if $(CF),CF='$(CF)') CONFIG_DEBUG_INFO_BTF_MODULES= modules

# --- people's targets ------------------------------------------------------------

help: ## print this list
	@sed -n 's/^\([a-z][a-z -]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r t h; do printf '  %-18s %s\n' "$$t" "$$h"; done
	@echo
	@echo '  Variables: KERNEL=6.1|6.12|7.3|debug  KDIR=  O=build  V=1  WERROR=1  ASAN=1  T=name (tests)  HOST=1 (demo)'

setup: ## install what building and testing need, by package name
	@scripts/setup

check: ## everything below: build, unit, logic, lint, VM cases on 6.1, 6.12 and 7.3 (KERNEL=debug)
	+@scripts/check

check-unit: unit-tests ## user-space unit tests under sanitizers (T=name picks)
	@tests/run-programs $(UNIT:$(B)/%=$(O)/asan/%)

check-logic: logic-tests ## the kernel's pure code compiled in user space (T=name picks)
	@tests/run-programs $(LOGIC:$(B)/%=$(O)/asan/%)

check-vm: ## boot a VM and run tests/cases in it (KERNEL= and T=name pick)
	+@$(LOCKED) _tools
	+@$(LOCKED) FAULTS=1 _tools
	+@scripts/build-module $(if $(KERNEL),$(KERNEL),6.1)
	@tests/run --kernel $(if $(KERNEL),$(KERNEL),6.1) $(if $(T),'*$(T)*')

crash: ## 20,000 power cuts: record guests and operations in VMs, replay here (POINTS=, ROUNDS=, KERNEL=)
	+@$(LOCKED) _tools
	+@scripts/build-module $(if $(KERNEL),$(KERNEL),6.1)
	@tests/crash/run --points $(if $(POINTS),$(POINTS),20000) --rounds $(if $(ROUNDS),$(ROUNDS),4) \
		--kernel $(if $(KERNEL),$(KERNEL),6.1)

demo: setup ## put a chain on a device, snapshot and back it up live (HOST=1: on this host)
	@HOST=$(HOST) scripts/demo --possible
	+@$(MAKE) --no-print-directory all
	@HOST=$(HOST) scripts/demo

bench: setup ## the table of speeds beside QEMU and device-mapper peers
	+@$(MAKE) --no-print-directory all
	@scripts/bench

lint: ## sparse on the module, cppcheck, shellcheck, documents against code
	@scripts/lint

style: ## clang-format and checkpatch on the lines that changed (BASE=commit)
	@scripts/style $(BASE)

kernels: ## which kernels can be built for and booted here
	@scripts/kernels list

install: ## install daemon, tool, man pages and the DKMS sources (DESTDIR=, PREFIX=)
	+@$(LOCKED) _tools
	install -d '$(DESTDIR)$(PREFIX)/sbin' '$(DESTDIR)$(PREFIX)/bin'
	$(if $(DAEMON),install -m 755 $(DAEMON) '$(DESTDIR)$(PREFIX)/sbin/')
	$(if $(TOOL),install -m 755 $(TOOL) '$(DESTDIR)$(PREFIX)/bin/')
	@set -e; for p in $(wildcard Documentation/man/*.[1-8]); do \
		d='$(DESTDIR)$(PREFIX)'/share/man/man$${p##*.}; install -d "$$d"; install -m 644 "$$p" "$$d/"; done
	@scripts/install-dkms '$(DESTDIR)'

clean: ## remove what was built (the cache of kernels stays)
	rm -rf $(O)

-include $(shell find $(B)/userspace $(B)/tests $(B)/logic -name '*.d' 2>/dev/null)
