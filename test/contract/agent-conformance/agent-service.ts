import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import { ConformanceClient, freshName, refusal } from './client.js';
import { Images, SIZE } from './images.js';
import type { Suite } from './suite.js';

/** Introduction, and the refusal of controllers that are not known or fenced. */
export function describeAgentService(suite: Suite): void {
  describe('AgentService', () => {
    for (const role of ['data', 'fence'] as const) {
      it(`Hello (${role}) introduces an agent with that role, the same each time`, async () => {
        const { client } = suite;
        const first = await client.agent(role, 'Hello', { controller: client.controller, protocolVersion: 1 });
        expect(first.protocolVersion).to.equal(1);
        expect(first.backend).to.match(/^[a-z][a-z0-9-]*$/);
        expect(first.agentId).not.to.equal('');
        expect(first.roles).to.include(role);
        const again = await client.agent(role, 'Hello', { controller: client.controller, protocolVersion: 1 });
        expect(again).to.deep.equal(first);
      });
    }

    it('Hello in a version that the agent does not speak is refused', async () => {
      const request = { controller: randomUUID(), protocolVersion: 4711 };
      await refusal(suite.client.agent('data', 'Hello', request));
    });

    it('a step before Hello is refused, not for good, and nothing of it is done', async () => {
      const { client } = suite;
      const name = freshName();
      const step = client.step('CreateImage', { controller: randomUUID() });
      const request = {
        catalogueEntry: { key: name, value: Buffer.from('x') },
        name,
        sizeBytes: String(SIZE),
        pointName: '',
      };
      expect((await refusal(client.data('CreateImage', request, step))).code).to.equal('PERMISSION_DENIED');
      const images = new Images(client);
      expect(await images.listed(name)).to.deep.equal([]);
      expect(await images.entry(name)).to.equal(undefined);
      const listing = client.fence('ListAccess', {}, client.step('ListAccess', { controller: randomUUID() }));
      expect((await refusal(listing)).code).to.equal('PERMISSION_DENIED');
    });

    it('after Fence every step of that controller is refused, and no other one', async () => {
      const fenced = new ConformanceClient(suite.client.target);
      try {
        await fenced.hello();
        await fenced.data('GetPool', {});
        for (const role of ['data', 'fence'] as const) {
          for (const _again of [1, 2]) await suite.client.agent(role, 'Fence', { controller: fenced.controller });
        }
        expect((await refusal(fenced.data('GetPool', {}))).code).to.equal('PERMISSION_DENIED');
        expect((await refusal(fenced.data('OpenConnection', {}))).code).to.equal('PERMISSION_DENIED');
        expect((await refusal(fenced.fence('ListAccess', {}))).code).to.equal('PERMISSION_DENIED');
        // It may not come back under the same id.
        await fenced.hello().catch(() => undefined);
        expect((await refusal(fenced.data('GetPool', {}))).code).to.equal('PERMISSION_DENIED');
        await suite.client.data('GetPool', {});
      } finally {
        fenced.close();
      }
    });

    it('a controller that nobody heard of can be fenced before it says Hello', async () => {
      const late = new ConformanceClient(suite.client.target);
      try {
        await suite.client.agent('data', 'Fence', { controller: late.controller });
        await late.agent('data', 'Hello', { controller: late.controller, protocolVersion: 1 }).catch(() => undefined);
        expect((await refusal(late.data('GetPool', {}))).code).to.equal('PERMISSION_DENIED');
      } finally {
        late.close();
      }
    });

    it('a step that does not say who asks or where is refused with INVALID_ARGUMENT', async () => {
      const { client } = suite;
      expect((await refusal(client.data('GetPool', {}, null))).code).to.equal('INVALID_ARGUMENT');
      const nowhere = client.step('GetPool', { settings: {} });
      expect((await refusal(client.data('GetPool', {}, nowhere))).code).to.equal('INVALID_ARGUMENT');
    });
  });
}
