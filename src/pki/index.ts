/** A small certificate authority, and requests to one; a leaf. */
export { type CertificateAndKey, createAuthority, type Holder, issueCertificate, keyIdOf } from './authority.js';
export { CertificateError } from './errors.js';
export { readKey, writeWhole } from './files.js';
export { certifyRequest, createKey, createRequest, keyIdOfRequest } from './request.js';
