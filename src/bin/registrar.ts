import { readFileSync } from 'node:fs';
import { connect, MoorageCallError, type MoorageClient } from '../client/index.js';
import { createKey, createRequest, readKey, writeWhole } from '../pki/index.js';
import {
  type ControllerAccess,
  type NodeCertificate,
  type Registrar,
  RegistrationRefused,
} from '../storage-utils/registrar.js';

const DEADLINE_MILLISECONDS = 60_000;

/** Codes after which the same call may still succeed, or may have been done. */
const undecided: readonly string[] = [
  'UNAVAILABLE',
  'DEADLINE_EXCEEDED',
  'RESOURCE_EXHAUSTED',
  'ABORTED',
  'INTERNAL',
  'UNKNOWN',
  'CANCELLED',
];

/** The controller over its API, for storage-utils. */
export const registrar: Registrar = {
  createKey,
  createRequest,
  readKey,
  writeWhole,

  async enroll(access, { token, publicKey, certificateRequest }) {
    return calling(access, undefined, async (client) => {
      const answer = await client.enroll({
        token,
        publicKey: Buffer.from(publicKey),
        certificateRequest: Buffer.from(certificateRequest),
      });
      return {
        nodeId: answer.node?.id ?? '',
        publicKeyId: answer.node?.publicKeyId ?? '',
        certificate: answer.certificate,
        controllerPublicKeys: answer.controllerPublicKeys.map((key) => Uint8Array.from(key)),
      };
    });
  },

  async rotate(access, certificate, { nodeId, publicKey, certificateRequest, proofs }) {
    return calling(access, certificate, async (client) => {
      const answer = await client.rotateNodeKey({
        nodeId,
        publicKey: Buffer.from(publicKey),
        certificateRequest: Buffer.from(certificateRequest),
        proofs: proofs.map((proof) => Buffer.from(proof)),
      });
      return {
        nodeId,
        publicKeyId: answer.node?.publicKeyId ?? '',
        certificate: answer.certificate,
        controllerPublicKeys: [],
      };
    });
  },
};

async function calling<Answer>(
  { endpoint, authorityFile }: ControllerAccess,
  certificate: NodeCertificate | undefined,
  call: (client: MoorageClient) => Promise<Answer>,
): Promise<Answer> {
  const client = connect({
    endpoints: endpoint.split(',').map((each) => each.trim()),
    deadlineMilliseconds: DEADLINE_MILLISECONDS,
    unreachableMilliseconds: 10_000,
    ...(authorityFile !== undefined && {
      tls: {
        ca: readFileSync(authorityFile),
        ...(certificate && {
          certificate: readFileSync(certificate.certificateFile),
          key: readFileSync(certificate.keyFile),
        }),
      },
    }),
  });
  try {
    return await call(client);
  } catch (error) {
    if (error instanceof MoorageCallError && !undecided.includes(error.code)) {
      throw new RegistrationRefused(error.message, { cause: error });
    }
    throw error;
  } finally {
    client.close();
  }
}
