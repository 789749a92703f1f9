/** A certificate, key or request that cannot be used or made: says what is wrong, and never holds a secret. */
export class CertificateError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'CertificateError';
  }
}
