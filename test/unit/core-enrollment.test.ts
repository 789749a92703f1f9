import { randomUUID, X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { createIssuer } from '../../src/bin/issuer.js';
import type { NodeCertificateIssuer } from '../../src/core/ports/certificates.js';
import { removeExpired } from '../../src/core/reaper/janitor.js';
import { rotationContent } from '../../src/core/services/enrollment/rotate.js';
import type { Caller, CreateEnrollmentToken, RotateNodeKey } from '../../src/core/services/types.js';
import { generateKeyPair, type KeyPair, openDescriptor, proveKey } from '../../src/descriptor/index.js';
import { createAuthority, createKey, createRequest, keyIdOf, writeWhole } from '../../src/pki/index.js';
import { admin, CoreWorld, callerOf, expectFailure, mutation } from '../helpers/core-world.js';

const HOUR = 3_600_000;
const nothing = new Uint8Array();

describe('core: enrollment', () => {
  let folder: string;
  let issuer: NodeCertificateIssuer;
  let world: CoreWorld;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'moorage-enroll-'));
    const authority = await createAuthority('nodes', 24 * HOUR);
    const paths = { certificate: join(folder, 'ca.pem'), key: join(folder, 'ca.key') };
    await writeWhole(paths.certificate, authority.certificate, 0o644, 'new');
    await writeWhole(paths.key, authority.key, 0o600, 'new');
    issuer = await createIssuer(paths, HOUR);
  });
  after(() => rmSync(folder, { recursive: true, force: true }));
  beforeEach(async () => {
    world = await CoreWorld.make({}, issuer);
  });
  afterEach(async () => {
    await world.expectWhole();
    await world.end();
  });

  const service = () => world.core.services.enrollment;

  function createToken(options: Partial<CreateEnrollmentToken> = {}) {
    return service().createToken(
      {
        ...mutation(),
        nodeId: 'nc-a',
        lifetimeMilliseconds: 0,
        storageAddresses: ['192.0.2.11'],
        initiatorName: 'iqn.2026-11.test:a',
        tags: { rack: '7' },
        ...options,
      },
      admin(),
    );
  }

  const enroll = (token: string, publicKey: Uint8Array, certificateRequest: Uint8Array = nothing) =>
    service().enroll({ token, publicKey, certificateRequest }, callerOf('', 'none'));

  /** A node that is enrolled with a key and a certificate. */
  async function enrolled(nodeId = 'nc-a') {
    const { token } = await createToken({ nodeId });
    const keys = generateKeyPair();
    const certificateKey = await createKey();
    const request = await createRequest(certificateKey);
    const answer = await enroll(token, keys.publicKey, request);
    return { token, keys, request, answer, caller: callerWith(nodeId, answer.certificate) };
  }

  function callerWith(nodeId: string, certificate: string): Caller {
    const key = new X509Certificate(certificate).publicKey.export({ format: 'der', type: 'spki' });
    return { ...callerOf(nodeId, 'node'), certificateKeyId: keyIdOf(key) };
  }

  describe('a token', () => {
    it('registers one machine under the name and with what the administrator said', async () => {
      const { answer, keys, caller } = await enrolled();
      const node = answer.node.value;
      expect(node).to.deep.include({
        id: 'nc-a',
        publicKeyId: keys.keyId,
        storageAddresses: ['192.0.2.11'],
        initiatorName: 'iqn.2026-11.test:a',
        tags: { rack: '7' },
        certificateKeyId: caller.certificateKeyId,
      });
      expect((await world.core.services.nodes.get('nc-a', admin())).value).to.deep.equal(node);
      const certificate = new X509Certificate(answer.certificate);
      expect(certificate.subject.split('\n')).to.have.members(['OU=node', 'CN=nc-a']);
      expect(certificate.verify(new X509Certificate(answer.authority).publicKey)).to.equal(true);
      expect(answer.controllerPublicKeys).to.deep.equal([world.controllerKeys.publicKey]);
      await service().admit(caller);
    });

    it('is the same for the same client token, another for another, and only the last is good', async () => {
      const clientToken = randomUUID();
      const first = await createToken({ clientToken });
      expect(await createToken({ clientToken })).to.deep.equal(first);
      const second = await createToken();
      expect(second.token).not.to.equal(first.token);
      await expectFailure(createToken({ clientToken }), 'FAILED_PRECONDITION', 'TOKEN_REPLACED');
      await expectFailure(enroll(first.token, generateKeyPair().publicKey), 'UNAUTHENTICATED', 'TOKEN_NOT_VALID');
      await enroll(second.token, generateKeyPair().publicKey);
      await expectFailure(createToken(), 'ALREADY_EXISTS', 'NODE_EXISTS');
    });

    it('stands in the store as a hash alone', async () => {
      const { token } = await createToken();
      const text = JSON.stringify((await world.store.get('enrollment/nc-a'))?.value);
      expect(text).to.contain('tokenHash').and.not.to.contain(token.slice('moorage-enrollment:'.length));
    });

    it('checks everything and makes nothing when only asked', async () => {
      const { token, expireTime } = await createToken({ validateOnly: true });
      expect(token).to.equal('');
      expect(expireTime).to.be.above(Date.now());
      expect(await world.store.get('enrollment/nc-a')).to.equal(undefined);
    });

    it('with the same keys again gives the same node; with others it is refused', async () => {
      const { token, keys, request, answer } = await enrolled();
      const again = await enroll(token, keys.publicKey, request);
      expect(again.node).to.deep.equal(answer.node);
      expect(new X509Certificate(again.certificate).publicKey).to.deep.equal(
        new X509Certificate(answer.certificate).publicKey,
      );
      const refused: [Uint8Array, Uint8Array][] = [
        [generateKeyPair().publicKey, request],
        [keys.publicKey, await createRequest(await createKey())],
        [keys.publicKey, nothing],
      ];
      for (const [publicKey, certificateRequest] of refused) {
        await expectFailure(enroll(token, publicKey, certificateRequest), 'FAILED_PRECONDITION', 'TOKEN_USED');
      }
      expect((await world.core.services.nodes.get('nc-a', admin())).value).to.deep.equal(answer.node.value);
    });

    it('of many that come with it at once one gets in', async () => {
      const { token } = await createToken();
      const answers = await Promise.all(
        Array.from({ length: 6 }, () => {
          const { publicKey } = generateKeyPair();
          return enroll(token, publicKey).then(
            ({ node }) => node.value.publicKeyId,
            (error: { reason: string }) => error.reason,
          );
        }),
      );
      const [winner] = answers.filter((each) => each !== 'TOKEN_USED');
      expect(answers.filter((each) => each === 'TOKEN_USED')).to.have.length(5);
      expect((await world.core.services.nodes.get('nc-a', admin())).value.publicKeyId).to.equal(winner);
    });

    it('outlives a controller that died after the commit, and one before it', async () => {
      const { token } = await createToken();
      const { publicKey } = generateKeyPair();
      let spoilt = 0;
      world.storeFault = (method) => {
        if (method !== 'commit' || spoilt >= 2) return undefined;
        spoilt += 1;
        return spoilt === 1 ? 'unavailable' : 'unknown-after';
      };
      await enroll(token, publicKey).catch(() => undefined);
      world.storeFault = () => undefined;
      await world.restart();
      expect((await enroll(token, publicKey)).node.value.id).to.equal('nc-a');
    });

    it('expires; one that was used is good for the same keys after it', async () => {
      const late = await createToken({ nodeId: 'nc-b', lifetimeMilliseconds: 1_000 });
      const { token, keys, request } = await enrolled();
      world.ahead += 20 * 60 * 1000;
      await expectFailure(enroll(late.token, generateKeyPair().publicKey), 'FAILED_PRECONDITION', 'TOKEN_EXPIRED');
      await enroll(token, keys.publicKey, request);
    });

    it('that is none is refused, whatever it looks like', async () => {
      const { token } = await createToken();
      const { publicKey } = generateKeyPair();
      const middle = Math.floor(token.length / 2);
      const altered = token.slice(0, middle) + (token[middle] === 'A' ? 'B' : 'A') + token.slice(middle + 1);
      const none = ['x', 'moorage-enrollment:', altered, `${token}AAAA`, token.slice(0, -4), 'a'.repeat(100_000)];
      for (const text of none) await expectFailure(enroll(text, publicKey), 'UNAUTHENTICATED', 'TOKEN_NOT_VALID');
      await expectFailure(enroll('', publicKey), 'INVALID_ARGUMENT');
      await expectFailure(enroll(token, nothing), 'INVALID_ARGUMENT');
      await expectFailure(enroll(token, new Uint8Array(32)), 'INVALID_ARGUMENT');
      await expectFailure(enroll(token, publicKey, Buffer.from('no request')), 'INVALID_ARGUMENT');
      await enroll(token, publicKey);
    });

    it('for a name that somebody registered by hand meanwhile is refused', async () => {
      const { token } = await createToken();
      await world.registerNode('nc-a');
      await expectFailure(enroll(token, generateKeyPair().publicKey), 'ALREADY_EXISTS', 'NODE_EXISTS');
    });

    it('is refused for what makes no sense', async () => {
      for (const lifetimeMilliseconds of [-1, Number.NaN, 25 * HOUR]) {
        await expectFailure(createToken({ lifetimeMilliseconds }), 'INVALID_ARGUMENT');
      }
      await expectFailure(createToken({ nodeId: 'NC A' }), 'INVALID_ARGUMENT');
      await expectFailure(createToken({ storageAddresses: ['host'] }), 'INVALID_ARGUMENT');
      await expectFailure(createToken({ nodeId: 'node-a' }), 'ALREADY_EXISTS', 'NODE_EXISTS');
    });

    it('is forgotten a day after it expired', async () => {
      await createToken();
      world.ahead += 25 * HOUR;
      const core = { store: world.store, clock: { now: () => Date.now() + world.ahead } };
      await removeExpired({ ...core, liveCheck: () => ({ kind: 'check', key: 'none', expect: 'absent' }) } as never);
      expect(await world.store.get('enrollment/nc-a')).to.equal(undefined);
    });
  });

  it('a controller that is no authority registers the key alone, and takes any certificate of the name', async () => {
    world.issuer = undefined;
    await world.restart();
    const { token } = await createToken();
    const { publicKey } = generateKeyPair();
    const request = await createRequest(await createKey());
    const answer = await enroll(token, publicKey, request);
    expect(answer).to.include({ certificate: '', authority: '' });
    expect(answer.node.value.certificateKeyId).to.equal(undefined);
    await service().admit(callerOf('nc-a', 'node'));
    const rotate = { ...mutation(), nodeId: 'nc-a', etag: '', publicKey: nothing, proofs: [] };
    const failure = service().rotateKey({ ...rotate, certificateRequest: request }, admin());
    await expectFailure(failure, 'FAILED_PRECONDITION', 'NO_AUTHORITY');
  });

  describe('whoever calls as a node', () => {
    it('is one that there is, with the certificate that it has', async () => {
      const { caller } = await enrolled();
      await service().admit(caller);
      const strangers = [callerOf('nc-a', 'node'), { ...caller, certificateKeyId: '0'.repeat(64) }];
      for (const stranger of strangers) {
        await expectFailure(service().admit(stranger), 'PERMISSION_DENIED', 'CERTIFICATE_REPLACED');
      }
      await expectFailure(service().admit(callerOf('nobody', 'node')), 'PERMISSION_DENIED', 'NODE_UNKNOWN');
      await service().admit(callerOf('nobody', 'reader'));
    });

    it('is nobody once the node is removed, also when another machine has the name then', async () => {
      const { caller, token, keys, request } = await enrolled();
      await world.core.services.nodes.remove({ ...mutation(), id: 'nc-a', etag: '' }, admin());
      await expectFailure(service().admit(caller), 'PERMISSION_DENIED', 'NODE_UNKNOWN');
      await expectFailure(enroll(token, keys.publicKey, request), 'UNAUTHENTICATED', 'TOKEN_NOT_VALID');
      const second = await enrolled();
      await service().admit(second.caller);
      await expectFailure(service().admit(caller), 'PERMISSION_DENIED', 'CERTIFICATE_REPLACED');
    });
  });

  describe('rotation', () => {
    function rotate(options: Partial<RotateNodeKey>, caller: Caller) {
      return service().rotateKey(
        {
          ...mutation(),
          nodeId: 'nc-a',
          etag: '',
          publicKey: nothing,
          certificateRequest: nothing,
          proofs: [],
          ...options,
        },
        caller,
      );
    }

    const prove = (keys: KeyPair, publicKey: Uint8Array, request: Uint8Array = nothing, nodeId = 'nc-a') =>
      proveKey(rotationContent(nodeId, publicKey, request), keys, world.controllerKeys.publicKey);

    it('seals what is exported already to the new key, and nothing to the old one', async () => {
      const { keys, caller } = await enrolled();
      const volumeId = (await world.createVolume()).id;
      const before = await world.export(volumeId, 'nc-a');
      const open = (descriptor: Uint8Array, pair: KeyPair) =>
        openDescriptor(descriptor, { nodeKeys: [pair], controllerPublicKeys: [world.controllerKeys.publicKey] });
      const access = open(before.descriptor, keys).payload.access;
      const next = generateKeyPair();
      const { publicKey } = next;
      const { node } = await rotate({ publicKey, proofs: [prove(keys, publicKey)] }, caller);
      expect(node.value.publicKeyId).to.equal(next.keyId);
      const after = await world.export(volumeId, 'nc-a');
      expect(after.resource.value.id).to.equal(before.resource.value.id);
      expect(open(after.descriptor, next).payload.access).to.deep.equal(access);
      expect(() => open(after.descriptor, keys)).to.throw();
      expect(world.fake.calls.filter(({ method }) => method === 'grantAccess')).to.have.length(1);
      await service().admit(caller);
    });

    it('is done once, however often it is asked for', async () => {
      const { keys, caller } = await enrolled();
      const { publicKey } = generateKeyPair();
      const request = { ...mutation(), publicKey, proofs: [prove(keys, publicKey)] };
      const first = await rotate(request, caller);
      expect(await rotate(request, caller)).to.deep.equal(first);
      // Whoever lost the answer and its client token has no proof with the new key, and needs none: it is so already.
      expect(await rotate({ publicKey }, caller)).to.deep.equal(first);
    });

    it('by a node needs its key of before: the certificate alone, stolen, is of no use', async () => {
      const { keys, caller, answer } = await enrolled();
      const thief = generateKeyPair();
      const { publicKey } = thief;
      const stolen = await createRequest(await createKey());
      const useless = [
        [],
        [nothing],
        [prove(thief, publicKey)],
        [prove(keys, generateKeyPair().publicKey)],
        [prove(keys, publicKey, nothing, 'nc-b')],
        [prove(keys, publicKey, stolen)],
      ];
      for (const proofs of useless) {
        await expectFailure(rotate({ publicKey, proofs }, caller), 'PERMISSION_DENIED', 'NOT_PROVEN');
      }
      const renewal = rotate({ certificateRequest: stolen, proofs: [prove(thief, nothing, stolen)] }, caller);
      await expectFailure(renewal, 'PERMISSION_DENIED', 'NOT_PROVEN');
      const many = rotate({ publicKey, proofs: Array.from({ length: 17 }, () => nothing) }, caller);
      await expectFailure(many, 'INVALID_ARGUMENT');
      expect((await world.core.services.nodes.get('nc-a', admin())).value).to.deep.equal(answer.node.value);
    });

    it('a key that was let go does not come back', async () => {
      const { keys, caller } = await enrolled();
      const second = generateKeyPair();
      await rotate({ publicKey: second.publicKey, proofs: [prove(keys, second.publicKey)] }, caller);
      const { publicKey } = keys;
      const back = { publicKey, proofs: [prove(second, publicKey)] };
      await expectFailure(rotate(back, caller), 'FAILED_PRECONDITION', 'KEY_USED_BEFORE');
      const stale = generateKeyPair().publicKey;
      await expectFailure(rotate({ publicKey: stale, proofs: [prove(keys, stale)] }, caller), 'PERMISSION_DENIED');
    });

    it('gives another certificate; the one before is taken for an hour, in case the answer was lost', async () => {
      const { keys, caller } = await enrolled();
      const request = await createRequest(await createKey());
      const proofs = [prove(keys, nothing, request)];
      const { certificate } = await rotate({ certificateRequest: request, proofs }, caller);
      const renewed = callerWith('nc-a', certificate);
      await service().admit(renewed);
      await service().admit(caller);
      const again = await rotate({ certificateRequest: request }, caller);
      expect(callerWith('nc-a', again.certificate).certificateKeyId).to.equal(renewed.certificateKeyId);
      world.ahead += HOUR + 1_000;
      await expectFailure(service().admit(caller), 'PERMISSION_DENIED', 'CERTIFICATE_REPLACED');
      await service().admit(renewed);
    });

    it('by an administrator needs no proof: the key may be lost', async () => {
      await enrolled();
      const { publicKey, keyId } = generateKeyPair();
      const dry = await rotate({ publicKey, validateOnly: true }, admin());
      expect(dry.node.value.publicKeyId).to.equal(keyId);
      const { node } = await rotate({ publicKey }, admin());
      expect(node.value.publicKeyId).to.equal(keyId);
      await expectFailure(rotate({ publicKey: generateKeyPair().publicKey, etag: '1' }, admin()), 'ABORTED');
      await expectFailure(rotate({}, admin()), 'INVALID_ARGUMENT');
      await expectFailure(rotate({ publicKey: new Uint8Array(31) }, admin()), 'INVALID_ARGUMENT');
    });

    it('of another node is told from that of none in no way', async () => {
      const { caller } = await enrolled();
      const told = async (nodeId: string) => {
        const failure = rotate({ nodeId, publicKey: generateKeyPair().publicKey }, caller);
        const { message, metadata, reason } = await expectFailure(failure, 'NOT_FOUND');
        return JSON.stringify({ message, metadata, reason }).replaceAll(nodeId, 'NODE');
      };
      expect(await told('node-a')).to.equal(await told('nobody'));
    });
  });
});
