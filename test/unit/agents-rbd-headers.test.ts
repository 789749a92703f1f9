import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { isAsRecorded, type RecordedImage, verifyChain } from '../../src/agents/rbd/data/verify.js';
import { Encoder } from '../../src/agents/rbd/librbd/encoding.js';
import { CephError } from '../../src/agents/rbd/librbd/errors.js';
import type { PoolContext } from '../../src/agents/rbd/librbd/pool-context.js';
import { optionNames, readKey } from '../../src/agents/rbd/librbd/settings.js';

const POOL = 7n;
const hexadecimal = (id: bigint): string => id.toString(16).padStart(16, '0');

/** Headers as RBD keeps them, and what of a pool is asked for by who reads them. */
class Headers {
  readonly #headers = new Map<string, Map<string, Buffer>>();

  add(id: string, parent?: { id: string; snapshotId: bigint; listed?: boolean; pool?: bigint }): this {
    const features = new Encoder().u64(0x25n).bytes();
    this.#headers.set(
      id,
      new Map([
        ['size', new Encoder().u64(2n ** 24n).bytes()],
        ['order', new Encoder().u8(22).bytes()],
        ['features', features],
        ['object_prefix', new Encoder().text(`rbd_data.${id}`).bytes()],
        ['snap_seq', new Encoder().u64(0n).bytes()],
      ]),
    );
    if (parent === undefined) return this;
    const { snapshotId, listed = true, pool = POOL } = parent;
    this.set(
      id,
      'parent',
      new Encoder().structure(2, 1, (body) => body.u64(pool).text('').text(parent.id).u64(snapshotId).u8(0)).bytes(),
    );
    const snapshot = new Encoder().structure(8, 8, (body) => {
      body
        .u64(snapshotId)
        .text('base')
        .u64(2n ** 24n)
        .u8(0)
        .u64(0n);
      body.structure(1, 1, (namespace) => namespace.u32(0));
    });
    this.set(parent.id, `snapshot_${hexadecimal(snapshotId)}`, snapshot.bytes());
    const children = new Encoder().u32(listed ? 1 : 0);
    if (listed) children.structure(2, 1, (child) => child.u64(POOL).text(id).text(''));
    this.set(parent.id, `snap_children_${hexadecimal(snapshotId)}`, children.bytes());
    return this;
  }

  set(id: string, key: string, value: Buffer): this {
    this.#headers.get(id)?.set(key, value);
    return this;
  }

  get pool(): PoolContext {
    const of = (object: string): Map<string, Buffer> => {
      const found = this.#headers.get(object.slice('rbd_header.'.length));
      if (found === undefined) throw new CephError('rados_read_op_operate', -2, object);
      return found;
    };
    return {
      poolId: () => POOL,
      omapList: async (object: string) => ({
        entries: [...of(object)].map(([key, value]) => ({ key, value })),
        more: false,
      }),
      omapGet: async (object: string, keys: readonly string[]) =>
        new Map([...of(object)].filter(([key]) => keys.includes(key))),
    } as unknown as PoolContext;
  }
}

describe('RBD agent: headers', () => {
  const recorded = (id: string, snapshotId: bigint) => ({
    name: 'snap-1',
    id,
    point: { name: 'base', snapshotId },
  });
  const chain = (): Headers =>
    new Headers().add('aa').add('bb', { id: 'aa', snapshotId: 3n }).add('cc', { id: 'bb', snapshotId: 4n });
  const reasonOf = async (headers: Headers, image: RecordedImage): Promise<string> => {
    try {
      await verifyChain(headers.pool, image);
      return '';
    } catch (error) {
      expect(error).to.include({ reason: 'HEADER_DIFFERS' });
      return (error as Error).message;
    }
  };

  it('a chain that is as it was made passes, and an image that is not there is said to be so', async () => {
    expect(await verifyChain(chain().pool, { id: 'cc', parent: recorded('bb', 4n) })).to.equal(true);
    expect(await verifyChain(chain().pool, { id: 'cc', parent: 'unrecorded' })).to.equal(true);
    expect(await verifyChain(chain().pool, { id: 'aa', parent: undefined })).to.equal(true);
    expect(await verifyChain(chain().pool, { id: 'dd', parent: undefined })).to.equal(false);
    // Flattened, and the record does not know of it yet.
    expect(await verifyChain(new Headers().add('ff').pool, { id: 'ff', parent: recorded('aa', 1n) })).to.equal(true);
  });

  it('names what is wrong, of the image and of everything below it', async () => {
    const top = { id: 'cc', parent: recorded('bb', 4n) };
    const text = (value: string): Buffer => new Encoder().text(value).bytes();
    expect(await reasonOf(chain(), { id: 'cc', parent: undefined })).to.contain('was cloned from nothing');
    expect(await reasonOf(chain(), { id: 'cc', parent: recorded('aa', 3n) })).to.contain('another parent');
    for (const id of ['aa', 'bb', 'cc']) {
      const cases: readonly (readonly [string, Buffer, string])[] = [
        ['object_prefix', text('rbd_data.other'), 'foreign prefix'],
        ['features', new Encoder().u64(0x225n).bytes(), 'features'],
        ['features', Buffer.from('x'), 'cannot be read'],
        ['order', new Encoder().u8(12).bytes(), '2^12'],
        ['migration', Buffer.alloc(4), '"migration"'],
        ['metadata_conf_rbd_cache', text('true'), 'metadata_conf'],
        ['data_pool_id', new Encoder().u64(1n).bytes(), 'data_pool_id'],
      ];
      for (const [key, value, says] of cases) {
        const message = await reasonOf(chain().set(id, key, value), top);
        expect(message, `${id} ${key}`).to.contain(says).and.to.contain(`image ${id}`);
      }
    }
  });

  it('a parent that does not list it, one in another pool, one that is not there, and a circle', async () => {
    const below = (parent: { id: string; snapshotId: bigint; listed?: boolean; pool?: bigint }): Headers =>
      new Headers().add('aa').add('bb', parent).add('cc', { id: 'bb', snapshotId: 4n });
    const top = { id: 'cc', parent: recorded('bb', 4n) };
    expect(await reasonOf(below({ id: 'aa', snapshotId: 3n, listed: false }), top)).to.contain('does not list it');
    expect(await reasonOf(below({ id: 'aa', snapshotId: 3n, pool: 8n }), top)).to.contain('another pool');
    expect(await reasonOf(below({ id: 'zz', snapshotId: 3n }), top)).to.contain('does not list it');
    expect(
      await reasonOf(new Headers().add('aa').add('aa', { id: 'aa', snapshotId: 3n }), {
        id: 'aa',
        parent: 'unrecorded',
      }),
    ).to.contain('more than 64');
    expect(await isAsRecorded(below({ id: 'aa', snapshotId: 3n, listed: false }).pool, top)).to.equal(false);
    // A flattening that was cut short has left its parent's list, of its own image only.
    const cut = new Headers().add('aa').add('bb', { id: 'aa', snapshotId: 3n, listed: false });
    const flattened = { id: 'bb', parent: recorded('aa', 3n) };
    expect(await reasonOf(cut, flattened)).to.contain('does not list it');
    expect(await reasonOf(cut, { ...flattened, mayBeUnlisted: true })).to.equal('');
  });

  it('what connections need of files is read once', () => {
    const text = '[global]\nmon host = [v2:1.2.3.4:3300]\n  fsid=1\n;ms mode = x\n# y = 3\n[osd.0]\nosd-data = z\n';
    expect(optionNames(text)).to.deep.equal(['mon_host', 'fsid', 'osd_data']);
    const directory = mkdtempSync(join(tmpdir(), 'moorage-key-'));
    try {
      const file = join(directory, 'keyring');
      writeFileSync(file, '[client.a]\n\tkey = AAA==\n[client.b]\n\tkey = BBB==\n\tcaps mon = "allow r"\n');
      expect(readKey(file, 'b')).to.equal('BBB==');
      expect(() => readKey(file, 'c')).to.throw('has no key of client.c');
      expect(() => readKey(join(directory, 'none'), 'c')).to.throw('ENOENT');
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
