#!/usr/bin/env node
import { runCommand } from '../cli/index.js';

// Deprecations are for who develops this, and stderr is for who uses it.
process.noDeprecation = true;

process.exitCode = await runCommand(process.argv.slice(2), {
  stdout: process.stdout,
  stderr: process.stderr,
  initialisePool: async (settings) => {
    // Loaded when it is asked for: no other command needs librados on the machine.
    const { initialisePool } = await import('../agents/rbd/pool-init.js');
    return initialisePool(settings);
  },
});
