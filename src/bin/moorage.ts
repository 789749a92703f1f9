#!/usr/bin/env node
import { runCommand } from '../cli/index.js';

// Deprecations are for who develops this, and stderr is for who uses it.
process.noDeprecation = true;

// Whoever reads has seen enough (`| head`), or the disk behind `>` is full.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(141);
  process.stderr.write(`moorage: the output cannot be written: ${error.message}\n`);
  process.exit(1);
});

process.exitCode = await runCommand(process.argv.slice(2), {
  stdout: process.stdout,
  stderr: process.stderr,
  initialisePool: async (settings) => {
    // Loaded when it is asked for: no other command needs librados on the machine.
    const { initialisePool } = await import('../agents/rbd/pool-init.js');
    return initialisePool(settings);
  },
  authority: async () => (await import('./authority.js')).authorityTools,
});
