import { expect } from 'chai';
import {
  DescriptorError,
  type DescriptorErrorCode,
  type DescriptorPayload,
  formatDescriptor,
  generateKeyPair,
  MAX_DESCRIPTOR_BYTES,
  openDescriptor,
  readDescriptorHeader,
  sealDescriptor,
} from '../../src/descriptor/index.js';

const NOW = new Date('2030-01-01T00:30:00Z');
const CEPHX_KEY = 'AQCOxzNnAAAAABAAqZn2S3b0m0jJ0h5rIxk3qA==';

function payload(changes: Partial<DescriptorPayload> = {}): DescriptorPayload {
  return {
    version: 1,
    export_id: 'exp-0123456789abcdef0',
    volume_id: 'vol-fedcba98765432100',
    node_id: 'nc-a',
    size_bytes: 10 * 2 ** 30,
    read_only: false,
    issued_at: '2030-01-01T00:00:00Z',
    expires_at: '2030-01-01T01:00:00Z',
    connector: 'rbd',
    pool: {
      cluster_id: '8c2a3f0e-6a59-4c5e-9d0a-1d3f5c7e9b11',
      ceph_pool: 'volumes',
      monitors: ['10.0.0.1:3300', '[fd00::1]:6789'],
    },
    image: { name: 'vol-fedcba98765432100' },
    access: { mode: 'managed', user: 'moorage-exp-0123456789abcdef0', key: CEPHX_KEY },
    ...changes,
  };
}

const node = generateKeyPair();
const controllerKey = generateKeyPair();
const seal = (changes?: Partial<DescriptorPayload>) =>
  sealDescriptor(payload(changes), { nodePublicKey: node.publicKey, controllerKey });
const openWith = { nodeKeys: [node], controllerPublicKeys: [controllerKey.publicKey], now: NOW };

function refusal(action: () => unknown): DescriptorError {
  try {
    action();
  } catch (error) {
    expect(error).to.be.instanceOf(DescriptorError);
    expect((error as Error).message).not.to.contain(CEPHX_KEY);
    return error as DescriptorError;
  }
  throw new Error('was not refused');
}

describe('descriptor: seal and open', () => {
  it('opens what was sealed, in binary, in text, and in text read as bytes', () => {
    const envelope = seal();
    const text = formatDescriptor(envelope);
    expect(text).to.match(/^moorage-descriptor-v1:[A-Za-z0-9+/]+=*$/);
    for (const form of [envelope, text, `${text}\n`, Buffer.from(`${text}\n`)]) {
      const opened = openDescriptor(form, openWith);
      expect(opened.payload).to.deep.equal(payload());
      expect(opened.expired).to.equal(false);
      expect(opened.header.recipientKeyId).to.equal(node.keyId);
      expect(opened.header.senderKeyId).to.equal(controllerKey.keyId);
    }
  });

  it('never uses a nonce twice', () => {
    expect(Buffer.from(seal()).equals(Buffer.from(seal()))).to.equal(false);
  });

  it('shows nothing of its payload', () => {
    const visible = Buffer.from(seal()).toString('latin1');
    expect(visible).not.to.contain('vol-').and.not.to.contain(CEPHX_KEY);
  });

  it('opens with a previous key of the node, and with any of several controllers', () => {
    const opened = openDescriptor(seal(), {
      nodeKeys: [generateKeyPair(), node],
      controllerPublicKeys: [generateKeyPair().publicKey, controllerKey.publicKey],
      now: NOW,
    });
    expect(opened.payload.volume_id).to.equal('vol-fedcba98765432100');
  });

  it('drops fields that it does not know', () => {
    const later = { ...payload(), weather: 'fine' } as DescriptorPayload;
    const envelope = sealDescriptor(later, { nodePublicKey: node.publicKey, controllerKey });
    expect(openDescriptor(envelope, openWith).payload).not.to.have.property('weather');
  });
});

describe('descriptor: refusals', () => {
  it('is cut off at every length, and never anything worse than a clear refusal', () => {
    const envelope = seal();
    for (let length = 0; length < envelope.length; length++) {
      const error = refusal(() => openDescriptor(envelope.subarray(0, length), openWith));
      expect(error.code).to.equal(length === 0 ? 'not-a-descriptor' : 'truncated');
    }
    const text = formatDescriptor(envelope);
    for (let length = 0; length < text.length; length++) {
      const error = refusal(() => openDescriptor(text.slice(0, length), openWith));
      const codes: DescriptorErrorCode[] = ['truncated', 'not-a-descriptor'];
      expect(codes, `${length}: ${error.message}`).to.include(error.code);
      if (length > 30) {
        expect(error.code).to.equal('truncated');
      }
    }
  });

  it('is altered: every single byte matters, the visible header too', () => {
    const envelope = seal();
    for (let at = 0; at < envelope.length; at++) {
      const altered = Uint8Array.from(envelope);
      altered[at] = (altered[at] ?? 0) ^ 0x01;
      refusal(() => openDescriptor(altered, openWith));
    }
    const altered = Uint8Array.from(envelope);
    altered[100] = (altered[100] ?? 0) ^ 0x80;
    expect(refusal(() => openDescriptor(altered, openWith)).code).to.equal('altered');
    expect(refusal(() => openDescriptor(Uint8Array.of(...envelope, 0), openWith)).code).to.equal('altered');
    expect(refusal(() => openDescriptor(`${formatDescriptor(envelope)}!`, openWith)).code).to.equal('altered');
  });

  it('is for another node: both keys are named', () => {
    const other = generateKeyPair();
    const error = refusal(() => openDescriptor(seal(), { ...openWith, nodeKeys: [other] }));
    expect(error.code).to.equal('other-node');
    expect(error.message).to.contain(node.keyId).and.to.contain(other.keyId);
  });

  it('is from a controller that is not trusted, and one who only claims to be it', () => {
    const stranger = generateKeyPair();
    const sealed = sealDescriptor(payload(), { nodePublicKey: node.publicKey, controllerKey: stranger });
    const error = refusal(() => openDescriptor(sealed, openWith));
    expect(error.code).to.equal('unknown-sender');
    expect(error.message).to.contain(stranger.keyId).and.to.contain(controllerKey.keyId);
    const forged = sealDescriptor(payload(), {
      nodePublicKey: node.publicKey,
      controllerKey: { ...stranger, keyId: controllerKey.keyId },
    });
    expect(refusal(() => openDescriptor(forged, openWith)).code).to.equal('altered');
  });

  it('is expired for connect alone', () => {
    const late = { ...openWith, now: new Date('2030-01-01T01:00:00Z') };
    expect(refusal(() => openDescriptor(seal(), late)).code).to.equal('expired');
    expect(openDescriptor(seal(), { ...late, allowExpired: true }).expired).to.equal(true);
  });

  it('is of a newer version, outside or inside', () => {
    const envelope = seal();
    envelope[4] = 2;
    expect(refusal(() => openDescriptor(envelope, openWith)).code).to.equal('newer-version');
    expect(refusal(() => openDescriptor('moorage-descriptor-v7:AAAA', openWith)).code).to.equal('newer-version');
    expect(refusal(() => readDescriptorHeader('moorage-descriptor-v7:AAAA')).code).to.equal('newer-version');
  });

  it('is something else', () => {
    for (const text of [
      '',
      'hello',
      '<disk/>',
      'moorage-node-key:AAAA',
      'moorage-descriptor-v0:AAAA',
      '{"version":1}',
    ]) {
      expect(refusal(() => openDescriptor(text, openWith)).code, text).to.equal('not-a-descriptor');
    }
    expect(refusal(() => openDescriptor(Buffer.from('ELF whatever'), openWith)).code).to.equal('not-a-descriptor');
  });

  it('cannot be sealed when a field is wrong: the field is named', () => {
    for (const [changes, field] of [
      [{ export_id: 'vol-0123456789abcdef0' }, 'export_id'],
      [{ size_bytes: -1 }, 'size_bytes'],
      [{ size_bytes: 1.5 }, 'size_bytes'],
      [{ expires_at: 'tomorrow' }, 'expires_at'],
      [{ connector: '../rbd' }, 'connector'],
      [{ image: { name: '' } }, 'image.name'],
    ] as const) {
      const error = refusal(() => seal(changes));
      expect(error.code).to.equal('invalid-payload');
      expect(error.message).to.contain(field);
    }
  });

  it('is never larger than 3 KiB', () => {
    const monitors = (count: number) => Array.from({ length: count }, (_, index) => `[fd00:1:2:3:4:5:6:${index}]:3300`);
    const pool = payload().pool;
    expect(seal({ pool: { ...pool, monitors: monitors(31) } }).length).to.be.at.most(MAX_DESCRIPTOR_BYTES);
    expect(refusal(() => seal({ pool: { ...pool, monitors: monitors(200) } })).code).to.equal('too-large');
  });
});
