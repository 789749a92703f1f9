#!/usr/bin/env node
import { runCommand } from '../storage-utils/command.js';

// Whoever reads has seen enough (`| head`), or the disk behind `>` is full.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(141);
  process.stderr.write(`storage-utils: the output cannot be written: ${error.message}\n`);
  process.exit(1);
});

await runCommand(process.argv, async () => {
  // Loaded when it is asked for: no other command speaks to a controller.
  const { registrar } = await import('./registrar.js');
  return registrar;
});
