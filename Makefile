# Everything runs on a Debian 12 machine with Node 20.19 or newer; `make setup` brings the rest.
.PHONY: setup demo run test test-full coverage bench soak check clean

setup:
	@scripts/setup.sh

# The main job, narrated: on a Ceph, a libvirt host and a controller of its own. Again: starts from what is there.
demo: setup
	@exec node --import tsx scripts/demo.ts

# The same, for trying it by hand: the controller serves until Ctrl-C.
run: setup
	@exec node --import tsx scripts/run.ts

# Every test, on a Ceph and a libvirt of its own. `STORE=redis make test`: with each controller's store on a Redis of its own.
test: setup
	@node --import tsx scripts/test.ts

# The same with as many rounds in the random and crash tests as it takes to be sure, and what runs a controller on Redis too.
test-full: setup
	@node --import tsx scripts/test.ts --full

# Every test; coverage by file on the terminal and in coverage/index.html.
coverage: setup
	@node --import tsx scripts/test.ts --coverage

# Our own share of time beside bare librbd and the rbd command, measured in one run; also in .dev/bench.json.
# `make bench ONLY=create`: only measures with that in their name, printed and not kept.
bench: setup
	@exec node --import tsx scripts/bench/bench.ts $(if $(ONLY),--only '$(ONLY)')

# Ten minutes of load while something is killed, frozen or cut off every few seconds; then every answer is checked.
# `make soak SECONDS=60 SEED=7`: for so long, and what was broken in that run once more.
soak: setup
	@exec node --import tsx scripts/soak.ts $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

# Types, formatting and rules, the API's own rules.
check: setup
	@scripts/check.sh

# Stops this checkout's clusters and hosts and removes .dev, dist and coverage.
clean:
	@scripts/clean.sh
