import { expect } from 'chai';
import { compareBytes, encodeCursor, spanOf, successorOfPrefix } from '../../src/store/ranges.js';

describe('ranges of an index', () => {
  it('ends a prefix at the first text behind all that begin with it', () => {
    expect(successorOfPrefix('')).to.equal(undefined);
    expect(successorOfPrefix('a')).to.equal('b');
    expect(successorOfPrefix('vol/')).to.equal('vol0');
    expect(successorOfPrefix('a\u{10ffff}')).to.equal('b');
    expect(successorOfPrefix('\u{10ffff}\u{10ffff}')).to.equal(undefined);
    expect(successorOfPrefix('a\ud7ff')).to.equal('a\ue000');
    expect(successorOfPrefix('a\uffff')).to.equal('a\u{10000}');
    expect(successorOfPrefix('\u{1f600}')).to.equal('\u{1f601}');
  });

  it('compares UTF-8, where JavaScript compares UTF-16', () => {
    expect('\uffff' < '\u{10000}').to.equal(false);
    expect(compareBytes('\uffff', '\u{10000}')).to.be.lessThan(0);
    expect(compareBytes('a', 'a')).to.equal(0);
    expect(compareBytes('b', 'a')).to.be.greaterThan(0);
  });

  it('begins behind the cursor, or where the prefix begins when that is later', () => {
    const after = encodeCursor({ sort: 'b\u{1f600}', key: 'k' });
    expect(spanOf({ limit: 5, after })).to.deep.equal({
      behind: { sort: 'b\u{1f600}', key: 'k' },
      before: undefined,
      limit: 5,
    });
    expect(spanOf({ limit: 5, prefix: 'c', after })).to.deep.equal({
      behind: { sort: 'c', key: '' },
      before: 'd',
      limit: 5,
    });
  });

  it('makes cursors that a URL and a page token can carry', () => {
    expect(encodeCursor({ sort: '\u00ff\u0000/+?', key: 'vol-1' })).to.match(/^[A-Za-z0-9_-]+$/);
  });
});
