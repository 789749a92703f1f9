import { expect } from 'chai';
import { boundBefore, boundBehind, parseDocument, parseOutcome } from '../../src/store/redis/encoding.js';
import { EPOCHS_KEPT, type Epoch, lossOf } from '../../src/store/redis/history.js';
import { isReplicated, parseInformation } from '../../src/store/redis/information.js';
import { joinAddress, splitAddress } from '../../src/store/redis/options.js';

describe('the store on Redis', () => {
  describe('what a primary lacks', () => {
    const epochs = (...starts: readonly number[]): Epoch[] => starts.map((start, n) => ({ id: `p${n}`, start }));
    const lacks = (known: { commits: number; epoch: string }, commits: number, ...starts: readonly number[]) =>
      lossOf({ storeId: 's', ...known }, { storeId: 's', commits, epochs: epochs(...starts) });

    it('is nothing while it goes on from what was acknowledged', () => {
      expect(lacks({ commits: 10, epoch: 'p0' }, 10, 0)).to.equal(undefined);
      expect(lacks({ commits: 10, epoch: 'p0' }, 12, 0, 10)).to.equal(undefined);
      expect(lacks({ commits: 10, epoch: 'p0' }, 12, 0, 11, 12)).to.equal(undefined);
    });

    it('is what came after the point where the next primary began, however much that one has by now', () => {
      expect(lacks({ commits: 10, epoch: 'p0' }, 8, 0))
        .to.contain('lacks 2 acknowledged commits')
        .and.contain('8 of 10');
      expect(lacks({ commits: 10, epoch: 'p0' }, 8, 0, 8)).to.contain('lacks 2');
      expect(lacks({ commits: 10, epoch: 'p0' }, 500, 0, 7)).to.contain('lacks 3');
      expect(lacks({ commits: 10, epoch: 'p0' }, 500, 0, 7, 100)).to.contain('lacks 3');
      expect(lacks({ commits: 10, epoch: 'p1' }, 500, 0, 7, 100)).to.equal(undefined);
    });

    it('is all when it holds nothing, something else, or does not know the primary', () => {
      expect(
        lossOf({ storeId: 's', commits: 1, epoch: 'p' }, { storeId: undefined, commits: 0, epochs: [] }),
      ).to.contain('holds nothing');
      expect(lossOf({ storeId: 's', commits: 1, epoch: 'p' }, { storeId: 't', commits: 9, epochs: [] })).to.contain(
        'another store',
      );
      expect(lacks({ commits: 10, epoch: 'gone' }, 500, 0, 7)).to.contain('does not know the primary');
      const many = Array.from({ length: EPOCHS_KEPT }, (_, n) => 100 + n);
      expect(lacks({ commits: 10, epoch: 'forgotten' }, 500, ...many)).to.equal(undefined);
      expect(lacks({ commits: 101, epoch: 'unknown' }, 500, ...many)).to.contain('does not know');
    });
  });

  describe('what a commit waits for', () => {
    const replica = (address: string, offset: number, lag = 0, online = true) => ({ address, offset, lag, online });
    const rule = {
      leastReplicas: 1,
      replicaTimeoutMilliseconds: 2_000,
      promotable: (address: string) => address !== 'copy',
    };

    it('is every promotable replica in sync, and at least as many as asked for', () => {
      expect(isReplicated([], 5, rule)).to.equal(false);
      expect(isReplicated([], 5, { ...rule, leastReplicas: 0 })).to.equal(true);
      expect(isReplicated([replica('a', 5)], 5, rule)).to.equal(true);
      expect(isReplicated([replica('a', 5), replica('b', 4)], 5, rule)).to.equal(false);
      expect(isReplicated([replica('a', 5), replica('b', 4, 3)], 5, rule)).to.equal(true);
      expect(isReplicated([replica('a', 5), replica('b', 4, 0, false)], 5, rule)).to.equal(true);
      expect(isReplicated([replica('a', 5), replica('b', 4, 3)], 5, { ...rule, leastReplicas: 2 })).to.equal(false);
    });

    it('is no replica that is never promoted', () => {
      expect(isReplicated([replica('copy', 5)], 5, rule)).to.equal(false);
      expect(isReplicated([replica('copy', 4), replica('a', 5)], 5, rule)).to.equal(true);
    });

    it('is read from INFO', () => {
      const text = [
        '# Replication',
        'role:master',
        'slave0:ip=10.0.0.2,port=6379,state=online,offset=120,lag=1',
        'slave1:ip=fd00::3,port=6379,state=wait_bgsave,offset=0,lag=0',
        'master_replid:abc',
        'master_repl_offset:121',
      ].join('\r\n');
      expect(parseInformation(text)).to.deep.include({
        role: 'master',
        replicationId: 'abc',
        offset: 121,
        replicas: [replica('10.0.0.2:6379', 120, 1), replica('[fd00::3]:6379', 0, 0, false)],
      });
    });
  });

  it('reads documents, and says which is damaged', () => {
    expect(parseDocument('k', '12\n[]\n{"a":"\\n"}')).to.deep.equal({ key: 'k', rev: 12, value: { a: '\n' } });
    for (const text of ['', '12', '12\n[]', '12\n[]\n{', 'x\n[]\n1', '\n\n1']) {
      expect(() => parseDocument('k', text), text)
        .to.throw('the document "k"')
        .with.property('kind', 'corrupt');
    }
    expect(parseOutcome(['conflict', 'a', '3', 'b', ''])).to.deep.equal({
      ok: false,
      conflicts: [
        { key: 'a', rev: 3 },
        { key: 'b', rev: undefined },
      ],
    });
    expect(parseOutcome(['epoch'])).to.equal(undefined);
  });

  it('keeps the order of positions in the bytes of the bounds', () => {
    const positions = ['', '\0', '\0\0', '\0a', 'a', 'a\0', 'a\0\0', 'a\0b', 'aa', '\u{10ffff}'].flatMap((sort) =>
      ['\0', 'k', '\u{10ffff}'].map((key) => ({ sort, key })),
    );
    const bounds = positions.map(boundBehind);
    expect([...bounds].sort(Buffer.compare)).to.deep.equal(bounds);
    for (const [at, { sort }] of positions.entries()) {
      const end = boundBefore(sort);
      for (const [other, bound] of bounds.entries()) {
        const before = Buffer.compare(Buffer.from(positions[other]?.sort ?? ''), Buffer.from(sort)) < 0;
        expect(Buffer.compare(bound, end) < 0, `${other} before ${at}`).to.equal(before);
      }
    }
    expect(boundBefore(undefined).toString()).to.equal('+');
  });

  it('takes addresses apart and together', () => {
    for (const address of ['redis-1.example.net:6379', '10.0.0.1:1', '[fd00::1]:6379']) {
      const { host, port } = splitAddress(address);
      expect(joinAddress(host, port)).to.equal(address);
    }
    expect(() => splitAddress('fd00::1')).to.throw(TypeError);
  });
});
