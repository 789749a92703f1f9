import { describeAgentService } from './agent-service.js';
import { ConformanceClient, type ConformanceTarget } from './client.js';
import { describeFlatten } from './data-flatten.js';
import { describeImages } from './data-images.js';
import { describePoints } from './data-points.js';
import { describeFenceService } from './fence-service.js';
import { describeLooking } from './looking.js';

/** What the parts of the suite share: there from `before` on. */
export interface Suite {
  readonly client: ConformanceClient;
}

/**
 * Whether an agent does what the backend protocol says (protos/moorage/backend/v1). Everything that it makes has a fresh
 * random name, and is purged at the end; the rest of the pool is not touched.
 * @param target is asked for when the first test runs
 */
export function describeConformance(title: string, target: () => Promise<ConformanceTarget> | ConformanceTarget): void {
  describe(title, function () {
    this.timeout(300_000);
    let client: ConformanceClient | undefined;
    const suite: Suite = {
      get client() {
        if (client === undefined) throw new Error('no agent to talk to yet');
        return client;
      },
    };
    before(async () => {
      client = new ConformanceClient(await target());
      await client.hello();
    });
    after(() => client?.close());
    describeAgentService(suite);
    describeImages(suite);
    describePoints(suite);
    describeFlatten(suite);
    describeFenceService(suite);
    describeLooking(suite);
  });
}
