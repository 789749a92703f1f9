import { adminScenarios } from './admin.js';
import { exportScenarios } from './exports.js';
import { fencingScenarios } from './fencing.js';
import { otherScenarios } from './others.js';
import { recoveryScenarios } from './recovery.js';
import type { Scenario } from './scenario.js';
import { snapshotScenarios } from './snapshots.js';
import { volumeScenarios } from './volumes.js';

/** Every call that changes something, in each of its forms, and what the controller does by itself. */
export const scenarios: readonly Scenario[] = [
  ...volumeScenarios,
  ...snapshotScenarios,
  ...exportScenarios,
  ...fencingScenarios,
  ...otherScenarios,
  ...adminScenarios,
  ...recoveryScenarios,
];

/** @throws Error when there is none of that name */
export function scenarioOf(name: string): Scenario {
  const found = scenarios.find((scenario) => scenario.name === name);
  if (found === undefined) throw new Error(`there is no scenario ${name}`);
  return found;
}
