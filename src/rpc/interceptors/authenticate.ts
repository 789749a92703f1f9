import { createHash, X509Certificate } from 'node:crypto';
import type { PeerCertificate } from 'node:tls';
import { ServerInterceptingCall, type ServerInterceptingCallInterface, type ServerInterceptor } from '@grpc/grpc-js';
import { MoorageError } from '../../core/errors.js';
import type { Role } from '../../core/services/types.js';
import { statusOf } from '../errors.js';
import { mayCall } from '../roles.js';
import { contextOf, type Principal } from './context.js';

/** How callers of a listener are known: by their certificate, or all alike on a plain-text one. */
export type Door =
  | {
      readonly kind: 'certificate';
      /** Whether an authority that is trusted now has signed it; the connection may be older than that trust. */
      readonly hasIssued: (certificate: Buffer, fingerprint: string) => boolean;
    }
  | { readonly kind: 'plaintext'; readonly role: Role }
  /** TLS without a certificate of the caller's: for what whoever has an enrollment token may call. */
  | { readonly kind: 'enrollment' };

const roles: readonly string[] = ['admin', 'node', 'reader'] satisfies readonly Role[];
const acceptableName = /^[A-Za-z0-9][A-Za-z0-9._@-]{0,127}$/;

/**
 * Who a certificate names: subject CN = name, OU = role.
 * @throws MoorageError UNAUTHENTICATED that says what the certificate lacks
 */
export function principalOf(certificate: PeerCertificate | undefined): Principal {
  // A subject with several values of one kind comes as an array: which one counts would be a guess.
  const subject: { CN?: unknown; OU?: unknown } | undefined = certificate?.subject;
  if (subject === undefined) {
    throw new MoorageError('UNAUTHENTICATED', 'The connection has no client certificate.', {
      reason: 'NO_CERTIFICATE',
    });
  }
  const { CN: name, OU: role } = subject;
  if (typeof name !== 'string' || !acceptableName.test(name)) {
    throw new MoorageError(
      'UNAUTHENTICATED',
      'The client certificate names nobody: its subject must have exactly one CN, of letters, digits, ".", "_", "@" and "-".',
      { reason: 'BAD_CERTIFICATE' },
    );
  }
  if (typeof role !== 'string' || !roles.includes(role)) {
    throw new MoorageError(
      'UNAUTHENTICATED',
      'The client certificate gives no role: its subject must have exactly one OU, which is admin, node or reader.',
      { reason: 'BAD_CERTIFICATE' },
    );
  }
  const principal = {
    name,
    role: role as Role,
    ...(certificate && {
      certificateKeyId: keyIdOf(certificate),
      certificateEnd: Date.parse(certificate.valid_to),
    }),
  };
  requireUnexpired(principal);
  return principal;
}

/** A connection, and a stream, may outlive the certificate that made it. @throws MoorageError UNAUTHENTICATED */
export function requireUnexpired({ certificateEnd }: Principal): void {
  if (certificateEnd === undefined || Date.now() < certificateEnd) return;
  const when = new Date(certificateEnd).toISOString();
  throw new MoorageError('UNAUTHENTICATED', `The client certificate expired at ${when}.`, {
    reason: 'CERTIFICATE_EXPIRED',
  });
}

/** By the certificate's fingerprint: a connection makes many calls. */
const keyIds = new Map<string, string>();
const MOST_KEY_IDS = 10_000;

function keyIdOf({ raw, fingerprint256 }: PeerCertificate): string {
  let keyId = keyIds.get(fingerprint256);
  if (keyId === undefined) {
    const key = new X509Certificate(raw).publicKey.export({ format: 'der', type: 'spki' });
    keyId = createHash('sha256').update(key).digest('hex');
    if (keyIds.size >= MOST_KEY_IDS) keyIds.clear();
    keyIds.set(fingerprint256, keyId);
  }
  return keyId;
}

function identify(door: Door, call: ServerInterceptingCallInterface): Principal {
  if (door.kind === 'plaintext') return { name: 'local', role: door.role };
  if (door.kind === 'enrollment') return { name: '', role: 'none' };
  const certificate = call.getAuthContext().sslPeerCertificate;
  const principal = principalOf(certificate);
  if (certificate === undefined || !door.hasIssued(certificate.raw, certificate.fingerprint256)) {
    throw new MoorageError(
      'UNAUTHENTICATED',
      'No authority that this listener trusts has signed the client certificate. (One that an intermediate authority signed needs that one in client_ca too.)',
      { reason: 'UNKNOWN_AUTHORITY' },
    );
  }
  return principal;
}

/** Finds out who calls and whether that role may call the method, before the request is read. */
export function authenticate(door: Door): ServerInterceptor {
  return (method, call) =>
    new ServerInterceptingCall(call, {
      start(next) {
        next({
          onReceiveMetadata(metadata, nextMetadata) {
            try {
              const context = contextOf(metadata);
              const principal = identify(door, call);
              context.principal = principal;
              if (!mayCall(principal.role, method.path)) throw denied(principal.role, method.path);
            } catch (error) {
              if (!(error instanceof MoorageError)) throw error;
              call.sendStatus(statusOf(error));
              return;
            }
            nextMetadata(metadata);
          },
        });
      },
    });
}

function denied(role: Role, path: string): MoorageError {
  const method = path.slice(path.lastIndexOf('/') + 1);
  return new MoorageError('PERMISSION_DENIED', `The role ${role} may not call ${method}.`, {
    reason: 'ROLE_NOT_ALLOWED',
    metadata: { role, method },
  });
}
