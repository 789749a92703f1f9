import { createHash, X509Certificate } from 'node:crypto';
import { readFile, rename, rm } from 'node:fs/promises';
import { adoptNodeKey, loadNodeKeyFile, type NodeKeys, prepareNodeKey, proveKey } from '../descriptor/index.js';
import { StorageUtilsError } from './errors.js';
import { initializeNode, trustControllers } from './initialize.js';
import {
  type ControllerAccess,
  type NodeCertificate,
  type Registered,
  type Registrar,
  RegistrationRefused,
} from './registrar.js';

/*
 * ENROLLMENT AND ROTATION, the node's side
 *
 * What the controller may have come to know is on disk before it is told, and what it answers can be asked for again: so a
 * machine that dies anywhere runs the same command again and gets the same. Only when the controller refuses for good is what
 * this run made removed.
 */

/** How long a key that was replaced still opens descriptors: as long as any can be connected with. */
const PREVIOUS_MILLISECONDS = 24 * 60 * 60 * 1000;

/** How a machine becomes a node. */
export interface EnrollOptions extends NodeCertificate {
  /** The node's key file for descriptors; made when there is none. */
  readonly nodeKeyFile: string;
  /** A secret. */
  readonly token: string;
  readonly access: ControllerAccess;
  /** Whether to ask for a certificate too. */
  readonly wantsCertificate: boolean;
}

/** What came of it. */
export interface EnrollResult {
  readonly nodeId: string;
  readonly publicKeyId: string;
  /** Path; empty when the controller signs none or none was asked for. */
  readonly certificateFile: string;
  /** Key ids of the controllers that this node takes descriptors of. */
  readonly trusted: readonly string[];
}

/** Registers this machine: its key for descriptors and, if the controller signs any, a certificate. May be run again. */
export async function enroll(options: EnrollOptions, registrar: Registrar): Promise<EnrollResult> {
  const { nodeKeyFile, access, token, certificateFile, keyFile, wantsCertificate } = options;
  const made: string[] = [];
  const node = await initializeNode(nodeKeyFile, []);
  if (node.made) made.push(nodeKeyFile);
  let request: Uint8Array = new Uint8Array();
  if (wantsCertificate) {
    let key = await registrar.readKey(keyFile);
    if (key === undefined) {
      key = await registrar.createKey();
      await registrar.writeWhole(keyFile, key, 0o600, 'new');
      made.push(keyFile);
    }
    request = await registrar.createRequest(key);
  }
  let answer: Registered;
  try {
    const { publicKey } = node.keys.current;
    answer = await registrar.enroll(access, { token, publicKey, certificateRequest: request });
  } catch (error) {
    if (error instanceof RegistrationRefused) for (const path of made) await rm(path, { force: true });
    throw asFailure(error);
  }
  if (answer.certificate !== '') await registrar.writeWhole(certificateFile, answer.certificate, 0o644, 'replace');
  else if (made.includes(keyFile)) await rm(keyFile, { force: true });
  return {
    nodeId: answer.nodeId,
    publicKeyId: answer.publicKeyId,
    certificateFile: answer.certificate === '' ? '' : certificateFile,
    trusted: await trustControllers(nodeKeyFile, answer.controllerPublicKeys),
  };
}

/** How a node changes what it is known by. */
export interface RotateOptions extends NodeCertificate {
  readonly nodeKeyFile: string;
  readonly access: ControllerAccess;
  readonly rotatesKey: boolean;
  readonly renewsCertificate: boolean;
  /** Only where the node has no certificate that says it. */
  readonly nodeId?: string | undefined;
}

/** What a node is known by now. */
export interface RotateResult {
  readonly nodeId: string;
  readonly publicKeyId: string;
  /** When the certificate ends; empty when it was not renewed. */
  readonly certificateEnd: string;
}

/**
 * Gives this node another key for descriptors, another certificate, or both. What is attached goes on; descriptors of before open
 * for another day. May be run again.
 */
export async function rotate(options: RotateOptions, registrar: Registrar): Promise<RotateResult> {
  const { nodeKeyFile, access, certificateFile, keyFile } = options;
  await finishRenewal(options);
  const nodeId = options.nodeId ?? (await nameIn(certificateFile));
  const keys = await loadNodeKeyFile(nodeKeyFile);
  const publicKey = options.rotatesKey ? (await prepareNodeKey(nodeKeyFile)).publicKey : new Uint8Array();
  let request: Uint8Array = new Uint8Array();
  if (options.renewsCertificate) {
    let key = await registrar.readKey(`${keyFile}.new`);
    if (key === undefined) {
      key = await registrar.createKey();
      await registrar.writeWhole(`${keyFile}.new`, key, 0o600, 'new');
    }
    request = await registrar.createRequest(key);
  }
  const proofs = proofsOf(keys, nodeId, publicKey, request);
  const shown = options.nodeId === undefined ? { certificateFile, keyFile } : undefined;
  let answer: Registered;
  try {
    answer = await registrar.rotate(access, shown, { nodeId, publicKey, certificateRequest: request, proofs });
  } catch (error) {
    throw asFailure(error);
  }
  const end = new Date(Date.now() + PREVIOUS_MILLISECONDS);
  const { current } = options.rotatesKey ? await adoptNodeKey(nodeKeyFile, end) : keys;
  let certificateEnd = '';
  if (answer.certificate !== '') {
    await registrar.writeWhole(`${certificateFile}.new`, answer.certificate, 0o644, 'replace');
    await finishRenewal(options);
    certificateEnd = new Date(new X509Certificate(answer.certificate).validTo).toISOString();
  }
  return { nodeId, publicKeyId: current.keyId, certificateEnd };
}

/** Puts a new key and its certificate in place; both lie there whole, and a run that died in between goes on here. */
async function finishRenewal({ certificateFile, keyFile }: NodeCertificate): Promise<void> {
  const isThere = await readFile(`${certificateFile}.new`).then(
    () => true,
    () => false,
  );
  if (!isThere) return;
  // It may be in place already.
  await rename(`${keyFile}.new`, keyFile).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
  });
  await rename(`${certificateFile}.new`, certificateFile);
}

/** What the controller checks (services/enrollment/rotate.ts, and docs/descriptor.md): one for each controller that is known. */
function proofsOf(keys: NodeKeys, nodeId: string, publicKey: Uint8Array, request: Uint8Array): readonly Uint8Array[] {
  const hex = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
  const content = ['moorage node key rotation v1', nodeId, hex(publicKey), hex(request)].join('\n');
  return keys.controllerPublicKeys.map((controller) =>
    proveKey(new TextEncoder().encode(content), keys.current, controller),
  );
}

async function nameIn(certificateFile: string): Promise<string> {
  let subject: string;
  try {
    ({ subject } = new X509Certificate(await readFile(certificateFile)));
  } catch (cause) {
    throw new StorageUtilsError('not-found', `the certificate ${certificateFile} cannot be read; give --node`, {
      cause,
    });
  }
  const name = /^CN=(.*)$/m.exec(subject)?.[1];
  if (name === undefined) throw new StorageUtilsError('refused', `the certificate ${certificateFile} names no node`);
  return name;
}

function asFailure(error: unknown): unknown {
  if (!(error instanceof RegistrationRefused)) return error;
  return new StorageUtilsError('refused', error.message, { cause: error });
}
