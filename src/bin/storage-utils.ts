#!/usr/bin/env node
import { runCommand } from '../storage-utils/command.js';

await runCommand(process.argv);
