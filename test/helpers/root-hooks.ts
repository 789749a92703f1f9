import type { RootHookObject } from 'mocha';
import { stopSharedCluster } from './cluster.js';

/**
 * Suites leave the shared cluster running for each other. Who runs all of them (scripts/test.ts) asks for its end, unless
 * it ran already before; a single suite that somebody runs by hand finds it running the next time.
 */
export const mochaHooks: RootHookObject = {
  async afterAll(this: Mocha.Context) {
    if (process.env.MOORAGE_STOP_SHARED_CLUSTER === '1') {
      this.timeout(60_000);
      await stopSharedCluster();
    }
  },
};
