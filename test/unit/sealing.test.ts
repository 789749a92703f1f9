import { chmodSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { MoorageError } from '../../src/core/errors.js';
import type { DescriptorPayload } from '../../src/core/ports/sealer.js';
import { generateKeyPair, openDescriptor } from '../../src/descriptor/index.js';
import {
  createDescriptorSealer,
  createMasterKeyFile,
  createVault,
  loadMasterKeyFile,
  loadMasterKeyFromDescriptor,
  MasterKeyError,
} from '../../src/sealing/index.js';

async function failure(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error('it did not fail');
}

describe('sealing', () => {
  let folder: string;
  let path: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'moorage-sealing-'));
    path = join(folder, 'master.key');
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  describe('the master key file', () => {
    it('is made with mode 0600 and read back, by path and by file descriptor', async () => {
      const id = await createMasterKeyFile(path);
      expect(statSync(path).mode & 0o777).to.equal(0o600);
      const fromFile = await loadMasterKeyFile(path);
      expect(fromFile.current.id).to.equal(id);
      const fromDescriptor = await loadMasterKeyFromDescriptor(openSync(path, 'r'));
      expect(fromDescriptor.current.secret).to.deep.equal(fromFile.current.secret);
    });

    it('is never overwritten', async () => {
      await createMasterKeyFile(path);
      const before = readFileSync(path, 'utf8');
      expect(await failure(createMasterKeyFile(path))).to.be.instanceOf(MasterKeyError);
      expect(readFileSync(path, 'utf8')).to.equal(before);
    });

    it('is refused when it is open to others, and the remedy is said', async () => {
      await createMasterKeyFile(path);
      for (const mode of [0o640, 0o604, 0o660]) {
        chmodSync(path, mode);
        const error = await failure(loadMasterKeyFile(path));
        expect(error).to.be.instanceOf(MasterKeyError);
        expect(error.message).to.contain(`chmod 0600 ${path}`);
      }
    });

    it('is refused when missing, damaged or something else, without repeating what it holds', async () => {
      expect((await failure(loadMasterKeyFile(path))).message).to.contain('init-master-key');
      writeFileSync(path, 'c2VjcmV0LXRoaW5n', { mode: 0o600 });
      expect((await failure(loadMasterKeyFile(path))).message).not.to.contain('c2Vj');
      rmSync(path);
      await createMasterKeyFile(path);
      const stored = JSON.parse(readFileSync(path, 'utf8'));
      stored.current.key = Buffer.alloc(32, 7).toString('base64');
      writeFileSync(path, JSON.stringify(stored));
      const error = await failure(loadMasterKeyFile(path));
      expect(error.message).to.contain('damaged');
      expect(error.message).not.to.contain(stored.current.key);
    });
  });

  describe('the vault', () => {
    it('opens what it sealed for the same context only', async () => {
      await createMasterKeyFile(path);
      const vault = createVault(await loadMasterKeyFile(path));
      const sealed = vault.seal(Buffer.from('cephx key'), 'export/exp-1');
      expect(sealed).not.to.equal(vault.seal(Buffer.from('cephx key'), 'export/exp-1'));
      expect(Buffer.from(vault.open(sealed, 'export/exp-1')).toString()).to.equal('cephx key');
      expect(() => vault.open(sealed, 'export/exp-2')).to.throw('export/exp-2');
    });

    it('refuses every single changed byte, every shorter text and another controller’s', async () => {
      await createMasterKeyFile(path);
      const vault = createVault(await loadMasterKeyFile(path));
      const bytes = Buffer.from(vault.seal(Buffer.from('secret'), 'c'), 'base64');
      for (let index = 0; index < bytes.length; index += 1) {
        const altered = Buffer.from(bytes);
        altered.writeUInt8(altered.readUInt8(index) ^ 1, index);
        expect(() => vault.open(altered.toString('base64'), 'c'), `byte ${index}`).to.throw();
        expect(() => vault.open(bytes.subarray(0, index).toString('base64'), 'c'), `length ${index}`).to.throw();
      }
      await createMasterKeyFile(join(folder, 'other.key'));
      const other = createVault(await loadMasterKeyFile(join(folder, 'other.key')));
      expect(() => other.open(bytes.toString('base64'), 'c')).to.throw('master key');
    });

    it('authenticates for one purpose, and gives undefined for anything else', async () => {
      await createMasterKeyFile(path);
      const vault = createVault(await loadMasterKeyFile(path));
      const authenticated = vault.authenticate(Buffer.from('page'), 'page-token');
      expect(Buffer.from(vault.verify(authenticated, 'page-token') ?? []).toString()).to.equal('page');
      expect(vault.verify(authenticated, 'catalogue')).to.equal(undefined);
      for (let index = 0; index < authenticated.length; index += 1) {
        const altered = Uint8Array.from(authenticated);
        altered[index] = (altered[index] ?? 0) ^ 0x80;
        expect(vault.verify(altered, 'page-token'), `byte ${index}`).to.equal(undefined);
        expect(vault.verify(authenticated.subarray(0, index), 'page-token'), `length ${index}`).to.equal(undefined);
      }
    });

    it('still opens what an older key sealed, after the key file was rotated', async () => {
      await createMasterKeyFile(path);
      const sealed = createVault(await loadMasterKeyFile(path)).seal(Buffer.from('old'), 'c');
      await createMasterKeyFile(join(folder, 'new.key'));
      const rotated = JSON.parse(readFileSync(join(folder, 'new.key'), 'utf8'));
      rotated.previous = [JSON.parse(readFileSync(path, 'utf8')).current];
      writeFileSync(path, JSON.stringify(rotated));
      const vault = createVault(await loadMasterKeyFile(path));
      expect(Buffer.from(vault.open(sealed, 'c')).toString()).to.equal('old');
    });
  });

  describe('the descriptor sealer', () => {
    const controller = generateKeyPair();
    const node = generateKeyPair();
    const sealer = createDescriptorSealer(controller);
    const payload: DescriptorPayload = {
      exportId: 'exp-0123456789abcdef0',
      volumeId: 'vol-0123456789abcdef0',
      nodeId: 'nc-a',
      sizeBytes: 10737418240,
      readOnly: false,
      issueTime: Date.now(),
      expireTime: Date.now() + 3_600_000,
      connector: 'rbd',
      imageName: 'vol-0123456789abcdef0.2',
      poolJson: Buffer.from('{"ceph_pool":"ssd"}'),
      accessJson: Buffer.from('{"mode":"keyring","user":"nc-a"}'),
    };

    it('puts everything into a descriptor that the node opens', () => {
      const sealed = sealer.seal(payload, Buffer.from(node.publicKey).toString('base64'));
      const opened = openDescriptor(sealed, { nodeKeys: [node], controllerPublicKeys: [controller.publicKey] });
      expect(opened.payload).to.deep.include({
        export_id: payload.exportId,
        volume_id: payload.volumeId,
        node_id: 'nc-a',
        size_bytes: 10737418240,
        image: { name: 'vol-0123456789abcdef0.2' },
        pool: { ceph_pool: 'ssd' },
        access: { mode: 'keyring', user: 'nc-a' },
      });
      expect(Date.parse(opened.payload.expires_at)).to.equal(payload.expireTime);
    });

    it('names a key as the node does, and refuses what is none', () => {
      expect(sealer.publicKeyId(node.publicKey)).to.equal(node.keyId);
      for (const wrong of [new Uint8Array(31), new Uint8Array(33), new Uint8Array(0), new Uint8Array(32)]) {
        expect(() => sealer.publicKeyId(wrong)).to.throw(MoorageError, 'public_key');
      }
    });

    it('does not repeat a backend’s answer that is not JSON', () => {
      const broken = { ...payload, accessJson: Buffer.from('AQBsecretkey==') };
      expect(() => sealer.seal(broken, Buffer.from(node.publicKey).toString('base64')))
        .to.throw('"access" is not JSON')
        .with.property('message')
        .that.does.not.contain('AQB');
    });
  });
});
