# Everything runs on a Debian 12 machine with Node 20.19 or newer; `make setup` brings the rest.
.PHONY: setup test test-full coverage check clean

setup:
	@scripts/setup.sh

# Every test, on a Ceph and a libvirt of its own.
test: setup
	@node --import tsx scripts/test.ts

# The same with as many rounds in the random and crash tests as it takes to be sure.
test-full: setup
	@node --import tsx scripts/test.ts --full

# Every test; coverage by file on the terminal and in coverage/index.html.
coverage: setup
	@node --import tsx scripts/test.ts --coverage

check: setup
	@scripts/check.sh

# Stops this checkout's clusters and hosts and removes .dev, dist and coverage.
clean:
	@scripts/clean.sh
