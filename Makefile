# SPDX-License-Identifier: LGPL-2.1-or-later
#
# For newcomers: each target does its whole set-up first, then its job. With meson and
# ninja you need none of this (see HACKING.md).

BUILD ?= build
SETUP ?= yes
PREFIX ?= /usr/local

.PHONY: all build build-all demo check bench soak deb install clean help setup-demo setup-build setup-deb setup-check setup-bench

all: build

help:
	@echo "make          build the library and the tool into $(BUILD)/"
	@echo "make demo     build the tool only (a minute or more), then show a disk served, used and resized (10 seconds)"
	@echo "make check    run every test: sanitizers, real peers, guests (half an hour)"
	@echo "make check LANES='gcc peers'   run only these lanes (scripts/check --list)"
	@echo "make bench    compare vublk with qemu-storage-daemon and libblkio, and the ways to a guest (forty minutes)"
	@echo "make bench BENCH='--parts rates --rows null'   only these (scripts/bench --help)"
	@echo "make soak     kill back-ends a thousand times under a verified load (ten minutes; docs/soak.md)"
	@echo "make soak SOAK='--parts operations'   only this part (scripts/soak --help)"
	@echo "make deb      build Debian packages into $(BUILD)/deb/ (docs/packages.md)"
	@echo "make install  install to PREFIX=$(PREFIX), below DESTDIR if that is set"
	@echo "make clean    remove what was built"
	@echo
	@echo "Missing packages of the distribution are installed first (scripts/setup);"
	@echo "SETUP=no leaves the system as it is."

setup-demo setup-build setup-deb setup-check setup-bench: setup-%:
	@test "$(SETUP)" = no || scripts/setup $*

$(BUILD)/build.ninja: | setup-demo
	meson setup $(BUILD) --prefix=$(abspath $(PREFIX))

# `make demo` may have configured before cmocka and scdoc were installed: look again, once.
$(BUILD)/.complete: | setup-build $(BUILD)/build.ninja
	meson setup --reconfigure $(BUILD) >/dev/null
	@touch $@

# The installed files, without the tests.
build: setup-build $(BUILD)/.complete
	@ninja -C $(BUILD) product

build-all: setup-build $(BUILD)/.complete
	@ninja -C $(BUILD)

# The tool and the library: no examples, no manual pages, no tests.
demo: setup-demo $(BUILD)/build.ninja
	@ninja -C $(BUILD) src/cli/vublk
	@$(BUILD)/src/cli/vublk demo

check: setup-check
	@scripts/check $(LANES)

bench: setup-bench build-all
	@scripts/bench $(BUILD)/src/cli/vublk $(BUILD)/tests/bench --json $(BUILD)/bench.json \
		--markdown $(BUILD)/bench.md --plot $(BUILD)/bench.svg $(BENCH)

soak: setup-check build-all
	@scripts/soak $(BUILD)/src/cli/vublk $(BUILD)/tests/kill/vublk-kill $(BUILD)/tests/guest/guest-load $(SOAK)

# Debian packages. The build runs on a copy of the source, in this folder.
deb: setup-deb
	@scripts/deb $(BUILD)/deb

# The loader finds a library by its cache, which only root can renew.
install: setup-build $(BUILD)/.complete
	meson configure $(BUILD) -Dprefix=$(abspath $(PREFIX))
	ninja -C $(BUILD) product
	meson install -C $(BUILD) --no-rebuild
	@test -n "$(DESTDIR)" || test "$$(id -u)" != 0 || ldconfig

clean:
	rm -rf $(BUILD) build-check
