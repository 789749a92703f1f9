import { describeConformance } from './suite.js';

// Run by scripts/conformance.ts, which says in one variable what to run against.
describeConformance('conformance of the agent', () => JSON.parse(process.env.MOORAGE_CONFORMANCE ?? '{}'));
