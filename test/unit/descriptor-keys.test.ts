import { chmod, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import {
  adoptNodeKey,
  createControllerKeyFile,
  createNodeKeyFile,
  formatControllerPublicKey,
  formatNodePublicKey,
  generateKeyPair,
  KeyError,
  keyIdOf,
  loadControllerKeyFile,
  loadNodeKeyFile,
  loadOrCreateControllerKeyFile,
  parseControllerPublicKey,
  parseNodePublicKey,
  prepareNodeKey,
  trustController,
} from '../../src/descriptor/index.js';

async function refusal(action: () => unknown): Promise<KeyError> {
  try {
    await action();
  } catch (error) {
    expect(error).to.be.instanceOf(KeyError);
    return error as KeyError;
  }
  throw new Error('was not refused');
}

describe('descriptor: keys', () => {
  let directory: string;
  let path: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'moorage-keys-'));
    path = join(directory, 'node', 'keys.json');
  });
  afterEach(() => rm(directory, { recursive: true, force: true }));

  it('prints a public key and reads it back, and knows whose it is', async () => {
    const pair = generateKeyPair();
    expect(pair.keyId)
      .to.match(/^[0-9a-f]{16}$/)
      .and.to.equal(keyIdOf(pair.publicKey));
    expect(parseNodePublicKey(` ${formatNodePublicKey(pair.publicKey)}\n`)).to.deep.equal(pair.publicKey);
    expect(parseControllerPublicKey(formatControllerPublicKey(pair.publicKey))).to.deep.equal(pair.publicKey);
    const mixedUp = await refusal(() => parseControllerPublicKey(formatNodePublicKey(pair.publicKey)));
    expect(mixedUp.message).to.contain('moorage-node-key:').and.to.contain('moorage-controller-key:');
    for (const text of ['', 'moorage-node-key:', 'moorage-node-key:AAAA', `${formatNodePublicKey(pair.publicKey)}A`]) {
      expect((await refusal(() => parseNodePublicKey(text))).code).to.equal('malformed');
    }
  });

  it('makes a node key file for its user alone, and never overwrites one', async () => {
    const made = await createNodeKeyFile(path);
    expect((await stat(path)).mode & 0o7777).to.equal(0o600);
    expect((await refusal(() => createNodeKeyFile(path))).code).to.equal('exists');
    const loaded = await loadNodeKeyFile(path);
    expect(loaded.current).to.deep.equal(made.current);
    expect(loaded.controllerPublicKeys).to.deep.equal([]);
    expect(await readdir(join(directory, 'node'))).to.deep.equal(['keys.json']);
  });

  it('makes one file when two processes begin at once', async () => {
    const results = await Promise.all(Array.from({ length: 8 }, () => loadOrCreateControllerKeyFile(path)));
    expect(new Set(results.map((each) => each.current.keyId)).size).to.equal(1);
    expect((await loadControllerKeyFile(path)).current.keyId).to.equal(results[0]?.current.keyId);
  });

  it('trusts controllers, each once', async () => {
    const first = generateKeyPair().publicKey;
    const second = generateKeyPair().publicKey;
    await createNodeKeyFile(path, [first]);
    await trustController(path, second);
    await trustController(path, second);
    expect((await loadNodeKeyFile(path)).controllerPublicKeys).to.deep.equal([first, second]);
  });

  it('keeps a previous key until it expires', async () => {
    const before = await createNodeKeyFile(path);
    const now = new Date('2030-01-01T00:00:00Z');
    const next = await prepareNodeKey(path);
    expect((await prepareNodeKey(path)).keyId).to.equal(next.keyId);
    const between = await loadNodeKeyFile(path, now);
    expect(between.current.keyId).to.equal(before.current.keyId);
    expect(between.all.map((key) => key.keyId)).to.deep.equal([before.current.keyId, next.keyId]);
    const after = await adoptNodeKey(path, new Date('2030-01-02T00:00:00Z'), now);
    expect(after.current.keyId).to.equal(next.keyId);
    expect((await adoptNodeKey(path, new Date('2030-01-02T00:00:00Z'), now)).all).to.have.lengthOf(2);
    expect(after.all.map((key) => key.keyId)).to.deep.equal([after.current.keyId, before.current.keyId]);
    expect((await loadNodeKeyFile(path, new Date('2030-01-03T00:00:00Z'))).all).to.have.lengthOf(1);
    await prepareNodeKey(path);
    await adoptNodeKey(path, new Date('2030-01-05T00:00:00Z'), new Date('2030-01-04T00:00:00Z'));
    expect(JSON.parse(await readFile(path, 'utf8')).previous).to.have.lengthOf(1);
  });

  it('refuses a file that others may read, with the remedy', async () => {
    await createNodeKeyFile(path);
    for (const mode of [0o644, 0o640, 0o604, 0o620]) {
      await chmod(path, mode);
      const error = await refusal(() => loadNodeKeyFile(path));
      expect(error.code).to.equal('loose-mode');
      expect(error.message)
        .to.contain(path)
        .and.to.contain('chmod 0600')
        .and.to.contain(`0${mode.toString(8)}`);
    }
  });

  it('refuses what is missing, a link, malformed or of another kind, and never repeats its content', async () => {
    expect((await refusal(() => loadNodeKeyFile(path))).code).to.equal('missing');
    await createControllerKeyFile(path);
    expect((await refusal(() => loadNodeKeyFile(path))).code).to.equal('malformed');
    const link = join(directory, 'link');
    await symlink(path, link);
    expect((await refusal(() => loadControllerKeyFile(link))).code).to.equal('unreadable');
    const secret = JSON.parse(await readFile(path, 'utf8')).current.secret_key as string;
    for (const text of [`{"current": ${secret}`, `"${secret}"`, JSON.stringify({ secret }), '']) {
      await writeFile(path, text);
      const error = await refusal(() => loadControllerKeyFile(path));
      expect(error.code).to.equal('malformed');
      expect(error.message).not.to.contain(secret.slice(0, 8));
    }
  });
});
