import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { AuthorityTools } from '../cli/index.js';
import { CertificateError, createAuthority, issueCertificate, readKey, writeWhole } from '../pki/index.js';

/** Names of the authority's files in its folder. */
const CERTIFICATE = 'ca.pem';
const KEY = 'ca.key';

/** The certificate authority of a folder, for the `moorage` command. */
export const authorityTools: AuthorityTools = {
  async initialise({ directory, name, lifetimeMilliseconds }) {
    const { certificate, key } = await createAuthority(name, lifetimeMilliseconds);
    const files = { certificate: join(directory, CERTIFICATE), key: join(directory, KEY) };
    // The key first: a certificate without it would be in the way of another try.
    await writeWhole(files.key, key, 0o600, 'new');
    await writeWhole(files.certificate, certificate, 0o644, 'new');
    return files;
  },

  async issue({ directory, output, fileName, holder, lifetimeMilliseconds }) {
    const path = join(directory, KEY);
    const key = await readKey(path);
    if (key === undefined) throw new CertificateError(`there is no ${path}; make one with "moorage pki init"`);
    const authority = { certificate: await readFile(join(directory, CERTIFICATE), 'utf8'), key };
    const issued = await issueCertificate(authority, holder, lifetimeMilliseconds);
    const files = { certificate: join(output, `${fileName}.pem`), key: join(output, `${fileName}.key`) };
    await writeWhole(files.key, issued.key, 0o600, 'new');
    await writeWhole(files.certificate, issued.certificate, 0o644, 'new');
    return files;
  },
};
