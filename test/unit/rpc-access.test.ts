import { randomUUID } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ChannelCredentials, credentials, status } from '@grpc/grpc-js';
import { expect } from 'chai';
import { newId } from '../../src/core/model/ids.js';
import { generateKeyPair } from '../../src/descriptor/index.js';
import { type MethodRule, methodRules } from '../../src/rpc/roles.js';
import { callRaw, type RawAnswer } from '../helpers/call-raw.js';
import { TestAuthority } from '../helpers/certificates.js';
import { admin, CoreWorld, change, MEBIBYTE, mutation, volumeRequest } from '../helpers/core-world.js';
import { serve, type TestServer } from '../helpers/server.js';

/*
 * WHO MAY CALL WHAT: every method × every role × whose object it is. Served by the real core over TLS, with certificates.
 *
 * A method that is not in `requests` fails this test, and so does one in roles.ts that is not in `wanted`.
 */

const storage = 'StorageControllerService';
const reading = ['admin', 'reader'];
const administrators = ['admin'];
const withNodes = ['admin', 'node'];

/** The roles of every method, written down a second time: whoever changes roles.ts says so here too. */
const wanted: Readonly<Record<string, readonly string[]>> = {
  [`${storage}/CreateVolume`]: administrators,
  [`${storage}/GetVolume`]: reading,
  [`${storage}/ListVolumes`]: reading,
  [`${storage}/UpdateVolume`]: administrators,
  [`${storage}/ExpandVolume`]: administrators,
  [`${storage}/DeleteVolume`]: administrators,
  [`${storage}/UndeleteVolume`]: administrators,
  [`${storage}/CreateSnapshot`]: administrators,
  [`${storage}/GetSnapshot`]: reading,
  [`${storage}/ListSnapshots`]: reading,
  [`${storage}/UpdateSnapshot`]: administrators,
  [`${storage}/DeleteSnapshot`]: administrators,
  [`${storage}/UndeleteSnapshot`]: administrators,
  [`${storage}/GrantExport`]: administrators,
  [`${storage}/RevokeGrant`]: administrators,
  [`${storage}/Export`]: withNodes,
  [`${storage}/Unexport`]: withNodes,
  [`${storage}/GetExport`]: ['admin', 'node', 'reader'],
  [`${storage}/ListExports`]: ['admin', 'node', 'reader'],
  'NodeService/RegisterNode': administrators,
  'NodeService/GetNode': reading,
  'NodeService/ListNodes': reading,
  'NodeService/UpdateNode': administrators,
  'NodeService/RemoveNode': administrators,
  'NodeService/CreateEnrollmentToken': administrators,
  'NodeService/Enroll': ['admin', 'none'],
  'NodeService/RotateNodeKey': withNodes,
  'NodeService/FenceNode': administrators,
  'NodeService/UnfenceNode': administrators,
  'PoolService/CreatePool': administrators,
  'PoolService/GetPool': reading,
  'PoolService/ListPools': reading,
  'PoolService/UpdatePool': administrators,
  'PoolService/DeletePool': administrators,
  'OperationService/GetOperation': reading,
  'OperationService/ListOperations': reading,
  'OperationService/WaitOperation': reading,
  'OperationService/CancelOperation': administrators,
  'EventService/Watch': ['admin', 'node', 'reader'],
  'AdminService/Check': administrators,
  'AdminService/Repair': administrators,
  'AdminService/Rebuild': administrators,
  'AdminService/BackupStore': administrators,
};

/** Whose thing a request names, as a node sees it; for the other roles it makes no difference. */
type Ownership = 'own' | 'foreign' | 'gone' | 'unknown';

const OWNER = 'node-a';
const OTHER = 'node-b';

/** Makes the things that requests name. */
class Things {
  readonly #world: CoreWorld;

  constructor(world: CoreWorld) {
    this.#world = world;
  }

  volume = async (): Promise<string> => (await this.#world.createVolume()).id;

  deletedVolume = async (): Promise<string> => {
    const id = await this.volume();
    await this.#world.deleteVolume(id);
    return id;
  };

  snapshot = async (): Promise<string> => (await this.#world.createSnapshot(await this.volume())).id;

  deletedSnapshot = async (): Promise<string> => {
    const id = await this.snapshot();
    await this.#world.deleteSnapshot(id);
    return id;
  };

  node = async (): Promise<string> => {
    const nodeId = `spare-${randomUUID().slice(0, 8)}`;
    await this.#world.registerNode(nodeId);
    return nodeId;
  };

  operation = async (): Promise<string> => {
    return (await this.#world.core.services.volumes.create(volumeRequest(), admin())).operationId;
  };

  pool = async (): Promise<string> => {
    const poolId = `pool-${randomUUID().slice(0, 8)}`;
    const settings = {
      ...{ backend: 'rbd' as const, cluster: 'main', cephPool: poolId },
      ...{ access: 'managed' as const, keyringUser: '' },
    };
    const request = { ...mutation(), poolId, settings, undeleteWindowSeconds: 60, tags: {} };
    await this.#world.core.services.pools.create(request, admin());
    return poolId;
  };

  enrollmentToken = async (): Promise<string> => {
    const request = {
      ...{ ...mutation(), nodeId: `new-${randomUUID().slice(0, 8)}`, lifetimeMilliseconds: 0 },
      ...{ storageAddresses: [], initiatorName: '', tags: {} },
    };
    return (await this.#world.core.services.enrollment.createToken(request, admin())).token;
  };

  grant = async (nodeId: string): Promise<{ readonly volumeId: string; readonly grantId: string }> => {
    const volumeId = await this.volume();
    const request = {
      ...{ ...mutation(), volumeId, nodeId, instance: '' },
      ...{ migration: false, readOnly: false, lifetimeMilliseconds: 0 },
    };
    const { resource } = await this.#world.core.services.exports.grant(request, admin());
    return { volumeId, grantId: resource.id };
  };

  exported = async (nodeId: string): Promise<{ readonly volumeId: string; readonly exportId: string }> => {
    const volumeId = await this.volume();
    return { volumeId, exportId: (await this.#world.export(volumeId, nodeId)).resource.value.id };
  };

  /** What OWNER may redeem, what another may, and what nobody can. */
  redeemable = async (ownership: Ownership) => {
    if (ownership === 'unknown') return { volumeId: newId('vol'), grantId: newId('grant') };
    const { volumeId, grantId } = await this.grant(ownership === 'own' ? OWNER : OTHER);
    if (ownership === 'gone') {
      await this.#world.core.services.exports.revokeGrant({ ...mutation(), grantId }, admin());
      await this.#world.deleteVolume(volumeId);
    }
    return { volumeId, grantId };
  };

  export = async (ownership: Ownership) => {
    if (ownership === 'unknown') return { volumeId: newId('vol'), exportId: newId('exp') };
    const made = await this.exported(ownership === 'own' ? OWNER : OTHER);
    if (ownership === 'gone') await this.#world.unexport(made.exportId);
    return made;
  };

  nodeOf = async (ownership: Ownership): Promise<string> => {
    if (ownership === 'own') return OWNER;
    if (ownership === 'unknown') return `never-${randomUUID().slice(0, 8)}`;
    const nodeId = await this.node();
    if (ownership === 'gone') await this.#world.core.services.nodes.remove(change(nodeId), admin());
    return nodeId;
  };
}

type Build = (things: Things, ownership: Ownership, role: string) => Promise<object>;

const token = () => ({ clientToken: randomUUID() });

/** A request of each method that is right in everything, so that what is refused is refused for its caller alone. */
const requests: Readonly<Record<string, Build>> = {
  [`${storage}/CreateVolume`]: async () => ({ ...token(), poolId: 'ssd', sizeBytes: MEBIBYTE }),
  [`${storage}/GetVolume`]: async (things) => ({ volumeId: await things.volume() }),
  [`${storage}/ListVolumes`]: async () => ({}),
  [`${storage}/UpdateVolume`]: async (things) => ({
    ...token(),
    volumeId: await things.volume(),
    updateMask: { paths: ['display_name'] },
    displayName: 'x',
  }),
  [`${storage}/ExpandVolume`]: async (things) => ({
    ...token(),
    volumeId: await things.volume(),
    sizeBytes: 2 * MEBIBYTE,
  }),
  [`${storage}/DeleteVolume`]: async (things) => ({ ...token(), volumeId: await things.volume() }),
  [`${storage}/UndeleteVolume`]: async (things) => ({ ...token(), volumeId: await things.deletedVolume() }),
  [`${storage}/CreateSnapshot`]: async (things) => ({ ...token(), volumeId: await things.volume() }),
  [`${storage}/GetSnapshot`]: async (things) => ({ snapshotId: await things.snapshot() }),
  [`${storage}/ListSnapshots`]: async () => ({}),
  [`${storage}/UpdateSnapshot`]: async (things) => ({
    ...token(),
    snapshotId: await things.snapshot(),
    updateMask: { paths: ['display_name'] },
    displayName: 'x',
  }),
  [`${storage}/DeleteSnapshot`]: async (things) => ({ ...token(), snapshotId: await things.snapshot() }),
  [`${storage}/UndeleteSnapshot`]: async (things) => ({ ...token(), snapshotId: await things.deletedSnapshot() }),
  [`${storage}/GrantExport`]: async (things) => ({ ...token(), volumeId: await things.volume(), nodeId: OWNER }),
  [`${storage}/RevokeGrant`]: async (things) => ({ ...token(), grantId: (await things.grant(OWNER)).grantId }),
  [`${storage}/Export`]: async (things, ownership, role) =>
    role === 'admin'
      ? { ...token(), volumeId: await things.volume(), direct: { nodeId: OWNER } }
      : { ...token(), ...(await things.redeemable(ownership)) },
  [`${storage}/Unexport`]: async (things, ownership) => ({
    ...token(),
    exportId: (await things.export(ownership)).exportId,
  }),
  [`${storage}/GetExport`]: async (things, ownership) => ({ exportId: (await things.export(ownership)).exportId }),
  [`${storage}/ListExports`]: async (things, ownership) => ({ volumeId: (await things.export(ownership)).volumeId }),
  'NodeService/RegisterNode': async () => ({
    ...token(),
    nodeId: `new-${randomUUID().slice(0, 8)}`,
    publicKey: Buffer.from(generateKeyPair().publicKey),
  }),
  'NodeService/GetNode': async () => ({ nodeId: OWNER }),
  'NodeService/ListNodes': async () => ({}),
  'NodeService/UpdateNode': async (things) => ({
    ...token(),
    nodeId: await things.node(),
    updateMask: { paths: ['tags'] },
    tags: { a: 'b' },
  }),
  'NodeService/RemoveNode': async (things) => ({ ...token(), nodeId: await things.node() }),
  'NodeService/CreateEnrollmentToken': async () => ({ ...token(), nodeId: `new-${randomUUID().slice(0, 8)}` }),
  'NodeService/Enroll': async (things) => ({
    token: await things.enrollmentToken(),
    publicKey: Buffer.from(generateKeyPair().publicKey),
  }),
  'NodeService/RotateNodeKey': async (things, ownership, role) => ({
    ...token(),
    nodeId: role === 'admin' ? await things.node() : await things.nodeOf(ownership),
    publicKey: Buffer.from(generateKeyPair().publicKey),
  }),
  'NodeService/FenceNode': async (things) => ({ ...token(), nodeId: await things.node(), reason: 'lost' }),
  'NodeService/UnfenceNode': async (things) => ({ ...token(), nodeId: await things.node(), clientsAreDead: true }),
  'PoolService/CreatePool': async () => ({
    ...token(),
    poolId: `pool-${randomUUID().slice(0, 8)}`,
    rbd: { cluster: 'main', cephPool: `pool-${randomUUID().slice(0, 8)}` },
  }),
  'PoolService/GetPool': async () => ({ poolId: 'ssd' }),
  'PoolService/ListPools': async () => ({}),
  'PoolService/UpdatePool': async (things) => ({
    ...token(),
    poolId: await things.pool(),
    updateMask: { paths: ['tags'] },
    tags: { a: 'b' },
  }),
  'PoolService/DeletePool': async (things) => ({ ...token(), poolId: await things.pool() }),
  'OperationService/GetOperation': async (things) => ({ operationId: await things.operation() }),
  'OperationService/ListOperations': async () => ({}),
  'OperationService/WaitOperation': async (things) => ({ operationId: await things.operation() }),
  'OperationService/CancelOperation': async (things) => ({ operationId: await things.operation() }),
  'EventService/Watch': async () => ({}),
  'AdminService/Check': async () => ({}),
  'AdminService/Repair': async () => ({ validateOnly: true }),
  'AdminService/Rebuild': async () => ({ validateOnly: true }),
  'AdminService/BackupStore': async () => ({}),
};

/** What whoever may call a method is told, where that is not OK. */
const answers: Readonly<Record<string, string>> = {
  // Of a store that is not empty.
  'AdminService/Rebuild': 'FAILED_PRECONDITION',
  // It needs a proof with its key; that is looked at elsewhere.
  'NodeService/RotateNodeKey node': 'PERMISSION_DENIED NOT_PROVEN',
};

/** What a node is told of what is not its own: in all ways the same as of what never was. */
const answersToNodes: Readonly<Record<string, string>> = {
  [`${storage}/Export`]: 'PERMISSION_DENIED GRANT_NOT_YOURS',
  [`${storage}/Unexport`]: 'NOT_FOUND NOT_FOUND',
  [`${storage}/GetExport`]: 'NOT_FOUND NOT_FOUND',
  [`${storage}/ListExports`]: 'OK',
  'NodeService/RotateNodeKey': 'NOT_FOUND NOT_FOUND',
};

describe('who may call what', () => {
  let folder: string;
  let world: CoreWorld;
  let things: Things;
  let running: TestServer;
  let callers: Readonly<Record<string, { readonly address: string; readonly security: ChannelCredentials }>>;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'moorage-access-'));
    const authority = new TestAuthority(folder);
    const { certificate, key } = authority.server();
    world = await CoreWorld.make({ backupDirectory: join(folder, 'backup') });
    things = new Things(world);
    running = await serve(world.core.services, [
      { address: '127.0.0.1:0', security: { kind: 'tls', certificate, key, clientCa: authority.certificate } },
      { address: '127.0.0.1:0', security: { kind: 'enrollment', certificate, key } },
    ]);
    const place = (index: number): string => (running.server.addresses[index] ?? '').replace('127.0.0.1', 'localhost');
    const ca = readFileSync(authority.certificate);
    const as = (name: string, role: string) => {
      const pair = authority.client(name, `/OU=${role}/CN=${name}`);
      return {
        address: place(0),
        security: credentials.createSsl(ca, readFileSync(pair.key), readFileSync(pair.certificate)),
      };
    };
    callers = {
      admin: as('alice', 'admin'),
      reader: as('rita', 'reader'),
      node: as(OWNER, 'node'),
      none: { address: place(1), security: credentials.createSsl(ca) },
      removed: as('nobody', 'node'),
    };
  });
  after(async () => {
    await running?.server.stop(0);
    await world?.end();
    rmSync(folder, { recursive: true, force: true });
  });

  async function call(role: string, method: string, request: object): Promise<RawAnswer> {
    const caller = callers[role];
    if (caller === undefined) throw new Error(role);
    return callRaw(caller.address, caller.security, `/moorage.v1.${method}`, request);
  }

  const told = ({ code, reason }: RawAnswer): string => (code === status.OK ? 'OK' : `${status[code]} ${reason}`);

  /** Everything that an answer says, without what its own request said and without what no two answers share. */
  function said({ requestId, ...answer }: RawAnswer, request: object): string {
    let text = JSON.stringify(answer);
    for (const value of Object.values(request)) {
      if (typeof value === 'string' && value !== '') text = text.replaceAll(value, '…');
    }
    return text.replaceAll(requestId, '…');
  }

  it('has a row for every method, and roles.ts says what stands here', () => {
    const paths = Object.keys(methodRules).map((path) => path.replace('/moorage.v1.', ''));
    expect(Object.keys(wanted).sort()).to.deep.equal([...paths].sort());
    expect(Object.keys(requests).sort()).to.deep.equal([...paths].sort());
    for (const [method, roles] of Object.entries(wanted)) {
      const rule = methodRules[`/moorage.v1.${method}`] as MethodRule;
      expect([...rule.roles].sort(), method).to.deep.equal([...roles].sort());
    }
    const ofNodes = Object.keys(wanted).filter((method) => wanted[method]?.includes('node'));
    expect(Object.keys(answersToNodes).sort()).to.deep.equal(ofNodes.filter((each) => !each.endsWith('Watch')).sort());
  });

  for (const [method, build] of Object.entries(requests)) {
    for (const role of ['admin', 'reader', 'node', 'none']) {
      const allowed = wanted[method]?.includes(role) === true;
      const answer = answers[`${method} ${role}`] ?? answers[method] ?? 'OK';
      it(`${method} by ${role}: ${allowed ? answer : 'PERMISSION_DENIED'}`, async () => {
        const request = await build(things, 'own', role);
        const given = await call(role, method, request);
        if (allowed) {
          expect(told(given), given.details).to.match(new RegExp(`^${answer}`));
          return;
        }
        expect(told(given)).to.equal('PERMISSION_DENIED ROLE_NOT_ALLOWED');
        // Refused before the request is read: what it names makes no difference.
        const nothing = await call(role, method, {});
        expect(said(nothing, {})).to.equal(said(given, {}));
      });
    }

    it(`${method} by a node that is none: PERMISSION_DENIED`, async () => {
      const given = await call('removed', method, await build(things, 'own', 'node'));
      const reason = wanted[method]?.includes('node') === true ? 'NODE_UNKNOWN' : 'ROLE_NOT_ALLOWED';
      expect(told(given)).to.equal(`PERMISSION_DENIED ${reason}`);
    });
  }

  for (const [method, answer] of Object.entries(answersToNodes)) {
    it(`${method} by a node for what is another’s, was another’s or never was: ${answer}, and nothing tells them apart`, async () => {
      const build = requests[method] as Build;
      const changes = methodRules[`/moorage.v1.${method}`]?.changes === true;
      for (const more of changes ? [{}, { validateOnly: true }] : [{}]) {
        const all: string[] = [];
        for (const ownership of ['foreign', 'gone', 'unknown'] as const) {
          const request = { ...(await build(things, ownership, 'node')), ...more };
          const given = await call('node', method, request);
          expect(told(given), ownership).to.equal(answer);
          all.push(said(given, request));
        }
        expect(new Set(all).size, all.join('\n')).to.equal(1);
      }
    });
  }

  it('a node lists and watches its own exports and nothing else, whatever it asks for', async () => {
    const [own, other] = [await things.exported(OWNER), await things.exported(OTHER)];
    for (const request of [{}, { nodeId: OTHER }, { volumeId: other.volumeId }, { nodeId: OTHER, pageSize: 1 }]) {
      const { response } = await call('node', `${storage}/ListExports`, request);
      const exports = (response?.exports ?? []) as readonly { readonly nodeId: string }[];
      expect(new Set(exports.map((each) => each.nodeId))).to.not.include(OTHER);
    }
    const listed = await call('node', `${storage}/ListExports`, { volumeId: own.volumeId });
    expect(listed.response?.exports).to.have.length(1);
    const empty = await call('node', `${storage}/ListExports`, { volumeId: other.volumeId, pageSize: 1 });
    expect(empty.response).to.deep.include({ exports: [], nextPageToken: '' });
    const seen: string[] = [];
    const aborted = new AbortController();
    const caller = {
      ...{ name: OWNER, role: 'node' as const, deadline: Number.POSITIVE_INFINITY },
      ...{ signal: aborted.signal, requestId: 'watch' },
    };
    const request = { resumeToken: '', types: [], poolId: '' };
    for await (const event of world.core.services.events.watch(request, caller, new AbortController().signal)) {
      if (event.kind === 'synced') break;
      seen.push(event.kind === 'export' ? event.resource.value.nodeId : event.kind);
    }
    aborted.abort();
    expect(new Set(seen)).to.deep.equal(new Set([OWNER]));
  });

  it('a node cannot use another’s page token, nor force, nor export by its own word', async () => {
    await things.exported(OWNER);
    await things.exported(OWNER);
    const page = await call('admin', `${storage}/ListExports`, { nodeId: OWNER, pageSize: 1 });
    const pageToken = String(page.response?.nextPageToken);
    const stolen = await call('node', `${storage}/ListExports`, { nodeId: OWNER, pageSize: 1, pageToken });
    expect(told(stolen)).to.match(/^INVALID_ARGUMENT/);
    const { exportId, volumeId } = await things.exported(OWNER);
    const forced = await call('node', `${storage}/Unexport`, { ...token(), exportId, force: true });
    expect(told(forced)).to.equal('PERMISSION_DENIED FORCE_NEEDS_ADMIN');
    const direct = { nodeId: OWNER };
    const own = await call('node', `${storage}/Export`, { ...token(), volumeId, direct });
    expect(told(own)).to.equal('PERMISSION_DENIED GRANT_REQUIRED');
  });
});
