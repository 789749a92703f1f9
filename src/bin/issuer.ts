import { readFileSync } from 'node:fs';
import { invalidField } from '../core/errors.js';
import type { NodeCertificateIssuer } from '../core/ports/certificates.js';
import { CertificateError, certifyRequest, keyIdOfRequest, readKey } from '../pki/index.js';

/**
 * The authority of the controller's configuration. Its files are read each time: they may have been replaced.
 * @throws CertificateError when they cannot be used now
 */
export async function createIssuer(
  paths: { readonly certificate: string; readonly key: string },
  lifetimeMilliseconds: number,
): Promise<NodeCertificateIssuer> {
  const certificateOf = (): string => {
    try {
      return readFileSync(paths.certificate, 'utf8');
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      throw new CertificateError(`enrollment.authority.certificate ${paths.certificate} cannot be read (${code})`, {
        cause,
      });
    }
  };
  const authority = async (): Promise<{ certificate: string; key: string }> => {
    const key = await readKey(paths.key);
    if (key === undefined) throw new CertificateError(`enrollment.authority.key: there is no ${paths.key}`);
    return { certificate: certificateOf(), key };
  };
  await authority();
  return {
    get authority() {
      return certificateOf();
    },
    async keyIdOf(request) {
      try {
        return await keyIdOfRequest(request);
      } catch (error) {
        if (error instanceof CertificateError) throw invalidField('certificate_request', error.message);
        throw error;
      }
    },
    issue: async (request, nodeId) => certifyRequest(await authority(), request, nodeId, lifetimeMilliseconds),
  };
}
